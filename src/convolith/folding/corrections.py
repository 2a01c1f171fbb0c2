"""How the constant that differs at the border is added: by one more channel of ones, or as a map of its own."""

from __future__ import annotations

from math import ceil, prod
from typing import NamedTuple

from convolith.algebra.affine import Affine

CALL = 2.5e5
"""Products in whose time an operator is called: 2.5 microseconds, at 1e11 products a second."""
MAP_CALLS = 16
"""Operators that compute a map and add it."""
LANES = 16
"""Channels that a convolution computes together: one more may take as long as sixteen more."""
MOVED = 10
"""Products in whose time a number is read or written."""


class Correction(NamedTuple):
    """The cheaper way on the example, what it multiplies, and the products in whose time it is done, calls and all."""

    by_channel: bool
    multiplications: float
    weighed: float


NONE = Correction(by_channel=False, multiplications=0.0, weighed=0.0)


def correction(one: Affine, inputs: tuple[int, ...], result: tuple[int, ...], products: float) -> Correction:
    """What the border correction of a convolution takes on the example.

    Args:
        inputs, result: shapes of what the convolution reads and gives.
        products: of the convolution itself.
    """
    if one.edge is None:
        return NONE
    channels = one.conv.in_channels
    along = float(prod(result[1:]) * one.conv.kernel_size[-1])  # a product of matrices for each axis, of one image
    by_map = Correction(
        by_channel=False, multiplications=along, weighed=along + MAP_CALLS * CALL + 2 * MOVED * prod(result)
    )
    if one.conv.groups > 1:
        return by_map
    lanes = ceil((channels + 1) / LANES) / ceil(channels / LANES) - 1
    weighed = products * lanes + CALL + 2 * MOVED * prod(inputs)
    by_channel = Correction(by_channel=True, multiplications=products / channels, weighed=weighed)
    return min(by_map, by_channel, key=lambda way: way.weighed)
