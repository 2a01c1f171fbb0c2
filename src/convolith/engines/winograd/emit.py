"""Generated code of the Winograd engine: transforms and products, vectorised over tiles.

Adjacent lanes are consecutive tiles, continuing over rows and images, so that images need no other layout. A block is a
few vectors of tiles; all its data stay in a second-level cache:

    inputs   every row of tiles is transformed down its columns into a strip, the strip is split into every m-th column,
             and transformed along its rows: V[point][vector][channel][lane]
    products M[point][output channel][vector] = sum over channels of U[point][..][channel] * V, in chunks
    outputs  the inverse along rows, merged into a strip, the inverse down columns, the bias, the image's rows

With many blocks, each thread computes whole blocks; with few, all threads first transform the inputs, and then share
the output channels too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from convolith.engines.elementwise import NO_TAIL, TAIL_ARGUMENTS, Tail, finish
from convolith.engines.winograd.transforms import TAPS, merge, split, transform_inputs, transform_outputs
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import I64, POINTER, FunctionBuilder, Int, Number, Pointer, itemsize, zero
from convolith.jit.conversions import STORED
from convolith.jit.denormals import flush_denormals, restore_control
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("x", "u", "bias", "y", "scratch", "v", "first", "last", "zeros", "counters"),
    *("stage", "tasks", "in_channels", "out_channels", "height", "width", "out_height", "out_width"),
    *("pad_height", "pad_width", "x_image", "x_channel", "x_row", "y_image", "y_channel"),
    *("tile_rows", "tile_columns", "tiles", "vectors", "blocks", "block_vectors", "channel_chunk", "channel_chunks"),
    *("panels", "panel_block", "panel_blocks", "strip_pitch", "edge_pitch", "v_plane", "v_block", "m_plane"),
    *("edge_offset", "out_offset", "m_offset", "v_offset", "thread_elements", *TAIL_ARGUMENTS),
    *("taps", "depth", "out_depth", "stride_depth", "dilation_depth", "pad_depth", "x_plane", "y_plane"),
)
"""Arguments of a region."""
POINTERS = ("x", "u", "bias", "y", "scratch", "v", "zeros")
WHOLE, INPUTS, PRODUCTS = range(3)
"""Stages of a region: a whole block at once, or its two halves separately."""
SUMMED_AT_ONCE = 64
"""Number of channels that are summed from zero before they are added to the other sums: shorter sums round less."""
TOGETHER = 4
"""Number of channels that are unrolled together, so that the loop itself costs nothing."""
AHEAD_BYTES = 4096
"""Prefetch distance of weights, to a second-level cache: with few tiles, weights always come from memory."""
LINE_BYTES = 64
VECTORS = 3
"""Number of vectors of tiles in the widest register tile."""


class WinogradRecipe(NamedTuple):
    """Parameters that the code is specialised on: F(outputs x outputs, 3x3) of float32 or float64."""

    outputs: int
    dtype: str
    tail: Tail = NO_TAIL
    """Elementwise work on the sums."""
    deep: bool = False
    """Whether images are planes of volumes, and each tap along the depth of a channel counts as a channel."""

    @property
    def element(self) -> ir.Type:
        """Type of all numbers."""
        return STORED[self.dtype]

    def lanes(self, target: Target) -> int:
        """Return the number of tiles in a vector."""
        return target.lanes(itemsize(self.element))

    @property
    def points(self) -> int:
        """Number of points of the transform along one axis."""
        return self.outputs + TAPS - 1


PAIR = 2
"""Number of panels that are packed together for each point: the layout of U depends on channels alone."""


def panel_rows(target: Target) -> int:
    """Return the output channels of a packed panel: with three vectors and a row of inputs, they fill the registers."""
    return 8 if target.vector_registers > 16 else 4


def write(module: ir.Module, target: Target, recipe: WinogradRecipe) -> None:
    """Generate the region: run a stage's tasks until none remains."""
    lanes, element = recipe.lanes(target), recipe.element
    products = {n: _products(module, target, recipe, n) for n in range(1, VECTORS + 1)}
    constants = dict.fromkeys(TAIL_ARGUMENTS[1:], element)
    code, s = ARGUMENTS.begin(module, dict.fromkeys(POINTERS, element) | constants | {"first": I64, "last": I64})
    before = flush_denormals(code, target)
    scratch = s["scratch"] + code.fetch_add(s["counters"] + 8) * s["thread_elements"]
    with code.loop(0, s["edge_offset"] + s["edge_pitch"] * (2 * recipe.points), lanes) as t:
        (scratch + t.index).store(zero(ir.VectorType(element, lanes)))
    work = _Block(code, recipe, lanes, panel_rows(target), s, scratch, products)
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        with code.when(s["stage"].equals(WHOLE)):
            v = scratch + s["v_offset"]
            work.inputs(task, v, 0, s["in_channels"])
            with code.loop(0, s["panel_blocks"]) as block:
                work.outputs(task, v, block.index)
        with code.when(s["stage"].equals(INPUTS)):
            chunk, block = task % s["channel_chunks"], task // s["channel_chunks"]
            start = chunk * s["channel_chunk"]
            work.inputs(
                block, s["v"] + block * s["v_block"], start, code.minimum(start + s["channel_chunk"], s["in_channels"])
            )
        with code.when(s["stage"].equals(PRODUCTS)):
            block = task % s["blocks"]
            work.outputs(block, s["v"] + block * s["v_block"], task // s["blocks"])
    restore_control(code, before)
    code.finish()


def _products(module: ir.Module, target: Target, recipe: WinogradRecipe, vectors: int) -> FunctionBuilder:
    """Generate one or two panels of output channels by some vectors of tiles: M = U V over a chunk of channels.

    Arguments: U, V, M, channels, whether M is to be added to, and the pitches of panels of U, vectors of V, rows of M.
    """
    lanes, rows = recipe.lanes(target), panel_rows(target)
    panels = 2 if vectors == 1 else 1
    code = FunctionBuilder(module, f"products{vectors}", [POINTER] * 3 + [I64] * 5, internal=True)
    u, v, m = (code.argument(n, recipe.element) for n in range(3))
    channels, adding, u_pitch, v_pitch, m_pitch = (code.argument(n) for n in range(3, 8))
    kind = ir.VectorType(recipe.element, lanes)
    made: Sequence[ir.Value] = [zero(kind)] * (panels * rows * vectors)
    whole = channels // TOGETHER * TOGETHER
    for start, stop, together in ((0, whole, TOGETHER), (whole, channels, 1)):
        with code.loop(start, stop, together, values=made) as channel:
            sums = list(channel.values)
            for n in range(together):
                weights = [u + u_pitch * p + (channel.index + n) * rows for p in range(panels)]
                taken = [(v + v_pitch * q + (channel.index + n) * lanes).vector(lanes) for q in range(vectors)]
                if n * rows * itemsize(recipe.element) % LINE_BYTES == 0:
                    for place in weights:
                        (place + AHEAD_BYTES // itemsize(recipe.element)).prefetch(level=2)
                for r in range(panels * rows):
                    weight = code.splat((weights[r // rows] + r % rows).load(), lanes)
                    for q in range(vectors):
                        sums[r * vectors + q] = code.multiply_add(taken[q], weight, sums[r * vectors + q])
            channel.carry(sums)
        made = channel.values
    with code.ir.if_else(adding >= 1) as (again, anew):
        for branch, extend in ((again, True), (anew, False)):
            with branch:
                for at, value in enumerate(made):
                    place = m + m_pitch * (at // vectors) + (at % vectors) * lanes
                    place.store(code.ir.fadd(value, place.vector(lanes)) if extend else value)
    code.finish()
    return code


class _Block(NamedTuple):
    """Generator of the region's code for a block of tiles."""

    code: FunctionBuilder
    recipe: WinogradRecipe
    lanes: int
    rows: int
    s: dict[str, Any]
    scratch: Pointer
    products: dict[int, FunctionBuilder]

    def span(self, block: Int) -> tuple[Int, Int, Int, Int]:
        """Return a block's first vector, number of vectors, first tile, and the tile after its last."""
        s = self.s
        begin = s["vectors"] * block // s["blocks"]
        count = s["vectors"] * (block + 1) // s["blocks"] - begin
        tile = begin * self.lanes
        return begin, count, tile, self.code.minimum((begin + count) * self.lanes, s["tiles"])

    def strip(self, point: int) -> Pointer:
        """Return a row of the input strip, which follows a vector of zeros."""
        place: Pointer = self.scratch + (self.s["strip_pitch"] * point + self.lanes)
        return place

    def strip_back(self, point: int) -> Pointer:
        """Return a row of the output strip; the input strip keeps its zeros."""
        place: Pointer = self.scratch + (self.s["out_offset"] + self.s["strip_pitch"] * point)
        return place

    def edge(self, point: int, side: int) -> Pointer:
        """Return the columns outside a row of tiles: to the left of first tiles, or to the right of last ones."""
        place: Pointer = self.scratch + (self.s["edge_offset"] + self.s["edge_pitch"] * (2 * point + side))
        return place

    def inputs(self, block: Int, v: Pointer, start: Number, stop: Number) -> None:
        """Generate the transform of some channels of a block."""
        code, s = self.code, self.s
        begin, count, tile, end = self.span(block)
        top = tile // s["tile_columns"]
        bottom = (end - 1) // s["tile_columns"] + 1
        with code.loop(start, stop) as channel:
            with code.loop(top, bottom) as row:
                self.columns_down(row.index, top, tile, end, channel.index)
            with code.loop(0, count) as vector:
                at = (begin + vector.index) * self.lanes
                goal = v + (vector.index * s["in_channels"] + channel.index) * self.lanes
                self.along_rows(at, at - top * s["tile_columns"], goal)

    def columns_down(self, row: Int, top: Int, tile: Int, end: Int, channel: Int) -> None:
        """Generate the transform of a row of tiles down the columns that the block needs, to the strip."""
        code, s, m, lanes = self.code, self.s, self.recipe.outputs, self.lanes
        image, across = row // s["tile_rows"], row % s["tile_rows"]
        x, present = self.plane_of(image, channel)
        first = row * s["tile_columns"]
        shift = 1 - s["pad_width"]  # the strip begins with the second input of the first tile
        lowest = code.maximum((code.maximum(tile - first, 0)) * m - 1, code.maximum(0 - shift, 0))
        highest = code.minimum(
            code.minimum(end - first, s["tile_columns"]) * m + 1,
            code.minimum(s["tile_columns"] * m, s["width"] - shift),
        )
        sources, exist = [], []
        for point in range(self.recipe.points):
            number = across * m - s["pad_height"] + point
            exists = code.every(number >= 0, number < s["height"], *present)
            exist.append(exists)
            sources.append(code.choose(exists, x + number * s["x_row"] + shift, s["zeros"]))
        goals = [self.strip(point) + (row - top) * s["tile_columns"] * m for point in range(self.recipe.points)]

        def deliver(column: Number, values: list[ir.Value]) -> None:
            for goal, value in zip(goals, transform_inputs(code, m, values), strict=True):
                (goal + column).store(value)

        whole = lowest + (highest - lowest) // lanes * lanes
        whole = code.choose(highest >= lowest, whole, lowest)
        with code.loop(lowest, whole, lanes) as column:
            for source in sources[1 : m + 1]:  # the next channel's rows; tiles share the outer two
                (source + s["x_channel"] + column.index).prefetch()
            deliver(column.index, [(source + column.index).vector(lanes) for source in sources])
        with code.when(whole < highest):
            mask = code.lanes_below(highest - whole, lanes)
            deliver(whole, [(source + whole).masked_vector(lanes, mask) for source in sources])
        for side, column in enumerate((code.integer(0) - s["pad_width"], s["tile_columns"] * m + shift)):
            inside = code.every(code.integer(column) >= 0, code.integer(column) < s["width"])
            with code.when(inside):
                values = []
                for exists, source in zip(exist, sources, strict=True):
                    values.append(code.choose(exists, source + (column - shift), s["zeros"]).vector(1))
                index = (row - top) * s["tile_columns"] + (0 if side == 0 else s["tile_columns"] - 1)
                for point, value in enumerate(transform_inputs(code, m, values)):
                    (self.edge(point, side) + index).store(value)

    def plane_of(self, image: Int, channel: Int) -> tuple[Pointer, list[ir.Value]]:
        """Return the start of a channel of an image, and conditions under which it exists."""
        code, s = self.code, self.s
        if not self.recipe.deep:
            return s["x"] + image * s["x_image"] + channel * s["x_channel"], []
        volume, out_plane = image // s["out_depth"], image % s["out_depth"]
        plane = out_plane * s["stride_depth"] + channel % s["taps"] * s["dilation_depth"] - s["pad_depth"]
        x = s["x"] + volume * s["x_image"] + channel // s["taps"] * s["x_channel"] + plane * s["x_plane"]
        return x, [code.integer(plane).below(s["depth"])]

    def results_of(self, image: Int, channel: Int) -> Pointer:
        """Return the start of a channel of the results of an image."""
        s = self.s
        if not self.recipe.deep:
            place: Pointer = s["y"] + image * s["y_image"] + channel * s["y_channel"]
            return place
        volume, plane = image // s["out_depth"], image % s["out_depth"]
        start: Pointer = s["y"] + volume * s["y_image"] + plane * s["y_plane"] + channel * s["y_channel"]
        return start

    def along_rows(self, tile: Int, offset: Number, goal: Pointer) -> None:
        """Generate the transform of a vector of tiles along the rows of the strip, to V."""
        code, s, m, lanes = self.code, self.s, self.recipe.outputs, self.lanes
        masks = [self.mask(s[name], tile) for name in ("first", "last")]
        for point in range(self.recipe.points):
            here = self.strip(point) + offset * m
            middle = split(code, [(here + lanes * e).vector(lanes) for e in range(m)])
            before, after = (here - lanes).vector(lanes), (here + lanes * m).vector(lanes)
            left = code.shuffle(before, middle[-1], range(lanes - 1, 2 * lanes - 1))
            right = code.shuffle(middle[0], after, range(1, lanes + 1))
            ends = [(self.edge(point, side) + offset).vector(lanes) for side in range(2)]
            left, right = (code.ir.select(*pair) for pair in zip(masks, ends, (left, right), strict=True))
            for other, value in enumerate(transform_inputs(code, m, [left, *middle, right])):
                (goal + s["v_plane"] * (point * self.recipe.points + other)).store(value)

    def mask(self, table: Pointer, tile: Int) -> ir.Value:
        """Load a vector of 32-bit flags of tiles as a mask."""
        flags = (table.cast(ir.IntType(32)) + tile).vector(self.lanes)
        return self.code.ir.icmp_signed("!=", flags, zero(flags.type))

    def outputs(self, block: Int, v: Pointer, panel_block: Int) -> None:
        """Generate the products of a block with a block of panels, and their outputs."""
        code, s, points = self.code, self.s, self.recipe.points**2
        _, count, tile, end = self.span(block)
        m = self.scratch + s["m_offset"]
        panels = code.minimum(s["panels"] - panel_block * s["panel_block"], s["panel_block"])
        panel = s["in_channels"] * self.rows
        with code.loop(0, points) as point:
            u = s["u"] + (panel_block * s["panel_block"] * points + point.index * PAIR) * panel
            self.multiply(u, v + point.index * s["v_plane"], m + point.index * s["m_plane"], count, panels)
        first = panel_block * s["panel_block"] * self.rows
        last = code.minimum(first + panels * self.rows, s["out_channels"])
        with code.loop(first, last) as channel:
            self.strip_out(m + (channel.index - first) * s["block_vectors"] * self.lanes, count)
            self.rows_out(tile, end, channel.index)

    def multiply(self, u: Pointer, v: Pointer, m: Pointer, count: Int, panels: Int) -> None:
        """Generate the products of one point: vectors by threes (the rest by twos), panels, chunks of channels."""
        code, s, lanes = self.code, self.s, self.lanes
        v_pitch, u_pitch = s["in_channels"] * lanes, s["in_channels"] * self.rows
        m_pitch = s["block_vectors"] * lanes
        threes = code.choose((count % 3).equals(1), code.maximum(count // 3 - 1, 0), count // 3)
        done: Number = 0
        for number in (3, 2, 1):
            times = threes if number == 3 else (count - done) // number
            step = 2 if number == 1 else 1
            with (
                code.loop(0, times) as group,
                code.loop(0, panels, step) as panel,
                code.loop(0, s["in_channels"], SUMMED_AT_ONCE) as chunk,
            ):
                channels = code.minimum(s["in_channels"] - chunk.index, SUMMED_AT_ONCE)
                vector = group.index * number + done
                pair, second = panel.index // PAIR, panel.index % PAIR
                code.call(
                    self.products[number],
                    u + (pair * (PAIR * self.recipe.points**2) + second) * u_pitch + chunk.index * self.rows,
                    v + vector * v_pitch + chunk.index * lanes,
                    m + panel.index * self.rows * m_pitch + vector * lanes,
                    *(channels, chunk.index, u_pitch, v_pitch, m_pitch),
                )
            done = times * number + done

    def strip_out(self, m: Pointer, count: Int) -> None:
        """Generate the inverse transform along rows of vectors of tiles, merged into the strip."""
        code, s, outputs, lanes = self.code, self.s, self.recipe.outputs, self.lanes
        with code.loop(0, count) as vector:
            for point in range(self.recipe.points):
                here = m + vector.index * lanes + s["m_plane"] * (point * self.recipe.points)
                taken = [(here + s["m_plane"] * other).vector(lanes) for other in range(self.recipe.points)]
                for e, value in enumerate(merge(code, transform_outputs(code, outputs, taken))):
                    (self.strip_back(point) + (vector.index * (outputs * lanes) + e * lanes)).store(value)

    def rows_out(self, tile: Int, end: Int, channel: Int) -> None:
        """Generate the inverse transform down columns, the bias, and the stores to the image's rows."""
        code, s, outputs, lanes = self.code, self.s, self.recipe.outputs, self.lanes
        bias = code.splat((s["bias"] + channel).load(), lanes)
        tail, names = self.recipe.tail, TAIL_ARGUMENTS[1 : 1 + self.recipe.tail.constants]
        constants = [code.splat((s[name] + channel).load(), lanes) for name in names]
        with code.loop(tile // s["tile_columns"], (end - 1) // s["tile_columns"] + 1) as row:
            first = row.index * s["tile_columns"]
            image, across = row.index // s["tile_rows"], row.index % s["tile_rows"]
            begin, stop = code.maximum(tile, first), code.minimum(end, first + s["tile_columns"])
            left = (begin - first) * outputs
            columns = code.minimum((stop - first) * outputs, s["out_width"]) - left
            rows = code.minimum(s["out_height"] - across * outputs, outputs)
            y = self.results_of(image, channel) + across * outputs * s["out_width"] + left
            strip = (begin - tile) * outputs

            def rows_at(column: Number, mask: ir.Value | None = None) -> list[tuple[Pointer, ir.Value]]:
                taken = [(self.strip_back(point) + strip + column).vector(lanes) for point in range(self.recipe.points)]
                values = transform_outputs(code, outputs, taken)
                made = []
                for r in reversed(range(outputs)):  # a row that does not exist is overwritten by the last that does
                    place = y + code.minimum(r, rows - 1) * s["out_width"] + column
                    made.append(
                        (place, finish(code, tail, code.ir.fadd(values[r], bias), residual(place, mask), constants))
                    )
                return made

            def residual(place: Pointer, mask: ir.Value | None) -> Callable[[], ir.Value]:
                def load() -> ir.Value:
                    there = place.moved(s["residual_shift"])
                    return there.vector(lanes) if mask is None else there.masked_vector(lanes, mask)

                return load

            with code.loop(0, code.choose(columns >= lanes, columns, 0), lanes) as column:
                for place, value in rows_at(code.minimum(column.index, columns - lanes)):
                    place.store(value)
                    (place + s["y_channel"]).prefetch(write=True)
            with code.when(columns < lanes):
                mask = code.lanes_below(columns, lanes)
                for place, value in rows_at(code.integer(0), mask):
                    place.masked_store(value, mask)
