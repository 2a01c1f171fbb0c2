"""Pictures turned upright by their orientation tag, as a whole or part by part."""

from __future__ import annotations

from typing import Any

import numpy as np

ORIENTATION = 0x0112
"""Tag of TIFF and EXIF for the way a picture lies."""
TURNS: dict[int, tuple[bool, int, int]] = {
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}
"""Turn that makes a picture upright, by its orientation tag: whether rows become columns, then the steps along both."""


def turned(array: np.ndarray, rows: int, turn: tuple[bool, int, int]) -> np.ndarray:
    """Return a picture whose rows and columns, the axes `rows` and `rows + 1`, are swapped and reversed."""
    swap, down, right = turn
    array = np.swapaxes(array, rows, rows + 1) if swap else array
    result: np.ndarray = array[(*(slice(None),) * rows, slice(None, None, down), slice(None, None, right))]
    return result


class Upright:
    """An array that is turned upright as its parts are read.

    Args:
        array: supports `array[slices]`, `shape` and `dtype`.
        rows: axis of the rows; that of the columns follows it.
        turn: a value of `TURNS`.
    """

    def __init__(self, array: Any, rows: int, turn: tuple[bool, int, int]) -> None:
        self.array, self.rows, self.turn, self.dtype = array, rows, turn, array.dtype
        self.shape = self.in_order(tuple(array.shape))

    def in_order(self, numbers: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return one entry per stored axis as one per axis of the upright picture, or the reverse."""
        entries = list(numbers)
        if self.turn[0]:
            entries[self.rows : self.rows + 2] = entries[self.rows : self.rows + 2][::-1]
        return tuple(entries)

    def __getitem__(self, place: tuple[slice, ...]) -> np.ndarray:
        """Return a part: one slice of step 1 for each axis."""
        stored = list(place)
        for axis, step in zip((self.rows, self.rows + 1), self.turn[1:], strict=True):
            if step < 0:
                start, stop, _ = place[axis].indices(self.shape[axis])
                stored[axis] = slice(self.shape[axis] - stop, self.shape[axis] - start)
        part = np.asarray(self.array[self.in_order(tuple(stored))])
        return np.ascontiguousarray(turned(part, self.rows, self.turn))
