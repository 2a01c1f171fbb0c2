"""Stored numbers that stand for others, which replace them part by part.

FITS files have whole numbers with a scale and a zero (BSCALE, BZERO), TIFF files numbers of colours in a palette.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

SHIFTED = {"uint8": ("int8", -(1 << 7))} | {f"int{bits}": (f"uint{bits}", 1 << (bits - 1)) for bits in (16, 32, 64)}
"""Dtypes that FITS stores as others, by the stored ones, with the zero that says so."""


WHITE = 255
"""White of a picture of black and white."""


class LookedUp:
    """An array of the entries of a table, by their stored numbers; those of more than one value get a last axis.

    Args:
        stored: supports `array[slices]`, `shape` and `dtype`.
        table: the entries.
    """

    def __init__(self, stored: Any, table: np.ndarray) -> None:
        self.stored, self.table, self.dtype = stored, table, table.dtype
        self.shape = (*stored.shape, *table.shape[1:])

    def __getitem__(self, place: tuple[slice, ...]) -> np.ndarray:
        """Return a part: one slice for each axis."""
        count = len(self.shape) - self.table.ndim + 1
        part: Any = self.table[np.asarray(self.stored[place[:count]]).astype(np.intp)]
        return np.ascontiguousarray(part[(..., *place[count:])])


class Scaled:
    """An array `scale * stored + zero`, in the dtype that astropy gives it; the number of BLANK pixels is NaN.

    Args:
        stored: supports `array[slices]`, `shape` and `dtype`.
        header: the cards of the image.
    """

    def __init__(self, stored: Any, header: Mapping[str, Any]) -> None:
        self.stored, self.shape = stored, tuple(stored.shape)
        self.scale, self.zero = float(header.get("BSCALE", 1)), header.get("BZERO", 0)
        kind = stored.dtype.newbyteorder("=")
        self.blank = header.get("BLANK") if kind.kind in "iu" else None
        other, zero = SHIFTED.get(kind.name, ("", 0))
        self.shifted = self.scale == 1 and bool(other) and float(self.zero) == zero and self.blank is None
        floats = np.dtype(np.float64 if kind.itemsize > np.dtype(np.int16).itemsize else np.float32)
        self.dtype: np.dtype[Any] = np.dtype(other) if self.shifted else kind if kind.kind == "f" else floats

    def __getitem__(self, place: Any) -> np.ndarray:
        """Return a part."""
        stored = np.asarray(self.stored[place])
        values: np.ndarray = stored.astype(self.dtype)
        if self.shifted:
            bits = values.view(f"u{self.dtype.itemsize}")  # adding half of the range modulo the range
            bits ^= bits.dtype.type(1 << (8 * self.dtype.itemsize - 1))
            return values
        values *= self.dtype.type(self.scale)
        values += self.dtype.type(self.zero)
        if self.blank is not None:
            values[stored == self.blank] = np.nan
        return values


def scaled(stored: Any, header: Mapping[str, Any]) -> Any:
    """Return stored pixels as the numbers that they stand for, unscaled where they are that already."""
    plain = header.get("BSCALE", 1) == 1 and header.get("BZERO", 0) == 0
    return stored if plain and (stored.dtype.kind == "f" or "BLANK" not in header) else Scaled(stored, header)
