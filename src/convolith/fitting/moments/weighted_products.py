"""Sums of products of every two columns over pixels with weights of their own.

All pairs of terms share the sums `T_j = sum over p of w phi_j Z'Z` with the monomials phi_j of a window's centre up to
twice their degree, since a product of monomials is a monomial, and a monomial at a pixel of the window is a combination
of those at its centre (`polynomials.moved`). Where most pixels have weights of their own, the sums are made lag by lag
(`weighted_lags`); where few have, their windows are formed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.fitting.data.polynomials import Powers, monomials, moved, values
from convolith.fitting.data.problem import Problem
from convolith.fitting.moments.plain import as_taps, plain_parts
from convolith.fitting.moments.power_sums import pixel_sums
from convolith.fitting.moments.weighted_lags import weighted_window_sums
from convolith.fitting.moments.window_products import window_sums

CHUNK = 1 << 20
"""Elements of windows that are formed at a time, 8 MiB."""
FORMED = 6.0
"""Time of a product of formed windows, relative to one that is made lag by lag."""
BLOCKS = 4
"""Number of blocks of columns; of the products, which are symmetric, only the blocks below the diagonal are formed."""


class Sums(NamedTuple):
    """Sums of products of the columns [windows of x, 1, y] under weights times monomials.

    Attributes:
        whole: (monomials up to twice the degree of the terms, columns, columns).
        thin: (all other monomials, columns from 1 on, columns).
    """

    whole: np.ndarray
    thin: np.ndarray


def weighted_products(problem: Problem, shift: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute `Z' W Z`, (columns, columns), for Z = [windows of modulated x, known, y].

    Args:
        problem: the equations.
        shift: (in_channels + out_channels,), subtracted from x.
        y: pixels of y, already shifted.
        weights: (N, *output_size), of any sign.
    """
    spec, terms, known = problem.spec, problem.terms, problem.known
    n, outputs = spec.in_channels * spec.taps, spec.out_channels
    size = problem.windows + len(known) + outputs
    if not weights.any():
        return np.zeros((size, size))
    inner, outer = (2 * max(map(sum, powers)) for powers in (terms, known))
    powers = monomials(spec.axes, outer)
    full = len(monomials(spec.axes, inner))  # the rest is needed for known and y alone
    x = problem.padded - np.reshape(shift[: spec.in_channels], (-1, *(1,) * spec.axes))
    bare = replace(problem, terms=monomials(spec.axes, 0), padded=x)
    few = np.count_nonzero(weights) * len(powers) * FORMED < weights.size * (inner + 1)
    if few:
        sums, thin = _formed(bare, y, weights, powers, full)
    else:
        sums, thin = _by_lags(bare, y, weights, powers, full, len(terms))
    rows = {one: sums[j, n:] if j < full else thin[j - full] for j, one in enumerate(powers)}
    at = {one: j for j, one in enumerate(powers)}
    each = np.tile(_moved(problem), (spec.in_channels, 1, 1))  # (n, terms, terms)
    result = np.zeros((size, size))
    blocks = result[: problem.windows, : problem.windows].reshape(len(terms), n, len(terms), n)
    for (a, first), (b, second) in product(enumerate(terms), repeat=2):
        shared = sums[at[_sum(first, second)], :n, :n]
        for s, t in product(range(len(terms)), repeat=2):
            if each[:, s, a].any() and each[:, t, b].any():
                blocks[s, :, t] += each[:, s, a, None] * shared * each[:, t, b]
    others = result[problem.windows :, : problem.windows].reshape(len(known) + outputs, len(terms), n)
    for a, first in enumerate(terms):
        ones = np.stack([rows[_sum(first, one)][0, :n] for one in known])
        columns = np.concatenate([ones, rows[first][1:, :n]])
        others += columns[:, None] * each[:, :, a].T
    last = problem.windows + len(known)
    result[: problem.windows, problem.windows :] = result[problem.windows :, : problem.windows].T
    for k, one in enumerate(known):
        result[problem.windows + k, problem.windows : last] = [rows[_sum(one, other)][0, n] for other in known]
        result[problem.windows + k, last:] = result[last:, problem.windows + k] = rows[one][0, n + 1 :]
    result[last:, last:] = sums[0, n + 1 :, n + 1 :]
    return result


