"""Register tiles of the pointwise engine: output channels by vectors of positions, or positions by vectors of channels.

Weights are stored in panels of a few output channels, input channel by input channel, with zeros for output channels
that do not exist, so that both kinds of tiles read them sequentially.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

from llvmlite import ir

from convolith.engines.elementwise import NO_TAIL, Tail, finish
from convolith.jit.builder import I64, POINTER, FunctionBuilder, Int, Number, Pointer, itemsize, zero
from convolith.jit.conversions import STORED
from convolith.jit.target import Target

VECTORS = 3
"""Number of vectors of positions in the widest tile: with a panel of output channels, they fill the registers."""
TOGETHER = 4
"""Number of channels that are unrolled together, so that the loop itself costs nothing."""

AHEAD_BYTES, LINE_BYTES = 4096, 64
"""Prefetch distance of weights, to a second-level cache: in a network, they come from memory; and bytes of a line."""
FEWEST_SUMS = 8
"""Minimum number of independent sums: two products per cycle with a latency of four cycles do not wait then."""


class PointwiseRecipe(NamedTuple):
    """Parameters of the generated code."""

    dtype: str
    """Type of all numbers."""
    last_rows: int
    """Output channels of a group's last panel."""
    taps: bool = False
    """Whether channels have several taps, each of which is a row of the matrix that is multiplied."""
    step: int = 1
    """Distance of the inputs of adjacent positions, 0 if it is over 2; used with taps."""
    tail: Tail = NO_TAIL
    """Elementwise work on the sums."""

    @property
    def element(self) -> ir.Type:
        """Type of all numbers."""
        return STORED[self.dtype]

    def lanes(self, target: Target) -> int:
        """Return the number of elements in a vector."""
        return target.lanes(itemsize(self.element))


class ChannelTile(NamedTuple):
    """Tile of vectors of output channels: number of vectors, of panels of weights, and largest number of positions."""

    vectors: int
    panels: int
    positions: int

    @property
    def counts(self) -> list[int]:
        """Numbers of positions that code is generated for, largest first."""
        return [1 << n for n in reversed(range(self.positions.bit_length()))]


def panel_rows(target: Target) -> int:
    """Return the number of output channels of a packed panel."""
    return 8 if target.vector_registers > 16 else 4


