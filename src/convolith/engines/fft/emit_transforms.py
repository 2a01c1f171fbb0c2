"""Discrete Fourier transforms of a few points in registers, and the passes of long transforms.

A transform of n = r * m points is m transforms of r points, a rotation, and r transforms of m points, in place and
without any reordering: forward by decimation in frequency, inverse by its mirror image, decimation in time (Cooley and
Tukey 1965; Gentleman and Sande 1966). The frequencies are permuted, which does not affect products of spectra.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import cos, pi, prod, sin, sqrt
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from convolith.jit.builder import FunctionBuilder, constant

RADICES = (8, 5, 4, 3, 2)
"""Sizes of the transforms in registers; eight complex vectors and their temporaries fill 32 registers."""
FIRST = 8
"""Radix of the first forward pass, which reads the inputs, and of the last inverse pass, which writes the outputs."""


class Complex(NamedTuple):
    """Vectors of the real and the imaginary parts of complex numbers."""

    real: ir.Value
    imag: ir.Value


class Pass(NamedTuple):
    """One pass: transforms of `radix` points with a stride of `distance`, in `blocks` blocks."""

    radix: int
    distance: int
    blocks: int


@lru_cache(maxsize=1024)
def passes(length: int) -> tuple[Pass, ...] | None:
    """Return the passes of a length, the first of radix 8; None if 8 does not divide it or a prime over 5 does."""
    if length % FIRST:
        return None
    radices, rest = [FIRST], length // FIRST
    while rest > 1:
        twos = (rest & -rest).bit_length() - 1
        fours = twos % 3 == 1 and twos > 1  # two passes of four, rather than one of eight and one of two
        radix = 4 if fours else next((r for r in RADICES if rest % r == 0), 0)
        if not radix:
            return None
        radices.append(radix)
        rest //= radix
    return tuple(Pass(radix, prod(radices[place + 1 :]), prod(radices[:place])) for place, radix in enumerate(radices))


def rotations(length: int) -> tuple[np.ndarray, list[int]]:
    """Return the factors between passes, `exp(-2 pi i q j / (r m))` for all j and q >= 1, and each pass's start."""
    made, starts, total = [], [], 0
    for radix, distance, _ in passes(length) or ():
        angles = -2 * pi * np.outer(np.arange(distance), np.arange(1, radix)) / (radix * distance)
        made.append(np.stack([np.cos(angles), np.sin(angles)], -1).reshape(-1))
        starts.append(total)
        total += made[-1].size
    return np.concatenate(made), starts


def add(code: FunctionBuilder, a: Complex, b: Complex) -> Complex:
    """Return `a + b`."""
    return Complex(code.ir.fadd(a.real, b.real), code.ir.fadd(a.imag, b.imag))


def subtract(code: FunctionBuilder, a: Complex, b: Complex) -> Complex:
    """Return `a - b`."""
    return Complex(code.ir.fsub(a.real, b.real), code.ir.fsub(a.imag, b.imag))


def multiply(code: FunctionBuilder, a: Complex, b: Complex, *, conjugate: bool = False) -> Complex:
    """Return `a b`, or a times the conjugate of b."""
    flip = code.ir.fneg
    straight, crossed = code.ir.fmul(a.imag, b.imag), code.ir.fmul(a.real, b.imag)
    real = code.multiply_add(a.real, b.real, straight if conjugate else flip(straight))
    imag = code.multiply_add(a.imag, b.real, flip(crossed) if conjugate else crossed)
    return Complex(real, imag)


def turn(code: FunctionBuilder, a: Complex, sign: int) -> Complex:
    """Return a times i or -i."""
    if sign > 0:
        return Complex(code.ir.fneg(a.imag), a.real)
    return Complex(a.imag, code.ir.fneg(a.real))


def transform(code: FunctionBuilder, x: Sequence[Complex], sign: int) -> list[Complex]:
    """Compute `X[q] = sum over p of x[p] exp(sign 2 pi i p q / n)` for n in RADICES."""
    n = len(x)
    if n == 2:
        return [add(code, *x), subtract(code, *x)]
    if n % 2:
        return _odd(code, x, sign)
    even, odd = transform(code, x[::2], sign), transform(code, x[1::2], sign)
    made = [_eighth(code, value, sign * q * (8 // n)) for q, value in enumerate(odd)]
    sums = [add(code, a, b) for a, b in zip(even, made, strict=True)]
    return sums + [subtract(code, a, b) for a, b in zip(even, made, strict=True)]


def _eighth(code: FunctionBuilder, a: Complex, eighths: int) -> Complex:
    """Return a times exp(2 pi i eighths / 8), for -3 to 3 eighths."""
    if eighths == 0:
        return a
    if abs(eighths) == 2:
        return turn(code, a, eighths)
    half = constant(a.real.type, sqrt(0.5))
    turned = turn(code, a, eighths)
    both = add(code, a, turned) if abs(eighths) == 1 else subtract(code, turned, a)
    return Complex(code.ir.fmul(both.real, half), code.ir.fmul(both.imag, half))


def _odd(code: FunctionBuilder, x: Sequence[Complex], sign: int) -> list[Complex]:
    """Transform three or five points: the pairs p and n - p share their sum and their difference."""
    n, half = len(x), len(x) // 2
    kind = x[0].real.type
    sums = [add(code, x[p], x[n - p]) for p in range(1, half + 1)]
    differences = [subtract(code, x[p], x[n - p]) for p in range(1, half + 1)]
    first = x[0]
    for value in sums:
        first = add(code, first, value)
    made: list[Complex] = [first] * n
    for q in range(1, half + 1):
        even, odd = x[0], None
        for p in range(1, half + 1):
            angle = 2 * pi * p * q / n
            even = Complex(*_weigh(code, even, cos(angle), sums[p - 1], kind))
            weighted = sin(angle) * sign
            if odd is None:
                factor = constant(kind, weighted)
                odd = Complex(*(code.ir.fmul(part, factor) for part in differences[p - 1]))
            else:
                odd = Complex(*_weigh(code, odd, weighted, differences[p - 1], kind))
        assert odd is not None  # noqa: S101 - there is at least one pair
        turned = turn(code, odd, 1)
        made[q], made[n - q] = add(code, even, turned), subtract(code, even, turned)
    return made


def _weigh(code: FunctionBuilder, total: Complex, weight: float, value: Complex, kind: ir.Type) -> list[ir.Value]:
    factor = constant(kind, weight)
    return [code.multiply_add(factor, part, whole) for part, whole in zip(value, total, strict=True)]


def transpose(code: FunctionBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """Transpose as many vectors as they have lanes: lane i of vector j becomes lane j of vector i."""
    made = list(rows)
    lanes = len(made)
    distance = 1
    while distance < lanes:
        low = [lane if not lane & distance else lanes + lane - distance for lane in range(lanes)]
        high = [lane + distance if not lane & distance else lanes + lane for lane in range(lanes)]
        for i in range(lanes):
            if not i & distance:
                a, b = made[i], made[i + distance]
                made[i], made[i + distance] = code.shuffle(a, b, low), code.shuffle(a, b, high)
        distance *= 2
    return made
