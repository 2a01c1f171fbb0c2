"""Sums over all equations of products of every two of their columns, `Z' W Z`: all that least squares needs to know.

An equation, for one pixel of y, has the columns [window of x, 1, pixels of y]. Where all weights are one the windows
need not be formed: `lags` gives their sums. Strides and dilations become plain windows first: with g their common
divisor, every d/g-th output reads every d-th pixel of x, which makes d/g images without dilation; in those, a stride
of s/g makes s/g planes, as channels, of every s/g-th pixel. Pixels whose weight is not the usual one are added and
taken off one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import gcd, prod
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from convolith.fitting.lags import window_sums
from convolith.fitting.problem import Problem

TILE = 1 << 21
"""Numbers of x that are taken at a time at most: what transforms need stays near 200 MB."""
CHUNK = 1 << 22
"""Numbers of windows that are formed at a time, 32 MiB."""


def moments(problem: Problem, shift: np.ndarray) -> np.ndarray:
    """`Z' W Z`, (columns, columns), for Z = [windows of x, 1, y], both less a shift.

    Args:
        problem: the equations.
        shift: (in_channels + out_channels,), what is subtracted from x (and from the zeros around it) and from y.
    """
    spec = problem.spec
    x = problem.padded - _columns(shift[: spec.in_channels], spec.axes)
    y = problem.y - _columns(shift[spec.in_channels :], spec.axes)
    values, counts = np.unique(problem.weights, return_counts=True)
    usual = float(values[counts.argmax()])
    if np.count_nonzero(problem.weights != usual) >= np.count_nonzero(problem.weights):
        usual = 0.0
    found = np.zeros((problem.windows + 1 + spec.out_channels,) * 2)
    if usual:
        for part_x, part_y in _tiles(problem, x, y):
            found += usual * _unweighted(problem, torch.from_numpy(part_x), torch.from_numpy(part_y))
    for rows, weights in _chosen(problem, x, y, problem.weights - usual):
        found += (rows * weights[:, None]).T @ rows
    return found


def gradient(problem: Problem, residual: np.ndarray) -> np.ndarray:
    """`A' W residual`, (unknowns, out_channels), for A = [windows of x, 1 where an offset is sought].

    Args:
        problem: the equations.
        residual: shaped as y.
    """
    weighted = residual * problem.weights[:, None]
    found = np.zeros((problem.windows, problem.spec.out_channels))
    for part_x, part_y in _tiles(problem, problem.padded, weighted):
        found += _targets(problem, torch.from_numpy(part_x), torch.from_numpy(part_y))
    sums = weighted.sum(axis=(0, *range(2, weighted.ndim)))
    return np.concatenate([found, sums[None]]) if problem.offset else found


def _columns(values: np.ndarray, axes: int) -> np.ndarray:
    return values.reshape(-1, *(1,) * axes)


def _tiles(problem: Problem, x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of y of a bounded size, each with the part of x that it is made of."""
    spec = problem.spec
    images = max(1, TILE // prod(x.shape[1:]))
    for start in range(0, len(x), images):
        yield from _halves(x[start : start + images], y[start : start + images], spec.stride, spec.extent)


def _halves(
    x: np.ndarray, y: np.ndarray, stride: tuple[int, ...], extent: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    lengths = y.shape[2:]
    axis = max(range(len(lengths)), key=lambda a: lengths[a] * stride[a])
    if x.size <= TILE or lengths[axis] * stride[axis] <= 4 * extent[axis]:
        yield x, y
        return
    middle, n, s = lengths[axis] // 2, lengths[axis], stride[axis]
    for start, stop in ((0, middle), (middle, n)):
        of_x = (slice(None),) * (2 + axis) + (slice(start * s, (stop - 1) * s + extent[axis]),)
        of_y = (slice(None),) * (2 + axis) + (slice(start, stop),)
        yield from _halves(x[of_x], y[of_y], stride, extent)


def _unweighted(problem: Problem, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """The moments of plain windows."""
    n, outputs = problem.windows, y.shape[1]
    found = np.zeros((n + 1 + outputs,) * 2)
    known = torch.cat([torch.ones_like(y[:, :1]), y], 1)
    for planes, targets, taps in _plain(problem, x, known):
        products, cross = window_sums(planes, targets, taps)
        rows = _as_taps(problem, products)
        found[:n, :n] += _as_taps(problem, rows.movedim(0, -1)).T.numpy()
        found[:n, n:] += _as_taps(problem, cross).numpy()
    found[n:, :n] = found[:n, n:].T
    tail = known.movedim(1, 0).flatten(1)
    found[n:, n:] = (tail @ tail.T).numpy()
    return found


def _targets(problem: Problem, x: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """The sums of windows times targets, (windows, targets)."""
    found = np.zeros((problem.windows, targets.shape[1]))
    for planes, part, taps in _plain(problem, x, targets):
        _, cross = window_sums(planes, part, taps, products=False)
        found += _as_taps(problem, cross).numpy()
    return found


def _plain(
    problem: Problem, x: torch.Tensor, y: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]]:
    """Planes, targets and window of problems without stride or dilation, which together are this one."""
    spec, outputs = problem.spec, y.shape[2:]
    shared = [gcd(s, d) for s, d in zip(spec.stride, spec.dilation, strict=True)]
    apart = [d // g for d, g in zip(spec.dilation, shared, strict=True)]
    phases = [s // g for s, g in zip(spec.stride, shared, strict=True)]
    taps = tuple(-(-k // s) for k, s in zip(spec.kernel_size, phases, strict=True))
    index: Any
    for first in product(*(range(min(n, m)) for n, m in zip(apart, outputs, strict=True))):
        index = (..., *(slice(r, None, step) for r, step in zip(first, apart, strict=True)))
        targets = y[index]
        pieces = []
        for axis, r in enumerate(first):
            start, step = r * spec.stride[axis], spec.dilation[axis]
            length = (targets.shape[2 + axis] + taps[axis] - 1) * phases[axis]
            pieces.append((slice(start, start + step * length, step), length))
        index = (..., *(piece for piece, _ in pieces))
        planes = x[index]
        lacking = [(0, length - n) for (_, length), n in zip(pieces, planes.shape[2:], strict=True)]
        planes = pad(planes, [amount for pair in reversed(lacking) for amount in pair])
        yield _phases(planes, phases), targets, taps


def _phases(x: torch.Tensor, phases: list[int]) -> torch.Tensor:
    """(N, channels * phases, *size / phases): every phase of each axis a channel of its own."""
    if set(phases) == {1}:
        return x
    axes = len(phases)
    for axis in range(axes - 1, -1, -1):
        x = x.reshape(*x.shape[: 2 + axis], -1, phases[axis], *x.shape[3 + axis :])
    order = [0, 1, *(3 + 2 * a for a in range(axes)), *(2 + 2 * a for a in range(axes))]
    return x.permute(order).flatten(1, 1 + axes)


def _as_taps(problem: Problem, sums: torch.Tensor) -> torch.Tensor:
    """(channels * phases, *taps / phases, ...) as (channels * taps, ...), in the order of a kernel's weights."""
    spec = problem.spec
    axes = spec.axes
    phases = [s // gcd(s, d) for s, d in zip(spec.stride, spec.dilation, strict=True)]
    sums = sums.reshape(spec.in_channels, *phases, *sums.shape[1:])
    order = [0, *(n for a in range(axes) for n in (1 + axes + a, 1 + a)), *range(1 + 2 * axes, sums.ndim)]
    sums = sums.permute(order)
    for axis, k in enumerate(spec.kernel_size):
        sums = sums.flatten(1 + axis, 2 + axis).narrow(1 + axis, 0, k)
    return sums.flatten(0, axes)


def _chosen(
    problem: Problem, x: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """[windows of x, 1, y] and the weights of the pixels whose weight is not zero, some rows at a time."""
    spec = problem.spec
    places = np.nonzero(weights)
    spatial = tuple(range(2, 2 + spec.axes))
    windows = np.lib.stride_tricks.sliding_window_view(x, spec.extent, axis=spatial)
    strides = tuple(slice(None, None, s) for s in spec.stride)
    windows = windows[(slice(None), slice(None), *strides, *(slice(None, None, d) for d in spec.dilation))]
    windows, targets = np.moveaxis(windows, 1, 1 + spec.axes), np.moveaxis(y, 1, -1)
    step = max(1, CHUNK // problem.windows)
    for start in range(0, len(places[0]), step):
        part = tuple(place[start : start + step] for place in places)
        left = windows[part].reshape(-1, problem.windows)
        yield np.concatenate([left, np.ones((len(left), 1)), targets[part]], axis=1), weights[part]
