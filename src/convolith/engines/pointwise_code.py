"""Writes the machine code of the pointwise engine: Y = K X where the positions, or the channels, lie side by side.

Where positions do, a task is a tile of up to three vectors of positions, and all or a part of the output channels.
Its inputs are packed while they are used for the first time: rows of X are pages apart, and every panel of output
channels reads them again. Positions that fill no vector are gathered, over all images, into tiles that are vectors of
output channels instead. Where channels lie side by side, all positions go that way, and nothing is packed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir

from convolith.engines.pointwise_tiles import (
    VECTORS,
    Recipe,
    channel_tile,
    panel_rows,
    write_channel_tile,
    write_position_tile,
)
from convolith.jit.build import I64, POINTER, Code, Int, Number, Pointer
from convolith.jit.control import flush_denormals, restore_control
from convolith.jit.target import Target

SLOTS = (
    *("x", "weight", "bias", "y", "scratch", "counters"),
    *("threads", "batch", "in_channels", "out_channels", "panels", "weight_group"),
    *("x_image", "x_channel", "x_depth", "x_row", "x_column", "y_image", "y_channel"),
    *("positions", "out_height", "out_width", "reading"),
    *("threes", "twos", "tiles", "splits", "tasks", "chunk"),
    *("rest", "rest_tiles", "rest_splits", "rest_tasks", "thread_elements"),
    *("block_positions",),
)
"""The arguments of a region, one 8-byte slot each: addresses, counts, strides in elements. Channels are per group."""
GATHERS, PACKS, IN_PLACE = range(3)
"""How X is read: gathered into a tile first, packed with its first use, or always where it is."""
COUNTER_SLOTS = 8
"""Of a counter: a cache line of its own."""
GATHERED_TOGETHER = 8
"""Positions of a row of a gathered tile that are copied without a loop."""


def write(module: ir.Module, target: Target, recipe: Recipe) -> None:
    """The region for positions side by side: every thread its own range of tiles, then what others have left."""
    code, s = _begin(module, recipe)
    before = flush_denormals(code, target)
    me = code.take(s["counters"])
    work = _Work(module, target, recipe, code, s, s["scratch"] + me * s["thread_elements"])
    work.forget()
    tiles = {n: work.position_tiles(n) for n in range(VECTORS, 0, -1)}
    with code.loop(0, s["threads"]) as turn:
        owner = (me + turn.index) % s["threads"]
        counter = s["counters"] + (owner + 2) * COUNTER_SLOTS
        with code.tasks(counter, s["tasks"] * (owner + 1) // s["threads"], s["chunk"]) as task:
            unit, split = task // s["splits"], task % s["splits"]
            tile = unit % s["tiles"]
            wide, middle = tile < s["threes"], tile < s["threes"] + s["twos"]
            conditions = {3: wide, 2: code.ir.and_(middle, code.ir.not_(wide)), 1: code.ir.not_(middle)}
            for vectors, condition in conditions.items():
                with code.when(condition):
                    work.tile(vectors, tiles[vectors], unit, tile, split)
    work.forget()
    with code.tasks(s["counters"] + COUNTER_SLOTS, s["rest_tasks"], 1) as task:
        work.rest(task // s["rest_splits"], task % s["rest_splits"])
    restore_control(code, before)
    code.finish()


def write_last(module: ir.Module, target: Target, recipe: Recipe) -> None:
    """The region for channels side by side: blocks of positions, all output channels of each."""
    code, s = _begin(module, recipe)
    before = flush_denormals(code, target)
    me = code.take(s["counters"])
    work = _Work(module, target, recipe, code, s, s["scratch"] + me * s["thread_elements"])
    with code.tasks(s["counters"] + COUNTER_SLOTS, s["tasks"], s["chunk"]) as task:
        work.positions_of_channels(task // s["splits"], task % s["splits"])
    restore_control(code, before)
    code.finish()


def _begin(module: ir.Module, recipe: Recipe) -> tuple[Code, dict[str, Any]]:
    code = Code(module, "region", [POINTER])
    kinds: dict[str, ir.Type] = dict.fromkeys(("x", "weight", "bias", "y", "scratch"), recipe.element)
    kinds["counters"] = I64
    values = code.slots(code.argument(0, I64), [kinds.get(name) for name in SLOTS])
    return code, dict(zip(SLOTS, values, strict=True))


class PositionTiles(NamedTuple):
    """The code for one number of vectors: packing, whole panels, the last panel."""

    packing: Code
    whole: Code
    last: Code


class Source(NamedTuple):
    """Inputs of some positions, and their pitches from position to position and from channel to channel."""

    x: Pointer
    pitch: Number
    channel: Number


class _Work:
    """What is written into a region for a task."""

    def __init__(
        self, module: ir.Module, target: Target, recipe: Recipe, code: Code, s: dict[str, Any], scratch: Pointer
    ) -> None:
        self.module, self.target, self.recipe, self.code, self.s = module, target, recipe, code, s
        self.lanes, self.rows = recipe.lanes(target), panel_rows(target)
        self.shape = channel_tile(target, self.lanes)
        self.outs = self.shape.vectors * self.lanes
        self.packed = scratch
        self.results = scratch + s["in_channels"] * (VECTORS * self.lanes)
        self.channel_tiles = {n: write_channel_tile(module, target, recipe, n) for n in self.shape.counts}
        self.seen, self.sources, self.goals = (
            Pointer(code, code.ir.alloca(I64, size=size), I64)
            for size in (1, VECTORS * self.lanes, self.shape.positions)
        )
        self.gather = _gather(module, recipe)

    def position_tiles(self, vectors: int) -> PositionTiles:
        """The code for some vectors of positions."""

        def made(rows: int, *, packs: bool = False) -> Code:
            return write_position_tile(self.module, self.target, self.recipe, vectors, rows, packs=packs)

        whole = made(self.rows)
        last = whole if self.recipe.last_rows == self.rows else made(self.recipe.last_rows)
        return PositionTiles(made(self.rows, packs=True), whole, last)

    def forget(self) -> None:
        """Nothing is packed."""
        self.seen.store(self.code.integer(-1).value)

    def source(self, position: Number) -> Number:
        """Where an output position's input lies in its image."""
        s = self.s
        column, rest = position % s["out_width"], position // s["out_width"]
        row, plane = rest % s["out_height"], rest // s["out_height"]
        return column * s["x_column"] + row * s["x_row"] + plane * s["x_depth"]

    def tile(self, vectors: int, tiles: PositionTiles, unit: Int, tile: Int, split: Int) -> None:
        """Some panels of output channels of a tile of positions."""
        code, s, lanes = self.code, self.s, self.lanes
        before = {3: 0, 2: s["threes"], 1: s["threes"] * 2 + s["twos"]}[vectors]
        begin = (tile * vectors + before) * lanes
        packed_last = (vectors - 1) * lanes
        last = code.minimum(begin + packed_last, s["positions"] - lanes) - begin
        image, group = unit // s["tiles"] % s["batch"], unit // s["tiles"] // s["batch"]
        x = s["x"] + image * s["x_image"] + group * s["in_channels"] * s["x_channel"]
        y = s["y"] + image * s["y_image"] + group * s["out_channels"] * s["y_channel"] + begin
        bias, weight = s["bias"] + group * s["out_channels"], s["weight"] + group * s["weight_group"]
        first, stop = s["panels"] * split // s["splits"], s["panels"] * (split + 1) // s["splits"]
        fresh = code.ir.icmp_signed("!=", self.seen.load(), unit.value)
        packs, in_place = code.every(fresh, s["reading"].equals(PACKS)), s["reading"].equals(IN_PLACE)

        def panel(tile: Code, number: Number, origin: Pointer, pitch: Number, origin_last: Number) -> None:
            code.call(
                tile,
                *(origin, weight + number * self.rows * s["in_channels"], bias + number * self.rows),
                *(y + number * self.rows * s["y_channel"], self.packed),
                *(s["in_channels"], pitch, s["y_channel"], origin_last, last),
            )

        with code.when(code.every(fresh, s["reading"].equals(GATHERS))):
            with code.loop(0, vectors * lanes) as lane:
                shift = code.choose(lane.index >= packed_last, last - packed_last, 0)
                (self.sources + lane.index).store(self.source(lane.index + begin + shift).value)
            self.gathered(x, vectors * lanes)
        with code.when(packs):
            panel(tiles.packing, first, x + begin, s["x_channel"], last)
        self.seen.store(unit.value)
        start = code.choose(packs, first + 1, first)
        source = (
            code.choose(in_place, x + begin, self.packed),
            code.choose(in_place, s["x_channel"], vectors * lanes),
            code.choose(in_place, last, packed_last),
        )
        ragged = self.recipe.last_rows < self.rows
        whole = s["panels"] - 1 if ragged else s["panels"]
        with code.loop(start, code.minimum(stop, whole)) as number:
            panel(tiles.whole, number.index, *source)
        if ragged:
            with code.when(stop.equals(s["panels"])):
                panel(tiles.last, whole, *source)

    def gathered(self, x: Pointer, count: Number) -> None:
        """Pack the positions of a tile whose places are in the table."""
        sizes = (count, self.s["in_channels"], self.s["x_channel"], count)
        self.code.call(self.gather, x, self.sources, self.packed, *sizes)

    def rest(self, unit: Int, split: Int) -> None:
        """Some output channels of a tile of positions that fill no vector."""
        code, s = self.code, self.s
        tile, group = unit % s["rest_tiles"], unit // s["rest_tiles"]
        begin = tile * self.shape.positions
        count = code.minimum(s["batch"] * s["rest"] - begin, self.shape.positions)
        with code.loop(0, count) as number:
            flat = begin + number.index
            image, position = flat // s["rest"], flat % s["rest"] + (s["positions"] - s["rest"])
            (self.sources + number.index).store((image * s["x_image"] + self.source(position)).value)
            (self.goals + number.index).store((image * s["y_image"] + position).value)
        x = s["x"] + group * s["in_channels"] * s["x_channel"]
        with code.when(code.ir.icmp_signed("!=", self.seen.load(), unit.value)):
            self.gathered(x, count)
        self.seen.store(unit.value)
        y = s["y"] + group * s["out_channels"] * s["y_channel"]
        blocks = (s["out_channels"] + (self.outs - 1)) // self.outs
        with code.loop(blocks * split // s["rest_splits"], blocks * (split + 1) // s["rest_splits"]) as block:
            first = block.index * self.outs
            self.multiply(group, block.index, Source(self.packed, 1, count), count, self.results, self.outs)
            with (
                code.loop(0, code.minimum(s["out_channels"] - first, self.outs)) as out,
                code.loop(0, count) as number,
            ):
                goal = y + (self.goals + number.index).integer() + (first + out.index) * s["y_channel"]
                goal.store((self.results + number.index * self.outs + out.index).load())

    def multiply(self, group: Number, block: Int, source: Source, count: Int, d: Pointer, d_pitch: Number) -> None:
        """A block of output channels of some positions: by as many at a time as there is code for."""
        code, s = self.code, self.s
        panel = s["in_channels"] * self.rows
        weight = s["weight"] + group * s["weight_group"] + block * self.shape.panels * panel
        bias = s["bias"] + group * s["out_channels"] + block * self.outs
        done: Number = 0
        for number, tile in self.channel_tiles.items():
            times = (count - done) // number
            with code.loop(0, times) as turn:
                place = turn.index * number + done
                code.call(
                    tile,
                    *(source.x + place * source.pitch, weight, bias, d + place * d_pitch),
                    *(s["in_channels"], source.pitch, source.channel, panel, d_pitch),
                )
            done = times * number + done

    def positions_of_channels(self, unit: Int, split: Int) -> None:
        """A block of positions whose channels lie side by side, and some of their output channels."""
        code, s = self.code, self.s
        begin, group = unit % s["tiles"] * s["block_positions"], unit // s["tiles"]
        count = code.minimum(s["positions"] - begin, s["block_positions"])
        x = s["x"] + begin * s["x_column"] + group * s["in_channels"]
        y = s["y"] + begin * s["y_image"] + group * s["out_channels"]
        blocks = (s["out_channels"] + (self.outs - 1)) // self.outs
        with code.loop(blocks * split // s["splits"], blocks * (split + 1) // s["splits"]) as block:
            first = block.index * self.outs
            there = code.minimum(s["out_channels"] - first, self.outs)
            partial = there < self.outs
            d = code.choose(partial, self.packed, y + first)
            d_pitch = code.choose(partial, self.outs, s["y_image"])
            self.multiply(group, block.index, Source(x, s["x_column"], 1), count, d, d_pitch)
            with code.when(partial), code.loop(0, count) as number, code.loop(0, there) as out:
                goal = y + number.index * s["y_image"] + first + out.index
                goal.store((self.packed + number.index * self.outs + out.index).load())


def _gather(module: ir.Module, recipe: Recipe) -> Code:
    """Copies positions of every channel side by side.

    Arguments: X, where the positions lie in it, where they go; how many, channels, and the pitches of channels.
    """
    code = Code(module, "gather", [POINTER] * 3 + [I64] * 4, internal=True)
    x, sources, goal = code.argument(0, recipe.element), code.argument(1, I64), code.argument(2, recipe.element)
    count, channels, x_pitch, pitch = (code.argument(n) for n in range(3, 7))
    together = GATHERED_TOGETHER
    with code.loop(0, channels) as channel:
        here, there = x + channel.index * x_pitch, goal + channel.index * pitch
        for start, stop, step in (
            (0, count // together * together, together),
            (count // together * together, count, 1),
        ):
            with code.loop(start, stop, step) as number:
                for n in range(step):
                    (there + number.index + n).store((here + (sources + number.index + n).integer()).load())
    code.finish()
    return code
