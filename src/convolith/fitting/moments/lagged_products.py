"""Auto- and cross-correlations of a few channels at few lags, lag by lag, by generated code.

The pixels of an image form one line, with gaps of zeros after each row and plane, so that a pixel that a lag shifts
over an edge meets zero (as in `correlations`), and every lag is an offset in the same memory: `row`, the offset of the
leading axes, plus a shift along the last axis.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import ceil, prod

import torch

from convolith.engines import buffers
from convolith.fitting.moments import emit_lagged_products
from convolith.fitting.moments.emit_lagged_products import ARGUMENTS, LaggedProductsRecipe
from convolith.jit import Target, host, routine, thread_count

CHUNK = 1 << 13
"""Positions of a task: 64 KiB of each operand, and as much again for each row, which fit a second-level cache."""


class Line:
    """Planes of one size as lines of numbers, with gaps and margins of zeros.

    Attributes:
        steps: distance in memory between neighbours along each axis.
        length: count of numbers and gaps, rounded up to a multiple of MARGIN.
    """

    def __init__(self, planes: torch.Tensor, taps: Sequence[int], size: Sequence[int]) -> None:
        """Copy planes, (N, channels, *own size), each into room for `size` with gaps of taps - 1."""
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
        """Return the address of each channel's first number."""
        return [channel.data_ptr() + 8 * self.reach for channel in self.memory]


MARGIN = 64
"""Count of numbers that may be read beyond the last lag."""


def auto(line: Line, taps: Sequence[int]) -> torch.Tensor:
    """Compute `sum over q of X[c, q] X[d, q + lag]`, (channels, channels, lags from 1 - taps to taps - 1)."""
    channels = len(line.memory)
    ahead = [lag for lag in product(*(range(1 - k, k) for k in taps[:-1])) if lag >= (0,) * (len(taps) - 1)]
    shape = [2 * k - 1 for k in taps]
    half = products(line, line, ahead, 1 - taps[-1], shape[-1])
    middle = prod(shape[:-1]) // 2  # the row of lag zero
    result = line.memory.new_empty((channels, channels, *shape))
    rows = result.view(channels, channels, -1, shape[-1])
    rows[:, :, middle:] = half
    rows[:, :, : middle + 1] = half.flip(2, 3).transpose(0, 1)
    rows[:, :, middle, taps[-1] - 1 :] = half[:, :, 0, taps[-1] - 1 :]
    return result


def cross(line: Line, targets: Line, taps: Sequence[int]) -> torch.Tensor:
    """Compute `sum over p of X[c, p + u] Y[o, p]`, (channels, others, *taps)."""
    rows = list(product(*map(range, taps[:-1])))
    sums = products(targets, line, rows, 0, taps[-1]).transpose(0, 1)
    return sums.reshape(len(line.memory), len(targets.memory), *taps)


def products(a: Line, b: Line, rows: Sequence[tuple[int, ...]], first: int, shifts: int) -> torch.Tensor:
    """Compute `sum over p of a[p] b[p + row + first + shift]`, (channels of a, channels of b, rows, shifts)."""
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
    tables = [array("q", numbers) for numbers in (*zip(*both, strict=True), offsets)]
    values = {name: table.buffer_info()[0] for name, table in zip(("a", "b", "rows"), tables, strict=True)}
    values |= {"out": out.data_ptr(), "pairs": pairs, "tasks": chunks * pairs, "chunk": CHUNK, "length": b.length}
    values |= {"row_blocks": row_blocks, "shift_blocks": shift_blocks, "first": first}
    region = routine(emit_lagged_products.write, target, recipe, ordered=True)
    ARGUMENTS.run(region, ARGUMENTS.new(values), min(thread_count(), values["tasks"]))
    summed = out.sum(0).transpose(2, 3).flatten(1, 2).flatten(2, 3)
    return summed[:, : len(rows), :shifts].reshape(len(a.memory), len(b.memory), len(rows), shifts)


@lru_cache(maxsize=256)
def block_of(target: Target, rows: int, shifts: int, *, divides: bool = False) -> LaggedProductsRecipe:
    """Return the block of fewest cycles, whose rows divide all rows if they must.

    A processor makes two products per cycle, and two loads, or one load that crosses a cache line.
    """

    def cycles(recipe: LaggedProductsRecipe) -> tuple[float, int]:
        blocks, size = ceil(rows / recipe.rows) * ceil(shifts / recipe.shifts), recipe.rows * recipe.shifts
        return blocks * max(size, recipe.rows + 2 * recipe.shifts) / 2, -size

    fitting = [
        LaggedProductsRecipe(r, s)
        for r, s in product(range(1, min(rows, 8) + 1), range(1, min(shifts, 16) + 1))
        if r * s <= target.accumulators and r * s + r < target.vector_registers and not (divides and rows % r)
    ]
    return min(fitting, key=cycles)
