"""Auto- and cross-correlations of a few channels at few lags, lag by lag, by generated code.

Pixels of an image lie in a row, with gaps of zeros after each of its rows and planes in which whatever a lag moves over
an edge meets zero (as `correlations` does it), so that every lag is an offset in the same memory: `row`, that of its
leading axes, plus a shift along the last one.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import product
from math import ceil, prod

import torch

from convolith.engines import buffers
from convolith.fitting.moments import emit_lagged_products
from convolith.fitting.moments.emit_lagged_products import SLOTS, LaggedProductsRecipe
from convolith.jit import Target, host, routine, thread_count

CHUNK = 1 << 13
"""Positions of a task: 64 KiB of each operand, and as much again for each row, which a second-level cache holds."""


class Line:
    """Planes of one size as rows of numbers with gaps and margins of zeros.

    Attributes:
        steps: how far apart neighbours along each axis lie.
        length: of the numbers and gaps, a multiple of a vector.
    """

    def __init__(self, planes: torch.Tensor, taps: Sequence[int], size: Sequence[int]) -> None:
        """Lay planes, (N, channels, *own size), out in room for `size` of each and gaps of taps - 1."""
        wide = [n + k - 1 for n, k in zip(size, taps, strict=True)]
        self.steps = [prod(wide[axis + 1 :]) for axis in range(len(wide))]
        self.reach = sum((k - 1) * step for k, step in zip(taps, self.steps, strict=True)) + MARGIN
        images, channels, *own = planes.shape
        used = images * prod(wide)
        self.length = ceil(used / MARGIN) * MARGIN
        self.memory = buffers.empty((channels, self.length + 2 * self.reach), planes.dtype).zero_()
        grid = self.memory[:, self.reach : self.reach + used].view(channels, images, *wide)
        grid[(slice(None), slice(None), *(slice(n) for n in own))] = planes.transpose(0, 1)

    def addresses(self) -> list[int]:
        """Of each channel's first number."""
        return [channel.data_ptr() + 8 * self.reach for channel in self.memory]


MARGIN = 64
"""Numbers beyond the last lag that may be read."""


def auto(line: Line, taps: Sequence[int]) -> torch.Tensor:
    """(channels, channels, lags from 1 - taps to taps - 1): `sum over q of X[c, q] X[d, q + lag]`."""
    channels = len(line.memory)
    ahead = [lag for lag in product(*(range(1 - k, k) for k in taps[:-1])) if lag >= (0,) * (len(taps) - 1)]
    shape = [2 * k - 1 for k in taps]
    half = products(line, line, ahead, 1 - taps[-1], shape[-1])
    middle = prod(shape[:-1]) // 2  # the row of lag zero
    found = line.memory.new_empty((channels, channels, *shape))
    rows = found.view(channels, channels, -1, shape[-1])
    rows[:, :, middle:] = half
    rows[:, :, : middle + 1] = half.flip(2, 3).transpose(0, 1)
    rows[:, :, middle, taps[-1] - 1 :] = half[:, :, 0, taps[-1] - 1 :]
    return found


def cross(line: Line, targets: Line, taps: Sequence[int]) -> torch.Tensor:
    """(channels, others, *taps): `sum over p of X[c, p + u] Y[o, p]`."""
    rows = list(product(*map(range, taps[:-1])))
    found = products(targets, line, rows, 0, taps[-1]).transpose(0, 1)
    return found.reshape(len(line.memory), len(targets.memory), *taps)


def products(a: Line, b: Line, rows: Sequence[tuple[int, ...]], first: int, shifts: int) -> torch.Tensor:
    """(channels of a, channels of b, rows, shifts): `sum over p of a[p] b[p + row + first + shift]`."""
    target, pairs = host(), len(a.memory) * len(b.memory)
    if not pairs:
        return a.memory.new_zeros((len(a.memory), len(b.memory), len(rows), shifts))
    recipe = block_of(target, len(rows), shifts)
    row_blocks, shift_blocks = ceil(len(rows) / recipe.rows), ceil(shifts / recipe.shifts)
    offsets = [sum(n * step for n, step in zip(row, b.steps, strict=False)) for row in rows]
    offsets += offsets[-1:] * (row_blocks * recipe.rows - len(rows))
    chunks = ceil(b.length / CHUNK)
    blocks = (row_blocks, shift_blocks, recipe.rows, recipe.shifts)
    out = torch.empty((chunks, pairs, *blocks), dtype=torch.float64, device="cpu")
    both = list(product(a.addresses(), b.addresses()))
    tables = [array("q", numbers) for numbers in (*zip(*both, strict=True), offsets, [0])]
    values = {name: table.buffer_info()[0] for name, table in zip(("a", "b", "rows", "counter"), tables, strict=True)}
    values |= {"out": out.data_ptr(), "pairs": pairs, "tasks": chunks * pairs, "chunk": CHUNK, "length": b.length}
    values |= {"row_blocks": row_blocks, "shift_blocks": shift_blocks, "first": first}
    slots = array("q", [values[name] for name in SLOTS])
    threads = min(thread_count(), values["tasks"])
    routine(emit_lagged_products.write, target, recipe, ordered=True).run(slots.buffer_info()[0], threads)
    summed = out.sum(0).transpose(2, 3).flatten(1, 2).flatten(2, 3)
    return summed[:, : len(rows), :shifts].reshape(len(a.memory), len(b.memory), len(rows), shifts)


def block_of(target: Target, rows: int, shifts: int) -> LaggedProductsRecipe:
    """The block that needs the fewest cycles: two products a cycle, two loads, one of them if it crosses a line."""

    def cycles(recipe: LaggedProductsRecipe) -> tuple[float, int]:
        blocks, size = ceil(rows / recipe.rows) * ceil(shifts / recipe.shifts), recipe.rows * recipe.shifts
        return blocks * max(size, recipe.rows + 2 * recipe.shifts) / 2, -size

    fitting = [
        LaggedProductsRecipe(r, s)
        for r, s in product(range(1, min(rows, 8) + 1), range(1, min(shifts, 16) + 1))
        if r * s <= target.accumulators and r * s + r < target.vector_registers
    ]
    return min(fitting, key=cycles)
