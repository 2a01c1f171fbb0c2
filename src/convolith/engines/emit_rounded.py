"""Results rounded to integers of 8 or 16 bits where they are stored, with the number of those that this changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llvmlite import ir

from convolith.jit.builder import I32, FunctionBuilder, Int, Pointer, zero
from convolith.jit.conversions import rounded

KINDS = 2
"""Kinds of changed results: clipped, and NaN."""


class Rounding(NamedTuple):
    """Generator of the rounding of one thread's results, which it counts in memory of its own."""

    code: FunctionBuilder
    dtype: str
    """Dtype of the integers."""
    lanes: int
    counts: Pointer
    """A vector of counts of each kind."""
    may_miss: bool
    """Whether results may be NaN."""

    @classmethod
    def begin(cls, code: FunctionBuilder, dtype: str, lanes: int, *, may_miss: bool = True) -> Rounding:
        """Generate counts of zero, on the stack."""
        counts = code.scratch(I32, KINDS * lanes)
        for kind in range(KINDS):
            (counts + kind * lanes).store(zero(ir.VectorType(I32, lanes)))
        return cls(code, dtype, lanes, counts, may_miss)

    def values(self, results: Sequence[ir.Value], new: ir.Value | None = None) -> list[ir.Value]:
        """Generate integers for some vectors of floats, and count those that are changed.

        Args:
            results: vectors of `lanes` floats, or of twice as many.
            new: mask of the lanes that count; None for all of them.
        """
        made = [rounded(self.code, value, self.dtype, may_miss=self.may_miss) for value in results]
        self._count([one.clipped for one in made], 0, new)
        if self.may_miss:
            self._count([one.missing for one in made], 1, new)
        return [one.integers for one in made]

    def _count(self, masks: list[ir.Value], kind: int, new: ir.Value | None) -> None:
        """Generate the addition of masks to the counts of a kind; once for all of them, since memory makes it wait."""
        code, lanes, place = self.code, self.lanes, self.counts + kind * self.lanes
        total = place.vector(lanes)
        for mask in masks:
            here = mask if new is None else code.ir.and_(mask, new)
            ones = code.ir.sext(here, ir.VectorType(I32, here.type.count))
            for start in range(0, here.type.count, lanes):
                total = code.ir.sub(total, code.shuffle(ones, ones, range(start, start + lanes)))
        place.store(total)

    def finish(self, counts: Pointer, thread: Int) -> None:
        """Generate the delivery of the counts to an array of int32, (threads, KINDS, lanes)."""
        for kind in range(KINDS):
            there = counts + (thread * KINDS + kind) * self.lanes
            there.store((self.counts + kind * self.lanes).vector(self.lanes))
