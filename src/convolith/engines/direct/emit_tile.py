"""Register tile of the direct engine: the parameters of its code, and the innermost loops.

`channels` outputs by `rows` rows by up to three vectors of columns stay in registers during the loop over taps, so that
a loaded input vector serves every row and channel that needs it (the chapter's exercise of reading a strip that is
wider than its outputs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from llvmlite import ir

from convolith.engines.elementwise import NO_TAIL, TAIL_ARGUMENTS, Tail, finish
from convolith.engines.emit_rounded import Rounding
from convolith.engines.emit_rows import shift_of
from convolith.jit.builder import FunctionBuilder, Int, Number, Pointer, itemsize, zero
from convolith.jit.conversions import STORED, from_sum, to_sum
from convolith.jit.target import Target

UNROLLED_TAPS = 9
"""Largest number of taps of a plane that are unrolled; for more taps, a loop over columns is as fast and compiles
several times faster."""
UNROLLED_CHANNELS = 4
"""Number of channels unrolled together for a single tap, whose loop would cost as much as its products."""
UNROLLED_ROWS = 8
"""Largest number of unrolled kernel rows: with 8, a loaded vector serves nearly as many products as with all rows."""
ROW_MULTIPLE = 7
"""Divisor of the number of rows of tall tiles: the layers of most networks have 7 x 2^n rows."""
FEW_REGISTERS = 16
"""Number of vector registers up to which rolling sums are not used."""
ROLLED_TAPS = 7
"""Largest kernel height for rolling sums."""
VECTORS = 3
"""Number of vectors of columns in the widest tile."""


class Tile(NamedTuple):
    """Register tile: output channels by rows by vectors."""

    channels: int
    rows: int
    vectors: int


@dataclass(frozen=True)
class DirectRecipe:
    """Parameters that the code is specialised on; spatial axes are (depth, height, width)."""

    x_dtype: str
    sum_dtype: str
    out_dtype: str
    kernel_size: tuple[int, int, int]
    stride: tuple[int, int, int]
    dilation: tuple[int, int, int]
    channels: int
    many_channels: bool
    """Whether a group has several input channels."""
    many_outputs: bool
    """Whether a group has several output channels."""
    deep: bool
    """Whether a row of inputs exceeds a first-level cache; each tile then computes all outputs before the next tile."""
    flat: bool
    """Whether the output has one row, so that tiles can only grow along it."""
    masked: bool
    """Whether borders are read in place: columns outside the image under masks, rows from a row of zeros."""
    repeats: bool = False
    """Whether padding is read from tables: it repeats inputs, or is another constant than zero."""
    rolled: bool = False
    """Whether sums roll down strips of columns instead; `rows` is then one."""
    tail: Tail = NO_TAIL
    """Elementwise work on the sums."""
    rounded: str = ""
    """Integer dtype that sums are rounded and clipped to, instead of `out_dtype`, and counted where they do not fit."""

    @property
    def stored(self) -> str:
        """Dtype of the result."""
        return self.rounded or self.out_dtype

    def shift(self, column: Number, phase_pitch: Number) -> Number:
        """Return the offset of a kernel column in a row, which the stride may have split."""
        return shift_of(column, self.dilation[2], 1 if self.masked else self.stride[2], phase_pitch)

    @property
    def step(self) -> int:
        """Distance of the inputs of adjacent outputs, in a row as it is read."""
        return self.stride[2] if self.masked else 1

    def tiles(self, target: Target) -> dict[int, Tile]:
        """Return the tile for each number of vectors, widest first, with as many rows as the registers allow.

        Registers hold the sums, one row of inputs, and one weight for each tile row that uses the input row (LLVM keeps
        these weights in registers, since the next input row uses them again).
        """
        registers, channels = target.vector_registers - 1, self.channels
        if self.rolled:
            widest = rolled_vectors(self.kernel_size, registers)
            return {n: Tile(1, 1, n) for n in sorted({widest, *(n for n in (4, 3, 2, 1) if n < widest)}, reverse=True)}
        if self.deep and self.many_outputs:  # two vectors fill one or two cache lines, three would split a line
            return {n: Tile(channels, 1, n) for n in (2, 1)}
        if self.flat:
            widest = (registers - 1) // (channels + (channels > 1))
            return {n: Tile(channels, 1, n) for n in sorted({1, 2, VECTORS, widest}, reverse=True)}
        found = {}
        for n in range(VECTORS, 0, -1):
            rows = (registers - n) // (channels * (n + 1))
            if rows > ROW_MULTIPLE:
                rows -= rows % ROW_MULTIPLE
            found[n] = Tile(channels, max(1, rows), n)
        return found


class Bounds(NamedTuple):
    """Bounds of the inputs, where borders are read in place; inputs outside count as zero."""

    plane: Number
    """Plane of the first input; it may be negative, as may the row and the column."""
    row: Number
    column: Number
    depth: Int
    height: Int
    width: Int
    zeros: Pointer
    """Zeros, as many as a tile reads of a row."""


class Finisher(NamedTuple):
    """Generator of a tail: the distance of residuals from outputs, in bytes, and constants per channel of a group."""

    code: FunctionBuilder
    tail: Tail
    shift: Int
    constants: list[Pointer]

    @classmethod
    def of(cls, code: FunctionBuilder, recipe: DirectRecipe, s: dict[str, Any], channel: Number) -> Finisher:
        """Return the tail of a recipe, from the arguments of its region and the first channel of a group."""
        names = TAIL_ARGUMENTS[1 : 1 + recipe.tail.constants]
        return cls(code, recipe.tail, s["residual_shift"], [s[name] + channel for name in names])

    def of_channel(self, number: Number) -> Finisher:
        """Return the tail of one output channel of the group."""
        return self._replace(constants=[c + number for c in self.constants])

    def value(self, sums: ir.Value, goal: Pointer, mask: ir.Value | None = None) -> ir.Value:
        """Return the outputs for a vector of sums; with a mask, no other residuals are read."""
        if not self.tail:
            return sums
        lanes = sums.type.count

        def residual() -> ir.Value:
            there = goal.moved(self.shift)
            return there.vector(lanes) if mask is None else there.masked_vector(lanes, mask)

        return finish(self.code, self.tail, sums, residual, [self.code.splat(c.load(), lanes) for c in self.constants])


class Place(NamedTuple):
    """Position of a tile: its first input, its group's weights and biases, its first output, the offset of its last
    vector, and the numbers of rows and columns that exist.
    """

    x: Pointer
    weight: Pointer
    bias: Pointer
    y: Pointer
    last: Int
    rows: Int
    columns: Int
    bounds: Bounds | None
    edge: bool
    """Whether columns may lie outside the image on the left or right."""
    after: Finisher
    """Tail of the sums."""
    rounding: Rounding | None = None
    """Rounding of the sums, if integers are stored."""
    first_column: Number = 0
    """First lane of the last vector that no other tile computes."""
    first_row: Number = 0
    """First row that no other tile computes."""

    def new_lanes(self, row: int, *, last: bool, lanes: int) -> ir.Value:
        """Return a mask of the lanes of a row's vector that exist, and that no other tile computes."""
        code = self.after.code
        exists = code.ir.and_(code.integer(row) >= self.first_row, code.integer(row) < self.rows)
        end = code.choose(exists, code.minimum(self.columns, lanes), 0)
        return code.lanes_between(self.first_column if last else 0, end, lanes)


