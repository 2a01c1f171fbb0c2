"""Strides and dilations removed from a problem: parts without them, whose windows are phases of the kernel's.

With g the greatest common divisor of stride and dilation, every d/g-th output reads every d-th pixel of x, which gives
d/g images without dilation; in those, a stride of s/g gives s/g planes, as channels, of every s/g-th pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import gcd
from typing import Any

import torch
from torch.nn.functional import pad

from convolith.fitting.data.problem import Problem


def plain_parts(
    problem: Problem, x: torch.Tensor, y: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], tuple[int, ...]]]:
    """Yield planes, targets, positions and taps of problems without stride or dilation that add up to this one."""
    spec, outputs = problem.spec, y.shape[2:]
    shared = [gcd(s, d) for s, d in zip(spec.stride, spec.dilation, strict=True)]
    splits = [d // g for d, g in zip(spec.dilation, shared, strict=True)]
    phases = [s // g for s, g in zip(spec.stride, shared, strict=True)]
    taps = tuple(-(-k // s) for k, s in zip(spec.kernel_size, phases, strict=True))
    index: Any
    centres = problem.centres()
    for first in product(*(range(min(n, m)) for n, m in zip(splits, outputs, strict=True))):
        index = (..., *(slice(r, None, step) for r, step in zip(first, splits, strict=True)))
        targets = y[index]
        slices = []
        for axis, r in enumerate(first):
            start, step = r * spec.stride[axis], spec.dilation[axis]
            length = (targets.shape[2 + axis] + taps[axis] - 1) * phases[axis]
            slices.append((slice(start, start + step * length, step), length))
        index = (..., *(piece for piece, _ in slices))
        planes = x[index]
        missing = [(0, length - n) for (_, length), n in zip(slices, planes.shape[2:], strict=True)]
        planes = pad(planes, [amount for pair in reversed(missing) for amount in pair])
        places = [torch.from_numpy(c[:, r::step].copy()) for c, r, step in zip(centres, first, splits, strict=True)]
        yield _phases(planes, phases), targets, places, taps


def _phases(x: torch.Tensor, phases: list[int]) -> torch.Tensor:
    """Turn every phase of each axis into a channel, (N, channels * phases, *size / phases)."""
    if set(phases) == {1}:
        return x
    axes = len(phases)
    for axis in range(axes - 1, -1, -1):
        x = x.reshape(*x.shape[: 2 + axis], -1, phases[axis], *x.shape[3 + axis :])
    order = [0, 1, *(3 + 2 * a for a in range(axes)), *(2 + 2 * a for a in range(axes))]
    return x.permute(order).flatten(1, 1 + axes)


def as_taps(problem: Problem, sums: torch.Tensor) -> torch.Tensor:
    """Reorder (channels * phases, *taps / phases, ...) to (channels * taps, ...), the order of a kernel's weights."""
    spec = problem.spec
    axes = spec.axes
    phases = [s // gcd(s, d) for s, d in zip(spec.stride, spec.dilation, strict=True)]
    sums = sums.reshape(problem.channels, *phases, *sums.shape[1:])
    order = [0, *(n for a in range(axes) for n in (1 + axes + a, 1 + a)), *range(1 + 2 * axes, sums.ndim)]
    sums = sums.permute(order)
    for axis, k in enumerate(spec.kernel_size):
        sums = sums.flatten(1 + axis, 2 + axis).narrow(1 + axis, 0, k)
    return sums.flatten(0, axes)
