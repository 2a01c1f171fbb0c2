"""Compiled objects on disk: one file per object in the user's cache directory, verified by a digest when read.

No failure here stops a computation: a damaged, foreign or read-only cache causes a warning and a compilation.
"""

from __future__ import annotations

import hashlib

from convolith.storage import cache_directory, store, usable, warn_once

DIGEST_BYTES = 32


def read(key: str) -> bytes | None:
    """Return the object stored under a key, or None."""
    home = usable(cache_directory())
    if home is None:
        return None
    path = home / f"{key}.o"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        warn_once(f"files in {home} cannot be read ({error.strerror}); their code is compiled again")
        return None
    digest, code = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(code).digest() != digest:
        warn_once(f"{path} is damaged; its code is compiled again")
        return None
    return code


def write(key: str, code: bytes) -> None:
    """Store an object under a key; a reader sees the complete file or none."""
    home = usable(cache_directory(), create=True)
    if home is not None:
        store(home / f"{key}.o", hashlib.sha256(code).digest() + code)