def write_tile(
    code: FunctionBuilder,
    recipe: DirectRecipe,
    tile: Tile,
    lanes: int,
    place: Place,
    channel: Number,
    s: dict[str, Any],
) -> None:
    """Generate one register tile: all products of channels x rows x vectors outputs, and their stores.

    Channels and rows beyond the last one repeat it: such channels use its weights, and the outputs of such rows are
    overwritten, since rows are stored from the last to the first.
    """
    numbers = [
        code.minimum(channel + o, s["out_channels"] - 1) if o else code.integer(channel) for o in range(tile.channels)
    ]
    weights = [place.weight + number * s["in_channels"] * taps_of(recipe) for number in numbers]
    biases = [code.splat((place.bias + number).load(), lanes) for number in numbers]
    vector = ir.VectorType(STORED[recipe.sum_dtype], lanes)
    biased = biases[0].type == vector
    sums = [bias if biased else zero(vector) for bias in biases for _ in range(tile.rows * tile.vectors)]
    writer = _Taps(code, recipe, tile, lanes, place, s["row"], s["phase_pitch"])
    if recipe.many_channels:
        together = UNROLLED_CHANNELS if taps_of(recipe) == 1 else 1
        whole = s["in_channels"] // together * together
        for start, stop, step in ((0, whole, together), (whole, s["in_channels"], 1))[: 1 + (together > 1)]:
            with code.loop(start, stop, step, values=sums) as ins:
                made = ins.values
                for channel in (ins.index + n for n in range(step)):
                    here = [w + channel * taps_of(recipe) for w in weights]
                    made = writer.planes(place.x + channel * s["channel"], here, s["plane"], made)
                ins.carry(made)
            sums = ins.values
    else:
        sums = writer.planes(place.x, weights, s["plane"], sums)
    for o, number in enumerate(numbers):
        y = place.y + number * s["y_channel"]
        for r in reversed(range(tile.rows)):
            row = y + code.minimum(r, place.rows - 1) * s["out_width"] if r else y
            at = (o * tile.rows + r) * tile.vectors
            finished = place._replace(after=place.after.of_channel(number))
            deliver(code, recipe, sums[at : at + tile.vectors], row, None if biased else biases[o], finished, number=r)


