"""The form of TIFF files that results are written as: tiles, pages, colours, and what is known of the pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, prod
from typing import IO, Any

import numpy as np

from convolith.big.stores.metadata import pixel_sizes
from convolith.big.stores.places import needed
from convolith.big.stores.raw_tiff import YCBCR
from convolith.big.stores.sources import GEOTIFF, UNITS
from convolith.errors import ConvolithError
from convolith.version import __version__

LARGEST_TILE, MOST_TILE_BYTES = 1024, 16 << 20
"""Longest side of a tile, and bytes of its pixels at most: programs that show a picture read whole tiles."""
SIDE = 16
"""Number that the sides of a tile are multiples of, as the standard asks."""
CLASSIC_BYTES = (1 << 32) - (1 << 25)
"""Bytes of pixels above which a file is a BigTIFF, since addresses in others have 32 bits."""
OME_DTYPES = ("int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64")
"""Dtypes that OME-TIFF has."""
GREY_WHITE_ZERO, RGB = 0, 2
"""Values of the tag PhotometricInterpretation."""


class TiffForm:
    """Form of a tiled TIFF file.

    Args:
        shape, block, dtype: of the array, and of its blocks.
        axes: letters of its axes: Y and X, S before or after them for samples of one page, others for pages.
        attributes: metadata of the result, of which the file gets its place on the earth, sizes of pixels and nodata.

    Attributes:
        y, x: numbers of the axes of rows and columns.
        samples: number of samples of a pixel within a page.
        tile: sides of a tile.
    """

    def __init__(
        self,
        shape: Sequence[int],
        block: Sequence[int],
        dtype: np.dtype[Any],
        axes: str,
        attributes: Mapping[str, Any] | None,
    ) -> None:
        self.shape, self.block, self.dtype = tuple(shape), tuple(block), np.dtype(dtype)
        self.axes, self.attributes = axes, dict(attributes or {})
        self.y, self.x = axes.index("Y"), axes.index("X")
        self.samples = self.shape[-1] if axes.endswith("S") else 1
        self.tile = self._tile()

    def _tile(self) -> tuple[int, int]:
        """Return the sides of a tile, near those of a block."""
        sides = []
        for axis in (self.y, self.x):
            block = min(self.block[axis], self.shape[axis])
            divisors = [n for n in range(LARGEST_TILE, LARGEST_TILE // 2, -SIDE) if block % n == 0]
            near = max(SIDE, round(block / SIDE) * SIDE) if block < self.shape[axis] else ceil(block / SIDE) * SIDE
            sides.append(near if near <= LARGEST_TILE else next(iter(divisors), LARGEST_TILE))
        while prod(sides) * self.samples * self.dtype.itemsize > MOST_TILE_BYTES and max(sides) > SIDE:
            longest = sides.index(max(sides))
            sides[longest] = ceil(sides[longest] / 2 / SIDE) * SIDE
        return sides[0], sides[1]

    def write(self, file: IO[bytes], tiles: Iterator[np.ndarray] | None, **options: Any) -> None:
        """Write a whole file; without tiles, its pixels are room without compression that is not written yet."""
        tifffile = needed("tifffile", "big")
        sizes = pixel_sizes(self.attributes, len(self.shape))
        letters = self.axes.replace("S", "")
        ome = sizes is not None and self.dtype.name in OME_DTYPES and set(letters) <= set("TZCYX")
        single = self.axes.endswith("S") and self.samples == 1  # which a page has no axis for
        metadata = {"axes": self.axes.removesuffix("S") if single else self.axes, **_ome_sizes(sizes or [])}
        history = [str(line) for line in self.attributes.get("history", ())]
        metadata |= {"Description": "; ".join(history)} if ome else {"history": history}
        big = prod(self.shape) * self.dtype.itemsize > CLASSIC_BYTES
        with tifffile.TiffWriter(file, bigtiff=big, ome=ome, shaped=not ome) as writer:
            writer.write(
                tiles,
                shape=self.shape[:-1] if single else self.shape,
                dtype=self.dtype,
                tile=self.tile,
                software=f"convolith {__version__}",
                metadata=metadata,
                extratags=[*_place_tags(self.attributes, self.dtype)],
                **self._look(),
                **options,
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
