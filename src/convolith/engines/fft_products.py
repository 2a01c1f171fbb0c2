"""Writes the machine code that lets channels meet in the frequency domain: `M[o, p] = sum over c of U[o, c] V[c, p]`.

Every vector of frequencies has a complex matrix product of its own, output channels by tiles. A register tile of up to
three channels by three pairs of tiles reads each vector of either once for three products. In volumes the sum runs over
taps along the depth too, each of which meets the tiles of another slice.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from convolith.engines.fft_transform import Complex
from convolith.jit.build import I64, POINTER, Code, Pointer, itemsize, zero
from convolith.jit.control import flush_denormals, restore_control
from convolith.jit.numbers import STORED
from convolith.jit.target import Target

SLOTS = (
    *("u", "v", "m", "counters", "tasks", "chunk"),
    *("frequencies", "in_channels", "out_channels", "pairs", "slices", "out_slices", "taps", "dilation"),
)
"""The arguments of a region, one 8-byte slot each; channels are per group, a task is a vector of frequencies of one."""


def panel_of(target: Target) -> int:
    """Output channels, and pairs of tiles, of a register tile: its sums, a row of V and one of U fill the registers."""
    return 3 if target.vector_registers > 16 else 2


def write(module: ir.Module, target: Target, dtype: str) -> None:
    """The region: frequencies until none is left."""
    element = STORED[dtype]
    lanes, most = target.lanes(itemsize(element)), panel_of(target)
    functions = {
        (outs, pairs): _products(module, element, lanes, outs, pairs)
        for outs in range(1, most + 1)
        for pairs in range(1, most + 1)
    }
    code = Code(module, "region", [POINTER])
    kinds: dict[str, Any] = dict.fromkeys(("u", "v", "m"), element) | {"counters": I64}
    s = dict(zip(SLOTS, code.slots(code.argument(0, I64), [kinds.get(name) for name in SLOTS]), strict=True))
    before = flush_denormals(code, target)
    outs, pairs, size = s["out_channels"], s["out_slices"] * s["pairs"], 2 * lanes
    u_size, v_size = s["in_channels"] * s["taps"], s["in_channels"] * s["slices"] * s["pairs"]
    with code.tasks(s["counters"], s["tasks"], s["chunk"]) as task:
        group, f = task // s["frequencies"], task % s["frequencies"]
        u, v = s["u"] + task * outs * u_size * size, s["v"] + task * v_size * size
        m = s["m"] + (group * outs * pairs * s["frequencies"] + f) * size
        with code.loop(0, outs, most) as out, code.loop(0, pairs, most) as pair:
            high, wide = (code.minimum(all_ - at, most) for all_, at in ((outs, out.index), (pairs, pair.index)))
            goal = m + (out.index * pairs + pair.index) * s["frequencies"] * size
            for (rows, columns), function in functions.items():
                with code.when(code.every(high.equals(rows), wide.equals(columns))):
                    code.call(
                        function,
                        *(u + out.index * u_size * size, v + pair.index * size, goal, s["in_channels"], s["taps"]),
                        *(s["slices"] * s["pairs"] * size, s["dilation"] * s["pairs"] * size),
                        *(s["frequencies"] * size, pairs * s["frequencies"] * size),
                    )
    restore_control(code, before)
    code.finish()


def _products(module: ir.Module, element: ir.Type, lanes: int, outs: int, pairs: int) -> Code:
    """A register tile.

    Arguments: U, V, M, channels, taps along the depth, the pitches of channels and taps of V, and those of pairs and
    channels of M.
    """
    code = Code(module, f"products{outs}x{pairs}", [POINTER] * 3 + [I64] * 6, internal=True)
    u, v, m = (code.argument(n, element) for n in range(3))
    channels, taps, v_pitch, tap_pitch, pair_pitch, out_pitch = (code.argument(n) for n in range(3, 9))
    nothing = zero(ir.VectorType(element, lanes))
    with code.loop(0, channels, values=[nothing] * (2 * outs * pairs)) as channel:
        with code.loop(0, taps, values=channel.values) as tap:
            sums = list(tap.values)
            here = v + channel.index * v_pitch + tap.index * tap_pitch
            taken = [_load(here + q * 2 * lanes, lanes) for q in range(pairs)]
            for o in range(outs):
                weight = _load(u + ((channel.index * taps + tap.index) * outs + o) * (2 * lanes), lanes)
                less = code.ir.fneg(weight.imag)
                for q, value in enumerate(taken):
                    at = 2 * (o * pairs + q)
                    real = code.multiply_add(value.real, weight.real, sums[at])
                    imag = code.multiply_add(value.real, weight.imag, sums[at + 1])
                    sums[at] = code.multiply_add(value.imag, less, real)
                    sums[at + 1] = code.multiply_add(value.imag, weight.real, imag)
            tap.hand_on(sums)
        channel.hand_on(tap.values)
    for o in range(outs):
        for q in range(pairs):
            place = m + out_pitch * o + pair_pitch * q
            at = 2 * (o * pairs + q)
            place.store(channel.values[at])
            (place + lanes).store(channel.values[at + 1])
    code.finish()
    return code


def _load(place: Pointer, lanes: int) -> Complex:
    return Complex(place.vector(lanes), (place + lanes).vector(lanes))
