"""Kernels as a depthwise part and a 1x1 part, in either order.

For each input channel, the matrix of (output channels, taps), truncated to R singular values, gives R filters of this
channel and a 1x1 part that mixes their outputs: the nearest chain of this shape, channel by channel; likewise for each
output channel, with the 1x1 part first. With R = 1 it is MobileNet's (Howard et al., arXiv:1704.04861; Guo et al.,
"Network decoupling", BMVC 2018).
"""

from __future__ import annotations

from math import prod

import numpy as np

from convolith.algebra.decomposition.blocks import Kernel, Ladder, Shape


def propose(kernel: Kernel) -> list[Ladder] | str:
    """Propose the depthwise part first for several input channels, and last for several output channels."""
    _, out, into = kernel.blocks.shape[:3]
    if prod(kernel.taps) == 1 or (into == 1 and out == 1):
        return "a depthwise part needs several taps and several channels"
    return [_ladder(kernel, first=first) for first, channels in ((True, into), (False, out)) if channels > 1]


def _ladder(kernel: Kernel, *, first: bool) -> Ladder:
    groups, out, into = kernel.blocks.shape[:3]
    alone, mixed = (into, out) if first else (out, into)
    ones = (1,) * len(kernel.taps)

    def shapes(level: int) -> list[Shape]:
        rank = level + 1
        if first:
            return [(groups * into, rank, 1, *kernel.taps), (groups, out, into * rank, *ones)]
        return [(groups, out * rank, into, *ones), (groups * out, 1, rank, *kernel.taps)]

    def build(level: int) -> list[np.ndarray]:
        blocks = kernel.blocks.swapaxes(1, 2) if first else kernel.blocks  # (groups, alone, mixed, *taps)
        left, values, right = np.linalg.svd(blocks.reshape(groups, alone, mixed, -1), full_matrices=False)
        rank, spread = level + 1, np.sqrt(values[..., : level + 1])
        mixture = left[..., :rank] * spread[..., None, :]  # (groups, alone, mixed, rank)
        filters = right[..., :rank, :] * spread[..., None]  # (groups, alone, rank, taps)
        depthwise, pointwise = shapes(level) if first else shapes(level)[::-1]
        if first:
            return [filters.reshape(depthwise), np.moveaxis(mixture, 2, 1).reshape(pointwise)]
        return [mixture.swapaxes(2, 3).reshape(pointwise), filters.reshape(depthwise)]

    return Ladder("depthwise", min(mixed, prod(kernel.taps)), shapes, build)