def channel_tile(target: Target, lanes: int) -> ChannelTile:
    """Return the tile of vectors of output channels: at least two vectors, and whole panels."""
    rows = panel_rows(target)
    vectors = max(2, rows // lanes)
    most = target.accumulators // vectors
    return ChannelTile(vectors, vectors * lanes // rows, 1 << most.bit_length() - 1)


def write_position_tile(
    module: ir.Module, target: Target, recipe: PointwiseRecipe, vectors: int, rows: int, *, packs: bool = False
) -> FunctionBuilder:
    """Generate some output channels by some vectors of positions: Y = bias + K X over all channels.

    Arguments: X, weights, biases, Y, destination of packed X; channels, the pitches of X and Y, the offsets of the
    last vector in X and Y, which may overlap the one before it; the distance of residuals, and constants. With `packs`,
    X is copied as it is read, to a row of vectors for each channel.
    """
    lanes, element, panel = recipe.lanes(target), recipe.element, panel_rows(target)
    kinds = [POINTER] * 5 + [I64] * 6 + [POINTER] * recipe.tail.constants
    code = FunctionBuilder(module, f"positions_{vectors}_{rows}_{packs}", kinds, internal=True)
    x, weight, bias, y, packed = (code.argument(n, element) for n in range(5))
    channels, x_pitch, y_pitch, x_last, last = (code.argument(n) for n in range(5, 10))
    after = Finisher(code, recipe, code.argument(10), [code.argument(n, element) for n in range(11, len(kinds))])
    staged = code.scratch(element, rows * vectors * lanes) if recipe.tail.costly else None
    offsets = [*(q * lanes for q in range(vectors - 1)), last]
    sources = [*offsets[:-1], x_last]
    for r in range(rows):
        for offset in [*offsets, last + (lanes - 1)]:
            (y + y_pitch * r + offset).prefetch(write=True)

    def step(channel: Number, sums: Sequence[ir.Value], turn: int) -> list[ir.Value]:
        """Generate the products of one channel."""
        here, weights = x + x_pitch * channel, weight + channel * panel
        made = list(sums)
        if turn * panel * itemsize(element) % LINE_BYTES == 0:
            (weights + AHEAD_BYTES // itemsize(element)).prefetch(level=2)
        taken = [(here + offset).vector(lanes) for offset in sources]
        if packs:
            for q, value in enumerate(taken):
                (packed + channel * (vectors * lanes) + q * lanes).store(value)
        for r in range(rows):
            factor = code.splat((weights + r).load(), lanes)
            for q in range(vectors):
                at = r * vectors + q
                made[at] = code.multiply_add(taken[q], factor, made[at])
        return made

    start = [code.splat((bias + r).load(), lanes) for r in range(rows) for _ in range(vectors)]
    made = _over_channels(code, channels, start, step)
    _store_positions(code, after, made, y, y_pitch, offsets, staged)
    code.finish()
    return code


class Finisher(NamedTuple):
    """Generator of a tail: the distance of residuals from outputs, in bytes, and the constants of each channel."""

    code: FunctionBuilder
    recipe: PointwiseRecipe
    shift: Int
    constants: list[Pointer]

    def value(self, sums: ir.Value, goal: Pointer, channel: Number) -> ir.Value:
        """Return the outputs for a vector of sums."""
        lanes = sums.type.count
        constants = [self.code.splat((c + channel).load(), lanes) for c in self.constants]
        return finish(self.code, self.recipe.tail, sums, lambda: goal.moved(self.shift).vector(lanes), constants)


def _store_positions(
    code: FunctionBuilder,
    after: Finisher,
    sums: Sequence[ir.Value],
    y: Pointer,
    y_pitch: Number,
    offsets: Sequence[Number],
    staged: Pointer | None,
) -> None:
    """Generate the tail and the stores of a tile.

    A costly tail is generated once, for sums that lie in memory, since vectors of outputs may overlap.
    """
    vectors, lanes = len(offsets), sums[0].type.count
    if staged is None:
        for at, value in enumerate(sums):
            goal = y + y_pitch * (at // vectors) + offsets[at % vectors]
            goal.store(after.value(value, goal, at // vectors))
        return
    for at, value in enumerate(sums):
        (staged + at * lanes).store(value)
    with code.loop(0, len(sums) // vectors) as row:
        for q, offset in enumerate(offsets):
            goal = y + y_pitch * row.index + offset
            value = (staged + row.index * (vectors * lanes) + q * lanes).vector(lanes)
            goal.store(after.value(value, goal, row.index))


def write_channel_tile(
    module: ir.Module, target: Target, recipe: PointwiseRecipe, positions: int, vectors: int
) -> FunctionBuilder:
    """Generate vectors of output channels by positions: D = bias + K X over all channels, one row per position.

    Arguments: X, weights, biases, D; channels, the pitches of X from position to position and from channel to channel,
    of panels of weights and of D.
    """
    lanes, element, rows = recipe.lanes(target), recipe.element, panel_rows(target)
    code = FunctionBuilder(module, f"channels_{positions}_{vectors}", [POINTER] * 4 + [I64] * 5, internal=True)
    x, weight, bias, d = (code.argument(n, element) for n in range(4))
    channels, x_pitch, x_channel, panel_pitch, d_pitch = (code.argument(n) for n in range(4, 9))

    def weights(channel: Number, vector: int) -> ir.Value:
        """Load a vector of output channels from a part of a panel or from two panels."""
        panel = weight + panel_pitch * (vector * lanes // rows) + channel * rows
        if lanes <= rows:
            return (panel + vector * lanes % rows).vector(lanes)
        return code.shuffle(panel.vector(rows), (panel + panel_pitch).vector(rows), range(lanes))

    chains = max(1, min(TOGETHER, FEWEST_SUMS // (positions * vectors)))

    def step(channel: Number, sums: Sequence[ir.Value], turn: int) -> list[ir.Value]:
        """Generate the products of one channel."""
        made, taken = list(sums), [weights(channel, v) for v in range(vectors)]
        for p in range(positions):
            factor = code.splat((x + x_pitch * p + x_channel * channel).load(), lanes)
            for v in range(vectors):
                at = (turn % chains * positions + p) * vectors + v
                made[at] = code.multiply_add(taken[v], factor, made[at])
        return made

    start = [(bias + v * lanes).vector(lanes) for _ in range(positions) for v in range(vectors)]
    start += [zero(start[0].type)] * (len(start) * (chains - 1))
    made = _over_channels(code, channels, start, step)
    for at in range(positions * vectors):
        value = reduce(code.add, made[at :: positions * vectors])
        (d + d_pitch * (at // vectors) + at % vectors * lanes).store(value)
    code.finish()
    return code


Step = Callable[[Number, Sequence[ir.Value], int], list[ir.Value]]
"""Function that adds the products of one channel to the sums, given its number among the unrolled channels."""


def _over_channels(code: FunctionBuilder, channels: Int, sums: list[ir.Value], step: Step) -> list[ir.Value]:
    """Generate the loop over all channels, several of which are unrolled together, and return the sums."""
    whole = channels // TOGETHER * TOGETHER
    for start, stop, together in ((0, whole, TOGETHER), (whole, channels, 1)):
        with code.loop(start, stop, together, values=sums) as channel:
            made = channel.values
            for n in range(together):
                made = step(channel.index + n, made, n)
            channel.carry(made)
        sums = channel.values
    return sums
