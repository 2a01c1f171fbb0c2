"""Files of fit states: all numbers of a state, and the version of the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

import numpy as np

from convolith.errors import ConvolithError
from convolith.storage import replacing

VERSION = 2
"""Version of the format; other versions are refused, since their numbers may have another meaning."""


def write(path: str | Path, kind: str, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write arrays and their description to a .npz file; an existing file is replaced once the new one is complete.

    Raises:
        ConvolithError: another file extension, or a path that cannot be written.
    """
    place = Path(path)
    if place.suffix != ".npz":
        raise ConvolithError(f"path is {path}; expected a name that ends in .npz")
    described = json.dumps({"kind": kind, "version": VERSION, **about})
    try:
        with replacing(place) as file:
            np.savez(file, about=np.array(described), **arrays)  # type: ignore[arg-type] # NumPy's stubs take it for a flag
    except OSError as problem:
        raise ConvolithError(f"path is {path}, which cannot be written ({problem}); choose another path") from None


def _check_plain(stream: IO[bytes], size: int) -> None:
    """Refuse an archive whose contents are larger than the file: states are written uncompressed."""
    with ZipFile(stream) as archive:
        contents = sum(member.file_size for member in archive.infolist())
    if contents > size:
        raise ValueError(f"its {size:,} bytes expand to {contents:,}, and a state is not compressed")
    stream.seek(0)


def read(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the description and the arrays that `write` wrote.

    Raises:
        ConvolithError: a missing, damaged or truncated file, or one of another version.
    """
    place = Path(path)
    if not place.is_file():
        raise ConvolithError(f"path is {path}; there is no such file")
    try:
        with place.open("rb") as stream:
            _check_plain(stream, place.stat().st_size)
            arrays = dict(np.load(stream, allow_pickle=False))
        about = json.loads(str(arrays.pop("about")))
        header = about.pop("kind"), about.pop("version")
    except Exception as problem:  # noqa: BLE001 - every layer of the format raises its own
        raise ConvolithError(
            f"path is {path}, which cannot be read as a state ({problem or type(problem).__name__}); is it complete?"
        ) from None
    if header != (kind, VERSION):
        raise ConvolithError(f"path is {path}, a {header[0]} of version {header[1]}; expected a {kind} of {VERSION}")
    return about, arrays
