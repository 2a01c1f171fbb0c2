"""Results as tiled TIFF files; and `KINDS`, the kinds of results by the endings of their names.

Blocks are stored in a Zarr array beside the file, as those of any other result, since tiles of a TIFF are written in
order and cannot be replaced. When all are there, they are streamed into the file, which then moves to its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from convolith.big.stores.metadata import pixel_sizes
from convolith.big.stores.places import Place, RemotePath, needed
from convolith.big.stores.publication import PARTIAL, remove
from convolith.big.stores.sources import GEOTIFF, UNITS, open_source
from convolith.big.stores.targets import Target, ZarrTarget
from convolith.errors import ConvolithError
from convolith.jit import thread_count
from convolith.version import __version__

PART = ".part"
"""Ending of the name of the file while it is written."""
COMPRESSION, LEVEL = "zlib", 1
"""Compression of tiles, without loss (Deflate, which every reader of TIFF has), and its level: higher ones take several
times as long, and make files of measured numbers hardly smaller."""
LARGEST_TILE, MOST_TILE_BYTES = 1024, 16 << 20
"""Longest side of a tile, and bytes of its pixels at most: programs that show a picture read whole tiles."""
SIDE = 16
"""Number that the sides of a tile are multiples of, as the standard asks."""
CLASSIC_BYTES = (1 << 32) - (1 << 25)
"""Bytes of pixels above which a file is a BigTIFF, since addresses in others have 32 bits."""
MOST_WORKERS = 4
"""Number of threads at most that compress tiles; each has two tiles in memory."""
OME_DTYPES = ("int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64")
"""Dtypes that OME-TIFF has."""
GREY_WHITE_ZERO, RGB, YCBCR = 0, 2, 6
"""Values of the tag PhotometricInterpretation; tiles of the last kind are read as RGB."""


class TiffTarget(Target):
    """A tiled TIFF file.

    Args:
        path: the file.
        shape, chunks, dtype: of the array, and of its blocks.
        axes: letters of its axes: Y and X, S before or after them for samples of one page, others for pages.
        attributes: metadata of the result, of which the file gets its place on the earth, sizes of pixels and nodata.
        fill_value: number that missing blocks stand for.
    """

    def __init__(
        self,
        path: Path,
        shape: Sequence[int],
        chunks: Sequence[int],
        dtype: np.dtype[Any],
        *,
        axes: str,
        attributes: Mapping[str, Any] | None = None,
        fill_value: float = 0,
    ) -> None:
        needed("tifffile", "big")
        if path.is_dir():
            raise ConvolithError(f"target is {str(path)!r}, which is a folder; expected a file name")
        self.path: Path = path
        self.axes, self.attributes = axes, dict(attributes or {})
        self.blocks = ZarrTarget(path, shape, chunks, dtype, fill_value=fill_value)
        self.shape, self.dtype = self.blocks.shape, self.blocks.dtype
        self.y, self.x = axes.index("Y"), axes.index("X")
        self.samples = self.shape[-1] if axes.endswith("S") else 1
        self.tile = self._tile()

    def _tile(self) -> tuple[int, int]:
        """Return the sides of a tile, near those of a block."""
        sides = []
        for axis in (self.y, self.x):
            block = min(self.blocks.chunks[axis], self.shape[axis])
            divisors = [n for n in range(LARGEST_TILE, LARGEST_TILE // 2, -SIDE) if block % n == 0]
            near = max(SIDE, round(block / SIDE) * SIDE) if block < self.shape[axis] else ceil(block / SIDE) * SIDE
            sides.append(near if near <= LARGEST_TILE else next(iter(divisors), LARGEST_TILE))
        while prod(sides) * self.samples * self.dtype.itemsize > MOST_TILE_BYTES and max(sides) > SIDE:
            longest = sides.index(max(sides))
            sides[longest] = ceil(sides[longest] / 2 / SIDE) * SIDE
        return sides[0], sides[1]

    @property
    def _columns(self) -> int:
        """Columns that are read at a time: whole tiles, about as wide as a block, so that each is decoded few times."""
        return ceil(self.blocks.chunks[self.x] / self.tile[1]) * self.tile[1]

    @property
    def partial(self) -> Place:
        """Folder of the blocks."""
        return self.blocks.partial

    @property
    def finish_bytes(self) -> int:
        """Upper bound on the bytes of memory that `finish` takes: tiles that are read, and that are compressed."""
        read = self.tile[0] * self._columns * self.samples
        tiles = (2 * MOST_WORKERS + 1) * prod(self.tile) * self.samples
        return (2 * read + 4 * prod(self.blocks.chunks) + tiles) * self.dtype.itemsize

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
            with part.open("w+b") as file:
                self._fill(file, written)
                file.flush()
                os.fsync(file.fileno())
            if self.path.exists():
                part.chmod(self.path.stat().st_mode & 0o777)
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
        return open_source(self.path).array

    def _fill(self, file: IO[bytes], written: Callable[[int], object]) -> None:
        """Write the whole file."""
        tifffile = needed("tifffile", "big")
        sizes = pixel_sizes(self.attributes, len(self.shape))
        letters = self.axes.replace("S", "")
        ome = sizes is not None and self.dtype.name in OME_DTYPES and set(letters) <= set("TZCYX")
        single = self.axes.endswith("S") and self.samples == 1  # which a page has no axis for
        metadata = {"axes": self.axes.removesuffix("S") if single else self.axes, **_ome_sizes(sizes or [])}
        history = [str(line) for line in self.attributes.get("history", ())]
        metadata |= {"Description": "; ".join(history)} if ome else {"history": history}
        workers = min(thread_count(), MOST_WORKERS)
        big = prod(self.shape) * self.dtype.itemsize > CLASSIC_BYTES
        with tifffile.TiffWriter(file, bigtiff=big, ome=ome, shaped=not ome) as writer, self.few_threads(workers):
            writer.write(
                self._counted(written),
                shape=self.shape[:-1] if single else self.shape,
                dtype=self.dtype,
                tile=self.tile,
                compression=COMPRESSION,
                compressionargs={"level": LEVEL},
                maxworkers=workers,
                buffersize=workers * prod(self.tile) * self.samples * self.dtype.itemsize,
                software=f"convolith {__version__}",
                metadata=metadata,
                extratags=[*_place_tags(self.attributes, self.dtype)],
                **self._look(),
            )

    def _look(self) -> dict[str, Any]:
        """Return how pixels are shown: colours, samples, resolution."""
        separate = self.axes.endswith("SYX")
        samples = self.shape[-3] if separate else self.samples
        kind = self.attributes.get("PhotometricInterpretation", RGB if self.axes.endswith("S") else None)
        colours = samples >= 3 and kind in (RGB, YCBCR)
        more = samples - (3 if colours else 1)
        known = self.attributes.get("ExtraSamples", [])
        known = known if isinstance(known, list) else [known]
        look: dict[str, Any] = {
            "photometric": "rgb" if colours else "miniswhite" if kind == GREY_WHITE_ZERO else "minisblack"
        }
        if samples > 1:
            look["planarconfig"] = "separate" if separate else "contig"
        if more > 0:
            look["extrasamples"] = known if len(known) == more else ["unspecified"] * more
        if {"XResolution", "YResolution"} <= set(self.attributes):
            look["resolution"] = (self.attributes["XResolution"], self.attributes["YResolution"])
            look["resolutionunit"] = self.attributes.get("ResolutionUnit", 2)
        return look

    def _counted(self, written: Callable[[int], object]) -> Iterator[np.ndarray]:
        """Yield the tiles, and count their bytes."""
        for tile in self.tiles():
            written(tile.nbytes)  # before, since nobody asks for more than the last one
            yield tile

    def tiles(self) -> Iterator[np.ndarray]:
        """Yield the tiles in the order of the file: pages, samples, rows, columns; those at an edge are smaller."""
        height, width = self.tile
        rows, columns = self.shape[self.y], self.shape[self.x]
        last = (slice(None),) * (len(self.shape) - self.x - 1)
        for page in product(*map(range, self.shape[: self.y])):
            for top, left in product(range(0, rows, height), range(0, columns, self._columns)):
                right = min(left + self._columns, columns)
                place = (*page, slice(top, min(top + height, rows)), slice(left, right), *last)
                pixels = np.asarray(self.blocks.array[place])
                for start in range(0, right - left, width):
                    yield pixels[:, start : start + width]


def _ome_sizes(sizes: Sequence[tuple[str, float, str | None]]) -> dict[str, Any]:
    """Return sizes of pixels as attributes of OME-XML."""
    symbols = {name: symbol for symbol, name in UNITS.items()}
    found: dict[str, Any] = {}
    for axis, size, unit in sizes:
        if axis in ("x", "y", "z"):
            found[f"PhysicalSize{axis.upper()}"] = size
            found[f"PhysicalSize{axis.upper()}Unit"] = symbols.get(unit or "", "reference frame")
        elif axis == "t" and unit in symbols:
            found |= {"TimeIncrement": size, "TimeIncrementUnit": symbols[unit]}
    return found


def _place_tags(attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> Iterator[tuple[int, int, int, Any, bool]]:
    """Yield the tags of the place on the earth and of missing pixels, as tifffile takes them."""
    texts: dict[int, str] = {}
    for name, (code, kind) in GEOTIFF.items():
        if name in attributes and isinstance(attributes[name], str):
            texts[code] = attributes[name]
        elif name in attributes:
            yield code, kind, len(attributes[name]), tuple(attributes[name]), False
    nodata = attributes.get("_FillValue", attributes.get("nodata"))
    if nodata is not None:
        texts[42113] = str(int(nodata)) if dtype.kind in "iu" else f"{float(nodata):.17g}"
    for code, text in texts.items():
        content = text.encode() + b"\0"
        yield code, 2, len(content), content, False


def letters_of(names: Sequence[str] | None, slid: Sequence[int], shape: Sequence[int]) -> str:
    """Return the letters of the axes of a TIFF file.

    Args:
        names: names of the axes, or None.
        slid: axes that the kernel slides along.
        shape: shape of the array.

    Raises:
        ConvolithError: rows and columns that do not lie side by side at the end, or before samples.
    """
    count = len(shape)
    if names is not None and "y" in names and "x" in names:
        y, x = list(names).index("y"), list(names).index("x")
    else:
        samples_last = count > 2 and len(slid) > 1 and count - 1 not in slid and {count - 3, count - 2} <= set(slid)
        y, x = (count - 3, count - 2) if samples_last else (count - 2, count - 1)
    if count < 2 or x != y + 1 or x < count - 2:
        raise ConvolithError(
            f"the result has shape {tuple(shape)}" + (f" and axes {' '.join(names)}" if names else "") + "; a TIFF "
            "file has rows and columns as its last axes (y x), or before its samples (y x s): choose a .zarr"
        )
    letters = ["Q"] * count
    for axis, name in enumerate(names or ()):
        first = name[:1].upper()
        letters[axis] = first if first in "TZC" and first not in letters else "Q"
    letters[y], letters[x] = "Y", "X"
    if x == count - 2:
        letters[-1] = "S"
    elif y and names and names[y - 1] == "s" and shape[y - 1] > 1:
        letters[y - 1] = "S"
    return "".join(letters)


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
        compressed: whether a Zarr array is compressed, as all are but those of a source that is not.
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
            f"target is {str(result.path)!r}; a TIFF file is written as a whole and then gets its name, which object "
            "stores do not have; choose a .zarr, or a file"
        )
    return TiffTarget(
        result.path,
        result.shape,
        result.block,
        result.dtype,
        axes=letters_of(result.names, result.slid, result.shape),
        attributes=result.attributes,
        fill_value=result.fill_value,
    )


KINDS: dict[str, Callable[[Description], Target]] = {"": _zarr, ".zarr": _zarr, ".tif": _tiff, ".tiff": _tiff}
"""Kinds of results, by the ending of a name."""
