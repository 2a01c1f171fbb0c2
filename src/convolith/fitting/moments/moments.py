"""Sums over all equations of products of every two of their columns, `Z' W Z`: all that least squares depends on.

Each pixel of y gives an equation with the columns [window of x, known, pixels of y]; known is one, or polynomials of
position, which may multiply x too: each gives channels of its own. Where all weights are equal, the windows need not be
formed: `window_products` gives their sums. Strides and dilations are removed first: with g their greatest common
divisor, every d/g-th output reads every d-th pixel of x, which gives d/g images without dilation; in those, a stride of
s/g gives s/g planes, as channels, of every s/g-th pixel. Pixels with another weight than the usual one are corrected
by forming their windows (`weighted_products`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import gcd, prod
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from convolith.fitting.data.polynomials import Powers
from convolith.fitting.data.problem import Problem
from convolith.fitting.moments.power_sums import power_sums
from convolith.fitting.moments.weighted_products import weighted_products
from convolith.fitting.moments.window_products import window_sums

TILE, MODULATED = 1 << 21, 1 << 23
"""Most pixels of x processed at a time, before and after modulation: the memory of transforms stays near 200 MB, except
with several terms, which share the work at the border of a tile."""


def moments(problem: Problem, shift: np.ndarray) -> np.ndarray:
    """Compute `Z' W Z`, (columns, columns), for Z = [windows of x, known, y], with x and y less a shift.

    Args:
        problem: the equations.
        shift: (in_channels + out_channels,), subtracted from x (and from the zeros around it) and from y.
    """
    spec = problem.spec
    usual = _usual(problem.weights)
    total = np.zeros((problem.windows + len(problem.known) + spec.out_channels,) * 2)
    for part in tiles(problem):
        x = part.modulated(shift[: spec.in_channels])
        y = part.y - np.reshape(shift[spec.in_channels :], (-1, *(1,) * spec.axes))
        if usual:
            total += usual * _unweighted(part, torch.from_numpy(x), torch.from_numpy(y))
        total += weighted_products(part, shift, y, part.weights - usual)
    return total


def _usual(weights: np.ndarray) -> float:
    """Return the most frequent weight, if fewer pixels deviate from it than from 0; else 0."""
    first = float(weights.flat[0])
    if (weights == first).all():
        return first
    kinds, counts = np.unique(weights, return_counts=True)
    most = float(kinds[counts.argmax()])
    return most if np.count_nonzero(weights != most) < np.count_nonzero(weights) else 0.0


def gradient(problem: Problem, residual: np.ndarray) -> np.ndarray:
    """Compute `A' W residual`, (unknowns, out_channels), for A = [windows of x, known columns to fit].

    Args:
        problem: the equations.
        residual: residual of y, in its shape.
    """
    result = np.zeros((problem.unknowns, problem.spec.out_channels))
    n, used = problem.windows, problem.known[: problem.used]
    for part in tiles(replace(problem, y=residual * problem.weights[:, None])):
        weighted = torch.from_numpy(part.y)
        for planes, targets, _, taps in _plain(part, torch.from_numpy(part.modulated()), weighted):
            _, cross = window_sums(planes, targets, taps, products=False)
            result[:n] += _as_taps(part, cross).numpy()
        if used:
            result[n:] += _pixel_sums(weighted, part.centres(), used).T
    return result


def tiles(problem: Problem) -> Iterator[Problem]:
    """Yield the equations in tiles of bounded size."""
    images = max(1, TILE // prod(problem.padded.shape[1:]))
    for start in range(0, len(problem.padded), images):
        whole = [(0, n) for n in problem.y.shape[2:]]
        yield from _halves(problem.cut(slice(start, start + images), whole))


def _halves(problem: Problem) -> Iterator[Problem]:
    stride, extent, lengths = problem.spec.stride, problem.spec.extent, problem.y.shape[2:]
    axis = max(range(len(lengths)), key=lambda a: lengths[a] * stride[a])
    small = problem.padded.size <= TILE and problem.padded.size * len(problem.terms) <= MODULATED
    if small or lengths[axis] * stride[axis] <= 4 * extent[axis]:
        yield problem
        return
    for span in ((0, lengths[axis] // 2), (lengths[axis] // 2, lengths[axis])):
        spans = [(0, n) for n in lengths]
        spans[axis] = span
        yield from _halves(problem.cut(slice(None), spans))


def _unweighted(problem: Problem, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Compute the moments with all weights equal to 1."""
    n, known, outputs = problem.windows, len(problem.known), y.shape[1]
    result = np.zeros((n + known + outputs,) * 2)
    for planes, targets, places, taps in _plain(problem, x, y):
        products, cross = window_sums(planes, targets, taps)
        rows = _as_taps(problem, products)
        result[:n, :n] += _as_taps(problem, rows.movedim(0, -1)).T.numpy()
        result[:n, n + known :] += _as_taps(problem, cross).numpy()
        result[:n, n : n + known] += _as_taps(problem, power_sums(planes, places, taps, problem.known)).numpy()
    centres = problem.centres()
    result[n : n + known, n : n + known] = len(y) * _grid_products(centres, problem.known)
    result[n : n + known, n + known :] = _pixel_sums(y, centres, problem.known).T
    pixels = y.movedim(1, 0).flatten(1)
    result[n + known :, n + known :] = (pixels @ pixels.T).numpy()
    lower = np.tril_indices(known + outputs, -1)
    result[n:, :n] = result[:n, n:].T
    result[n:, n:][lower] = result[n:, n:].T[lower]
    return result


def _grid_products(places: Sequence[np.ndarray], powers: Powers) -> np.ndarray:
    """Sum products of monomials over the points of a grid, (monomials, monomials), as the mean over images."""
    result = np.ones((max(len(place) for place in places), len(powers), len(powers)))
    for axis, place in enumerate(places):
        exponents = np.array([one[axis] for one in powers])
        sums = np.stack([(place**power).sum(1) for power in range(2 * exponents.max() + 1)], 1)
        result *= sums[:, exponents[:, None] + exponents]
    mean: np.ndarray = result.mean(0)
    return mean


def _pixel_sums(planes: torch.Tensor, places: Sequence[np.ndarray], powers: Powers) -> np.ndarray:
    """Sum pixels times monomials of their positions, (channels, monomials)."""
    grids = [torch.from_numpy(place) for place in places]
    sums: np.ndarray = power_sums(planes, grids, (1,) * len(grids), powers).flatten(1, -2).squeeze(1).numpy()
    return sums


def _plain(
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


def _as_taps(problem: Problem, sums: torch.Tensor) -> torch.Tensor:
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
