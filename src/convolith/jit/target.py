"""Processor that code is generated for: its vectors, registers and hardware conversions."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm

from convolith.errors import ConvolithError


@dataclass(frozen=True)
class Target:
    """Processor as LLVM names it, and the properties of its vector unit."""

    name: str
    triple: str
    cpu: str
    features: str
    vector_bytes: int
    vector_registers: int
    fused: bool
    """Whether a multiplication and an addition are one instruction, rounded once."""
    halves: bool
    """Whether float16 is converted in hardware."""
    masked_bytes: int = 1 << 10
    """Bytes of the smallest element whose vectors have a masked load instruction."""

    def lanes(self, itemsize: int) -> int:
        """Return the number of elements of a size in one vector."""
        return self.vector_bytes // itemsize

    @property
    def accumulators(self) -> int:
        """Number of vectors that a register tile may keep; the other registers hold one row of inputs and a weight."""
        return self.vector_registers - 8 if self.vector_registers > 16 else self.vector_registers - 4


X86 = {
    "avx512": (64, 32, True, True, 1, ("avx512f", "avx512vl", "avx512dq", "avx512bw", "fma", "f16c")),
    "avx2": (32, 16, True, True, 4, ("avx2", "fma", "f16c")),
    "sse2": (16, 16, False, False, 1 << 10, ("sse2",)),
}
"""Vector widths of x86-64, widest first: bytes, registers, fused, halves, masked_bytes, and required features."""
WIDER = {"avx2": "-avx512f", "sse2": "-avx,-avx2,-fma,-f16c,-avx512f"}
"""Features that are disabled so that a wider host runs code for narrower vectors."""


@cache
def host(width: str = "") -> Target:
    """Return this machine's processor, with its widest vectors or with a narrower `width` (a key of X86).

    Raises:
        ConvolithError: a width that this processor does not have.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple, cpu = llvm.get_default_triple(), llvm.get_host_cpu_name()
    features = llvm.get_host_cpu_features()
    flat = features.flatten()
    if platform.machine().lower() in ("arm64", "aarch64"):
        return Target("neon", triple, cpu, flat, 16, 32, fused=True, halves=True)
    for name, (vector_bytes, registers, fused, halves, masked, needed) in X86.items():
        if width in ("", name) and all(features.get(feature) for feature in needed):
            off = f"{flat},{WIDER[name]}" if width and name in WIDER else flat
            wide = off + ",-prefer-256-bit" if name == "avx512" else off
            return Target(name, triple, cpu, wide, vector_bytes, registers, fused, halves, masked)
    raise ConvolithError(f"width is {width!r}; this processor has {', '.join(widths())}")


def widths() -> list[str]:
    """Return the vector widths that this processor can run, widest first."""
    features = llvm.get_host_cpu_features()
    return [name for name, row in X86.items() if all(features.get(feature) for feature in row[-1])]
