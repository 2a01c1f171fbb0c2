"""What the border of a convolution takes: one more channel, of ones, or a map that is added, or strips taken off."""

from __future__ import annotations

from math import ceil, prod
from typing import NamedTuple

from convolith.algebra.affine import Affine, RecomputedRow
from convolith.folding.search.strips import strips_of

CALL = 2.5e5
"""Products in whose time an operator is called: 2.5 microseconds, at 1e11 products a second."""
MAP_CALLS = 16
"""Operators that compute a map and add it."""
STRIP_CALLS = 9
"""Operators that compute a strip and take it off."""
LANES = 16
"""Channels that a convolution computes together: one more may take as long as sixteen more."""
MOVED = 10
"""Products in whose time a number is read or written."""


class Correction(NamedTuple):
    """The cheaper way on the example.

    Attributes:
        by_channel: whether it is a channel of ones.
        multiplications: that it forms.
        moved: numbers that it reads and writes.
        calls: of operators.
        products: in whose time it multiplies.
    """

    by_channel: bool = False
    multiplications: float = 0.0
    moved: float = 0.0
    calls: int = 0
    products: float = 0.0

    @property
    def weighed(self) -> float:
        """Products in whose time all of it is done."""
        return self.products + self.calls * CALL + self.moved * MOVED


def correction(one: Affine, inputs: tuple[int, ...], result: tuple[int, ...], products: float) -> Correction:
    """What the border correction of a convolution takes on the example.

    Args:
        inputs, result: shapes of what the convolution reads and gives.
        products: of the convolution itself.
    """
    if one.row is not None:
        return _by_strips(one.row, result)
    if one.edge is None:
        return Correction()
    channels = one.conv.in_channels
    along = float(prod(result[1:]) * one.conv.kernel_size[-1])  # a product of matrices for each axis, of one image
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
    """Every strip is as long as the image, to the order of the padding."""
    first, second = row
    multiplications = moved = 0.0
    strips = strips_of(row)
    for strip in strips:
        positions = prod(result) // result[1] // max(result[strip.axis], 1) * strip.wide
        multiplications += positions * float(prod(first.weight.shape) + prod(second.weight.shape))
        moved += positions * (first.in_channels + 2.0 * first.out_channels + 2.0 * second.out_channels)
    calls = STRIP_CALLS * len(strips)
    return Correction(multiplications=multiplications, moved=moved, calls=calls, products=multiplications)
