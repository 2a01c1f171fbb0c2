"""Generated code of the pointwise engine: Y = K X with contiguous positions or contiguous channels.

With contiguous positions, a task is a tile of up to three vectors of positions, and all or some output channels. Its
inputs are packed during their first use, since the rows of X lie on different pages and every panel of output channels
reads them again. Positions that do not fill a vector are gathered, over all images, into tiles of vectors of output
channels. With contiguous channels, all positions are computed in such tiles, and nothing is packed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

from llvmlite import ir

from convolith.engines.elementwise import TAIL_ARGUMENTS, finish, no_residual
from convolith.engines.pointwise.tiling import (
    VECTORS,
    Finisher,
    PointwiseRecipe,
    channel_tile,
    panel_rows,
    write_channel_tile,
    write_position_tile,
)
from convolith.jit.arguments import LINE, ArgumentBlock
from convolith.jit.builder import I64, POINTER, FunctionBuilder, Int, Number, Pointer
from convolith.jit.denormals import flush_denormals, restore_control
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("x", "weight", "bias", "y", "scratch", "counters"),
    *("threads", "batch", "in_channels", "out_channels", "panels", "weight_group"),
    *("x_image", "x_channel", "x_depth", "x_row", "x_column", "y_image", "y_channel"),
    *("positions", "out_height", "out_width", "reading"),
    *("threes", "twos", "tiles", "blocks", "block_tiles", "splits", "tasks", "chunk"),
    *("rest", "rest_tiles", "rest_splits", "rest_tasks", "thread_elements"),
    *("block_positions", "x_group", "channels", "taps", "offsets", *TAIL_ARGUMENTS),
)
"""Arguments of a region: addresses, counts, strides in elements. Channels are per group. With taps, `in_channels` is
`channels` times `taps`, the rows of the matrix, and `offsets` holds the distances of the taps from the first."""
POINTERS = ("x", "weight", "bias", "y", "scratch")
GATHERS, PACKS, IN_PLACE = range(3)
"""Ways to read X: gathered into a tile first, packed during its first use, or always in place."""
GATHERED_TOGETHER = 8
"""Number of positions in a row of a gathered tile that are copied without a loop."""


def write(module: ir.Module, target: Target, recipe: PointwiseRecipe) -> None:
    """Generate the region for contiguous positions: each thread computes its own tiles, then the remaining ones."""
    constants = dict.fromkeys(TAIL_ARGUMENTS[1:], recipe.element)
    code, s = ARGUMENTS.begin(module, dict.fromkeys(POINTERS, recipe.element) | constants | {"offsets": I64})
    before = flush_denormals(code, target)
    me = code.fetch_add(s["counters"])
    work = _Work(module, target, recipe, code, s, s["scratch"] + me * s["thread_elements"])
    work.forget()
    tiles = {n: work.position_tiles(n) for n in range(VECTORS, 0, -1)}
    with code.loop(0, s["threads"]) as turn:
        owner = (me + turn.index) % s["threads"]
        counter = s["counters"] + (owner + 2) * LINE
        first, end = (s["tasks"] * number // s["threads"] for number in (owner, owner + 1))
        with code.tasks(counter, end, s["chunk"], start=first) as task:
            work.block(tiles, task // s["splits"], task % s["splits"])
    work.forget()
    with code.tasks(s["counters"] + LINE, s["rest_tasks"], 1) as task:
        work.rest(task // s["rest_splits"], task % s["rest_splits"])
    restore_control(code, before)
    code.finish()


def write_last(module: ir.Module, target: Target, recipe: PointwiseRecipe) -> None:
    """Generate the region for contiguous channels: blocks of positions, all output channels of each."""
    code, s = ARGUMENTS.begin(module, dict.fromkeys(POINTERS, recipe.element))
    before = flush_denormals(code, target)
    me = code.fetch_add(s["counters"])
    work = _Work(module, target, recipe, code, s, s["scratch"] + me * s["thread_elements"])
    few = work.tiles_of(1)
    with code.tasks(s["counters"] + LINE, s["tasks"], s["chunk"]) as task:
        work.positions_of_channels(few, task // s["splits"], task % s["splits"])
    restore_control(code, before)
    code.finish()


class PositionTiles(NamedTuple):
    """Code for one number of vectors: packing, whole panels, the last panel."""

    packing: FunctionBuilder
    whole: FunctionBuilder
    last: FunctionBuilder


class Place(NamedTuple):
    """Start addresses of an image's inputs, weights, biases and outputs."""

    x: Pointer
    weight: Pointer
    bias: Pointer
    y: Pointer
    constants: list[Pointer]