@dataclass(frozen=True)
class _Taps:
    """Generator of the products of one input channel."""

    code: FunctionBuilder
    recipe: DirectRecipe
    tile: Tile
    lanes: int
    place: Place
    row_pitch: Int
    phase_pitch: Int

    def planes(self, x: Pointer, weights: list[Pointer], pitch: Int, sums: Sequence[ir.Value]) -> list[ir.Value]:
        """Generate all taps, plane by plane."""
        depth, height, width = self.recipe.kernel_size
        if depth == 1:
            return self.plane(x, weights, self.height(0), sums)
        with self.code.loop(0, depth, values=sums) as plane:
            here = [w + plane.index * (height * width) for w in weights]
            there = self.height(plane.index * self.recipe.dilation[0])
            plane.carry(self.plane(x + plane.index * pitch, here, there, plane.values))
        return plane.values

    def height(self, plane: Number) -> Int | None:
        """Return the rows of a plane: 0 for a plane outside the image, None if all reads are inside."""
        bounds = self.place.bounds
        if bounds is None:
            return None
        exists = (self.code.integer(bounds.plane) + plane).below(bounds.depth)
        return self.code.choose(exists, bounds.height, 0)  # type: ignore[no-any-return]  # an Int

    def plane(self, x: Pointer, weights: list[Pointer], height: Int | None, sums: Sequence[ir.Value]) -> list[ir.Value]:
        """Generate the taps of one plane, in blocks of unrolled kernel rows."""
        _, taps, width = self.recipe.kernel_size
        blocks = -(-taps // UNROLLED_ROWS)
        size, larger = divmod(taps, blocks)
        done = 0
        for rows, count in ((size + 1, larger), (size, blocks - larger)):
            if not count or not rows:
                continue
            step, start = rows * self.recipe.dilation[1], done * self.recipe.dilation[1]
            here = [w + done * width for w in weights]
            if count == 1:
                sums = self.columns(self.rows(x, start, rows, height), here, rows, sums)
            else:
                with self.code.loop(0, count, values=sums) as block:
                    moved = [w + block.index * (rows * width) for w in here]
                    origins = self.rows(x, block.index * step + start, rows, height)
                    block.carry(self.columns(origins, moved, rows, block.values))
                sums = block.values
            done += rows * count
        return list(sums)

    def rows(self, x: Pointer, start: Number, taps: int, height: Int | None) -> dict[int, Pointer]:
        """Return the start of each input row that some kernel rows read, keyed by its distance from the first row."""
        first = x + self.row_pitch * start
        found = {}
        for row in sorted(set(self.users(taps))):
            found[row] = first + self.row_pitch * row
            if height is not None and self.place.bounds is not None:
                exists = (self.code.integer(self.place.bounds.row) + start + row).below(height)
                found[row] = self.code.choose(exists, found[row], self.place.bounds.zeros)
        return found

    def users(self, taps: int) -> dict[int, list[tuple[int, int]]]:
        """Return the pairs of tile row and kernel row that use each input row."""
        found: dict[int, list[tuple[int, int]]] = {}
        for u in range(taps):
            for r in range(self.tile.rows):
                found.setdefault(r * self.recipe.stride[1] + u * self.recipe.dilation[1], []).append((r, u))
        return found

    def columns(
        self, origins: dict[int, Pointer], weights: list[Pointer], rows: int, sums: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """Generate the taps of some kernel rows: few columns are unrolled, many are a loop."""
        _, height, width = self.recipe.kernel_size
        if height * width <= UNROLLED_TAPS:
            return self.products(origins, weights, rows, range(width), sums)
        with self.code.loop(0, width, values=sums) as column:
            column.carry(self.products(origins, weights, rows, [column.index], column.values))
        return column.values

    def products(
        self,
        origins: dict[int, Pointer],
        weights: list[Pointer],
        rows: int,
        columns: Sequence[Number],
        sums: Sequence[ir.Value],
    ) -> list[ir.Value]:
        """Generate the products of some kernel rows and columns; each input row is loaded once per column."""
        width = self.recipe.kernel_size[2]
        code, recipe, tile, sums, users = self.code, self.recipe, self.tile, list(sums), self.users(rows)
        offsets = [q * self.lanes for q in range(tile.vectors - 1)] + [self.place.last]
        wide, stored = (
            STORED[self.recipe.sum_dtype],
            self.recipe.x_dtype if self.recipe.masked else self.recipe.sum_dtype,
        )
        masks: dict[tuple[int, int], list[ir.Value] | None] = {}
        loads: dict[tuple[tuple[int, int], int], list[ir.Value]] = {}
        kept: dict[tuple[int, int, int], ir.Value] = {}
        for v, row in product(range(len(columns)), sorted(origins)):
            code.keep_order()
            shift = recipe.shift(columns[v], self.phase_pitch)
            odd = shift % recipe.step if isinstance(shift, int) else 0  # odd columns are in the vectors of even ones
            key = (shift - odd, 0) if isinstance(shift, int) else (v, 1)
            if key not in masks:
                masks[key] = self.masks(offsets, shift - odd)
            if (key, row) not in loads:
                loads[key, row] = self.loaded(origins[row] + (shift - odd), offsets, masks[key])
            vectors = [to_sum(code, value, stored, wide) for value in self.apart(loads[key, row], odd)]
            for r, u in users[row]:
                for o, pointer in enumerate(weights):
                    if (o, u, v) not in kept:
                        kept[o, u, v] = code.splat((pointer + columns[v] + u * width).load(), self.lanes)
                    for q in range(tile.vectors):
                        at = (o * tile.rows + r) * tile.vectors + q
                        sums[at] = code.multiply_add(vectors[q], kept[o, u, v], sums[at])
        return sums

    def inputs_of(self, offsets: Sequence[Number]) -> list[Number]:
        """Return the offsets of the vectors of inputs that some vectors of outputs read."""
        step = self.recipe.step
        return [offset * step + half * self.lanes for offset in offsets for half in range(step)]

    def loaded(self, place: Pointer, offsets: Sequence[Number], masks: list[ir.Value] | None) -> list[ir.Value]:
        """Load the inputs of some vectors of outputs: one vector each, or two with a stride of 2."""
        places = [place + offset for offset in self.inputs_of(offsets)]
        if masks is None:
            return [at.vector(self.lanes) for at in places]
        return [at.masked_vector(self.lanes, mask) for at, mask in zip(places, masks, strict=True)]

    def apart(self, loaded: list[ir.Value], odd: int) -> list[ir.Value]:
        """Return one vector per vector of outputs: with a stride of 2, the even or the odd columns of two."""
        if self.recipe.step == 1:
            return loaded
        lanes = range(odd, 2 * self.lanes, 2)
        return [self.code.shuffle(a, b, lanes) for a, b in zip(loaded[::2], loaded[1::2], strict=True)]

    def masks(self, offsets: Sequence[Number], shift: Number) -> list[ir.Value] | None:
        """Return masks of the columns inside the image, for each vector of a tile at the left or right border."""
        bounds = self.place.bounds
        if bounds is None or not self.place.edge:
            return None
        offsets = self.inputs_of(offsets)
        starts = [self.code.integer(bounds.column) + shift + offset for offset in offsets]
        width = self.recipe.kernel_size[2]
        if self.recipe.step * self.tile.vectors * self.lanes + (width - 1) * self.recipe.dilation[2] > 64:
            return [self.code.lanes_between(0 - start, bounds.width - start, self.lanes) for start in starts]
        # all columns that a tile reads, one bit each: LLVM computes them once
        bits = self.code.bits_between(0 - bounds.column, bounds.width - bounds.column)
        return [self.code.lanes_of_bits(bits, self.code.integer(shift) + offset, self.lanes) for offset in offsets]


def deliver(
    code: FunctionBuilder,
    recipe: DirectRecipe,
    sums: Sequence[ir.Value],
    row: Pointer,
    bias: ir.Value | None,
    place: Place,
    *,
    past_caches: bool = False,
    number: int = 0,
) -> None:
    """Convert, add a bias that is not in the sums, and store; under a mask if a row has fewer columns than lanes.

    `number` is the row's in its tile.
    """
    if place.rounding is not None:
        _deliver_rounded(code, place.rounding, sums, row, place, number)
        return
    lanes = sums[0].type.count
    for q, value in enumerate(sums):
        made = from_sum(code, value, recipe.out_dtype)
        if bias is not None:
            made = code.add(made, bias)
        where = row + (place.last if q == len(sums) - 1 else q * lanes)
        if past_caches:
            where.store_past_caches(place.after.value(made, where))
        elif len(sums) > 1:
            where.store(place.after.value(made, where))
        else:
            _store_columns(code, where, made, place, lanes)


def _deliver_rounded(
    code: FunctionBuilder, rounding: Rounding, sums: Sequence[ir.Value], row: Pointer, place: Place, number: int
) -> None:
    """Round and store a row of a tile."""
    lanes, last = sums[0].type.count, place.new_lanes(number, last=True, lanes=sums[0].type.count)
    if len(sums) == 1:
        value = rounding.values(sums, last)[0]
        with code.ir.if_else(place.columns < lanes) as (few, enough):
            with few:
                row.masked_store(value, code.lanes_below(place.columns, lanes))
            with enough:
                row.store(value)
        return
    values = rounding.values(sums[:-1], place.new_lanes(number, last=False, lanes=lanes))
    for q, value in enumerate(values + rounding.values(sums[-1:], last)):
        (row + (place.last if q == len(values) else q * lanes)).store(value)


def _store_columns(code: FunctionBuilder, where: Pointer, value: ir.Value, place: Place, lanes: int) -> None:
    with code.ir.if_else(place.columns < lanes) as (few, enough):
        with few:
            mask = code.lanes_below(place.columns, lanes)
            where.masked_store(place.after.value(value, where, mask), mask)
        with enough:
            where.store(place.after.value(value, where))


def rolls(recipe: DirectRecipe, target: Target) -> bool:
    """Return whether groups have one channel, rows are used in order, and strips of two vectors fit the registers.

    With 16 registers strips are narrow, and every input serves fewer products than in a tile of several rows.
    """
    if target.vector_registers <= FEW_REGISTERS:
        return False
    alone = not (recipe.many_channels or recipe.many_outputs or recipe.flat)
    in_turn = recipe.stride[1] == recipe.dilation[1] == 1 and 2 <= recipe.kernel_size[1] <= ROLLED_TAPS
    return alone and in_turn and rolled_vectors(recipe.kernel_size, target.vector_registers - 1) > 1


def rolled_vectors(kernel_size: tuple[int, int, int], registers: int) -> int:
    """Return the vectors of the widest strip whose sums, inputs and weight (all weights if few) fit the registers."""
    return max((registers - 1) // (kernel_size[1] + 1), _beside_weights(kernel_size, registers))


def keeps_weights(kernel_size: tuple[int, int, int], vectors: int, registers: int) -> bool:
    """Return whether all weights fit the registers, together with the sums of a strip and one vector of inputs."""
    return vectors <= _beside_weights(kernel_size, registers)


def _beside_weights(kernel_size: tuple[int, int, int], registers: int) -> int:
    depth, height, width = kernel_size
    return (registers - 1 - height * width) // height if depth == 1 and height * width <= UNROLLED_TAPS else 0


def line_of(recipe: DirectRecipe) -> int:
    """Return the number of sums in a cache line."""
    return 64 // itemsize(STORED[recipe.sum_dtype])


def taps_of(recipe: DirectRecipe) -> int:
    """Return the number of taps of the kernel."""
    depth, height, width = recipe.kernel_size
    return depth * height * width


def lanes_of(recipe: DirectRecipe, target: Target) -> int:
    """Return the number of sums in a vector."""
    return target.lanes(8 if recipe.sum_dtype in ("float64", "int64") else 4)


def bias_kind(recipe: DirectRecipe) -> ir.Type:
    """Return the type of the bias: 64-bit integers are added after the conversion, floats before it, to the sums."""
    return STORED[recipe.out_dtype] if "int" in recipe.out_dtype else STORED[recipe.sum_dtype]
