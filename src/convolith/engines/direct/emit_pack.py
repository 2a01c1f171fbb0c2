"""Packed inputs of the direct engine: a block's inputs are copied to scratch, converted, padded, split by the stride.

Zero padding is written once and stays for blocks at the same place of other images. Other padding is read from tables,
which name for each position of a padded axis the position in the image that it repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from convolith.engines.direct.emit_tile import DirectRecipe, lanes_of, line_of
from convolith.engines.emit_rows import bounds_inside, copy_inside, copy_margin, split_inside, split_row
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import I64, POINTER, FunctionBuilder, Int, Number, Pointer, zero
from convolith.jit.conversions import STORED
from convolith.jit.target import Target

NOWHERE = -(1 << 62)
"""Position of no block."""


def write_pack(module: ir.Module, target: Target, recipe: DirectRecipe, arguments: ArgumentBlock) -> FunctionBuilder:
    """Generate the function that copies a block's inputs to the scratch."""
    element, wide = STORED[recipe.x_dtype], STORED[recipe.sum_dtype]
    code = FunctionBuilder(module, "pack", [POINTER] * 4 + [I64] * 5, internal=True)
    tables = dict.fromkeys(("depth_sources", "height_sources", "width_sources"), I64) if recipe.repeats else {}
    s = arguments.load(code, tables | {"outside": element})
    x, scratch, seen = code.argument(1, element), code.argument(2, wide), code.argument(3, I64)
    front, top, left, rows, columns = (code.argument(n) for n in range(4, 9))
    _, height, width = recipe.kernel_size
    stride = recipe.stride[2]
    tall = (rows - 1) * recipe.stride[1] + (height - 1) * recipe.dilation[1] + 1
    wanted = (columns - 1) * stride + (width - 1) * recipe.dilation[2] + 1
    begin, end = bounds_inside(code, left, s["width"], wanted)
    pack = _Pack(code, target, recipe, s, x, scratch, front, top, left, tall, wanted, begin, end)
    if recipe.repeats:
        pack.with_tables()
    else:
        pack.with_zeros(seen, (front, top, left, rows, columns))
    code.finish()
    return code


@dataclass
class _Pack:
    """Generator of the copy of one block."""

    code: FunctionBuilder
    target: Target
    recipe: DirectRecipe
    s: dict[str, Any]
    x: Pointer
    scratch: Pointer
    front: Int
    top: Int
    left: Int
    tall: Int
    """Number of input rows of the block."""
    wanted: Int
    """Number of input columns of the block."""
    begin: Int
    """First column of the block inside the image."""
    end: Int
    """First column after it that is outside."""

    def with_zeros(self, seen: Pointer, starts: tuple[Int, ...]) -> None:
        """Generate the copy for zero padding.

        The zeros are written only if the block's position in its image or its size differs from the previous block's.
        """
        code, s, recipe = self.code, self.s, self.recipe
        lanes, depth = lanes_of(recipe, self.target), recipe.kernel_size[0]
        front, top, tall = self.front, self.top, self.tall
        upper = code.minimum(code.maximum(0 - top, 0), tall)
        lower = code.maximum(code.minimum(s["height"] - top, tall), upper)
        planes = code.every(front >= 0, front + (depth - 1) * recipe.dilation[0] < s["depth"])
        # Only inputs: no zeros are needed, and earlier zeros are overwritten.
        whole = (self.begin.equals(0), self.end.equals(self.wanted), upper.equals(0), lower.equals(tall))
        filled = code.every(*whole, planes)
        again = code.every(*((seen + number).integer().equals(start) for number, start in enumerate(starts)))
        for number, start in enumerate(starts):
            (seen + number).store(code.choose(filled, NOWHERE, start).value)
        with (
            code.when(code.ir.not_(code.ir.or_(again, filled))),
            code.loop(0, s["thread_elements"] - line_of(recipe), lanes) as t,
        ):
            (self.scratch + t.index).store(zero(ir.VectorType(self.scratch.element, lanes)))
        with code.loop(0, s["in_channels"]) as channel, code.loop(0, depth) as plane:
            z = front + plane.index * recipe.dilation[0]
            exists = code.every(z >= 0, z < s["depth"])
            base = self.x + channel.index * s["x_channel"] + z * s["x_plane"] + top * s["x_row"] + self.left
            with code.loop(upper, code.choose(exists, lower, upper)) as row:
                self.row(base + row.index * s["x_row"], self.place(channel.index, plane.index, row.index))

    def with_tables(self) -> None:
        """Generate the copy for padding that repeats inputs, or another constant than zero."""
        code, s, recipe = self.code, self.s, self.recipe
        with code.loop(0, s["in_channels"]) as channel, code.loop(0, recipe.kernel_size[0]) as plane:
            z = self.source("depth", self.front + plane.index * recipe.dilation[0])
            with code.loop(0, self.tall) as row:
                number = self.source("height", self.top + row.index)
                exists = code.every(z >= 0, number >= 0)
                line = self.x + channel.index * s["x_channel"] + code.maximum(z, 0) * s["x_plane"]
                line = line + code.maximum(number, 0) * s["x_row"]

                def beside(to: Pointer, begin: Number, end: Number, line: Pointer = line, exists: Any = exists) -> None:
                    copy_margin(code, s, recipe.x_dtype, line, self.left, exists, to, (begin, end))

                place = self.place(channel.index, plane.index, row.index)
                self.row(line + self.left, place, beside, exists)

    def source(self, axis: str, position: Number) -> Int:
        """Return the position in the image that a position repeats, or -1."""
        entry: Int = (self.s[f"{axis}_sources"] + (position + self.s[f"pad_{axis}"])).integer()
        return entry

    def place(self, channel: Number, plane: Number, row: Number) -> Pointer:
        """Return the address of a row in the scratch."""
        s = self.s
        goal: Pointer = self.scratch + channel * s["channel_pitch"] + plane * s["plane_pitch"] + row * s["row_pitch"]
        return goal

    def row(
        self,
        source: Pointer,
        place: Pointer,
        beside: Callable[[Pointer, Number, Number], None] | None = None,
        exists: Any = None,
    ) -> None:
        """Generate the copy of one row, whose column 0 would be at `source`.

        Args:
            source: address of the block's first column in the image.
            place: where the row goes.
            beside: generates the columns outside the image; None if they are zeros already.
            exists: whether the row is in the image; otherwise all its columns are generated by `beside`.
        """
        code, s, lanes = self.code, self.s, lanes_of(self.recipe, self.target)
        stride = self.recipe.stride[2]
        if stride == 2 and beside is None:
            split_inside(code, self.recipe.x_dtype, lanes, source, place, self.begin, self.end, s["phase_pitch"])
            return
        line = self.scratch + s["channel_pitch"] * s["in_channels"]  # one row before it is split
        to = place if stride == 1 else line
        begin, end = self.begin, self.end
        if exists is not None:
            end = code.choose(exists, end, begin)
        copy_inside(code, self.recipe.x_dtype, lanes, source, to, begin, end)
        if beside is not None:
            beside(to, 0, begin)
            beside(to, end, self.wanted)
        if stride > 1:
            split_row(code, line, place, self.wanted, stride, s["phase_pitch"], lanes)
