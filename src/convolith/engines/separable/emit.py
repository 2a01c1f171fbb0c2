"""Generated code of the separable engine: one loop nest for kernels of any size and rank.

A task is a strip of output rows and a block of columns of one plane. Some rows at a time, input rows are filtered along
the row into a window of rows that stays in a cache, and output rows are the sums down the window's columns. The rows
that the next outputs read again move to the top of the window. Each input row is filtered once per strip, and nothing
but the image and the result goes through memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from llvmlite import ir

from convolith.engines.emit_rounded import Rounding
from convolith.engines.emit_rows import bounds_inside, copy_inside, copy_margin, shift_of, split_row
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import I32, I64, FunctionBuilder, Int, Number, Pointer
from convolith.jit.conversions import STORED, from_sum
from convolith.jit.denormals import flush_denormals, restore_control
from convolith.jit.target import Target

SUMS = 8
"""Vectors of sums of a tile: as many as a processor's multiply-adds in flight, two a cycle for four cycles."""
TILE_ROWS = 4
"""Output rows of a tile: a vector of the window is read from an outer cache once for all of them."""

ARGUMENTS = ArgumentBlock(
    *("x", "across", "down", "bias", "y", "scratch", "counters", "counts"),
    *("tasks", "channels", "height", "width", "out_height", "out_width", "pad_height", "pad_width"),
    *("x_image", "x_channel", "x_row"),
    *("rank", "taps_across", "step_across", "taps_down", "step_down", "stride_down"),
    *("strips", "strip_rows", "blocks", "block_columns", "group_rows", "again"),
    *("thread_elements", "line_elements", "phase_pitch", "pitch", "window_elements"),
    *("height_sources", "width_sources", "outside"),
)
"""Arguments of a region: addresses, counts, and distances in elements; `again` is the number of rows that move up, and
`window_elements` the size of a window, of which each term of the kernel has its own."""


class SeparableRecipe(NamedTuple):
    """Parameters that the code is specialised on."""

    x_dtype: str
    sum_dtype: str
    out_dtype: str
    """Dtype of the result; sums are rounded and clipped to an integer dtype, and counted where they do not fit."""
    stride: int
    """Stride along the rows."""
    may_miss: bool = True
    """Whether sums may be NaN."""

    @property
    def rounds(self) -> bool:
        """Whether sums are rounded to integers."""
        return "int" in self.out_dtype


def lanes_of(target: Target, recipe: SeparableRecipe) -> int:
    """Return the number of sums in a vector."""
    return target.lanes(8 if recipe.sum_dtype == "float64" else 4)


def write(module: ir.Module, target: Target, recipe: SeparableRecipe) -> None:
    """Generate the region."""
    wide = STORED[recipe.sum_dtype]
    kinds = dict.fromkeys(("across", "down", "bias", "scratch"), wide)
    kinds |= dict.fromkeys(("height_sources", "width_sources"), I64) | {"counts": I32}
    kinds |= {"x": STORED[recipe.x_dtype], "outside": STORED[recipe.x_dtype], "y": STORED[recipe.out_dtype]}
    code, s = ARGUMENTS.begin(module, kinds)
    before = flush_denormals(code, target)
    lanes = lanes_of(target, recipe)
    thread = code.fetch_add(s["counters"] + 8)
    line = s["scratch"] + thread * s["thread_elements"]
    rounding = Rounding.begin(code, recipe.out_dtype, lanes, may_miss=recipe.may_miss) if recipe.rounds else None
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        _Task(code, recipe, lanes, s, line, line + s["line_elements"], rounding).write(task)
    if rounding is not None:
        rounding.finish(s["counts"], thread)
    restore_control(code, before)
    code.finish()


