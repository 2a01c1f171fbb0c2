"""Building blocks of generated Fourier transforms: passes, and the passes that read and write images."""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from convolith.engines.fft.emit_transforms import FIRST, RADICES, Complex, multiply, transform, transpose
from convolith.jit.builder import I64, POINTER, FunctionBuilder, Int, Number, Pointer


class Kernels(NamedTuple):
    """Functions of the passes, by radix, forward and inverse, and functions that read and write images."""

    forward: dict[int, FunctionBuilder]
    back: dict[int, FunctionBuilder]
    gather: FunctionBuilder
    scatter: FunctionBuilder
    block: FunctionBuilder


def kernels_of(module: ir.Module, element: ir.Type, lanes: int) -> Kernels:
    """Generate all functions of the passes in a module."""
    return Kernels(
        {r: _pass(module, element, lanes, r, forward=True) for r in RADICES},
        {r: _pass(module, element, lanes, r, forward=False) for r in RADICES},
        _gather(module, element, lanes),
        _scatter(module, element, lanes),
        _block(module, element, lanes),
    )


def load(z: Pointer, lanes: int, at: Number = 0) -> Complex:
    """Load the complex vector with number `at`."""
    return Complex((z + at * (2 * lanes)).vector(lanes), (z + (at * (2 * lanes) + lanes)).vector(lanes))


def store(z: Pointer, lanes: int, value: Complex, at: Number = 0) -> None:
    """Store the complex vector with number `at`."""
    (z + at * (2 * lanes)).store(value.real)
    (z + (at * (2 * lanes) + lanes)).store(value.imag)


def _rotations(code: FunctionBuilder, table: Pointer, j: Int, radix: int, lanes: int) -> list[Complex]:
    """Load the factors of the outputs 1 .. radix - 1 at position `j`."""
    base = table + j * (2 * (radix - 1))
    numbers = [code.splat((base + n).load(), lanes) for n in range(2 * (radix - 1))]
    return [Complex(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]


def _pass(module: ir.Module, element: ir.Type, lanes: int, radix: int, *, forward: bool) -> FunctionBuilder:
    """Generate a pass in place. Arguments: Z, distance, blocks, rotations (not read if the distance is one)."""
    name = f"{'forward' if forward else 'back'}{radix}"
    code = FunctionBuilder(module, name, [POINTER, I64, I64, POINTER], internal=True)
    z, distance, blocks, table = (code.argument(n, k) for n, k in enumerate((element, None, None, element)))
    sign = -1 if forward else 1

    def butterfly(place: Pointer, factors: list[Complex]) -> None:
        values = [load(place, lanes, distance * q) for q in range(radix)]
        if not forward:
            values[1:] = [multiply(code, v, f, conjugate=True) for v, f in zip(values[1:], factors, strict=True)]
        values = transform(code, values, sign)
        if forward:
            values[1:] = [multiply(code, v, f) for v, f in zip(values[1:], factors, strict=True)]
        for q, value in enumerate(values):
            store(place, lanes, value, distance * q)

    step = distance * (radix * 2 * lanes)
    with code.ir.if_else(distance.equals(1)) as (plain, rotated):
        with plain, code.loop(0, blocks) as block:
            place = z + block.index * (radix * 2 * lanes)
            values = transform(code, [load(place, lanes, q) for q in range(radix)], sign)
            for q, value in enumerate(values):
                store(place, lanes, value, q)
        with rotated, code.loop(0, distance) as j:
            factors = _rotations(code, table, j.index, radix, lanes)
            with code.loop(0, blocks) as block:
                butterfly(z + j.index * (2 * lanes) + block.index * step, factors)
    code.finish()
    return code


def _at(code: FunctionBuilder, table: Pointer, number: Number, offset: Int, element: ir.Type) -> Pointer:
    """Return an address from a table, plus an offset in bytes."""
    address = (table + number).integer() + offset
    return Pointer(code, code.ir.inttoptr(address.value, POINTER), element)


def _gather(module: ir.Module, element: ir.Type, lanes: int) -> FunctionBuilder:
    """Generate the first pass down columns, from the rows of two tiles, with zeros outside their bounds.

    Arguments: Z, the tables of both tiles, the bytes before the column, for each tile the first existing lane and the
    one after the last, distance, rotations.
    """
    code = FunctionBuilder(module, "gather", [POINTER] * 3 + [I64] * 6 + [POINTER], internal=True)
    z, one, other = (code.argument(n, kind) for n, kind in enumerate((element, I64, I64)))
    offset, *bounds, distance = (code.argument(n) for n in range(3, 9))
    table = code.argument(9, element)
    masks = [code.lanes_between(low, high, lanes) for low, high in (bounds[:2], bounds[2:])]
    with code.loop(0, distance) as j:
        values = []
        for q in range(FIRST):
            number = j.index + distance * q
            places = [_at(code, rows, number, offset, element) for rows in (one, other)]
            for place in places:
                (place + 2 * lanes).prefetch()
            parts = [place.masked_vector(lanes, mask) for place, mask in zip(places, masks, strict=True)]
            values.append(Complex(*parts))
        values = transform(code, values, -1)
        factors = _rotations(code, table, j.index, FIRST, lanes)
        values[1:] = [multiply(code, v, f) for v, f in zip(values[1:], factors, strict=True)]
        for q, value in enumerate(values):
            store(z + j.index * (2 * lanes), lanes, value, distance * q)
    code.finish()
    return code


def _scatter(module: ir.Module, element: ir.Type, lanes: int) -> FunctionBuilder:
    """Generate the last inverse pass, to the rows of two tiles.

    Arguments: Z, the tables of both tiles, the bytes before the column, the remaining columns of each tile, distance,
    rotations, the bias, and two factors that multiply every result before the bias is added.
    """
    code = FunctionBuilder(module, "scatter", [POINTER] * 3 + [I64] * 4 + [POINTER] * 3, internal=True)
    z, one, other = (code.argument(n, kind) for n, kind in enumerate((element, I64, I64)))
    offset, *left, distance = (code.argument(n) for n in range(3, 7))
    table = code.argument(7, element)
    places = (code.argument(8, element), code.argument(9, element), code.argument(9, element) + 1)
    bias, first, second = (code.splat(place.load(), lanes) for place in places)
    masks = [code.lanes_below(columns, lanes) for columns in left]
    with code.loop(0, distance) as j:
        values = [load(z + j.index * (2 * lanes), lanes, distance * q) for q in range(FIRST)]
        factors = _rotations(code, table, j.index, FIRST, lanes)
        values[1:] = [multiply(code, v, f, conjugate=True) for v, f in zip(values[1:], factors, strict=True)]
        for q, value in enumerate(transform(code, values, 1)):
            number = j.index + distance * q
            for rows, part, mask in zip((one, other), value, masks, strict=True):
                place = _at(code, rows, number, offset, element)
                (place + lanes).prefetch(write=True)
                place.masked_store(code.multiply_add(code.ir.fmul(part, first), second, bias), mask)
    code.finish()
    return code


def _block(module: ir.Module, element: ir.Type, lanes: int) -> FunctionBuilder:
    """Generate the transposition of lanes x lanes complex numbers. Arguments: source, destination."""
    code = FunctionBuilder(module, "block", [POINTER, POINTER], internal=True)
    source, goal = (code.argument(n, element) for n in range(2))
    for part in range(2):
        taken = [(source + (2 * lane + part) * lanes).vector(lanes) for lane in range(lanes)]
        for lane, value in enumerate(transpose(code, taken)):
            (goal + (2 * lane + part) * lanes).store(value)
    code.finish()
    return code
