"""Kernels as blocks, one dense block per group, (groups, out, in, *taps) in float64: products and cost of chains.

The groups of a part may be a multiple of the groups of the chain, as for a depthwise part between two dense ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from convolith.arrays import as_tensor
from convolith.conv import Conv

Shape = tuple[int, ...]
"""The shape of a part's blocks: (groups, out, in, *taps)."""


class Kernel(NamedTuple):
    """A kernel to decompose: blocks scaled to a largest absolute value of 1, with stride and rounding.

    Attributes:
        blocks: (groups, out, in, *taps).
        stride: one number per axis.
        rounding: relative rounding, half a unit in the last place, of the dtype of the original weights.
    """

    blocks: np.ndarray
    stride: tuple[int, ...]
    rounding: float

    @property
    def taps(self) -> tuple[int, ...]:
        """Number of taps per axis."""
        return self.blocks.shape[3:]

    @property
    def wide_axes(self) -> list[int]:
        """The spatial axes with more than one tap."""
        return [axis for axis, n in enumerate(self.taps) if n > 1]

    @property
    def one_to_one(self) -> bool:
        """Whether every group has one input and one output channel."""
        return self.blocks.shape[1:3] == (1, 1)


class Ladder(NamedTuple):
    """Chains of one method, one per level, from the cheapest to the most accurate.

    Attributes:
        method: name of the method in a `Decomposition`.
        levels: number of levels.
        shapes: function that returns the shapes of a level's parts, which determine its cost.
        build: function that returns a level's parts, as blocks, in the order in which they are applied.
    """

    method: str
    levels: int
    shapes: Callable[[int], list[Shape]]
    build: Callable[[int], list[np.ndarray]]


def blocks_of(conv: Conv) -> np.ndarray:
    """Return a convolution's weight as blocks."""
    weight = as_tensor("weight", conv.weight).detach().cpu().double().numpy()
    return weight.reshape(conv.groups, -1, *weight.shape[1:])


def widened(part: np.ndarray, groups: int) -> np.ndarray:
    """Return a part with fewer groups, with zeros between the groups that were merged."""
    many, out, into = part.shape[:3]
    if many == groups:
        return part
    each = many // groups
    full = np.zeros((groups, each, out, each, into, *part.shape[3:]), part.dtype)
    split = part.reshape(groups, each, *part.shape[1:])
    for index in range(each):
        full[:, index, :, index] = split[:, index]
    return full.reshape(groups, each * out, each * into, *part.shape[3:])


def multiplied(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the blocks of `second` after `first`: full convolution of taps, matrix products over channels."""
    n, m = first.shape[3:], second.shape[3:]
    size = [a + b - 1 for a, b in zip(n, m, strict=True)]
    result = np.zeros((first.shape[0], second.shape[1], first.shape[2], *size), np.result_type(first, second))
    moved = np.moveaxis(first.reshape(*first.shape[:3], -1), 3, 1)  # (groups, taps, hidden, in)
    for tap in product(*map(range, m)):
        near: tuple[Any, ...] = (..., *(slice(i, i + length) for i, length in zip(tap, n, strict=True)))
        far: tuple[Any, ...] = (slice(None), slice(None), slice(None), *tap)
        terms = np.matmul(second[far][:, None], moved)
        result[near] += np.moveaxis(terms, 1, 3).reshape(*terms.shape[:1], *terms.shape[2:], *n)
    return result


def chained(parts: Sequence[np.ndarray], groups: int) -> np.ndarray:
    """Return the blocks of a whole chain."""
    return reduce(multiplied, (widened(part, groups) for part in parts))


def exactly_chained(parts: Sequence[np.ndarray], groups: int) -> tuple[np.ndarray, int]:
    """Return the blocks of a whole chain without rounding: Python integers, and the exponent of their power of two."""
    power, whole = 0, []
    for part in parts:
        numbers, shift = as_integers(part)
        whole.append(numbers)
        power += shift
    return chained(whole, groups), power


def as_integers(array: np.ndarray) -> tuple[np.ndarray, int]:
    """Return floats as exact integers times a common power of two, and its exponent."""
    ratios = [float(value).as_integer_ratio() for value in array.flat]
    shift = max((below.bit_length() - 1 for _, below in ratios), default=0)
    whole: Any = np.empty(len(ratios), object)
    whole[:] = [above << (shift - below.bit_length() + 1) for above, below in ratios]
    return whole.reshape(array.shape), -shift


def stride_homes(shapes: Sequence[Shape]) -> list[int]:
    """Return, for each axis, the part that gets the stride: the last with more than one tap on it, else the first.

    Parts with one tap on an axis commute with subsampling along it.
    """
    axes = range(3, len(shapes[0]))
    return [max((j for j, shape in enumerate(shapes) if shape[axis] > 1), default=0) for axis in axes]


def padding_homes(shapes: Sequence[Shape]) -> list[int]:
    """Return, for each axis, the part that gets the padding: the first with more than one tap on it, else the first.

    Parts with one tap on an axis, stride 1 and no bias commute with padding along it, in every padding mode.
    """
    axes = range(3, len(shapes[0]))
    return [min((j for j, shape in enumerate(shapes) if shape[axis] > 1), default=0) for axis in axes]


def is_factored(shapes: Sequence[Shape]) -> bool:
    """Return whether every part has one channel per group: a product of kernels, not a sum over hidden channels."""
    return all(shape[1:3] == (1, 1) for shape in shapes)


def multiplications(shapes: Sequence[Shape], stride: Sequence[int]) -> int:
    """Return a chain's multiplications per output position, over all channels; parts before a stride run more often."""
    homes = stride_homes(shapes)
    return sum(
        prod(shape) * prod(s for s, home in zip(stride, homes, strict=True) if j < home)
        for j, shape in enumerate(shapes)
    )
