"""Two successive convolutions, at least one of them transposed, as one transposed convolution.

A transposed convolution adds `W[i] x[n]` to position `n*s + i*d - p`. A plain one after it moves that value by
`p2 - j*d2`, which is tap `k2 - 1 - j` of a transposed one with padding `d2*(k2-1) - p2`. Positions add up as in
`compose`: a tap of the composition lies at `step*i + d2*j`, and its padding is `step*p1 + p2`.
"""

from __future__ import annotations

from functools import reduce
from math import gcd
from typing import NamedTuple

import torch

from convolith.algebra.kernels import Factor, compose_taps, dense
from convolith.arrays import as_tensor
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.geometry import Pairs


class Rule(NamedTuple):
    """Options of the composed transposed convolution, and the spacing with which the two kernels are combined."""

    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    steps: tuple[int, ...]
    """Factors by which the dilation of the first kernel is multiplied."""
    exact: str
    reason: str


def rule(first: Conv, second: Conv) -> Rule:
    """Return the options of the transposed convolution that equals `second` after `first`; one or both are transposed.

    Raises:
        ConvolithError: no single transposed convolution equals the two.
    """
    axes = range(len(first.kernel_size))
    if not first.transposed:
        if first.kernel_size != (1,) * len(axes) or any(s > 1 for s in first.stride) or any(map(any, first.padding)):
            raise ConvolithError(
                "second is transposed and first reads more than one position (or has a stride or padding); a single "
                "convolution equals the two only if first is a single tap"
            )
    elif not second.transposed and any(s > 1 for s in second.stride):
        raise ConvolithError(
            f"second has stride {second.stride} after a transposed convolution; expected 1: the outputs that it leaves "
            "out are no longer a step of the first's"
        )
    if second.transposed and first.bias is not None and bool(as_tensor("bias", first.bias).any()):
        raise ConvolithError(
            "first has a bias, which a transposed second spreads unevenly; fold it into what follows, or drop it"
        )
    steps = second.stride if second.transposed else (1,) * len(axes)
    own = [first.padding[a] if first.transposed else (0, 0) for a in axes]
    padding, dilation, output_padding = [], [], []
    for axis in axes:
        k2, d2, (low, high) = second.kernel_size[axis], second.dilation[axis], second.padding[axis]
        reach = d2 * (k2 - 1)
        there = (low, high) if second.transposed else (reach - low, reach - high)
        padding.append((steps[axis] * own[axis][0] + there[0], steps[axis] * own[axis][1] + there[1]))
        if min(padding[axis]) < 0:
            raise ConvolithError(
                f"second pads by {second.padding[axis]} along spatial axis {axis}, more than its kernel reaches and "
                f"first crops: the one transposed convolution would have the padding {padding[axis]}"
            )
        spacing = [first.dilation[axis] * steps[axis]] * (first.kernel_size[axis] > 1) + [d2] * (k2 > 1)
        dilation.append(reduce(gcd, spacing, 0) or 1)
        output_padding.append(steps[axis] * first.output_padding[axis] + second.output_padding[axis])
    stride = tuple(s1 * s2 for s1, s2 in zip(first.stride, steps, strict=True))
    if any(more >= max(s, d) for more, s, d in zip(output_padding, stride, dilation, strict=True)):
        raise ConvolithError(
            f"the one transposed convolution would have output_padding {tuple(output_padding)}, which is not below its "
            f"stride {stride} or dilation {tuple(dilation)}"
        )
    exact, reason = exactness(first, second)
    return Rule(stride, tuple(padding), tuple(dilation), tuple(output_padding), steps, exact, reason)


def exactness(first: Conv, second: Conv) -> tuple[str, str]:
    """Return ("everywhere" | "interior", reason), as `borders.exactness` does for plain convolutions."""
    axes = range(len(first.kernel_size))
    cropped = [(axis, side) for axis in axes for side in (0, 1) if _reaches(first, second, axis, side)]
    if second.transposed:
        if cropped:
            return "interior", "the second convolution would spread what the first crops"
        return "everywhere", "the first convolution crops nothing that the second would spread to its outputs"
    if not any(map(any, second.padding)):
        return "everywhere", "the second convolution is not padded"
    if second.padding_mode != "zeros":
        return "interior", f"{second.padding_mode} padding of the first's output is not what lies beyond its border"
    if first.bias is not None and bool(as_tensor("bias", first.bias).any()):
        return "interior", "the second convolution pads with zeros where the first would give its bias"
    if cropped:
        return "interior", "the second convolution pads with zeros where the first crops values"
    return "everywhere", "zero padding of the first's output is just what lies beyond its border"


def _reaches(first: Conv, second: Conv, axis: int, side: int) -> bool:
    """Return whether a value that the first crops on one side would reach an output of the second."""
    if not first.transposed:
        return False
    crop = first.padding[axis][side] - first.output_padding[axis] * side
    steps = [first.dilation[axis] * tap for tap in range(first.kernel_size[axis])]
    stride = first.stride[axis]
    filled = [
        distance
        for distance in range(1, crop + 1)  # from the border, at which a tap of some input lies
        if any(crop - distance >= step and (crop - distance - step) % stride == 0 for step in steps)
    ]
    if not second.transposed:
        return bool(filled) and filled[0] <= second.padding[axis][side]
    spread = second.dilation[axis] * (second.kernel_size[axis] - 1) - second.padding[axis][side]
    spread += second.output_padding[axis] * side
    return bool(filled) and filled[0] * second.stride[axis] <= spread


def composed(first: Conv, second: Conv, working: torch.dtype, found: Rule) -> Factor:
    """Compute the dense weight, (in_channels, out_channels, *kernel_size), and the bias of the composition."""
    W1, b1 = dense(first, working)
    W2, b2 = dense(second, working)
    if not first.transposed:  # a single tap: (hidden, in, ...)
        W1 = W1.transpose(0, 1)
    if not second.transposed:  # as a transposed kernel, its taps are reversed
        W2 = W2.transpose(0, 1).flip(tuple(range(2, W2.ndim)))
    spread = tuple(d * step for d, step in zip(first.dilation, found.steps, strict=True))
    K = compose_taps(W1, W2, spread, second.dilation, found.dilation, "ih...,ho->io...", (W1.shape[0], W2.shape[1]))
    if b1 is None:
        return Factor(K, b2)
    return Factor(K, W2.flatten(2).sum(2).T @ b1 + (0 if b2 is None else b2))
