"""Generated code of the Fourier engine: overlap-save tiles, two at a time, in a second-level cache.

Two tiles of an image are the real and the imaginary part of one complex tile: a real kernel keeps them separate, and no
transform of real numbers is needed. The first axis is transformed with adjacent columns as lanes, directly from the
image; then blocks of lanes x lanes are transposed, and the second axis is transformed with rows as lanes:

    columns   Z[vector of columns][row]           forward, read from the image's rows under masks
    rows      V[vector of rows][column]           transposed from Z, forward, in place
    product   V times the kernel's spectrum, summed over the input channels
    rows      inverse, in place, and transposed into Z
    columns   inverse; the last pass writes the image's rows

A signal is an image of consecutive short rows: between the axes, its points are rotated as in any other pass.
Volumes are transformed slice by slice; along their depth, taps are summed like channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir

from convolith.engines.fft.emit_passes import Kernels, kernels_of, load, store
from convolith.engines.fft.emit_products import Products, Sizes, products_of
from convolith.engines.fft.emit_transforms import Complex, multiply
from convolith.engines.padding import source_of_column
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import I64, FunctionBuilder, Int, Number, Pointer, itemsize
from convolith.jit.conversions import STORED
from convolith.jit.denormals import flush_denormals, restore_control
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("x", "y", "spectrum", "bias", "zeros", "scratch", "column_passes", "row_passes"),
    *("column_rotations", "row_rotations", "between", "scale", "counters"),
    *("stage", "tasks", "chunk", "in_channels", "out_channels", "groups"),
    *("depth", "height", "width", "out_depth", "out_height", "out_width", "pad_depth", "pad_height", "pad_width"),
    *("x_image", "x_channel", "x_plane", "x_row", "y_image", "y_channel", "y_plane", "y_row", "slices"),
    *("rows", "columns", "step_rows", "step_columns", "tiles", "tiles_across", "pairs", "turned"),
    *("column_count", "row_count", "first_pair", "block_pairs", "all_pairs", "panel", "taps", "dilation", "v", "m"),
    *("thread_elements", "v_offset", "meet_offset", "m_offset", "table_offset", "edge_offset"),
    *("depth_sources", "height_sources", "width_sources", "outside", "padded_height", "padded_width"),
)
"""Arguments of a region; channels are per group."""
POINTERS = (
    "x",
    "y",
    "spectrum",
    "bias",
    "zeros",
    "scratch",
    "column_rotations",
    "row_rotations",
    "between",
    "scale",
    "v",
    "m",
    "outside",
)
FILTER, SPECTRA, FORWARD, PRODUCTS, BACK, TOGETHER = range(6)
"""Stages: all steps of a pair of tiles, where no channels are summed; kernels to spectra; where channels are summed,
the forward transforms, the products and the inverse transforms, or all three for a block of pairs."""
PASS_FIELDS = 4
"""Number of table entries per pass: radix, distance, blocks, and the start of its rotations."""


class FftRecipe(NamedTuple):
    """Parameters that the code is specialised on: float32 or float64, and whether channels (or slices) are summed."""

    dtype: str
    meet: bool
    repeats: bool = False
    """Whether padding is read from tables: it repeats inputs, or is another constant than zero."""


def write(module: ir.Module, target: Target, recipe: FftRecipe) -> None:
    """Generate the region: run a stage's tasks until none remains."""
    element = STORED[recipe.dtype]
    lanes = target.lanes(itemsize(element))
    kernels = kernels_of(module, element, lanes)
    products = products_of(module, target, element) if recipe.meet else None
    tables = dict.fromkeys(("column_passes", "row_passes", "depth_sources", "height_sources", "width_sources"), I64)
    code, s = ARGUMENTS.begin(module, dict.fromkeys(POINTERS, element) | tables)
    before = flush_denormals(code, target)
    scratch = s["scratch"] + code.fetch_add(s["counters"] + 8) * s["thread_elements"]
    work = _Tiles(code, lanes, s, scratch, kernels, products, recipe.repeats)
    stages: dict[int, Callable[[Int], None]] = {FILTER: work.filter}
    if recipe.meet:
        stages = {FORWARD: work.forward, PRODUCTS: work.product, BACK: work.back, TOGETHER: work.together}
    stages[SPECTRA] = work.spectrum
    with code.tasks(s["counters"], s["tasks"], s["chunk"]) as task:
        for stage, write_stage in stages.items():
            with code.when(s["stage"].equals(stage)):
                write_stage(task)
    restore_control(code, before)
    code.finish()


