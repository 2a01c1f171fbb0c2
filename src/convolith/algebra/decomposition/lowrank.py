"""Kernels as a chain of parts along one axis each, with as many hidden channels as the rank of the kernel.

Unfolded as a matrix of (in, taps of one axis) by (out, taps of the other axes), a kernel of rank R is a part along the
one axis into R channels, followed by a part along the other axes: with rank one and one channel it is the separable
kernel. The singular value decomposition truncated to R terms is the nearest in the sum of squares (Eckart and Young,
1936); three axes take two such decompositions, a tensor train (Oseledets, SIAM J. Sci. Comput. 33, 2011). For layers:
Jaderberg, Vedaldi and Zisserman, "Speeding up convolutional neural networks with low rank expansions", BMVC 2014.
"""

from __future__ import annotations

from itertools import permutations
from math import prod

import numpy as np

from convolith.algebra.decomposition.blocks import Kernel, Ladder, Shape

NEGLIGIBLE = 1e-14
"""Singular value, relative to the largest, up to which one counts as rounding."""


def propose(kernel: Kernel) -> list[Ladder] | str:
    """Propose a part per axis, in every order of the axes."""
    if len(kernel.wide_axes) < 2:
        return "low rank over the axes needs two axes with several taps"
    ladders = [_ladder(kernel, order) for order in permutations(kernel.wide_axes)]
    if kernel.one_to_one:
        ladders = [ladder._replace(method="separable", levels=1) for ladder in ladders] + ladders
    return ladders


def _ladder(kernel: Kernel, order: tuple[int, ...]) -> Ladder:
    groups, out, into = kernel.blocks.shape[:3]
    taps = [kernel.taps[axis] for axis in order]
    most = [min(into * prod(taps[: j + 1]), out * prod(taps[j + 1 :])) for j in range(len(order) - 1)]

    def shape(part: int, rows: int, columns: int) -> Shape:
        return (groups, rows, columns, *(n if axis == order[part] else 1 for axis, n in enumerate(kernel.taps)))

    def shapes(level: int) -> list[Shape]:
        ranks = [into, *(min(level + 1, rank) for rank in most), out]
        return [shape(part, ranks[part + 1], ranks[part]) for part in range(len(order))]

    def build(level: int) -> list[np.ndarray]:
        parts, rank = [], into
        rest = np.moveaxis(kernel.blocks, [3 + axis for axis in order], list(range(3, 3 + len(order))))
        rest = np.moveaxis(rest.reshape(groups, out, into, *taps), 1, -1)  # (groups, in, *taps, out)
        for part in range(len(order) - 1):
            rows = rank * taps[part]
            left, values, right = np.linalg.svd(rest.reshape(groups, rows, -1), full_matrices=False)
            channels = min(level + 1, _rank(values))
            spread = np.sqrt(values[:, :channels])  # shared by the last two parts, for equal size
            last = part == len(order) - 2
            first, rest = (
                (left[:, :, :channels] * spread[:, None], right[:, :channels] * spread[:, :, None])
                if last
                else (left[:, :, :channels], right[:, :channels] * values[:, :channels, None])
            )
            tensor = np.moveaxis(first.reshape(groups, rank, taps[part], channels), 3, 1)
            parts.append(tensor.reshape(shape(part, channels, rank)))
            rank = channels
        tensor = np.moveaxis(rest.reshape(groups, rank, taps[-1], out), 3, 1)
        return [*parts, tensor.reshape(shape(len(order) - 1, out, rank))]

    return Ladder("low rank", max(most), shapes, build)


def _rank(values: np.ndarray) -> int:
    """Return the largest number of singular values above rounding in a group, at least one."""
    return max(int((values > NEGLIGIBLE * values[:, :1]).sum(1).max()), 1)
