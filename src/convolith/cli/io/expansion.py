"""Limits on the decompressed size of files, checked by the headers of images and archives before they are read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from convolith.errors import ConvolithError
from convolith.planner.machine import check_memory

MAX_EXPANDED_BYTES = 1 << 32
"""Decompressed size in bytes that is accepted for every file."""
USUAL_EXPANSION = 20
"""Expansion factor that is accepted for every file: images of sky or paper reach it; a bomb expands 1000 times."""
CHUNK_BYTES = 1 << 24


def allowed_bytes(file: Path) -> int:
    """Return the largest accepted decompressed size of a file, in bytes."""
    return max(MAX_EXPANDED_BYTES, USUAL_EXPANSION * file.stat().st_size)


def check_expansion(argument: str, file: Path, expanded: int) -> None:
    """Refuse a file whose decompressed contents exceed the limit or the machine's memory.

    Raises:
        ConvolithError: the file's size, the size of its contents and the limit.
    """
    if expanded > allowed_bytes(file):
        raise ConvolithError(
            f"{argument} is {file}, whose {file.stat().st_size:,} bytes expand to {expanded:,} or more; expected at "
            f"most {allowed_bytes(file):,}; store large data uncompressed, as a .npy file"
        )
    check_memory(f"{argument} is {file}, whose contents take", expanded)


def check_arrays(argument: str, file: Path, stream: IO[bytes]) -> None:
    """Refuse a .npz archive whose members exceed the limit, and a .npy file that is shorter than its header declares.

    Args:
        argument: the name of the argument, for messages.
        file: the path.
        stream: the open file; it is at its beginning afterwards.

    Raises:
        ConvolithError: contents that exceed the limit or the machine's memory.
        ValueError: a damaged file.
    """
    if stream.read(2) == b"PK":
        with zipfile.ZipFile(stream) as archive:
            check_expansion(argument, file, sum(member.file_size for member in archive.infolist()))
    else:
        stream.seek(0)
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version in readers:  # later versions are for records with named fields
            shape, _, dtype = readers[version](stream)
            declared, stored = prod(shape) * dtype.itemsize, file.stat().st_size - stream.tell()
            if declared > stored:
                raise ValueError(f"its header declares {declared:,} bytes of values, and {stored:,} are there")
            check_memory(f"{argument} is {file}, whose values take", declared)
    stream.seek(0)


def _first_member(file: Path) -> IO[bytes]:
    archive = zipfile.ZipFile(file)
    return archive.open(archive.infolist()[0])


OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"PK": _first_member,
}
"""Functions that open a compressed file, by its first bytes."""


def expanded(argument: str, file: Path) -> Path | IO[bytes]:
    """Return the path of an uncompressed file, or the contents of a compressed one, up to the limit."""
    with file.open("rb") as stream:
        opener = _opener(stream.read(8))
    if opener is None:
        return file
    contents, size = io.BytesIO(), 0
    with opener(file) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            size += len(chunk)
            check_expansion(argument, file, size)
            contents.write(chunk)
    if _opener(contents.getvalue()[:8]) is not None:
        raise ConvolithError(f"{argument} is {file}, which is compressed twice; decompress it once")
    contents.seek(0)
    return contents


def _opener(beginning: bytes) -> Callable[[Path], Any] | None:
    return next((opener for magic, opener in OPENERS.items() if beginning.startswith(magic)), None)
