"""Compiled code kept on disk: one file an object, readable by its owner alone, checked before it is believed.

Nothing here can fail a computation: a cache that is damaged, foreign or read-only costs a warning and a compilation.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from functools import cache
from pathlib import Path

from convolith.errors import warn

DIRECTORY = "CONVOLITH_CACHE_DIR"
"""The environment variable that names another directory; empty, nothing is kept."""
DIGEST_BYTES = 32


def directory() -> Path | None:
    """Return where this user's compiled code and measurements are kept, or None where nothing shall be.

    A leading `~` is the user's home, also where no shell replaced it (in a container's or a notebook's settings).
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
        _warn(f"there is no home directory, so nothing is kept; name a directory in {DIRECTORY}")
        return None


def read(key: str) -> bytes | None:
    """The object kept under a key, or None."""
    home = usable(directory())
    if home is None:
        return None
    path = home / f"{key}.o"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn(f"files in {home} cannot be read ({error.strerror}); their code is compiled again")
        return None
    digest, code = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(code).digest() != digest:
        _warn(f"{path} is damaged; its code is compiled again")
        return None
    return code


def write(key: str, code: bytes) -> None:
    """Keep an object under a key; a reader sees all of it or nothing."""
    home = made(directory())
    if home is not None:
        replace_file(home / f"{key}.o", hashlib.sha256(code).digest() + code)


def made(home: Path | None) -> Path | None:
    """The directory, made where it is missing; None where it cannot be used."""
    if home is None:
        return None
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        return usable(home)  # which says that it is a file
    except OSError as error:
        _warn(f"{home} cannot be made ({error.strerror}); nothing is kept")
        return None
    return usable(home)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under another name and move it into place; a failure is a warning."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        _warn(f"files in {path.parent} cannot be written ({error.strerror}); nothing is kept")


def usable(home: Path | None) -> Path | None:
    """The directory if it exists and only its owner, who is this user, can write there."""
    if home is None:
        return None
    try:
        found = home.stat()
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode):
        _warn(f"{home} is a file, so nothing is kept; remove it, or name a directory in {DIRECTORY}")
        return None
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022):
        _warn(f"{home} belongs to another user or can be written by others; nothing is kept there (chmod 700 it)")
        return None
    return home


@cache
def _warn(message: str) -> None:
    """Say it once in a process: messages name the directory and not an object, of which there are many."""
    warn(f"convolith's cache: {message}")
