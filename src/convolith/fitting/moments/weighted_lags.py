"""Weighted sums of products of every two pixels of a window, lag by lag, by generated code.

For two taps u and v at a lag l = v - u, `sum over p of w(p) x(p+u) x(p+v)` is the correlation of the weights with the
image of products `x(q) x(q+l)`. Every row of that image is formed once, and summed under the rows of weights whose
windows hold it. With weights times polynomials of position, each power of the position along the last axis has rows of
weights of its own; powers along the other axes are constant along a row, and multiply its sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.engines.buffers import empty
from convolith.fitting.data.polynomials import Powers
from convolith.fitting.moments import emit_weighted_products
from convolith.fitting.moments.emit_lagged_products import LaggedProductsRecipe
from convolith.fitting.moments.emit_weighted_products import ARGUMENTS
from convolith.fitting.moments.lagged_products import block_of
from convolith.jit import host, routine, scratch, thread_count

POWERS = 3
"""Number to whose multiples rows of powers are filled up with zeros: three rows and four shifts fill the registers."""
STRETCH = 1024
"""Most pixels of a row in one task: with the products, 64 KiB."""
MARGIN = 64
"""Count of numbers that may be read beyond the end of a row."""


class Lines(NamedTuple):
    """Rows of weights, and the factors of their sums.

    Attributes:
        weights: (N, *rows with margins of taps - 1 on both sides, powers of the last axis, stretches * stretch).
        factors: (monomials of the leading axes, N, *rows with margins).
        leading: exponents along the leading axes, in the order of `factors`.
        stretch: number of pixels of a task.
    """

    weights: np.ndarray
    factors: np.ndarray
    leading: list[tuple[int, ...]]
    stretch: int


def weighted_window_sums(
    planes: np.ndarray, weights: np.ndarray, places: Sequence[np.ndarray], powers: Powers, taps: tuple[int, ...]
) -> np.ndarray:
    """Sum weighted products of every two pixels of all windows, (monomials, channels, *taps, channels, *taps).

    Args:
        planes: (N, channels, *size), float64.
        weights: (N, *size - taps + 1), of any sign.
        places: positions of the windows, for each axis (N, length), or (1, length) if equal for all images.
        powers: exponents of monomials of position that multiply the weights; with any exponent along the last axis,
            all smaller ones too.
        taps: number of taps of a window along each axis.
    """
    channels = planes.shape[1]
    lines = _lines(weights, places, powers, taps)
    x = np.zeros(planes.size + MARGIN + 2 * taps[-1] + lines.stretch)
    x[: planes.size] = planes.swapaxes(0, 1).reshape(-1)
    sums = np.zeros((len(powers), channels, *taps, channels, *taps))
    at = {one: number for number, one in enumerate(powers)}
    for c in range(channels):
        for d in range(c, channels):
            for found in _of_pair(x, planes.shape, lines, taps, c, d):
                for e, exponents in enumerate(lines.leading):
                    for b in range(lines.weights.shape[-2]):
                        if (number := at.get((*exponents, b))) is not None:
                            values = found.sums[e, b]
                            sums[(number, c, *found.first, d, *found.second)] = values
                            sums[(number, d, *found.second, c, *found.first)] = values
    return sums


class Found(NamedTuple):
    """Sums at one lag, (leading monomials, powers, shifts), and the taps of both pixels, with those of each shift."""

    sums: np.ndarray
    first: tuple[int | np.ndarray, ...]
    second: tuple[int | np.ndarray, ...]


def _lines(weights: np.ndarray, places: Sequence[np.ndarray], powers: Powers, taps: tuple[int, ...]) -> Lines:
    """Arrange weights times powers of the last position in rows, with zeros around."""
    images, *lengths = weights.shape
    highest = max(one[-1] for one in powers) + 1
    stretch = min(STRETCH, ceil(lengths[-1] / MARGIN) * MARGIN)
    width = ceil(lengths[-1] / stretch) * stretch
    margins = [k - 1 for k in taps[:-1]]
    rows = [n + 2 * margin for n, margin in zip(lengths[:-1], margins, strict=True)]
    room = ceil(highest / POWERS) * POWERS if highest > 1 else 1
    arranged = empty((images, *rows, room, width), torch.float64).zero_().numpy()  # aligned to cache lines
    inner: Any = tuple(slice(margin, margin + n) for n, margin in zip(lengths[:-1], margins, strict=True))
    last = np.broadcast_to(places[-1], (images, lengths[-1])).reshape(images, *[1] * len(rows), -1)
    for b in range(highest):
        arranged[(slice(None), *inner, b, slice(lengths[-1]))] = weights * last**b
    leading = sorted({one[:-1] for one in powers})
    factors = np.zeros((len(leading), images, *rows))
    for e, exponents in enumerate(leading):
        factor = np.ones((images, *lengths[:-1]))
        for axis, (place, exponent) in enumerate(zip(places, exponents, strict=False)):
            shape = [1] * len(rows)
            shape[axis] = -1
            factor = factor * place.reshape(len(place), *shape) ** exponent
        factors[(e, slice(None), *inner)] = factor
    return Lines(arranged, factors, leading, stretch)


def _of_pair(
    x: np.ndarray, shape: tuple[int, ...], lines: Lines, taps: tuple[int, ...], c: int, d: int
) -> Iterator[Found]:
    """Yield the sums of two channels at every lag; of one channel with itself, at half the lags."""
    images, _, *size = shape
    *leads, last = taps
    *_, highest, width = lines.weights.shape
    rows, stretches = lines.weights.shape[1:-2], range(0, width, lines.stretch)
    together = len(lines.leading) == 1  # without factors, rows of several taps can share a block
    x_steps, row_steps = _steps(size), [highest * width * step for step in _steps(rows)]
    for lag in product(*(range(1 - k, k) for k in leads)):
        if c == d and lag < (0,) * len(leads):
            continue
        low = [max(0, -n) for n in lag]  # first tap along each leading axis, and first row
        counts = [k - abs(n) for n, k in zip(lag, leads, strict=True)]
        spans = [n - abs(step) for n, step in zip(size[:-1], lag, strict=True)]
        grid = np.indices((images, *spans, len(stretches))).reshape(2 + len(spans), -1)
        within = lines.stretch * grid[-1]
        row = [at + start for at, start in zip(grid[1:-1], low, strict=True)]
        ours = sum((at * step for at, step in zip(row, x_steps, strict=False)), within)
        ours = ours + grid[0] * prod(size)
        theirs = ours + sum(n * step for n, step in zip(lag, x_steps, strict=False))
        weighted = sum(
            ((at - start + k - 1) * step for at, start, k, step in zip(row, low, leads, row_steps, strict=True)), within
        )
        weighted = weighted + grid[0] * (prod(rows) * highest * width)
        moves = np.array(list(product(*map(range, counts))), np.int64).reshape(prod(counts), len(counts)).T
        offsets = sum((at * step for at, step in zip(moves, row_steps, strict=True)), np.zeros(prod(counts), np.int64))
        offsets = (offsets[:, None] - width * np.arange(highest)).reshape(-1)
        factors = [
            lines.factors[
                (
                    slice(None),
                    grid[0],
                    *(at - start - u + k - 1 for at, start, u, k in zip(row, low, move, leads, strict=True)),
                )
            ]
            for move in moves.T
        ]
        for along in range(1 - last, last):
            if c == d and (*lag, along) < (0,) * len(taps):
                continue
            start, shifts = max(0, -along), last - abs(along)
            first = x.ctypes.data + 8 * (ours + c * images * prod(size) + start)
            second = x.ctypes.data + 8 * (theirs + d * images * prod(size) + start + along)
            a = lines.weights.ctypes.data + 8 * weighted
            recipe = block_of(host(), len(offsets) if together else highest, shifts, divides=not together)
            sums = _run(recipe, (a, first, second), offsets, lines.stretch, shifts, None if together else factors)
            sums = sums.reshape(len(lines.leading), -1, highest, sums.shape[-1])[..., :shifts]
            for number, move in enumerate(moves.T):
                tap = [int(u + n) for u, n in zip(move, low, strict=True)]
                ahead = [u + n for u, n in zip(tap, lag, strict=True)]
                ends = np.arange(start, start + shifts), np.arange(start + along, start + along + shifts)
                yield Found(sums[:, number], (*tap, ends[0]), (*ahead, ends[1]))


def _steps(size: Sequence[int]) -> list[int]:
    """Return the distances in memory between neighbours along each axis."""
    return [prod(size[axis + 1 :]) for axis in range(len(size))]


def _run(
    recipe: LaggedProductsRecipe,
    addresses: tuple[np.ndarray, np.ndarray, np.ndarray],
    offsets: np.ndarray,
    length: int,
    shifts: int,
    factors: list[np.ndarray] | None,
) -> np.ndarray:
    """Run the region, and sum its tasks under factors, (leading monomials, rows of weights, shifts or more).

    Args:
        recipe: the generated code.
        addresses: of the weights and of both rows of x, by task.
        offsets: of the rows of weights.
        length: number of pixels of a task.
        shifts: number of shifts along the last axis.
        factors: for each tap of the leading axes, (leading monomials, tasks); None for sums without factors.
    """
    target, tasks = host(), len(addresses[0])
    row_blocks, shift_blocks = ceil(len(offsets) / recipe.rows), ceil(shifts / recipe.shifts)
    padded = np.concatenate([offsets, np.repeat(offsets[-1:], row_blocks * recipe.rows - len(offsets))])
    reach = shift_blocks * recipe.shifts
    threads = min(thread_count(), tasks)
    room = ceil((length + reach + MARGIN) / MARGIN) * MARGIN
    memory = scratch(8 * room * threads)
    out = empty((tasks, row_blocks, shift_blocks, recipe.rows, recipe.shifts), torch.float64).numpy()
    tables = [np.ascontiguousarray(one, dtype=np.int64) for one in (*addresses, padded)]
    values = {name: table.ctypes.data for name, table in zip(("a", "first", "second", "rows"), tables, strict=True)}
    values |= {"out": out.ctypes.data, "scratch": memory.data_ptr(), "tasks": tasks, "length": length, "reach": reach}
    values |= {"thread_elements": room, "row_blocks": row_blocks, "shift_blocks": shift_blocks}
    region = routine(emit_weighted_products.write, target, recipe, ordered=True)
    ARGUMENTS.run(region, ARGUMENTS.new(values, counters=threads + 2), threads)
    if factors is None:
        summed = out.sum(0)[None]
    else:
        each = row_blocks // len(factors)
        parts = [out[:, n * each : (n + 1) * each].reshape(tasks, -1) for n in range(len(factors))]
        summed = np.stack([factor @ part for factor, part in zip(factors, parts, strict=True)], 1)
        summed = summed.reshape(len(factors[0]), *out.shape[1:])
    by_row: np.ndarray = summed.transpose(0, 1, 3, 2, 4).reshape(len(summed), row_blocks * recipe.rows, reach)
    return by_row[:, : len(offsets)]
