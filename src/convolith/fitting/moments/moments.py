"""Sums over all equations of products of every two of their columns, `Z' W Z`: all that least squares depends on.

Each pixel of y gives an equation with the columns [window of x, known, pixels of y]; known is one, or polynomials of
position, which may multiply x too: each gives channels of its own. Where all weights are equal, the windows need not be
formed: `window_products` gives their sums, after strides and dilations are removed (`plain`). Pixels with another
weight than the usual one are corrected (`weighted_products`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import torch

from convolith.fitting.data.polynomials import Powers
from convolith.fitting.data.problem import Problem
from convolith.fitting.moments.plain import as_taps, plain_parts
from convolith.fitting.moments.power_sums import pixel_sums, power_sums
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
    """Return the most frequent weight, if most pixels have it; else 0."""
    first = float(weights.flat[0])
    if (weights == first).all():
        return first
    kinds, counts = np.unique(weights, return_counts=True)
    most = float(kinds[counts.argmax()])
    return most if 2 * counts.max() > weights.size else 0.0


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
        for planes, targets, _, taps in plain_parts(part, torch.from_numpy(part.modulated()), weighted):
            _, cross = window_sums(planes, targets, taps, products=False)
            result[:n] += as_taps(part, cross).numpy()
        if used:
            result[n:] += pixel_sums(weighted, part.centres(), used).T
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
    for planes, targets, places, taps in plain_parts(problem, x, y):
        products, cross = window_sums(planes, targets, taps)
        rows = as_taps(problem, products)
        result[:n, :n] += as_taps(problem, rows.movedim(0, -1)).T.numpy()
        result[:n, n + known :] += as_taps(problem, cross).numpy()
        result[:n, n : n + known] += as_taps(problem, power_sums(planes, places, taps, problem.known)).numpy()
    centres = problem.centres()
    result[n : n + known, n : n + known] = len(y) * _grid_products(centres, problem.known)
    result[n : n + known, n + known :] = pixel_sums(y, centres, problem.known).T
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
