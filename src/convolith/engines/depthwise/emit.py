"""Generated code of the depthwise engine: a vector holds one pixel of as many channels as it has lanes.

A task is a strip of output rows of a block of channels. Rows of the image are transposed into a ring of padded rows, in
which the channels of a pixel are neighbours, and the sums of some pixels are transposed back before they are stored. No
lane is idle, however narrow the image, and strides and dilations need no copies of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from llvmlite import ir

from convolith.engines.elementwise import NO_TAIL, TAIL_ARGUMENTS, Tail, finish
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import I64, FunctionBuilder, Int, Pointer, itemsize
from convolith.jit.conversions import STORED
from convolith.jit.denormals import flush_denormals, restore_control
from convolith.jit.target import Target

PIXELS = 8
"""Pixels of a tile: as many sums as a processor's multiply-adds in flight."""
SQUARE_BYTES = 32
"""Bytes of a row of the squares that are transposed: the widest in which all exchanges are single instructions."""
UNROLLED = 8
"""Largest number of taps along a row whose loop is unrolled."""

ARGUMENTS = ArgumentBlock(
    *("x", "weight", "bias", "y", "scratch", "counters"),
    *("height_sources", "width_sources", "outside", *TAIL_ARGUMENTS),
    *("tasks", "blocks", "strips", "strip_rows", "channels", "x_image", "y_image"),
    *("height", "width", "out_height", "out_width", "pad_width", "pad_after"),
    *("taps_down", "step_down", "stride_down", "taps_across", "step_across"),
    *("ring_rows", "pitch", "thread_elements"),
)
"""Arguments of a region: addresses, counts, and distances in elements; the ring has as many rows as a window."""


class DepthwiseRecipe(NamedTuple):
    """Parameters that the code is specialised on."""

    dtype: str
    stride: int
    """Stride along the rows."""
    taps: int
    """Taps along a row; 0 if their number is an argument."""
    step: int
    """Dilation along a row; 0 if it is an argument."""
    tail: Tail = NO_TAIL


def lanes_of(target: Target, dtype: str) -> int:
    """Return the number of channels in a vector."""
    return target.lanes(itemsize(STORED[dtype]))