class Source(NamedTuple):
    """Inputs of some positions, and their pitches from position to position and from channel to channel."""

    x: Pointer
    pitch: Number
    channel: Number


class _Work:
    """Generator of a region's code for a task."""

    def __init__(
        self,
        module: ir.Module,
        target: Target,
        recipe: PointwiseRecipe,
        code: FunctionBuilder,
        s: dict[str, Any],
        scratch: Pointer,
    ) -> None:
        self.module, self.target, self.recipe, self.code, self.s = module, target, recipe, code, s
        self.lanes, self.rows = recipe.lanes(target), panel_rows(target)
        self.shape = channel_tile(target, self.lanes)
        self.outs = self.shape.vectors * self.lanes
        self.packed = scratch
        self.results = scratch + s["in_channels"] * s["block_tiles"] * (VECTORS * self.lanes)
        self.channel_tiles = self.tiles_of(self.shape.vectors)
        self.seen, self.sources, self.goals = (
            Pointer(code, code.ir.alloca(I64, size=size), I64)
            for size in (1, VECTORS * self.lanes, self.shape.positions)
        )
        self.gather = _gather(module, recipe)
        vectors = range(1, VECTORS + 1) if recipe.taps else ()
        self.gather_vectors = {n: _gather_vectors(module, recipe, n, self.lanes) for n in vectors}

    def tiles_of(self, vectors: int) -> dict[int, FunctionBuilder]:
        """Return the code for some vectors of output channels, by the number of positions."""
        return {n: write_channel_tile(self.module, self.target, self.recipe, n, vectors) for n in self.shape.counts}

    def position_tiles(self, vectors: int) -> PositionTiles:
        """Return the code for some vectors of positions."""

        def made(rows: int, *, packs: bool = False) -> FunctionBuilder:
            return write_position_tile(self.module, self.target, self.recipe, vectors, rows, packs=packs)

        whole = made(self.rows)
        last = whole if self.recipe.last_rows == self.rows else made(self.recipe.last_rows)
        return PositionTiles(made(self.rows, packs=True), whole, last)

    def forget(self) -> None:
        """Mark the scratch as empty."""
        self.seen.store(self.code.integer(-1).value)

    def source(self, position: Number) -> Number:
        """Return the offset of an output position's input in its image."""
        s = self.s
        column, rest = position % s["out_width"], position // s["out_width"]
        row, plane = rest % s["out_height"], rest // s["out_height"]
        return column * s["x_column"] + row * s["x_row"] + plane * s["x_depth"]

    def block(self, tiles: dict[int, PositionTiles], unit: Int, split: Int) -> None:
        """Generate some panels of output channels of a block of tiles, each for all tiles before the next panel."""
        code, s = self.code, self.s
        number, rest = unit % s["blocks"], unit // s["blocks"]
        image, group = rest % s["batch"], rest // s["batch"]
        x = s["x"] + image * s["x_image"] + group * s["x_group"]
        y = s["y"] + image * s["y_image"] + group * s["out_channels"] * s["y_channel"]
        place = Place(
            x,
            s["weight"] + group * s["weight_group"],
            s["bias"] + group * s["out_channels"],
            y,
            self.constants(group * s["out_channels"]),
        )
        begin = number * s["block_tiles"]
        end = code.minimum(begin + s["block_tiles"], s["tiles"])
        first, stop = s["panels"] * split // s["splits"], s["panels"] * (split + 1) // s["splits"]
        fresh = code.ir.icmp_signed("!=", self.seen.load(), unit.value)
        self.seen.store(unit.value)
        packs = code.every(fresh, s["reading"].equals(PACKS))
        in_place = s["reading"].equals(IN_PLACE)

        def each(use: Callable[[int, PositionTiles, Int, Pointer], None]) -> None:
            """Call `use` for every tile of the block with its vectors, code, first position and packed inputs."""
            with code.loop(begin, end) as tile:
                packed = self.packed + (tile.index - begin) * (s["in_channels"] * (VECTORS * self.lanes))
                wide, middle = tile.index < s["threes"], tile.index < s["threes"] + s["twos"]
                conditions = {3: wide, 2: code.ir.and_(middle, code.ir.not_(wide)), 1: code.ir.not_(middle)}
                before = {3: 0, 2: s["threes"], 1: s["threes"] * 2 + s["twos"]}
                for vectors, condition in conditions.items():
                    with code.when(condition):
                        use(vectors, tiles[vectors], (tile.index * vectors + before[vectors]) * self.lanes, packed)

        def gather(vectors: int, _: PositionTiles, position: Int, packed: Pointer) -> None:
            self.gather_tile(vectors, x, position, packed)

        def pack(vectors: int, tile: PositionTiles, position: Int, packed: Pointer) -> None:
            self.panel(vectors, tile.packing, place, first, position, packed, code.integer(1).equals(1))

        with code.when(code.every(fresh, s["reading"].equals(GATHERS))):
            each(gather)
        with code.when(packs):
            each(pack)
        ragged = self.recipe.last_rows < self.rows
        whole = s["panels"] - 1 if ragged else s["panels"]
        with code.loop(code.choose(packs, first + 1, first), code.minimum(stop, whole)) as panel:
            each(lambda n, tile, at, packed: self.panel(n, tile.whole, place, panel.index, at, packed, in_place))
        if ragged:
            with code.when(stop.equals(s["panels"])):
                each(lambda n, tile, at, packed: self.panel(n, tile.last, place, whole, at, packed, in_place))

    def panel(
        self,
        vectors: int,
        tile: FunctionBuilder,
        place: Place,
        number: Number,
        position: Int,
        packed: Pointer,
        in_place: ir.Value,
    ) -> None:
        """Generate one panel of output channels of a tile of positions, whose inputs are in place or packed."""
        code, s, rows = self.code, self.s, self.rows
        last = self.last(vectors, position)
        code.call(
            tile,
            code.choose(in_place, place.x + position, packed),
            *(place.weight + number * rows * s["in_channels"], place.bias + number * rows),
            *(place.y + number * rows * s["y_channel"] + position, packed, s["in_channels"]),
            *(code.choose(in_place, s["x_channel"], vectors * self.lanes), s["y_channel"]),
            *(code.choose(in_place, last, (vectors - 1) * self.lanes), last, s["residual_shift"]),
            *(c + number * rows for c in place.constants),
        )

    def constants(self, channel: Number) -> list[Pointer]:
        """Return the addresses of the tail's constants of a channel."""
        return [self.s[name] + channel for name in TAIL_ARGUMENTS[1 : 1 + self.recipe.tail.constants]]

    def last(self, vectors: int, position: Int) -> Int:
        """Return the start of a tile's last vector, which may overlap the one before it, but stays inside the image."""
        here: Int = (
            self.code.minimum(position + (vectors - 1) * self.lanes, self.s["positions"] - self.lanes) - position
        )
        return here

    def gather_tile(self, vectors: int, x: Pointer, position: Int, packed: Pointer) -> None:
        """Pack a tile of positions that are not contiguous."""
        code, final = self.code, (vectors - 1) * self.lanes
        shift = self.last(vectors, position) - final
        with code.loop(0, vectors * self.lanes) as lane:
            moved = lane.index + position + code.choose(lane.index >= final, shift, 0)
            (self.sources + lane.index).store(self.source(moved).value)
        if self.recipe.taps:
            s = self.s
            rest = (s["channels"], s["x_channel"], s["offsets"], s["taps"], s["x_column"])
            code.call(self.gather_vectors[vectors], x, self.sources, packed, *rest)
        else:
            self.gathered(x, packed, vectors * self.lanes)

    def gathered(self, x: Pointer, packed: Pointer, count: Number) -> None:
        """Pack the positions of a tile whose offsets are in the table."""
        s = self.s
        rest = (s["channels"], s["offsets"], s["taps"]) if self.recipe.taps else (s["in_channels"],)
        self.code.call(self.gather, x, self.sources, packed, count, s["x_channel"], count, *rest)

    def rest(self, unit: Int, split: Int) -> None:
        """Generate some output channels of a tile of positions that do not fill a vector."""
        code, s = self.code, self.s
        tile, group = unit % s["rest_tiles"], unit // s["rest_tiles"]
        begin = tile * self.shape.positions
        count = code.minimum(s["batch"] * s["rest"] - begin, self.shape.positions)
        with code.loop(0, count) as number:
            flat = begin + number.index
            image, position = flat // s["rest"], flat % s["rest"] + (s["positions"] - s["rest"])
            (self.sources + number.index).store((image * s["x_image"] + self.source(position)).value)
            (self.goals + number.index).store((image * s["y_image"] + position).value)
        x = s["x"] + group * s["x_group"]
        with code.when(code.ir.icmp_signed("!=", self.seen.load(), unit.value)):
            self.gathered(x, self.packed, count)
        self.seen.store(unit.value)
        y = s["y"] + group * s["out_channels"] * s["y_channel"]
        vectors = bool(self.recipe.tail) and not self.recipe.tail.adds  # a residual lies channel by channel, as Y does
        blocks = (s["out_channels"] + (self.outs - 1)) // self.outs
        with code.loop(blocks * split // s["rest_splits"], blocks * (split + 1) // s["rest_splits"]) as block:
            first = block.index * self.outs
            source = Source(self.packed, 1, count)
            self.multiply(self.channel_tiles, group, block.index, source, count, self.results, self.outs)
            if vectors:
                self.finish_channels(group * s["out_channels"] + first, count)
            with (
                code.loop(0, code.minimum(s["out_channels"] - first, self.outs)) as out,
                code.loop(0, count) as number,
            ):
                goal = y + (self.goals + number.index).integer() + (first + out.index) * s["y_channel"]
                after = Finisher(code, self.recipe, s["residual_shift"], self.constants(group * s["out_channels"]))
                sums = (self.results + number.index * self.outs + out.index).vector(1)
                goal.store(sums if vectors else after.value(sums, goal, first + out.index))

    def finish_channels(self, first: Number, count: Int) -> None:
        """Generate the tail of a block of output channels, in vectors of channels."""
        code, tail = self.code, self.recipe.tail
        for v in range(self.shape.vectors):
            constants = [(c + v * self.lanes).vector(self.lanes) for c in self.constants(first)]
            with code.loop(0, count) as number:
                place = self.results + number.index * self.outs + v * self.lanes
                place.store(finish(code, tail, place.vector(self.lanes), no_residual, constants))

    def multiply(
        self,
        tiles: dict[int, FunctionBuilder],
        group: Number,
        block: Int,
        source: Source,
        count: Int,
        d: Pointer,
        d_pitch: Number,
    ) -> None:
        """Generate a block of output channels of some positions, in tiles of the sizes in `tiles`."""
        code, s = self.code, self.s
        panel = s["in_channels"] * self.rows
        weight = s["weight"] + group * s["weight_group"] + block * self.shape.panels * panel
        bias = s["bias"] + group * s["out_channels"] + block * self.outs
        done: Number = 0
        for number, tile in tiles.items():
            times = (count - done) // number
            with code.loop(0, times) as turn:
                place = turn.index * number + done
                code.call(
                    tile,
                    *(source.x + place * source.pitch, weight, bias, d + place * d_pitch),
                    *(s["in_channels"], source.pitch, source.channel, panel, d_pitch),
                )
            done = times * number + done

    def positions_of_channels(self, few: dict[int, FunctionBuilder], unit: Int, split: Int) -> None:
        """Generate a block of positions with contiguous channels, and some of their output channels."""
        code, s = self.code, self.s
        begin, group = unit % s["tiles"] * s["block_positions"], unit // s["tiles"]
        count = code.minimum(s["positions"] - begin, s["block_positions"])
        source = Source(s["x"] + begin * s["x_column"] + group * s["in_channels"], s["x_column"], 1)
        y = s["y"] + begin * s["y_image"] + group * s["out_channels"]
        blocks = (s["out_channels"] + (self.outs - 1)) // self.outs
        with code.loop(blocks * split // s["splits"], blocks * (split + 1) // s["splits"]) as block:
            first = block.index * self.outs
            there = s["out_channels"] - first
            wide, narrow = there >= self.lanes + 1, there < self.lanes + 1
            with code.when(there >= self.outs):
                self.multiply(self.channel_tiles, group, block.index, source, count, y + first, s["y_image"])
            for tiles, vectors, fits in ((self.channel_tiles, self.shape.vectors, wide), (few, 1, narrow)):
                with code.when(code.every(there < self.outs, fits)):
                    self.multiply(tiles, group, block.index, source, count, self.packed, self.outs)
                    self.copy_out(vectors, y + first, count, there)

    def copy_out(self, vectors: int, y: Pointer, count: Int, outs: Int) -> None:
        """Copy the existing output channels of some positions to Y."""
        masks = [self.code.lanes_below(outs - v * self.lanes, self.lanes) for v in range(vectors)]
        with self.code.loop(0, count) as number:
            for v, mask in enumerate(masks):
                value = (self.packed + number.index * self.outs + v * self.lanes).vector(self.lanes)
                (y + number.index * self.s["y_image"] + v * self.lanes).masked_store(value, mask)


def _gather(module: ir.Module, recipe: PointwiseRecipe) -> FunctionBuilder:
    """Generate the copy of scattered positions of every channel, or of every tap of every channel.

    Arguments: X, offsets of the positions in X, destination; number of positions, pitches of channels in X and of rows
    in the destination, number of channels; with taps, their offsets and their number.
    """
    last = [POINTER, I64] if recipe.taps else []
    code = FunctionBuilder(module, "gather", [POINTER] * 3 + [I64] * 4 + last, internal=True)
    x, sources, goal = code.argument(0, recipe.element), code.argument(1, I64), code.argument(2, recipe.element)
    count, x_pitch, pitch, channels = (code.argument(n) for n in range(3, 7))
    together = GATHERED_TOGETHER

    def row(here: Pointer, there: Pointer) -> None:
        for start, stop, step in (
            (0, count // together * together, together),
            (count // together * together, count, 1),
        ):
            with code.loop(start, stop, step) as number:
                for n in range(step):
                    (there + number.index + n).store((here + (sources + number.index + n).integer()).load())

    with code.loop(0, channels) as channel:
        here = x + channel.index * x_pitch
        if not recipe.taps:
            row(here, goal + channel.index * pitch)
        else:
            offsets, taps = code.argument(7, I64), code.argument(8)
            with code.loop(0, taps) as tap:
                row(here + (offsets + tap.index).integer(), goal + (channel.index * taps + tap.index) * pitch)
    code.finish()
    return code


def _gather_vectors(module: ir.Module, recipe: PointwiseRecipe, vectors: int, lanes: int) -> FunctionBuilder:
    """Generate the copy of some vectors of positions of every tap of every channel, vector by vector within a row.

    Arguments: X, offsets of the positions in X, destination; channels, pitch of channels in X, offsets of the taps,
    their number, and the distance of adjacent positions in X.
    """
    kinds = [POINTER] * 3 + [I64] * 2 + [POINTER] + [I64] * 2
    code = FunctionBuilder(module, f"gather_{vectors}", kinds, internal=True)
    x, sources, goal = code.argument(0, recipe.element), code.argument(1, I64), code.argument(2, recipe.element)
    channels, x_pitch, offsets = code.argument(3), code.argument(4), code.argument(5, I64)
    taps, column = code.argument(6), code.argument(7)
    places = [[(sources + q * lanes + n).integer() for n in range(lanes)] for q in range(vectors)]
    firsts = [place[0] for place in places]
    in_row = [code.every(*((b - a).equals(column) for a, b in pairwise(place))) for place in places]

    def beside(here: Pointer) -> ir.Value:
        """Load a vector of inputs `step` apart; nothing after the last one is read."""
        if recipe.step == 1:
            return here.vector(lanes)
        a, b = here.vector(lanes), (here + (lanes - 1)).vector(lanes)
        half = lanes // 2
        return code.shuffle(a, b, [2 * n for n in range(half)] + [lanes + 1 + 2 * n for n in range(half)])

    def apart(here: Pointer, there: Pointer, q: int) -> None:
        for n in range(q * lanes, (q + 1) * lanes):
            (there + n).store((here + (sources + n).integer()).load())

    with code.loop(0, channels) as channel, code.loop(0, taps) as tap:
        here = x + channel.index * x_pitch + (offsets + tap.index).integer()
        there = goal + (channel.index * taps + tap.index) * (vectors * lanes)
        for q in range(vectors):
            if not recipe.step:
                apart(here, there, q)
                continue
            with code.ir.if_else(in_row[q]) as (together, scattered):
                with together:
                    (there + q * lanes).store(beside(here + firsts[q]))
                with scattered:
                    apart(here, there, q)
    code.finish()
    return code
