"""Exponential, logistic and error functions of vectors, for float32 and float64, from polynomials.

The exponential is `2^n * exp(r)` with `|r| <= log(2) / 2` and a Taylor polynomial of r: its relative error is below two
units in the last place. The error function is formula 7.1.26 of Abramowitz and Stegun, "Handbook of Mathematical
Functions" (1964), with an absolute error below 2e-7; it is used for float32 alone.
"""

from __future__ import annotations

from math import factorial

from llvmlite import ir

from convolith.jit.builder import F32, I32, I64, FunctionBuilder, constant, suffix

LOG2_E = 1.4426950408889634
LN2 = {True: (0.693359375, -2.12194440054690583e-4), False: (0.693145751953125, 1.42860682030941723e-6)}
"""Logarithm of 2 as the sum of a number with few digits and a small one, for float32 and for float64."""
DEGREE = {True: 7, False: 13}
LARGEST = {True: 88.72, False: 709.78}
SMALLEST = {True: -86.6, False: -707.7}
EXPONENT = {True: (I32, 127, 23), False: (I64, 1023, 52)}
"""Integers as wide as the numbers, the bias of their exponent, and its lowest bit."""
ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
ERF_SCALE = 0.3275911
ERF_LARGEST = 6.0
"""Number beyond which the error function is 1 in float32."""
ESTIMATES = {16: ("llvm.x86.avx512.rcp14.ps.512", 16), 8: ("llvm.x86.avx.rcp.ps.256", 0), 4: ("llvm.x86.sse.rcp.ps", 0)}
"""Estimates of the reciprocal by the number of lanes, and the bits of the mask that the instruction takes."""


def exponential(code: FunctionBuilder, x: ir.Value) -> ir.Value:
    """Return exp(x) lane by lane; x is limited to the range in which the result is a normal number; NaN stays NaN."""
    kind = x.type
    single = kind.element == F32
    bounded = smaller(code, larger(code, x, constant(kind, SMALLEST[single])), constant(kind, LARGEST[single]))
    whole = code.intrinsic(f"llvm.rint.{suffix(kind)}", kind, [code.ir.fmul(bounded, constant(kind, LOG2_E))])
    rest = bounded
    for part in LN2[single]:
        rest = code.multiply_add(whole, constant(kind, -part), rest)
    sums = constant(kind, 1 / factorial(DEGREE[single]))
    for power in reversed(range(DEGREE[single])):
        sums = code.multiply_add(sums, rest, constant(kind, 1 / factorial(power)))
    integer, bias, lowest = EXPONENT[single]
    wide = ir.VectorType(integer, kind.count)
    bits = code.ir.shl(
        code.ir.add(code.ir.fptosi(whole, wide), ir.Constant(wide, [bias - 1] * kind.count)),
        ir.Constant(wide, [lowest] * kind.count),
    )
    half = code.ir.fmul(sums, code.ir.bitcast(bits, kind))  # 2^n itself may be too large
    return code.ir.fadd(half, half)


def unlimited_exponential(code: FunctionBuilder, x: ir.Value) -> ir.Value:
    """Return exp(x) lane by lane: 0 where it is less than the least normal number, infinity where it is too large."""
    kind, single = x.type, x.type.element == F32
    value = exponential(code, x)
    value = code.ir.select(code.ir.fcmp_ordered("<", x, constant(kind, SMALLEST[single])), constant(kind, 0.0), value)
    beyond = code.ir.fcmp_ordered(">", x, constant(kind, LARGEST[single]))
    return code.ir.select(beyond, constant(kind, float("inf")), value)


def logistic(code: FunctionBuilder, x: ir.Value) -> ir.Value:
    """Return 1 / (1 + exp(-x)) lane by lane."""
    return reciprocal(code, code.ir.fadd(constant(x.type, 1.0), exponential(code, code.ir.fneg(x))))


def reciprocal(code: FunctionBuilder, x: ir.Value) -> ir.Value:
    """Return 1 / x lane by lane, for finite numbers that are not zero.

    Where the processor has an estimate of float32, it is improved by a step of Newton's method, to an error of a
    rounding or two; a division takes several times as long.
    """
    kind = x.type
    name, bits = ESTIMATES.get(kind.count, ("", 0)) if kind.element == F32 else ("", 0)
    if not name or not code.module.triple.startswith("x86_64"):
        return code.ir.fdiv(constant(kind, 1.0), x)
    arguments = [x]
    if bits:
        mask = ir.IntType(bits)
        arguments += [constant(kind, 0.0), ir.Constant(mask, (1 << bits) - 1)]
    near = code.intrinsic(name, kind, arguments)
    return code.ir.fmul(near, code.multiply_add(code.ir.fneg(x), near, constant(kind, 2.0)))


def hyperbolic_tangent(code: FunctionBuilder, x: ir.Value) -> ir.Value:
    """Return tanh(x) lane by lane, with the absolute error of a rounding."""
    two = constant(x.type, 2.0)
    half = logistic(code, code.ir.fmul(x, two))
    return code.multiply_add(half, two, constant(x.type, -1.0))


def error_function(code: FunctionBuilder, x: ir.Value) -> ir.Value:
    """Return erf(x) lane by lane for float32."""
    kind = x.type
    one, size = constant(kind, 1.0), code.intrinsic(f"llvm.fabs.{suffix(kind)}", kind, [x])
    size = smaller(code, size, constant(kind, ERF_LARGEST))
    t = reciprocal(code, code.multiply_add(size, constant(kind, ERF_SCALE), one))
    sums = constant(kind, ERF[-1])
    for number in reversed(ERF[:-1]):
        sums = code.multiply_add(sums, t, constant(kind, number))
    tail = exponential(code, code.ir.fneg(code.ir.fmul(size, size)))
    value = code.ir.fsub(one, code.ir.fmul(code.ir.fmul(sums, t), tail))
    return code.intrinsic(f"llvm.copysign.{suffix(kind)}", kind, [value, x])


def larger(code: FunctionBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Return the larger of two numbers, lane by lane; NaN in `a` stays."""
    return code.ir.select(code.ir.fcmp_ordered("<", a, b), b, a)


def smaller(code: FunctionBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Return the smaller of two numbers, lane by lane; NaN in `a` stays."""
    return code.ir.select(code.ir.fcmp_ordered(">", a, b), b, a)