def _sum(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """Return the exponents of a product of monomials."""
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _moved(problem: Problem) -> np.ndarray:
    """Return the terms at each tap as combinations of those at the window's centre, (taps, terms, terms)."""
    spec = problem.spec
    offsets = [
        place[0, :extent:d] - centre[0, 0]
        for place, centre, extent, d in zip(problem.places, problem.centres(), spec.extent, spec.dilation, strict=True)
    ]
    steps = np.stack([grid.ravel() for grid in np.meshgrid(*offsets, indexing="ij")], 1)
    return moved(problem.terms, problem.terms, steps)


def _by_lags(problem: Problem, y: np.ndarray, weights: np.ndarray, powers: Powers, full: int, own: int) -> Sums:
    """Compute the sums lag by lag; those of windows with y under the first `own` monomials, the terms, alone."""
    spec = problem.spec
    n, outputs, centres = spec.in_channels * spec.taps, spec.out_channels, problem.centres()
    factors = values(centres, powers)
    factors = np.broadcast_to(factors, (len(weights), *factors.shape[1:])) * weights[:, None]
    of_y = (factors[:, :own, None] * y[:, None]).reshape(len(y), own * outputs, *y.shape[2:])
    targets = np.concatenate([factors, of_y], 1)
    whole, cross = np.zeros((full, n, n)), np.zeros((n, targets.shape[1]))
    x = torch.from_numpy(problem.padded)
    for planes, others, _, taps in plain_parts(problem, x, torch.from_numpy(targets)):
        _, along = window_sums(planes, others, taps, products=False)
        cross += as_taps(problem, along).numpy()
    for planes, others, places, taps in plain_parts(problem, x, torch.from_numpy(weights[:, None])):
        at = [place.numpy() for place in places]
        found = torch.from_numpy(weighted_window_sums(planes.numpy(), others[:, 0].numpy(), at, powers[:full], taps))
        half = as_taps(problem, found.movedim(0, -1))  # (n, channels, *taps, monomials)
        whole += as_taps(problem, half.movedim(0, -1)).movedim(1, 0).numpy()
    rows = np.zeros((len(powers), 1 + outputs, n + 1 + outputs))
    rows[:, 0, :n] = cross[:, : len(powers)].T
    rows[:own, 1:, :n] = cross[:, len(powers) :].T.reshape(own, outputs, n)
    rows[:, 0, n] = factors.sum((0, *range(2, factors.ndim)))
    rows[:, 0, n + 1 :] = pixel_sums(torch.from_numpy(weights[:, None] * y), centres, powers).T
    rows[:, 1:, n] = rows[:, 0, n + 1 :]
    pixels = np.moveaxis(y, 1, 0).reshape(outputs, -1)
    rows[0, 1:, n + 1 :] = (pixels * weights.reshape(-1)) @ pixels.T
    above = np.concatenate([whole, rows[:full, :, :n].swapaxes(1, 2)], 2)
    return Sums(np.concatenate([above, rows[:full]], 1), rows[full:])


def _formed(problem: Problem, y: np.ndarray, weights: np.ndarray, powers: Powers, full: int) -> Sums:
    """Compute the sums from windows that are formed, of the pixels with nonzero weight."""
    n, outputs = problem.windows, problem.spec.out_channels
    whole = np.zeros((full, n + 1 + outputs, n + 1 + outputs))
    thin = np.zeros((len(powers) - full, 1 + outputs, n + 1 + outputs))
    for columns, factors in _columns(problem, y, weights, powers):
        _add(whole, columns, factors[:full], 0)
        _add(thin, columns, factors[full:], n)
    lower = np.tril_indices(n + 1 + outputs, -1)
    whole[:, lower[1], lower[0]] = whole[:, lower[0], lower[1]]
    return Sums(whole, thin)


def _add(sums: np.ndarray, columns: np.ndarray, factors: np.ndarray, first: int) -> None:
    """Add to sums (J, rows, m) the products of rows from `first` on with all columns, times factors (J, pixels).

    Where the rows are all columns, only the blocks on and below the diagonal are computed.
    """
    if not len(factors):
        return
    weighted = columns[first:] * factors[:, None]  # (J, rows, pixels)
    width = -(-len(columns) // BLOCKS)
    for start in range(0, len(columns), width):
        top = 0 if first else start
        flat = weighted[:, top:].reshape(-1, columns.shape[1]) @ columns[start : start + width].T
        sums[:, top:, start : start + width] += flat.reshape(len(factors), sums.shape[1] - top, -1)


def _columns(
    problem: Problem, y: np.ndarray, weights: np.ndarray, powers: Powers
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield [windows of x, 1, y], (columns, pixels), of pixels with nonzero weight, and weights times monomials."""
    windows, grid = _windows(problem), values(problem.centres(), powers)
    places = np.nonzero(weights)
    step = max(1, CHUNK // problem.windows)
    for start in range(0, len(places[0]), step):
        part: Any = tuple(place[start : start + step] for place in places)
        image = part[0] if len(grid) > 1 else np.zeros_like(part[0])
        factors = weights[part] * grid[(image, slice(None), *part[1:])].T
        count = len(part[0])
        rows = windows[(slice(None),) * len(part) + part].reshape(-1, count)
        outputs = np.moveaxis(y, 1, 0)[(slice(None), *part)]
        yield np.concatenate([rows, np.ones((1, count)), outputs]), np.ascontiguousarray(factors)


def _windows(problem: Problem) -> np.ndarray:
    """Return a view of the windows of x, (in_channels, *kernel_size, N, *output_size)."""
    spec = problem.spec
    spatial = tuple(range(2, 2 + spec.axes))
    windows = np.lib.stride_tricks.sliding_window_view(problem.padded, spec.extent, axis=spatial)
    strides = tuple(slice(None, None, s) for s in spec.stride)
    windows = windows[(slice(None), slice(None), *strides, *(slice(None, None, d) for d in spec.dilation))]
    return windows.transpose(1, *range(2 + spec.axes, 2 + 2 * spec.axes), 0, *spatial)
