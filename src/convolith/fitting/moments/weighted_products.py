"""Sums of products of every two columns over pixels with weights of their own, by forming the windows of x.

With weights that differ from pixel to pixel, the sums have no structure to exploit, but two savings remain where the
columns are modulated by polynomials of position. All pairs of terms share the sums `T_j = sum over p of w phi_j Z'Z`
with the monomials phi_j of a window's centre up to twice their degree, since a product of monomials is a monomial, and
a monomial at a pixel of the window is a combination of those at its centre (`polynomials.moved`). And along a line of
pixels only the position on the last axis changes: a matrix product for each of its powers serves all monomials.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.fitting.data.polynomials import Powers, monomials, moved, values
from convolith.fitting.data.problem import Problem

CHUNK = 1 << 20
"""Elements of windows that are formed at a time, 8 MiB."""
LINE_PIXELS = 6
"""Number of pixels, per sum that a line is added to and saves, from which a line is a group of its own."""
BLOCKS = 4
"""Number of blocks of columns; of the products, which are symmetric, only the blocks below the diagonal are formed."""


class Group(NamedTuple):
    """Some pixels: their columns (m, pixels), weights times factors (q, pixels), and monomials by factor (J, q)."""

    columns: torch.Tensor
    factors: np.ndarray
    mixing: np.ndarray


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
    sums = np.zeros((full, n + 1 + outputs, n + 1 + outputs))
    thin = np.zeros((len(powers) - full, 1 + outputs, n + 1 + outputs))
    for group in _groups(problem, x, y, weights, powers):
        _add(sums, group, group.mixing[:full], 0)
        _add(thin, group, group.mixing[full:], n)
    lower = np.tril_indices(n + 1 + outputs, -1)
    sums[:, lower[1], lower[0]] = sums[:, lower[0], lower[1]]
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


def _add(sums: np.ndarray, group: Group, mixing: np.ndarray, first: int) -> None:
    """Add a group to the sums (J, rows, m) of the products of rows from `first` on with all columns.

    Where the rows are all columns, only the blocks on and below the diagonal are computed.
    """
    wanted = np.flatnonzero(mixing.any(0))
    if not len(wanted):
        return
    columns, factors = group.columns, torch.from_numpy(group.factors[wanted])
    weighted = columns[first:] * factors[:, None]  # (q, rows, pixels)
    width = -(-len(columns) // BLOCKS)
    for start in range(0, len(columns), width):
        top = 0 if first else start
        flat = weighted[:, top:].flatten(0, 1) @ columns[start : start + width].T
        by_factor = flat.view(len(wanted), sums.shape[1] - top, -1).numpy()
        for j, factors_of in enumerate(mixing[:, wanted]):
            for factor, one in zip(factors_of, by_factor, strict=True):
                if factor:
                    sums[j, top:, start : start + width] += one if factor == 1 else factor * one


def _groups(problem: Problem, x: np.ndarray, y: np.ndarray, weights: np.ndarray, powers: Powers) -> Iterator[Group]:
    """Yield the pixels with nonzero weight: line by line, and those of lines with few together."""
    axes, lines = problem.spec.axes, weights.reshape(-1, weights.shape[-1])
    centres = [np.broadcast_to(place, (len(weights), place.shape[1])) for place in problem.centres()]
    lasts = sorted({one[-1] for one in powers})
    saved = len(powers) - len(lasts)
    counts = np.count_nonzero(lines, axis=1)
    alone = counts * saved > LINE_PIXELS * len(powers)
    windows = _windows(problem, x)
    for line in np.flatnonzero(alone):
        place = np.unravel_index(line, weights.shape[:-1])
        chosen = np.flatnonzero(lines[line])
        lead = [centres[axis][place[0], place[1 + axis]] for axis in range(axes - 1)]
        heads = [float(np.prod([z**e for z, e in zip(lead, one[:-1], strict=True)])) for one in powers]
        mixing = np.array([[head * (one[-1] == e) for e in lasts] for head, one in zip(heads, powers, strict=True)])
        for several in np.array_split(chosen, -(-len(chosen) * len(windows) // CHUNK)):
            dense = several[-1] - several[0] < len(several)
            part: Any = slice(several[0], several[-1] + 1) if dense else several  # a slice is read much faster
            positions = centres[-1][place[0], part]
            factors = lines[line, part] * np.stack([positions**e for e in lasts])
            yield Group(_columns(windows, y, (*place, part)), factors, mixing)
    places = np.nonzero(weights * ~alone.reshape(*weights.shape[:-1], 1))
    step = max(1, CHUNK // problem.windows)
    identity = np.eye(len(powers))
    grid = values(problem.centres(), powers)
    for start in range(0, len(places[0]), step):
        part = tuple(place[start : start + step] for place in places)
        image = part[0] if len(grid) > 1 else np.zeros_like(part[0])
        factors = weights[part] * grid[(image, slice(None), *part[1:])].T
        yield Group(_columns(windows, y, part), np.ascontiguousarray(factors), identity)


def _windows(problem: Problem, x: np.ndarray) -> np.ndarray:
    """Return a view of the windows of x, (in_channels, *kernel_size, N, *output_size)."""
    spec = problem.spec
    spatial = tuple(range(2, 2 + spec.axes))
    windows = np.lib.stride_tricks.sliding_window_view(x, spec.extent, axis=spatial)
    strides = tuple(slice(None, None, s) for s in spec.stride)
    windows = windows[(slice(None), slice(None), *strides, *(slice(None, None, d) for d in spec.dilation))]
    return windows.transpose(1, *range(2 + spec.axes, 2 + 2 * spec.axes), 0, *spatial)


def _columns(windows: np.ndarray, y: np.ndarray, part: tuple[Any, ...]) -> torch.Tensor:
    """Return [windows of x, 1, y] at some pixels, (columns, pixels)."""
    outputs = np.moveaxis(y, 1, 0)[(slice(None), *part)]
    count = outputs.shape[-1]
    rows = windows[(slice(None),) * len(part) + part].reshape(-1, count)
    return torch.from_numpy(np.concatenate([rows, np.ones((1, count)), outputs]))
