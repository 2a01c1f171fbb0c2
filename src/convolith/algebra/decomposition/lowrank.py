"""Kernels as one axis after another, through as few hidden channels as their rank asks for.

Unfolded as a matrix with (in, taps of one axis) on one side and (out, taps of the other axes) on the other, a kernel of
rank R is a part along the one axis into R channels and a part along the others out of them: rank one and one channel is
the separable kernel. The singular value decomposition truncated to R terms is the nearest in the sum of squares (Eckart
and Young, 1936); three axes take two of them, a tensor train (Oseledets, SIAM J. Sci. Comput. 33, 2011). For layers:
Jaderberg, Vedaldi and Zisserman, "Speeding up convolutional neural networks with low rank expansions", BMVC 2014.
"""

from __future__ import annotations

from itertools import permutations
from math import prod

import numpy as np

from convolith.algebra.decomposition.blocks import Kernel, Ladder, Shape

NEGLIGIBLE = 1e-14
"""Singular values below this, relative to the largest, are rounding."""


def propose(kernel: Kernel) -> list[Ladder] | str:
    """One axis after another, in every order of the axes."""
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
            kept = min(level + 1, _rank(values))
            spread = np.sqrt(values[:, :kept])  # both parts the same size, as far as they go
            last = part == len(order) - 2
            first, rest = (
                (left[:, :, :kept] * spread[:, None], right[:, :kept] * spread[:, :, None])
                if last
                else (left[:, :, :kept], right[:, :kept] * values[:, :kept, None])
            )
            tensor = np.moveaxis(first.reshape(groups, rank, taps[part], kept), 3, 1)
            parts.append(tensor.reshape(shape(part, kept, rank)))
            rank = kept
        tensor = np.moveaxis(rest.reshape(groups, rank, taps[-1], out), 3, 1)
        return [*parts, tensor.reshape(shape(len(order) - 1, out, rank))]

    return Ladder("low rank", max(most), shapes, build)


def _rank(values: np.ndarray) -> int:
    """How many singular values are more than rounding in any group, at least one."""
    return max(int((values > NEGLIGIBLE * values[:, :1]).sum(1).max()), 1)
