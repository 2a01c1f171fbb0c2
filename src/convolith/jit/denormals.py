"""Floating-point control register: denormal numbers count as zero while generated code runs.

On x86, arithmetic on denormals is a hundred times slower than on other numbers; on ARM it is not, so nothing changes.
"""

from __future__ import annotations

from llvmlite import ir

from convolith.jit.builder import I32, VOID, FunctionBuilder, Pointer
from convolith.jit.target import Target

FLUSH_AND_ZERO = 0x8040
"""MXCSR bits for "denormal results are zero" and "denormal operands are zero"."""


def flush_denormals(code: FunctionBuilder, target: Target) -> Pointer | None:
    """Enable flushing of denormals; return where the caller's mode is saved, or None if it is unchanged."""
    if target.name not in ("avx512", "avx2", "sse2"):
        return None
    before, inside = (Pointer(code, code.ir.alloca(I32), I32) for _ in range(2))
    code.intrinsic("llvm.x86.sse.stmxcsr", VOID, [before.value])
    inside.store(code.ir.or_(before.load(), ir.Constant(I32, FLUSH_AND_ZERO)))
    code.intrinsic("llvm.x86.sse.ldmxcsr", VOID, [inside.value])
    return before


def restore_control(code: FunctionBuilder, before: Pointer | None) -> None:
    """Restore the caller's mode."""
    if before is not None:
        code.intrinsic("llvm.x86.sse.ldmxcsr", VOID, [before.value])
