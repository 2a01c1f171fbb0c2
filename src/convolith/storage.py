"""Files: the cache directory, files that are replaced only by complete ones, and locks between processes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import IO

from filelock import FileLock

from convolith.errors import warn

DIRECTORY = "CONVOLITH_CACHE_DIR"
"""Environment variable that names another cache directory; an empty value disables the cache."""
LOCK_SECONDS = 10.0
"""Seconds after which a writer no longer waits for another one."""


def cache_directory() -> Path | None:
    """Return the directory of this user's compiled code and measurements, or None if nothing is stored.

    A leading `~` is expanded to the user's home, also if no shell did so (in a container's or a notebook's settings).
    """
    named = os.environ.get(DIRECTORY)
    if named == "":
        return None
    try:
        if named is not None:
            return Path(named).expanduser()
        root = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (root if root.is_absolute() else Path.home() / ".cache") / "convolith"
    except RuntimeError:  # a user without a home
        warn_once(f"there is no home directory, so nothing is kept; name a directory in {DIRECTORY}")
        return None


def usable(home: Path | None, *, create: bool = False) -> Path | None:
    """Return a cache directory if it exists, belongs to this user and nobody else can write to it; otherwise None.

    Args:
        home: the directory, or None.
        create: whether a missing directory is created.
    """
    if home is None or not (create or os.path.exists(home)):  # unlike `Path.exists`, this never raises
        return None
    problem = problem_of(home)
    if problem is None:
        return home
    warn_once(f"{problem}, so nothing is kept; change that, or name another directory in {DIRECTORY}")
    return None


def problem_of(home: Path) -> str | None:
    """Return why a cache directory is not used, in words, or None; it is created if it is missing."""
    try:
        with suppress(FileExistsError):  # a file, or a link to nothing
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = home.stat()
    except OSError as error:
        return f"{home} cannot be made ({error.strerror})"
    if not stat.S_ISDIR(status.st_mode):
        return f"{home} is a file"
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022):
        return f"{home} belongs to another user or can be written by others (chmod 700)"
    return None


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Open a temporary file in the same folder, which replaces `path` at the end, or vanishes after an error.

    Args:
        path: the file; one that exists keeps its permissions.
        mode: permissions of a new file, before the user's umask.
    """
    part = path.with_name(f".{path.name}.{token_hex(6)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        if path.exists():
            part.chmod(path.stat().st_mode & 0o777)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def store(path: Path, content: bytes) -> None:
    """Replace a file of the cache, which nobody else may write to; warn if this fails."""
    try:
        with replacing(path, 0o600) as file:
            file.write(content)
    except OSError as error:
        warn_once(f"files in {path.parent} cannot be written ({error.strerror}); nothing is kept")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock out others that name the same file; where locks are impossible, the last writer wins."""
    lock = FileLock(path, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except (OSError, RuntimeError):  # a file system without locks, or a timeout
        yield
        return
    try:
        yield
    finally:
        lock.release()


@cache
def warn_once(message: str) -> None:
    """Warn once per process and message; messages usually name the directory rather than one of many objects."""
    warn(f"convolith's cache: {message}")