class _Tiles(NamedTuple):
    """Generator of the region's code for a pair of tiles."""

    code: FunctionBuilder
    lanes: int
    s: dict[str, Any]
    scratch: Pointer
    kernels: Kernels
    products: Products | None
    repeats: bool

    def filter(self, task: Int) -> None:
        """Generate the convolution of one pair of tiles of one channel, for all outputs that depend on it."""
        code, s = self.code, self.s
        pair, rest = task % s["pairs"], task // s["pairs"]
        group, image = rest % s["groups"], rest // s["groups"]
        spectra = s["spectrum"] + group * s["out_channels"] * self.points()
        y = s["y"] + image * s["y_image"] + group * s["out_channels"] * s["y_channel"]
        v = self.scratch + s["v_offset"]
        self.columns(s["x"] + image * s["x_image"] + group * s["x_channel"], pair)
        self.rows(v)
        with code.loop(0, s["out_channels"]) as out:
            spectrum = spectra + out.index * self.points()
            self.rows_back(lambda at: multiply(code, load(v + at, self.lanes), load(spectrum + at, self.lanes)))
            self.columns_back(y + out.index * s["y_channel"], pair, s["bias"] + group * s["out_channels"] + out.index)

    def spectrum(self, task: Int) -> None:
        """Generate the transform of one plane of a kernel, which is a single tile, to its conjugate spectrum.

        Spectra are stored one after the other, or, frequency by frequency, in panels of output channels.
        """
        code, s, lanes = self.code, self.s, self.lanes
        self.columns(s["x"] + task * s["x_channel"], code.integer(0), repeats=False)
        v = self.scratch + s["v_offset"]
        self.rows(v)
        ins, outs, panel = s["in_channels"], s["out_channels"], s["panel"]
        channel, out, group = task % ins, task // ins % outs, task // ins // outs
        first = out // panel * panel
        width = code.minimum(panel, outs - first)
        place = group * ins * outs * self.points() + (first * ins + channel * width + out - first) * (2 * lanes)
        with code.loop(0, self.frequencies()) as f:
            value = load(v, lanes, f.index)
            conjugate = Complex(value.real, code.ir.fneg(value.imag))
            store(s["y"] + place, lanes, conjugate, f.index * ins * outs)

    def forward(self, task: Int) -> None:
        """Generate the forward transform of one pair of tiles of one slice and channel of a block."""
        s = self.s
        pair, rest = task % s["block_pairs"], task // s["block_pairs"]
        self.enter(s["v"], s["first_pair"], s["block_pairs"], pair, rest % s["slices"], rest // s["slices"])

    def enter(self, v: Pointer, first: Int, block: Int, pair: Int, plane: Int, channel: Int) -> None:
        """Generate the transform of a pair of tiles, stored next to the other pairs of the block for each frequency."""
        code, s, lanes = self.code, self.s, self.lanes
        number, made = first + pair, self.scratch + s["v_offset"]
        x = s["x"] + number // s["pairs"] * s["x_image"] + channel * s["x_channel"]
        if self.repeats:
            z = (s["depth_sources"] + plane).integer()
            self.columns(x + code.maximum(z, 0) * s["x_plane"], number % s["pairs"], z >= 0)
        else:
            z = plane - s["pad_depth"]
            exists = code.every(z >= 0, z < s["depth"])
            self.columns(x + z * s["x_plane"], code.choose(exists, number % s["pairs"], s["tiles"]))
        self.rows(made)
        ins, all_ = s["in_channels"], s["slices"] * block
        place = channel // ins * ins * all_ * self.points()
        place = place + ((channel % ins * s["slices"] + plane) * block + pair) * (2 * lanes)
        with code.loop(0, self.frequencies()) as f:
            store(v + place, lanes, load(made, lanes, f.index), f.index * ins * all_)

    def product(self, task: Int) -> None:
        """Generate the products of one vector of frequencies of one group of a block."""
        self.multiply(task, self.s["v"], self.s["m"], self.s["block_pairs"])

    def multiply(self, task: Int, v: Pointer, m: Pointer, block: Int) -> None:
        """Generate the products of a vector of frequencies of one group."""
        s = self.s
        channels = s["in_channels"], s["out_channels"]
        size = Sizes(*channels, block, s["slices"], s["out_depth"], s["taps"], s["dilation"], self.frequencies())
        assert self.products is not None  # noqa: S101 - generated only where channels are summed
        self.products.frequency(self.code, size, task, s["spectrum"], v, m)

    def back(self, task: Int) -> None:
        """Generate the inverse transform of one pair of tiles of one slice and output channel of a block."""
        s = self.s
        self.leave(s["m"], s["first_pair"], s["block_pairs"], task)

    def leave(self, m: Pointer, first: Int, block: Int, task: Int) -> None:
        """Generate the inverse transform of a pair of tiles of a block, from the products to the image."""
        s = self.s
        number, rest = first + task % block, task // block
        plane, channel = rest % s["out_depth"], rest // s["out_depth"]
        place = m + task * self.points()
        self.rows_back(lambda at: load(place + at, self.lanes))
        y = s["y"] + number // s["pairs"] * s["y_image"] + channel * s["y_channel"] + plane * s["y_plane"]
        self.columns_back(y, number % s["pairs"], s["bias"] + channel)

    def together(self, task: Int) -> None:
        """Generate all stages of a block of pairs on one thread, so that no data move between processor caches."""
        code, s = self.code, self.s
        first = task * s["block_pairs"]
        block = code.minimum(s["block_pairs"], s["all_pairs"] - first)
        v = self.scratch + s["meet_offset"]
        ins, outs = s["groups"] * s["in_channels"], s["groups"] * s["out_channels"]
        m = v + ins * s["slices"] * s["block_pairs"] * self.points()
        with code.loop(0, ins) as channel, code.loop(0, s["slices"]) as plane, code.loop(0, block) as pair:
            self.enter(v, first, block, pair.index, plane.index, channel.index)
        with code.loop(0, s["groups"] * self.frequencies()) as frequency:
            self.multiply(frequency.index, v, m, block)
        with code.loop(0, outs * s["out_depth"] * block) as made:
            self.leave(m, first, block, made.index)

    def frequencies(self) -> Number:
        """Return the number of complex vectors of a tile."""
        return self.s["rows"] * self.s["columns"] // self.lanes

    def points(self) -> Number:
        """Return the number of real numbers in a complex tile."""
        return self.s["rows"] * self.s["columns"] * 2

    def table(self, side: int) -> Pointer:
        """Return the table of the addresses of a tile's rows."""
        place: Pointer = (self.scratch + self.s["table_offset"]).cast(I64) + self.s["rows"] * side
        return place

    def corner(self, tile: Int) -> tuple[Int, Int]:
        """Return the row and the column of the first output of a tile."""
        s = self.s
        return tile // s["tiles_across"] * s["step_rows"], tile % s["tiles_across"] * s["step_columns"]

    def edge(self, side: Number) -> Pointer:
        """Return a buffer for rows partly outside a signal, inputs (0 to 3) or outputs (4, 5), or a dummy row (6)."""
        place: Pointer = self.scratch + self.s["edge_offset"] + self.s["columns"] * side
        return place

    def columns(self, x: Pointer, pair: Int, exists: ir.Value | None = None, *, repeats: bool | None = None) -> None:
        """Generate the transform of both tiles of a channel down their columns to Z.

        Args:
            x: the plane of the channel.
            pair: number of the pair of tiles.
            exists: whether the plane is in the volume, where padding is read from tables; None for always.
            repeats: whether padding is read from tables; None for the layer's own.
        """
        code, s = self.code, self.s
        if self.repeats if repeats is None else repeats:
            lefts = [self.read_padded(x, pair * 2 + side, side, exists) for side in range(2)]
            width = s["columns"]
        else:
            lefts = [self.read_from(x, pair * 2 + side, side) for side in range(2)]
            width = code.choose(s["turned"] >= 1, s["columns"], s["width"])
        with code.loop(0, s["columns"], self.lanes) as column:
            z = self.scratch + column.index * s["rows"] * 2
            bounds = []
            for left in lefts:  # the lanes inside the image
                begin = left + column.index
                bounds += [0 - begin, width - begin]
            code.call(
                self.kernels.gather,
                *(z, self.table(0), self.table(1), column.index * itemsize(z.element), *bounds),
                *((s["column_passes"] + 1).integer(), s["column_rotations"]),
            )
            self.run(self.kernels.forward, z, "column", 1, s["column_count"])

    def read_from(self, x: Pointer, tile: Int, side: int) -> Int:
        """Store the addresses of a tile's rows in its table, and return the image column of its first column.

        Rows outside the image, and all rows of a tile that does not exist, are zeros.
        """
        code, s = self.code, self.s
        row, column = self.corner(tile)
        top, left = row - s["pad_height"], column - s["pad_width"]
        real, turned = tile < s["tiles"], s["turned"] >= 1
        with code.loop(0, s["rows"]) as at:
            start = (row + at.index) * s["columns"] - s["pad_width"]  # of a signal
            number = top + at.index
            inside = code.choose(turned, start + s["columns"], number + 1) >= 1
            before_end = code.choose(turned, start, number) < code.choose(turned, s["width"], s["height"])
            place = code.choose(turned, x + start, x + number * s["x_row"] + left)
            place = code.choose(code.every(real, inside, before_end), place, s["zeros"])
            (self.table(side) + at.index).store(code.ir.ptrtoint(place.value, I64))
            cut = code.ir.or_(start < 0, s["width"] < start + s["columns"])
            with code.when(code.every(turned, real, inside, before_end, cut)):
                edge = self.edge(side * 2 + code.choose(start < 0, 0, 1))
                self.copy(x + start, edge, 0 - start, s["width"] - start)
                (self.table(side) + at.index).store(code.ir.ptrtoint(edge.value, I64))
        begin: Int = code.choose(turned, 0, left)
        return begin

    def read_padded(self, x: Pointer, tile: Int, side: int, exists: ir.Value | None) -> Int:
        """Store the addresses of a tile's rows in its table, with padding from tables; return 0, the first column.

        Rows partly or wholly in the padding are copied to V, which is free until the second axis is transformed. Rows
        beyond the padding, which no output reads, are zeros.
        """
        code, s = self.code, self.s
        row, column = self.corner(tile)
        real, turned = tile < s["tiles"], s["turned"] >= 1
        with code.loop(0, s["rows"]) as at:
            line = row + at.index  # of the padded image
            start = code.choose(turned, line * s["columns"], column)  # in the padded row
            needed = code.choose(turned, start, line) < code.choose(turned, s["padded_width"], s["padded_height"])
            with code.ir.if_else(code.every(real, needed)) as (there, beyond):
                with there:
                    number = (s["height_sources"] + code.choose(turned, 0, line)).integer()
                    inside = number >= 0 if exists is None else code.every(exists, number >= 0)
                    source = x + code.maximum(number, 0) * s["x_row"]
                    begin = start - s["pad_width"]
                    whole = code.every(inside, begin >= 0, begin + s["columns"] <= s["width"])
                    goal = self.scratch + s["v_offset"] + (at.index + s["rows"] * side) * s["columns"]
                    with code.when(code.ir.not_(whole)):
                        self.copy_padded(source, goal, begin, inside)
                    place = code.choose(whole, source + begin, goal)
                    (self.table(side) + at.index).store(code.ir.ptrtoint(place.value, I64))
                with beyond:
                    (self.table(side) + at.index).store(code.ir.ptrtoint(s["zeros"].value, I64))
        return code.integer(0)

    def copy_padded(self, source: Pointer, goal: Pointer, begin: Int, inside: ir.Value) -> None:
        """Copy a row of a tile that begins at a column of the image, with what the padding repeats elsewhere."""
        code, s = self.code, self.s
        low = code.minimum(code.maximum(0 - begin, 0), s["columns"])
        high = code.choose(inside, code.maximum(code.minimum(s["width"] - begin, s["columns"]), low), low)
        self.copy(source + begin, goal, low, high)
        for first, last in ((code.integer(0), low), (high, s["columns"])):
            with code.loop(first, last) as t:
                position = code.minimum(begin + t.index, s["padded_width"] - s["pad_width"] - 1)
                at = source_of_column(code, s, position)
                chosen = code.choose(code.every(inside, at >= 0), source + code.maximum(at, 0), s["outside"])
                (goal + t.index).store(chosen.load())

    def copy(self, source: Pointer, goal: Pointer, low: Number, high: Number) -> None:
        """Copy a row of a tile from position `low` to before `high`, with zeros elsewhere."""
        code, lanes = self.code, self.lanes
        with code.loop(0, self.s["columns"], lanes) as column:
            mask = code.lanes_between(low - column.index, high - column.index, lanes)
            (goal + column.index).store((source + column.index).masked_vector(lanes, mask))

    def write_to(self, y: Pointer, tile: Int, side: int) -> Int:
        """Store the addresses of a tile's output rows in its table, and return its number of columns.

        Rows outside the image are written to a dummy row; the last row of a signal may have to be cut.
        """
        code, s = self.code, self.s
        row, column = self.corner(tile)
        real, turned = tile < s["tiles"], s["turned"] >= 1
        rows = code.minimum(s["step_rows"], s["out_height"] - row)
        pitch = code.choose(turned, s["columns"], s["y_row"])
        with code.loop(0, s["rows"]) as at:
            begin = (row + at.index) * pitch
            cut = code.every(turned, s["out_width"] < begin + s["columns"])
            place = code.choose(cut, self.edge(4 + side), y + begin + column)
            place = code.choose(code.every(real, at.index < rows), place, self.edge(6))
            (self.table(side) + at.index).store(code.ir.ptrtoint(place.value, I64))
        columns = code.choose(turned, s["columns"], code.minimum(s["step_columns"], s["out_width"] - column))
        written: Int = code.choose(real, columns, 0)
        return written

    def finish_signal(self, y: Pointer, tile: Int, side: int) -> None:
        """Write the existing part of the last row of a signal's outputs, if the row lies in this tile."""
        code, s, lanes = self.code, self.s, self.lanes
        row, _ = self.corner(tile)
        last, rest = s["out_width"] // s["columns"], s["out_width"] % s["columns"]
        here = code.every(s["turned"] >= 1, tile < s["tiles"], row <= last, last < row + s["step_rows"])
        with code.when(here), code.loop(0, rest, lanes) as column:
            value = (self.edge(4 + side) + column.index).vector(lanes)
            goal = y + last * s["columns"] + column.index
            goal.masked_store(value, code.lanes_below(rest - column.index, lanes))

    def run(self, functions: dict[int, FunctionBuilder], z: Pointer, axis: str, begin: Number, end: Number) -> None:
        """Generate some passes of an axis, forward or inverse."""
        code, s = self.code, self.s
        back = functions is self.kernels.back
        with code.loop(begin, end) as number:
            at = begin + (end - 1) - number.index if back else number.index
            row = s[f"{axis}_passes"] + at * PASS_FIELDS
            radix, distance, blocks, start = ((row + field).integer() for field in range(PASS_FIELDS))
            for known, function in functions.items():
                with code.when(radix.equals(known)):
                    code.call(function, z, distance, blocks, s[f"{axis}_rotations"] + start)

    def rows(self, v: Pointer) -> None:
        """Generate the transposition of Z by blocks and the transform along its rows, to V."""
        code, s, lanes = self.code, self.s, self.lanes
        with code.loop(0, s["rows"], lanes) as row:
            goal = v + row.index * s["columns"] * 2
            with code.loop(0, s["columns"], lanes) as column:
                source = self.scratch + (column.index * s["rows"] + row.index * lanes) * 2
                code.call(self.kernels.block, source, goal + column.index * (2 * lanes))
            self.turn(goal, row.index, conjugate=False)
            self.run(self.kernels.forward, goal, "row", 0, s["row_count"])

    def rows_back(self, value: Callable[[Number], Complex]) -> None:
        """Generate the inverse transform, along rows, of the vectors that `value` returns for positions of V, to Z."""
        code, s, lanes = self.code, self.s, self.lanes
        m = self.scratch + s["m_offset"]
        with code.loop(0, s["rows"], lanes) as row:
            with code.loop(0, s["columns"]) as column:
                at = row.index * s["columns"] * 2 + column.index * (2 * lanes)
                store(m, lanes, value(at), column.index)
            self.run(self.kernels.back, m, "row", 0, s["row_count"])
            self.turn(m, row.index, conjugate=True)
            with code.loop(0, s["columns"], lanes) as column:
                goal = self.scratch + (column.index * s["rows"] + row.index * lanes) * 2
                code.call(self.kernels.block, m + column.index * (2 * lanes), goal)

    def turn(self, z: Pointer, row: Int, *, conjugate: bool) -> None:
        """Generate the rotations between the axes of a signal."""
        code, s, lanes = self.code, self.s, self.lanes
        factors = s["between"] + row * s["columns"] * 2
        with code.when(s["turned"] >= 1), code.loop(0, s["columns"]) as column:
            value, factor = (load(place, lanes, column.index) for place in (z, factors))
            store(z, lanes, multiply(code, value, factor, conjugate=conjugate), column.index)

    def columns_back(self, y: Pointer, pair: Int, bias: Pointer) -> None:
        """Generate the inverse transform of Z down its columns, to the rows of both tiles."""
        code, s = self.code, self.s
        widths = [self.write_to(y, pair * 2 + side, side) for side in range(2)]
        with code.loop(0, code.maximum(*widths), self.lanes) as column:
            z = self.scratch + column.index * s["rows"] * 2
            self.run(self.kernels.back, z, "column", 1, s["column_count"])
            left = [width - column.index for width in widths]
            first = (s["column_passes"] + 1).integer()
            code.call(
                self.kernels.scatter,
                *(z, self.table(0), self.table(1), column.index * itemsize(z.element), *left),
                *(first, s["column_rotations"], bias, s["scale"]),
            )
        for side in range(2):
            self.finish_signal(y, pair * 2 + side, side)
