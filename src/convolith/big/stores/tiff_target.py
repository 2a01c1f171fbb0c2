"""Results as tiled TIFF files; and `KINDS`, the kinds of results by the endings of their names.

Tiles without compression have their places in the file from the beginning, where each block is written. Compressed ones
have none: blocks are stored in a Zarr array beside the file, as those of any other result, and are streamed into the
file when all are there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

from convolith.big.stores.places import Place, RemotePath, needed
from convolith.big.stores.publication import PARTIAL, remove
from convolith.big.stores.raw_tiff import RawTiff, places_of
from convolith.big.stores.sources import tiff_array
from convolith.big.stores.targets import Target, ZarrTarget, checksum, unwritten
from convolith.big.stores.tiff_form import TiffForm, letters_of
from convolith.errors import ConvolithError
from convolith.jit import thread_count

PART = ".part"
"""Ending of the name of the file while it is written."""
COMPRESSION, LEVEL = "zlib", 1
"""Compression of tiles, without loss (Deflate, which every reader of TIFF has), and its level: higher ones take several
times as long, and make files of measured numbers hardly smaller."""
MOST_WORKERS = 4
"""Number of threads at most that compress tiles; each has two tiles in memory."""


class RawTiffTarget(Target):
    """A tiled TIFF file without compression, into which blocks are written at their places.

    Args:
        path: the file.
        form: its form.
    """

    def __init__(self, path: Path, form: TiffForm) -> None:
        _check_file(path)
        self.path: Path = path
        self.form = form
        self.array: Any = None

    @property
    def partial(self) -> Path:
        """Path of the unfinished file."""
        return self.path.with_name(self.path.name + PARTIAL)

    @property
    def finish_bytes(self) -> int:
        """Upper bound on the bytes of memory that `finish` takes: none, since it renames a file."""
        return 0

    def create(self) -> None:
        """Write the file without its pixels, in place of an unfinished one.

        Raises:
            ConvolithError: a disk that is full or cannot be written.
        """
        remove(self.partial)
        try:
            with self.partial.open("w+b") as file:
                self.form.write(file, None)
        except OSError as problem:
            raise unwritten(self.partial, (), problem) from problem
        self.array = self._opened()

    def reopen(self) -> None:
        """Open the file of an interrupted run.

        Raises:
            ConvolithError: if it is not there, or is another one.
        """
        try:
            self.array = self._opened()
        except Exception as problem:
            raise ConvolithError(
                f"{self.partial} cannot be opened ({problem}); start anew with resume=False (--anew)"
            ) from problem

    def _opened(self) -> RawTiff:
        """Return the pixels of the unfinished file."""
        with needed("tifffile", "big").TiffFile(self.partial) as file:
            places = places_of(file.series[0], self.form.shape)
        if places is None or (places.dtype.newbyteorder("="), places.chunks[2:4]) != (self.form.dtype, self.form.tile):
            raise ConvolithError("it is another file")
        return RawTiff(self.partial, places)

    def write(self, place: tuple[slice, ...], pixels: np.ndarray) -> Mapping[str, Any]:
        """Store a block, and return what it can be checked by.

        Raises:
            ConvolithError: a disk that is full or cannot be written.
        """
        try:
            self.array.write(place, pixels)
        except OSError as problem:
            raise unwritten(self.partial, place, problem) from problem
        return {"sum": checksum(np.ascontiguousarray(pixels))}

    def holds(self, place: tuple[slice, ...], record: Mapping[str, Any]) -> bool:
        """Return whether a block is stored as it was written."""
        return checksum(self.array[place]) == record.get("sum")

    def few_threads(self, _: int) -> AbstractContextManager[Any]:
        """Return an empty context: no library encodes blocks."""
        return nullcontext()

    def finish(self, written: Callable[[int], object]) -> None:  # noqa: ARG002 - nothing is written
        """Move the complete file to its place.

        The journal goes first, since it cannot go on with a file that has its name already.

        Raises:
            ConvolithError: a disk that is full or cannot be written.
        """
        try:
            with self.partial.open("r+b") as file:
                os.fsync(file.fileno())
            _keep_permissions(self.path, self.partial)
            self.journal.unlink(missing_ok=True)
            self.partial.replace(self.path)
        except OSError as problem:
            raise ConvolithError(f"{self.path} could not be written ({problem}); it is {self.partial} now") from problem

    def result(self) -> Any:
        """Return the finished array, opened for reading."""
        return tiff_array(self.path)


class TiffTarget(Target):
    """A tiled TIFF file with compression, whose blocks are stored in a Zarr array first.

    Args:
        path: the file.
        form: its form.
        fill_value: number that missing blocks stand for.
    """

    def __init__(self, path: Path, form: TiffForm, *, fill_value: float = 0) -> None:
        _check_file(path)
        self.path: Path = path
        self.form = form
        self.blocks = ZarrTarget(path, form.shape, form.block, form.dtype, fill_value=fill_value)

    @property
    def _columns(self) -> int:
        """Columns that are read at a time: whole tiles, about as wide as a block, so that each is decoded few times."""
        width = self.form.tile[1]
        return ceil(self.form.block[self.form.x] / width) * width

    @property
    def partial(self) -> Place:
        """Folder of the blocks."""
        return self.blocks.partial

    @property
    def finish_bytes(self) -> int:
        """Upper bound on the bytes of memory that `finish` takes: tiles that are read, and that are compressed."""
        form = self.form
        read = form.tile[0] * self._columns * form.samples
        tiles = (2 * MOST_WORKERS + 1) * prod(form.tile) * form.samples
        return (2 * read + 4 * prod(form.block) + tiles) * form.dtype.itemsize

    def create(self) -> None:
        """Make an empty array for the blocks, in place of an unfinished one."""
        self.blocks.create()

    def reopen(self) -> None:
        """Open the blocks of an interrupted run.

        Raises:
            ConvolithError: if they are not there, or are those of another array.
        """
        self.blocks.reopen()

    def write(self, place: tuple[slice, ...], pixels: np.ndarray) -> Mapping[str, Any]:
        """Store a block, and return what it can be checked by.

        Raises:
            ConvolithError: a disk that is full or cannot be written.
        """
        return self.blocks.write(place, pixels)

    def holds(self, place: tuple[slice, ...], record: Mapping[str, Any]) -> bool:
        """Return whether a block is stored as it was written."""
        return self.blocks.holds(place, record)

    def few_threads(self, count: int) -> AbstractContextManager[Any]:
        """Return a context in which the library that encodes blocks takes a number of threads."""
        return self.blocks.few_threads(count)

    def finish(self, written: Callable[[int], object]) -> None:
        """Write the file from the blocks, move it to its place, and remove the blocks.

        Args:
            written: function that is called with the bytes of each tile.

        Raises:
            ConvolithError: a disk that is full or cannot be written; blocks and journal stay.
        """
        part = self.path.with_name(self.path.name + PART)
        try:
            workers, form = min(thread_count(), MOST_WORKERS), self.form
            with part.open("w+b") as file, self.few_threads(workers):
                form.write(
                    file,
                    self._counted(written),
                    compression=COMPRESSION,
                    compressionargs={"level": LEVEL},
                    maxworkers=workers,
                    buffersize=workers * prod(form.tile) * form.samples * form.dtype.itemsize,
                )
                file.flush()
                os.fsync(file.fileno())
            _keep_permissions(self.path, part)
            part.replace(self.path)
        except BaseException as problem:
            part.unlink(missing_ok=True)
            if isinstance(problem, OSError):
                raise ConvolithError(
                    f"{self.path} could not be written ({problem}); make room, and give the same call again to go on: "
                    f"all blocks are in {self.partial}"
                ) from problem
            raise
        self.journal.unlink(missing_ok=True)  # before the blocks, which are of no use without it
        remove(self.path.with_name(self.path.name + PARTIAL))

    def result(self) -> Any:
        """Return the finished array, opened for reading."""
        return tiff_array(self.path)

    def _counted(self, written: Callable[[int], object]) -> Iterator[np.ndarray]:
        """Yield the tiles, and count their bytes."""
        for tile in self.tiles():
            written(tile.nbytes)  # before, since nobody asks for more than the last one
            yield tile

    def tiles(self) -> Iterator[np.ndarray]:
        """Yield the tiles in the order of the file: pages, samples, rows, columns; those at an edge are smaller."""
        shape, (height, width), x = self.form.shape, self.form.tile, self.form.x
        rows, columns = shape[self.form.y], shape[x]
        last = (slice(None),) * (len(shape) - x - 1)
        for page in product(*map(range, shape[: self.form.y])):
            for top, left in product(range(0, rows, height), range(0, columns, self._columns)):
                right = min(left + self._columns, columns)
                place = (*page, slice(top, min(top + height, rows)), slice(left, right), *last)
                pixels = np.asarray(self.blocks.array[place])
                for start in range(0, right - left, width):
                    yield pixels[:, start : start + width]


def _check_file(path: Path) -> None:
    """Refuse a folder in place of a file, and a missing tifffile."""
    needed("tifffile", "big")
    if path.is_dir():
        raise ConvolithError(f"target is {str(path)!r}, which is a folder; expected a file name")


def _keep_permissions(path: Path, replacement: Path) -> None:
    """Give a file the permissions of the one that it replaces, if there is one."""
    if path.exists():
        replacement.chmod(path.stat().st_mode & 0o777)


@dataclass(frozen=True, eq=False)
class Description:
    """Properties of a result that is to be written.

    Attributes:
        path: file or folder, or a name in an object store.
        shape, block, dtype: of the result, and of its blocks.
        names: names of its axes, or None.
        slid: axes that the kernel slides along.
        attributes, fill_value, group: as for `ZarrTarget`.
        inner: chunks of a source with shards, or None; a result whose blocks are whole ones has shards, too.
        compressed: whether pixels are compressed.
    """

    path: Place
    shape: tuple[int, ...]
    block: tuple[int, ...]
    dtype: np.dtype[Any]
    names: tuple[str, ...] | None
    slid: tuple[int, ...]
    attributes: Mapping[str, Any]
    fill_value: float
    group: str
    inner: tuple[int, ...] | None
    compressed: bool


def target_of(result: Description) -> Target:
    """Return the place of a result, by the ending of its name.

    Raises:
        ConvolithError: an ending of no known kind, or axes that the kind does not have.
    """
    make = KINDS.get(result.path.suffix.lower())
    if make is None:
        endings = ", ".join(name for name in KINDS if name)
        raise ConvolithError(
            f"target is {str(result.path)!r}; expected a name that ends in {endings}, or a folder for a Zarr array"
        )
    return make(result)


def _zarr(result: Description) -> Target:
    old = bool(result.group) and "ome" not in result.attributes  # OME-Zarr 0.4 and before
    inner = None if old else result.inner
    if inner is not None and any(b % c for b, c in zip(result.block, inner, strict=True)):
        inner = None
    return ZarrTarget(
        result.path,
        result.shape,
        result.block,
        result.dtype,
        names=result.names,
        attributes=result.attributes,
        fill_value=result.fill_value,
        group=result.group,
        zarr_format=2 if old else 3,
        inner=inner,
        compressors="auto" if result.compressed else None,
    )


def _tiff(result: Description) -> Target:
    if isinstance(result.path, RemotePath):
        raise ConvolithError(
            f"target is {str(result.path)!r}; a TIFF file is renamed when it is complete, which object stores do not "
            "have; choose a .zarr, or a file"
        )
    axes = letters_of(result.names, result.slid, result.shape)
    form = TiffForm(result.shape, result.block, result.dtype, axes, result.attributes)
    if not result.compressed:
        return RawTiffTarget(result.path, form)
    return TiffTarget(result.path, form, fill_value=result.fill_value)


KINDS: dict[str, Callable[[Description], Target]] = {"": _zarr, ".zarr": _zarr, ".tif": _tiff, ".tiff": _tiff}
"""Kinds of results, by the ending of a name."""
