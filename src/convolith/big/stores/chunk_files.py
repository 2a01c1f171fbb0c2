"""Chunks of a Zarr array in a folder, each in a file of its own, which are read and written without Zarr's event loop.

Zarr hands every chunk to a thread of its own and back, twice: that takes as long as to decode one of 4 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from convolith.engines.buffers import reused_array

CODECS = ("zstd", "gzip")
"""Compressors of Zarr's third format that numcodecs has under the same names, with the same settings."""


class ChunkFiles:
    """Files of the chunks of a Zarr array.

    Args:
        array: the Zarr array.
        folder: its folder.
        codec: compressor of the chunks, one of numcodecs, or None.
        stored: dtype of the pixels in the files.
    """

    def __init__(self, array: Any, folder: Path, codec: Any, stored: np.dtype[Any]) -> None:
        self.folder, self.codec, self.stored = folder, codec, stored
        self.shape, self.chunks = tuple(array.shape), tuple(array.chunks)
        self.fill_value = array.fill_value
        self._metadata = array.metadata

    def path(self, numbers: Sequence[int]) -> Path:
        """Return the file of a chunk, by its number along each axis."""
        return self.folder / str(self._metadata.encode_chunk_key(tuple(numbers)))

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """Return the pixels of a chunk, those beyond the array's end left out."""
        inside = tuple(slice(0, n - i * c) for i, c, n in zip(numbers, self.chunks, self.shape, strict=True))
        try:
            content: Any = self.path(numbers).read_bytes()
        except FileNotFoundError:
            return np.full(self.chunks, 0 if self.fill_value is None else self.fill_value, self.stored)[inside]
        if self.codec is None:
            return np.frombuffer(content, self.stored).reshape(self.chunks)[inside]
        pixels = reused_array(self.chunks, self.stored)
        self.codec.decode(content, pixels)
        return pixels[inside]

    def write(self, numbers: Sequence[int], pixels: np.ndarray) -> Any:
        """Store a chunk whose pixels beyond the array's end are left out; return the bytes of its file, or an array.

        Raises:
            OSError: a disk that is full or cannot be written.
        """
        if pixels.shape != self.chunks:
            whole = np.full(self.chunks, self.fill_value, self.stored)
            whole[tuple(slice(0, n) for n in pixels.shape)] = pixels
            pixels = whole
        plain = np.ascontiguousarray(pixels, self.stored)
        content: Any = plain if self.codec is None else self.codec.encode(plain)
        path = self.path(numbers)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:  # not a raw file, which may write a part alone
            file.write(content)
        return content


def chunk_files(array: Any) -> ChunkFiles | None:
    """Return the files of a Zarr array; None where chunks have no file each, or codecs that Zarr alone has."""
    from zarr.storage import LocalStore

    plain = type(array.store) is LocalStore and array.shards is None and not array.filters and array.order == "C"
    if not plain or len(array.compressors) > 1 or prod(array.shape) == 0:
        return None
    folder = array.store.root / array.path
    stored = array.dtype
    codec = array.compressors[0] if array.compressors else None
    if array.metadata.zarr_format == 3:
        serializer = array.serializer.to_dict()
        about: dict[str, Any] = codec.to_dict() if codec is not None else {"name": CODECS[0]}
        if serializer["name"] != "bytes" or about["name"] not in CODECS:
            return None
        big = serializer.get("configuration", {}).get("endian") == "big"
        stored = stored.newbyteorder(">" if big else "<")
        if codec is not None:
            from numcodecs import get_codec

            codec = get_codec({"id": about["name"], **about["configuration"]})
    return ChunkFiles(array, folder, codec, stored)
