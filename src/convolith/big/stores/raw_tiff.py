"""Pixels of a TIFF file without compression, which are read and written at their places in the file."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

YCBCR = 6
"""Value of the tag PhotometricInterpretation of pixels that may share colours, and are read as RGB."""
Slices = tuple[slice, ...]


class Places(NamedTuple):
    """Places of the pixels of a file, which has pages with five axes: separate samples, depth, rows, columns, samples.

    Attributes:
        shape: shape of the array.
        dtype: dtype of the pixels, with the byte order that they have in the file.
        axes: for each axis of a page that of the array, or None where the page has one position along it. Axes of the
            array that none of them is count pages.
        chunks: shape of the tiles or strips of a page.
        parts: shape of what lies together in the file: a tile, a strip, or all strips of rows if they follow one
            another.
        offsets: bytes before each part in the file, with an axis for the pages and one for each of a page's.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: tuple[int | None, ...]
    chunks: tuple[int, ...]
    parts: tuple[int, ...]
    offsets: np.ndarray


def places_of(series: Any, shape: tuple[int, ...] | None = None) -> Places | None:
    """Return the places of the pixels of a file; None if they are not in the file as they are read.

    Args:
        series: a series of tifffile.
        shape: shape of the array; by default that of the series, which may lack axes of one position.
    """
    page, shape, kind = series.keyframe, tuple(shape or series.shape), np.dtype(series.dtype)
    sizes = page.shaped
    axes = _axes(shape, sizes)
    if (
        axes is None
        or page.compression != 1
        or page.predictor != 1
        or page.fillorder != 1
        or page.photometric == YCBCR
        or page.sampleformat not in (1, 2, 3)
        or page.bitspersample != 8 * kind.itemsize
        or series.transform is not None
        or series.is_multifile
    ):
        return None
    rows = page.tile if page.is_tiled else (min(page.rowsperstrip, sizes[2]), sizes[3])
    chunks = (1, *(1,) * (3 - len(rows)), *rows, sizes[4])
    grid = (ceil(prod(shape) / prod(sizes)), *(ceil(n / c) for n, c in zip(sizes, chunks, strict=True)))
    stored = _stored(series)
    if stored is None or len(stored[0]) != prod(grid):
        return None
    offsets, counts = (np.reshape(one, grid) for one in stored)
    height = np.full(grid[3], chunks[2]) if page.is_tiled else np.diff(np.r_[0 : sizes[2] : chunks[2], sizes[2]])
    needed = (height * (prod(chunks) // chunks[2] * kind.itemsize))[:, None, None]
    if (offsets <= 0).any() or (counts < needed).any() or (offsets + needed > series.parent.filehandle.size).any():
        return None  # parts that were left out, or a file that was cut off
    parts = chunks
    if not page.is_tiled and (np.diff(offsets, axis=3) == needed[:-1]).all():
        parts, offsets = (*chunks[:2], sizes[2], *chunks[3:]), offsets[:, :, :, :1]
    return Places(shape, kind.newbyteorder(series.parent.byteorder), axes, chunks, parts, offsets)


def _axes(shape: Sequence[int], sizes: Sequence[int]) -> tuple[int | None, ...] | None:
    """Return the axis of an array for each of a page's, or None if the array's are not those of pages."""
    found: list[int | None] = []
    place = len(shape) - 1
    for size in reversed(sizes):
        if place >= 0 and shape[place] == size:
            found.append(place)
            place -= 1
        elif size == 1:
            found.append(None)
        else:
            return None
    return tuple(reversed(found)) if prod(shape) else None


def _stored(series: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the offsets and the bytes of all tiles or strips in turn, or None if pages are missing."""
    first, start = series.keyframe, series.dataoffset
    if start is not None and first.is_contiguous:  # one page may stand for several that follow it
        pages = np.arange(prod(series.shape) // prod(first.shape)) * first.nbytes
        offsets = np.add.outer(pages, np.asarray(first.dataoffsets, np.int64) - first.dataoffsets[0] + start).ravel()
        return offsets, np.tile(first.databytecounts, len(pages))
    found = list(series.pages)
    if any(page is None for page in found):
        return None
    many = ([n for page in found for n in getattr(page, name)] for name in ("dataoffsets", "databytecounts"))
    offsets, counts = (np.asarray(one, np.int64) for one in many)
    return offsets, counts


class RawTiff:
    """An array of pixels in a TIFF file without compression, of which any part is read or written alone.

    Attributes:
        shape, dtype: of the array.
        chunks: shape of its tiles or strips.
    """

    def __init__(self, path: Path, places: Places) -> None:
        self.path, self.places = path, places
        self.shape, self.dtype = places.shape, places.dtype.newbyteorder("=")
        chunks = [1] * len(self.shape)
        for axis, size in zip(places.axes, places.chunks, strict=True):
            if axis is not None:
                chunks[axis] = size
        self.chunks = tuple(chunks)
        self._pages = tuple(axis for axis in range(len(self.shape)) if axis not in places.axes)
        self._strides = tuple(prod(places.parts[axis:]) * places.dtype.itemsize for axis in range(1, 6))
        self._map: mmap.mmap | None = None

    def __reduce__(self) -> Any:
        return RawTiff, (self.path, self.places)

    def __getitem__(self, slices: Slices) -> np.ndarray:
        """Return a part; the system's own copy of the file in memory is not counted to this process afterwards."""
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        pixels = np.empty(self._sizes(slices), self.dtype)
        for offset, goal in self._parts(slices):
            part = pixels[goal]
            part[...] = np.ndarray(part.shape, self.places.dtype, self._map, offset, self._strides)
        if hasattr(self._map, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
        return pixels.reshape([part.stop - part.start for part in slices])

    def write(self, slices: Slices, pixels: np.ndarray) -> None:
        """Store a part.

        Raises:
            OSError: a disk that is full or cannot be written.
        """
        whole = np.ascontiguousarray(pixels, self.places.dtype).reshape(self._sizes(slices))
        with self.path.open("r+b", buffering=0) as file:
            for offset, goal in self._parts(slices):
                part = whole[goal]
                alone = next((n for n in range(4, -1, -1) if part.shape[n] != self.places.parts[n]), 0)
                for numbers in np.ndindex(part.shape[:alone]):
                    file.seek(offset + sum(n * stride for n, stride in zip(numbers, self._strides, strict=False)))
                    rest = np.ascontiguousarray(part[numbers]).data.cast("B")
                    while rest:
                        rest = rest[file.write(rest) :]

    def _page_axes(self, slices: Slices) -> list[slice]:
        """Return slices along the axes of a page."""
        return [slice(0, 1) if axis is None else slices[axis] for axis in self.places.axes]

    def _sizes(self, slices: Slices) -> list[int]:
        """Return the shape of a part with an axis for pages, and those of a page."""
        pages = prod(slices[axis].stop - slices[axis].start for axis in self._pages)
        return [pages, *(part.stop - part.start for part in self._page_axes(slices))]

    def _parts(self, slices: Slices) -> Iterator[tuple[int, tuple[int | slice, ...]]]:
        """Yield the place in the file, and the one among the pixels that are read or written, of parts of tiles."""
        within, parts = self._page_axes(slices), self.places.parts
        ranges = [range(one.start // size, ceil(one.stop / size)) for one, size in zip(within, parts, strict=True)]
        counts = [self.shape[axis] for axis in self._pages]
        for number, page in enumerate(product(*(range(slices[axis].start, slices[axis].stop) for axis in self._pages))):
            index = int(np.ravel_multi_index(page, counts)) if page else 0
            for numbers in product(*ranges):
                offset, goal = int(self.places.offsets[(index, *numbers)]), []
                for n, size, one, stride in zip(numbers, parts, within, self._strides, strict=True):
                    low, high = max(one.start, n * size), min(one.stop, (n + 1) * size)
                    offset += (low - n * size) * stride
                    goal.append(slice(low - one.start, high - one.start))
                yield offset, (number, *goal)