@dataclass(frozen=True)
class _Task:
    """Generator of a strip and block."""

    code: FunctionBuilder
    recipe: SeparableRecipe
    lanes: int
    s: dict[str, Any]
    line: Pointer
    """Room for one input row, converted and padded, and for its parts if a stride splits it."""
    window: Pointer
    rounding: Rounding | None
    """Rounding of the results; None if they are floats."""

    def write(self, task: Int) -> None:
        """Generate the strip, some rows at a time."""
        code, s = self.code, self.s
        block, rest = task % s["blocks"], task // s["blocks"]
        strip, plane = rest % s["strips"], rest // s["strips"]
        channel, image = plane % s["channels"], plane // s["channels"]
        column, top = block * s["block_columns"], strip * s["strip_rows"]
        columns = code.minimum(s["block_columns"], s["out_width"] - column)
        rows = code.minimum(s["strip_rows"], s["out_height"] - top)
        x = s["x"] + image * s["x_image"] + channel * s["x_channel"]
        y = s["y"] + (plane * s["out_height"] + top) * s["out_width"] + column
        down = s["down"] + channel * s["rank"] * s["taps_down"]
        across = s["across"] + channel * s["rank"] * s["taps_across"]
        bias = code.splat((s["bias"] + channel).load(), self.lanes)
        reach = (s["taps_down"] - 1) * s["step_down"] + 1
        with code.loop(0, rows, s["group_rows"]) as group:
            count = code.minimum(s["group_rows"], rows - group.index)
            source = (top + group.index) * s["stride_down"]  # in the padded image
            again = code.choose(group.index.equals(0), 0, s["again"])
            self.move_up(again)
            with code.loop(again, (count - 1) * s["stride_down"] + reach) as row:
                self.along(x, source + row.index, row.index, column, columns, across)
            result = y + group.index * s["out_width"]
            self.down_columns(result, count, columns, down, bias)

    def move_up(self, again: Int) -> None:
        """Generate the move of the last rows of every window to its top."""
        code, s = self.code, self.s
        distance = s["group_rows"] * s["stride_down"] * s["pitch"]
        with code.loop(0, s["rank"]) as term:
            goal = self.window + term.index * s["window_elements"]
            with code.loop(0, again * s["pitch"], self.lanes) as t:
                (goal + t.index).store((goal + distance + t.index).vector(self.lanes))

    def along(self, x: Pointer, padded_row: Int, row: Int, column: Int, columns: Int, across: Pointer) -> None:
        """Generate a row of every window: an input row, filtered along the row."""
        code, s, recipe, lanes = self.code, self.s, self.recipe, self.lanes
        number = (s["height_sources"] + padded_row).integer()
        exists = number >= 0
        left = column * recipe.stride - s["pad_width"]
        wanted = (columns - 1) * recipe.stride + (s["taps_across"] - 1) * s["step_across"] + 1
        begin, end = bounds_inside(code, left, s["width"], wanted)
        end = code.choose(exists, end, begin)
        start = x + code.maximum(number, 0) * s["x_row"]
        plain = recipe.stride == 1 and recipe.x_dtype == recipe.sum_dtype
        in_place = code.every(begin.equals(0), end.equals(wanted), columns >= lanes)
        with code.when(code.ir.not_(in_place) if plain else ir.Constant(ir.IntType(1), 1)):
            raw = self.line if recipe.stride == 1 else self.line + s["phase_pitch"] * recipe.stride
            copy_inside(code, recipe.x_dtype, lanes, start + left, raw, begin, end)
            for margin in ((0, begin), (end, wanted)):
                copy_margin(code, s, recipe.x_dtype, start, left, exists, raw, margin)
            if recipe.stride > 1:
                split_row(code, raw, self.line, wanted, recipe.stride, s["phase_pitch"], lanes)
        source = code.choose(in_place, (start + left).cast(self.line.element), self.line) if plain else self.line
        shift = lambda tap: shift_of(tap, s["step_across"], recipe.stride, s["phase_pitch"])  # noqa: E731
        with code.loop(0, s["rank"]) as term:
            goal = self.window + term.index * s["window_elements"] + row * s["pitch"]
            weights = across + term.index * s["taps_across"]

            def tile(at: Int, vectors: int, goal: Pointer = goal, weights: Pointer = weights) -> None:
                places = [source + at + q * lanes for q in range(vectors)]
                sums = [self.nothing()] * vectors
                for q, value in enumerate(self.weighted(places, shift, weights, s["taps_across"], sums)):
                    (goal + at + q * lanes).store(value)

            self.across_columns(columns, SUMS, lambda at, vectors, _: tile(at, vectors))

    def down_columns(self, y: Pointer, count: Int, columns: Int, down: Pointer, bias: ir.Value) -> None:
        """Generate the output rows of a group: sums down the columns of the windows."""
        code, s = self.code, self.s
        whole = count // TILE_ROWS * TILE_ROWS

        def tile(row: Int, rows: int, at: Int, vectors: int, fresh: Int | None) -> None:
            origin = self.window + row * s["stride_down"] * s["pitch"] + at
            places = [
                origin + s["stride_down"] * s["pitch"] * r + q * self.lanes for r in range(rows) for q in range(vectors)
            ]
            step = s["step_down"] * s["pitch"]
            with code.loop(0, s["rank"], values=[bias] * len(places)) as term:
                here = [place + term.index * s["window_elements"] for place in places]
                weights = down + term.index * s["taps_down"]
                sums = self.weighted(here, lambda tap: tap * step, weights, s["taps_down"], term.values)
                term.carry(sums)
            starts = [y + (row + r) * s["out_width"] + at + q * self.lanes for r in range(rows) for q in range(vectors)]
            self.deliver(term.values, starts, columns, fresh)

        for start, stop, rows in ((0, whole, TILE_ROWS), (whole, count, 1)):
            with code.loop(start, stop, rows) as row:
                self.across_columns(columns, SUMS // rows, partial(tile, row.index, rows))

    def across_columns(self, columns: Int, vectors: int, tile: Callable[[Int, int, Int | None], None]) -> None:
        """Generate tiles of some vectors, then of one; the last may overlap the one before.

        Args:
            columns: number of columns.
            vectors: vectors of the wide tiles.
            tile: generates a tile, from its first column, its vectors, and the first lane that no other tile computed.
        """
        code, lanes = self.code, self.lanes
        whole = columns // (vectors * lanes) * (vectors * lanes)
        with code.loop(0, whole, vectors * lanes) as at:
            tile(at.index, vectors, None)
        with code.loop(whole, columns, lanes) as at:
            begin = code.maximum(code.minimum(at.index, columns - lanes), 0)
            tile(begin, 1, at.index - begin)

    def weighted(
        self,
        places: Sequence[Pointer],
        shift: Callable[[Int], Number],
        weights: Pointer,
        count: Int,
        sums: Sequence[ir.Value],
    ) -> list[ir.Value]:
        """Generate the sums over taps of a weight times the vector at each place, moved by the tap's shift."""
        code = self.code
        with code.loop(0, count, values=sums) as tap:
            weight = code.splat((weights + tap.index).load(), self.lanes)
            moved = [(place + shift(tap.index)).vector(self.lanes) for place in places]
            tap.carry([code.multiply_add(value, weight, total) for value, total in zip(moved, tap.values, strict=True)])
        return tap.values

    def nothing(self) -> ir.Value:
        """Return a vector of zeros."""
        return ir.Constant(ir.VectorType(self.line.element, self.lanes), None)

    def deliver(self, sums: list[ir.Value], starts: list[Pointer], columns: Int, fresh: Int | None) -> None:
        """Generate the stores of a tile: converted or rounded, under a mask if a row has fewer columns than lanes.

        Args:
            sums: the vectors.
            starts: address of the first output of each.
            columns: number of columns of the block.
            fresh: first lane that no other tile stores; None for a tile of whole vectors that none overlaps.
        """
        code, lanes = self.code, self.lanes
        if self.rounding is not None:
            if fresh is None:  # whole vectors by pairs, which pack into one
                pairs = zip(sums[::2], sums[1::2], strict=True)
                sums, starts = [code.shuffle(a, b, range(2 * lanes)) for a, b in pairs], starts[::2]
            new = None if fresh is None else code.lanes_between(fresh, code.minimum(columns, lanes), lanes)
            values = self.rounding.values(sums, new)
        else:
            values = [from_sum(code, value, self.recipe.out_dtype) for value in sums]
        if fresh is None:
            for value, where in zip(values, starts, strict=True):
                where.store(value)
            return
        with code.ir.if_else(columns < lanes) as (few, enough):
            with few:
                for value, where in zip(values, starts, strict=True):
                    where.masked_store(value, code.lanes_below(columns, lanes))
            with enough:
                for value, where in zip(values, starts, strict=True):
                    where.store(value)
