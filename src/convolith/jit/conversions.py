"""LLVM types of all real dtypes, and their conversion to and from the type of sums."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir

from convolith.jit.builder import (
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    FunctionBuilder,
    constant,
    is_integer,
    itemsize,
    suffix,
    zero,
)

STORED = {
    "float16": F16,
    "bfloat16": I16,
    "float32": F32,
    "float64": F64,
    **{f"{sign}int{bits}": kind for bits, kind in ((8, I8), (16, I16), (32, I32), (64, I64)) for sign in ("", "u")},
}
"""LLVM type of an element in memory. LLVM's bfloat needs newer processors, so bfloat16 is a 16-bit integer."""
MAGIC = 1.5 * 2**52
"""Constant whose sum with an integral float64 below 2^51 has the integer in its low bits."""


def to_sum(code: FunctionBuilder, value: ir.Value, dtype: str, wide: ir.Type) -> ir.Value:
    """Convert a vector of a dtype in memory to the type of sums (float32, float64 or int64)."""
    lanes = value.type.count
    kind = ir.VectorType(wide, lanes)
    if value.type == kind:
        return value
    if dtype == "bfloat16":
        bits = code.ir.zext(value, ir.VectorType(I32, lanes))
        value = code.ir.bitcast(code.ir.shl(bits, constant(ir.VectorType(I32, lanes), 16)), ir.VectorType(F32, lanes))
        return value if wide == F32 else code.ir.fpext(value, kind)
    unsigned = dtype.startswith("u")
    if is_integer(kind):
        return (code.ir.zext if unsigned else code.ir.sext)(value, kind)
    if is_integer(value.type):
        if itemsize(value.type.element) < 4:  # processors convert integers of 32 bits
            value = (code.ir.zext if unsigned else code.ir.sext)(value, ir.VectorType(I32, lanes))
            unsigned = False
        return (code.ir.uitofp if unsigned else code.ir.sitofp)(value, kind)
    return code.ir.fpext(value, kind) if itemsize(wide) > itemsize(value.type.element) else code.ir.fptrunc(value, kind)


def from_sum(code: FunctionBuilder, value: ir.Value, dtype: str) -> ir.Value:
    """Convert a vector of sums to a dtype in memory; integers are below 2^24 in float32 and below 2^51 in float64."""
    stored = STORED[dtype]
    lanes = value.type.count
    kind = ir.VectorType(stored, lanes)
    if value.type == kind:
        return value
    if dtype == "bfloat16":
        return round_to_bfloat16(code, value)
    if not is_integer(kind):
        return code.ir.fptrunc(value, kind)
    if value.type.element == F32:
        return code.ir.sext(code.ir.fptosi(value, ir.VectorType(I32, lanes)), kind)
    magic = constant(value.type, MAGIC)
    bits = code.ir.bitcast(code.ir.fadd(value, magic), kind)
    return code.ir.sub(bits, code.ir.bitcast(magic, kind))


class Rounded(NamedTuple):
    """Integers, and masks of the lanes that were clipped and of those that were NaN (None where there is none)."""

    integers: ir.Value
    clipped: ir.Value
    missing: ir.Value | None


def rounded(code: FunctionBuilder, value: ir.Value, dtype: str, *, may_miss: bool = True) -> Rounded:
    """Round a vector of floats to an integer dtype of 8 or 16 bits, half to even, and clip it; NaN becomes 0.

    Args:
        code: the function.
        value: the floats.
        dtype: dtype of the integers.
        may_miss: whether there may be NaN.
    """
    kind, limits, lanes = value.type, np.iinfo(dtype), value.type.count
    least, largest = constant(kind, float(limits.min)), constant(kind, float(limits.max))
    near = code.intrinsic(f"llvm.rint.{suffix(kind)}", kind, [value])
    below = code.ir.select(code.ir.fcmp_ordered("<", largest, near), largest, near)
    bounded = code.ir.select(code.ir.fcmp_ordered(">", least, below), least, below)
    clipped = code.ir.fcmp_ordered("!=", bounded, near)
    there = None
    if may_miss:
        there = code.ir.fcmp_ordered("ord", value, value)
        bounded = code.ir.select(there, bounded, zero(kind))
    whole = code.ir.fptosi(bounded, ir.VectorType(I32, lanes))
    integers = code.ir.trunc(whole, ir.VectorType(STORED[dtype], lanes))
    return Rounded(integers, clipped, None if there is None else code.ir.not_(there))


def round_to_bfloat16(code: FunctionBuilder, value: ir.Value) -> ir.Value:
    """Round float32 to the nearest bfloat16, ties to even; NaN stays a quiet NaN."""
    lanes = value.type.count
    wide = ir.VectorType(I32, lanes)
    bits = code.ir.bitcast(value, wide)
    sixteen = constant(wide, 16)
    odd = code.ir.and_(code.ir.lshr(bits, sixteen), constant(wide, 1))
    rounded = code.ir.lshr(code.ir.add(code.ir.add(bits, constant(wide, 0x7FFF)), odd), sixteen)
    nan = code.ir.fcmp_unordered("uno", value, value)
    return code.ir.trunc(code.ir.select(nan, constant(wide, 0x7FC0), rounded), ir.VectorType(I16, lanes))
