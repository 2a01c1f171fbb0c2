"""Cost of correcting the border of a convolution: by one more channel of ones, an added map, or subtracted strips."""

from __future__ import annotations

from math import ceil, prod
from typing import NamedTuple

from convolith.algebra.affine import Affine, RecomputedRow
from convolith.folding.search.strips import strips_of

CALL = 2.5e5
"""Time of one operator call, as a number of multiplications: 2.5 microseconds, at 1e11 multiplications a second."""
MAP_CALLS = 16
"""Number of operator calls that compute a map and add it."""
STRIP_CALLS = 9
"""Number of operator calls that compute a strip and subtract it."""
LANES = 16
"""Number of channels that a convolution processes together: one more may take as long as sixteen more."""
MOVED = 10
"""Time to read or write one number, as a number of multiplications."""


class Correction(NamedTuple):
    """Cost of the cheapest border correction on the example.

    Attributes:
        by_channel: whether the correction is a channel of ones.
        multiplications: number of multiplications.
        moved: number of values read and written.
        calls: number of operator calls.
        products: time of the multiplications, as a number of multiplications of the convolution.
    """

    by_channel: bool = False
    multiplications: float = 0.0
    moved: float = 0.0
    calls: int = 0
    products: float = 0.0

    @property
    def weighed(self) -> float:
        """Total time, as a number of multiplications."""
        return self.products + self.calls * CALL + self.moved * MOVED


def correction(one: Affine, inputs: tuple[int, ...], result: tuple[int, ...], products: float) -> Correction:
    """Return the cost of a convolution's border correction on the example.

    Args:
        inputs, result: shapes of the convolution's input and output.
        products: number of multiplications of the convolution itself.
    """
    if one.row is not None:
        return _by_strips(one.row, result)
    if one.edge is None:
        return Correction()
    channels = one.conv.in_channels
    along = float(prod(result[1:]) * one.conv.kernel_size[-1])  # a matrix product for each axis, of one image
    by_map = Correction(multiplications=along, moved=2.0 * prod(result), calls=MAP_CALLS, products=along)
    if one.conv.groups > 1:
        return by_map
    lanes = ceil((channels + 1) / LANES) / ceil(channels / LANES) - 1
    by_channel = Correction(
        by_channel=True,
        multiplications=products / channels,
        moved=2.0 * prod(inputs),
        calls=1,
        products=products * lanes,
    )
    return min(by_map, by_channel, key=lambda way: way.weighed)


def _by_strips(row: RecomputedRow, result: tuple[int, ...]) -> Correction:
    """Return the cost of subtracting strips, taking each for as long as the image, which neglects the padding."""
    first, second = row
    multiplications = moved = 0.0
    strips = strips_of(row)
    for strip in strips:
        positions = prod(result) // result[1] // max(result[strip.axis], 1) * strip.wide
        multiplications += positions * float(prod(first.weight.shape) + prod(second.weight.shape))
        moved += positions * (first.in_channels + 2.0 * first.out_channels + 2.0 * second.out_channels)
    calls = STRIP_CALLS * len(strips)
    return Correction(multiplications=multiplications, moved=moved, calls=calls, products=multiplications)