def square_of(target: Target, dtype: str) -> int:
    """Return the number of rows of the squares that are transposed."""
    return min(lanes_of(target, dtype), SQUARE_BYTES // itemsize(STORED[dtype]))


def write(module: ir.Module, target: Target, recipe: DepthwiseRecipe) -> None:
    """Generate the region."""
    kind = STORED[recipe.dtype]
    floats = ("x", "weight", "bias", "y", "scratch", "outside", *TAIL_ARGUMENTS[1:])
    kinds = dict.fromkeys(floats, kind) | dict.fromkeys(("height_sources", "width_sources"), I64)
    code, s = ARGUMENTS.begin(module, kinds)
    lanes, square = lanes_of(target, recipe.dtype), square_of(target, recipe.dtype)
    staged = code.scratch(kind, lanes * PIXELS) if recipe.tail.costly else None
    before = flush_denormals(code, target)
    ring = s["scratch"] + code.fetch_add(s["counters"] + 8) * s["thread_elements"]
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        block, rest = task % s["blocks"], task // s["blocks"]
        strip, image = rest % s["strips"], rest // s["strips"]
        first = code.minimum(block * lanes, s["channels"] - lanes)
        _Task(code, recipe, lanes, square, s, ring, staged, image, first).write(block, strip * s["strip_rows"])
    restore_control(code, before)
    code.finish()


@dataclass(frozen=True)
class _Task:
    """Generator of the rows of a block of channels."""

    code: FunctionBuilder
    recipe: DepthwiseRecipe
    lanes: int
    square: int
    s: dict[str, Any]
    ring: Pointer
    """Padded rows of the image, channels innermost; row r of the padded image is row r % ring_rows."""
    staged: Pointer | None
    """Room for the sums of a tile, if the tail is generated in a loop."""
    image: Int
    first: Int
    """First channel of the block; the last block may overlap the one before."""

    def write(self, block: Int, top: Int) -> None:
        """Generate the strip, row by row."""
        code, s = self.code, self.s
        rows = code.minimum(s["strip_rows"], s["out_height"] - top)
        reach = (s["taps_down"] - 1) * s["step_down"] + 1
        weights = s["weight"] + block * s["taps_down"] * s["taps_across"] * self.lanes
        bias = (s["bias"] + self.first).vector(self.lanes)
        plane = s["out_height"] * s["out_width"]
        y = s["y"] + self.image * s["y_image"] + self.first * plane
        with code.loop(0, rows) as row:
            start = (top + row.index) * s["stride_down"]  # in the padded image
            read = code.choose(row.index.equals(0), start, code.maximum(start, start - s["stride_down"] + reach))
            with code.loop(read, start + reach) as source:
                self.read_row(source.index)
            result, oldest = y + (top + row.index) * s["out_width"], start % s["ring_rows"]
            whole = s["out_width"] // PIXELS * PIXELS
            tile = partial(self.tile, result, plane, oldest, weights, bias)
            with code.loop(0, whole, PIXELS) as at:
                tile(at.index, None)
            with code.when(whole < s["out_width"]):
                tile(whole, s["out_width"] - whole)

    def read_row(self, row: Int) -> None:
        """Generate a row of the ring: a row of the padded image."""
        code, s, lanes, square = self.code, self.s, self.lanes, self.square
        source = (s["height_sources"] + row).integer()
        goal = self.ring + row % s["ring_rows"] * s["pitch"]
        outside = code.splat(s["outside"].load(), lanes)
        with code.ir.if_else(source < 0) as (missing, inside):
            with missing, code.loop(0, s["pitch"], lanes) as t:
                (goal + t.index).store(outside)
            with inside:
                plane = s["height"] * s["width"]
                line = s["x"] + self.image * s["x_image"] + self.first * plane + source * s["width"]
                pixels = goal + s["pad_width"] * lanes

                def block(at: Int, count: Int | None) -> None:
                    mask = None if count is None else code.lanes_below(count, square)
                    for c in range(0, lanes, square):
                        places = [line + plane * (c + j) + at for j in range(square)]
                        rows = [p.vector(square) if mask is None else p.masked_vector(square, mask) for p in places]
                        for i, column in enumerate(transpose(code, rows)):
                            (pixels + (at + i) * lanes + c).store(column)

                whole = s["width"] // square * square
                with code.loop(0, whole, square) as at:
                    block(at.index, None)
                with code.when(whole < s["width"]):
                    block(whole, s["width"] - whole)
                for begin, entry, count in (
                    (0, 0, s["pad_width"]),
                    (s["pad_width"] + s["width"], s["pad_width"], s["pad_after"]),
                ):
                    with code.loop(0, count) as t:
                        column = (s["width_sources"] + entry + t.index).integer()
                        there = (pixels + code.maximum(column, 0) * lanes).vector(lanes)
                        (goal + (t.index + begin) * lanes).store(code.ir.select(column < 0, outside, there))

    def tile(
        self, y: Pointer, plane: Int, oldest: Int, weights: Pointer, bias: ir.Value, at: Int, count: Int | None
    ) -> None:
        """Generate the outputs of some pixels of a row.

        Args:
            y, plane: the row of the first channel in the result, and the distance of channels.
            oldest: row of the ring in which the window begins.
            weights, bias: those of the block's channels.
            at: first pixel.
            count: number of pixels; None for all that a tile has.
        """
        code, s, recipe, lanes = self.code, self.s, self.recipe, self.lanes
        origin = self.ring + at * (recipe.stride * lanes)
        with code.loop(0, s["taps_down"], values=[bias] * PIXELS) as down:
            place = oldest + down.index * s["step_down"]
            place = code.choose(place >= s["ring_rows"], place - s["ring_rows"], place)
            line, taps = origin + place * s["pitch"], weights + down.index * s["taps_across"] * lanes
            if recipe.taps:
                sums = down.values
                for tap in range(recipe.taps):
                    sums = self.weighted(line + tap * recipe.step * lanes, taps + tap * lanes, sums)
                down.carry(sums)
            else:
                with code.loop(0, s["taps_across"], values=down.values) as across:
                    moved = line + across.index * s["step_across"] * lanes
                    across.carry(self.weighted(moved, taps + across.index * lanes, across.values))
                down.carry(across.values)
        self.deliver(down.values, y + at, plane, count)

    def weighted(self, pixels: Pointer, weight: Pointer, sums: Sequence[ir.Value]) -> list[ir.Value]:
        """Generate the sums with one more tap."""
        code, lanes, distance = self.code, self.lanes, self.recipe.stride * self.lanes
        factor = weight.vector(lanes)
        inputs = [(pixels + q * distance).vector(lanes) for q in range(PIXELS)]
        return [code.multiply_add(value, factor, total) for value, total in zip(inputs, sums, strict=True)]

    def deliver(self, sums: list[ir.Value], y: Pointer, plane: Int, count: Int | None) -> None:
        """Generate the transposition of a tile, its tail and its stores."""
        code, square = self.code, self.square
        masks = [
            None if count is None else code.lanes_below(count - pixel, square) for pixel in range(0, PIXELS, square)
        ]
        for c in range(0, self.lanes, square):
            for number, mask in enumerate(masks):
                pixels = sums[number * square : (number + 1) * square]
                parts = [code.shuffle(value, value, range(c, c + square)) for value in pixels]
                for j, values in enumerate(transpose(code, parts)):
                    if self.staged is not None:
                        (self.staged + (c + j) * PIXELS + number * square).store(values)
                    else:
                        self.put(values, y + plane * (c + j) + number * square, self.first + (c + j), mask)
        if self.staged is not None:
            with code.loop(0, self.lanes) as channel:
                for number, mask in enumerate(masks):
                    values = (self.staged + channel.index * PIXELS + number * square).vector(square)
                    goal = y + plane * channel.index + number * square
                    self.put(values, goal, self.first + channel.index, mask)

    def put(self, sums: ir.Value, goal: Pointer, channel: Int, mask: ir.Value | None) -> None:
        """Generate the tail and the store of some pixels of one channel."""
        code, tail = self.code, self.recipe.tail
        names = TAIL_ARGUMENTS[1 : 1 + tail.constants]
        constants = [code.splat((self.s[name] + channel).load(), self.square) for name in names]

        def residual() -> ir.Value:
            there = goal.moved(self.s["residual_shift"])
            return there.vector(self.square) if mask is None else there.masked_vector(self.square, mask)

        values = finish(code, tail, sums, residual, constants) if tail else sums
        if mask is None:
            goal.store(values)
        else:
            goal.masked_store(values, mask)


def transpose(code: FunctionBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """Generate the transposition of a square whose rows take at most 32 bytes.

    Rows exchange lanes within 16 bytes, then halves of 32: processors have an instruction for each exchange.
    """
    size = len(rows)
    block = min(size, 16 // itemsize(rows[0].type.element))
    halves = [_within_blocks(code, rows[first : first + block], block) for first in range(0, size, block)]
    if size == block:
        return halves[0]
    low, high = ([*range(n, n + block), *range(size + n, size + n + block)] for n in (0, block))
    return [code.shuffle(a, b, lanes) for lanes in (low, high) for a, b in zip(*halves, strict=True)]


def _within_blocks(code: FunctionBuilder, rows: Sequence[ir.Value], block: int) -> list[ir.Value]:
    """Generate the transposition of each block of columns of as many rows."""
    size, run = rows[0].type.count, 1
    while run < block:
        exchanged = []
        for n in (n for n in range(block) if not n & run):
            for half in (0, block // 2):
                starts = [
                    part + start for part in range(0, size, block) for start in range(half, half + block // 2, run)
                ]
                lanes = [start + other + t for start in starts for other in (0, size) for t in range(run)]
                exchanged.append(code.shuffle(rows[n], rows[n + run], lanes))
        rows, run = exchanged, 2 * run
    return list(rows)
