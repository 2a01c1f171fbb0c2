"""Generated code that sums channels in the frequency domain: `M[o, p] = sum over c of U[o, c] V[c, p]`.

Every vector of frequencies has its own complex matrix product, output channels by tiles. A register tile of up to three
channels by three pairs of tiles reads each vector of U or V once for three products. In volumes the sum also runs over
taps along the depth, each of which reads the tiles of another slice.
"""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from convolith.engines.fft.emit_passes import load
from convolith.jit.builder import I64, POINTER, FunctionBuilder, Int, Number, Pointer, itemsize, zero
from convolith.jit.target import Target


def panel_of(target: Target) -> int:
    """Return the channels, and the pairs, of a register tile: its sums, a row of V and one of U fill the registers."""
    return 3 if target.vector_registers > 16 else 2


class Sizes(NamedTuple):
    """Matrix sizes of a frequency: channels per group, pairs of tiles per slice, slices and taps of a volume."""

    in_channels: Number
    out_channels: Number
    pairs: Number
    slices: Number
    out_slices: Number
    taps: Number
    dilation: Number
    frequencies: Number


class Products(NamedTuple):
    """Functions of register tiles, by output channels and pairs."""

    functions: dict[tuple[int, int], FunctionBuilder]
    most: int
    lanes: int

    def frequency(self, code: FunctionBuilder, size: Sizes, number: Int, u: Pointer, v: Pointer, m: Pointer) -> None:
        """Generate all products of one vector of frequencies of one group, given its number over all groups."""
        ins, outs, taps, vector = size.in_channels, size.out_channels, size.taps, 2 * self.lanes
        group, f = number // size.frequencies, number % size.frequencies
        pairs, together = size.out_slices * size.pairs, size.slices * size.pairs
        u, v = u + number * outs * ins * taps * vector, v + number * ins * together * vector
        m = m + (group * outs * pairs * size.frequencies + f) * vector
        with code.loop(0, outs, self.most) as out, code.loop(0, pairs, self.most) as pair:
            high, wide = code.minimum(outs - out.index, self.most), code.minimum(pairs - pair.index, self.most)
            goal = m + (out.index * pairs + pair.index) * size.frequencies * vector
            for (rows, columns), function in self.functions.items():
                with code.when(code.every(high.equals(rows), wide.equals(columns))):
                    code.call(
                        function,
                        *(u + out.index * ins * taps * vector, v + pair.index * vector, goal, ins, taps),
                        *(together * vector, size.dilation * size.pairs * vector),
                        *(size.frequencies * vector, pairs * size.frequencies * vector),
                    )


def products_of(module: ir.Module, target: Target, element: ir.Type) -> Products:
    """Generate the functions of all register tiles in a module."""
    lanes, most = target.lanes(itemsize(element)), panel_of(target)
    numbers = range(1, most + 1)
    functions = {(o, p): _products(module, element, lanes, o, p) for o in numbers for p in numbers}
    return Products(functions, most, lanes)


def _products(module: ir.Module, element: ir.Type, lanes: int, outs: int, pairs: int) -> FunctionBuilder:
    """Generate a register tile.

    Arguments: U, V, M, channels, taps along the depth, the pitches of channels and taps of V, and those of pairs and
    channels of M.
    """
    code = FunctionBuilder(module, f"products{outs}x{pairs}", [POINTER] * 3 + [I64] * 6, internal=True)
    u, v, m = (code.argument(n, element) for n in range(3))
    channels, taps, v_pitch, tap_pitch, pair_pitch, out_pitch = (code.argument(n) for n in range(3, 9))
    nothing = zero(ir.VectorType(element, lanes))
    with code.loop(0, channels, values=[nothing] * (2 * outs * pairs)) as channel:
        with code.loop(0, taps, values=channel.values) as tap:
            sums = list(tap.values)
            here = v + channel.index * v_pitch + tap.index * tap_pitch
            taken = [load(here + q * 2 * lanes, lanes) for q in range(pairs)]
            for o in range(outs):
                weight = load(u + ((channel.index * taps + tap.index) * outs + o) * (2 * lanes), lanes)
                less = code.ir.fneg(weight.imag)
                for q, value in enumerate(taken):
                    at = 2 * (o * pairs + q)
                    real = code.multiply_add(value.real, weight.real, sums[at])
                    imag = code.multiply_add(value.real, weight.imag, sums[at + 1])
                    sums[at] = code.multiply_add(value.imag, less, real)
                    sums[at + 1] = code.multiply_add(value.imag, weight.real, imag)
            tap.carry(sums)
        channel.carry(tap.values)
    for o in range(outs):
        for q in range(pairs):
            place = m + out_pitch * o + pair_pitch * q
            at = 2 * (o * pairs + q)
            place.store(channel.values[at])
            (place + lanes).store(channel.values[at + 1])
    code.finish()
    return code
