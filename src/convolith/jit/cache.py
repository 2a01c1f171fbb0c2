"""Disk cache of compiled code: one file per object, readable by its owner only, verified by a digest when read.

No failure here stops a computation: a damaged, foreign or read-only cache causes a warning and a compilation.
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
"""Environment variable that names another cache directory; an empty value disables the cache."""
DIGEST_BYTES = 32


def directory() -> Path | None:
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
        _warn(f"there is no home directory, so nothing is kept; name a directory in {DIRECTORY}")
        return None


def read(key: str) -> bytes | None:
    """Return the object stored under a key, or None."""
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
    """Store an object under a key; a reader sees the complete file or none."""
    home = made(directory())
    if home is not None:
        replace_file(home / f"{key}.o", hashlib.sha256(code).digest() + code)


def made(home: Path | None) -> Path | None:
    """Create the directory if it is missing and return it, or None if it cannot be used."""
    if home is None:
        return None
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        return usable(home)  # which warns that it is a file
    except OSError as error:
        _warn(f"{home} cannot be made ({error.strerror}); nothing is kept")
        return None
    return usable(home)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and move it into place; warn if this fails."""
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
    """Return the directory if it exists, belongs to this user and nobody else can write to it; otherwise None."""
    if home is None:
        return None
    try:
        status = home.stat()
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        _warn(f"{home} is a file, so nothing is kept; remove it, or name a directory in {DIRECTORY}")
        return None
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022):
        _warn(f"{home} belongs to another user or can be written by others; nothing is kept there (chmod 700 it)")
        return None
    return home


@cache
def _warn(message: str) -> None:
    """Warn once per process and message; messages usually name the directory rather than one of many objects."""
    warn(f"convolith's cache: {message}")
