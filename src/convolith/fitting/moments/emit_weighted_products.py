"""Machine code for weighted products at many lags: `out[r, s] = sum over p of a[p - row[r]] first[p+s] second[p+s]`.

The product of two rows of an image is formed once in a thread's scratch memory, which stays in the first cache, and
summed under many rows of weights. A block of rows and shifts stays in registers.
"""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import F64, I64, zero
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("a", "first", "second", "rows", "out", "scratch", "counters"),
    *("tasks", "length", "reach", "thread_elements", "row_blocks", "shift_blocks"),
)
"""Arguments of the region; a, first and second are tables of addresses, one for each task."""


class WeightedProductsRecipe(NamedTuple):
    """Parameters of the generated code: rows and shifts of a block."""

    rows: int
    shifts: int


def write(module: ir.Module, target: Target, recipe: WeightedProductsRecipe) -> None:
    """Generate the region; a task is a stretch of a row."""
    lanes = target.lanes(8)
    code, s = ARGUMENTS.begin(module, {"a": I64, "first": I64, "second": I64, "rows": I64, "out": F64, "scratch": F64})
    block = recipe.rows * recipe.shifts
    products = s["scratch"] + code.fetch_add(s["counters"] + 8) * s["thread_elements"]
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        a, first, second = (code.slots(s[name] + task, [F64])[0] for name in ("a", "first", "second"))
        with code.loop(0, s["length"] + s["reach"], lanes) as turn:
            both = code.ir.fmul(*((row + turn.index).vector(lanes) for row in (first, second)))
            (products + turn.index).store(both)
        out = s["out"] + task * s["row_blocks"] * s["shift_blocks"] * block
        with code.loop(0, s["row_blocks"]) as rows:
            at = s["rows"] + rows.index * recipe.rows
            lefts = [a - (at + r).integer() for r in range(recipe.rows)]
            with code.loop(0, s["shift_blocks"]) as shifts:
                right = products + shifts.index * recipe.shifts
                sums = [zero(ir.VectorType(F64, lanes))] * block
                with code.loop(0, s["length"], lanes, values=sums) as turn:
                    ours = [(left + turn.index).vector(lanes) for left in lefts]
                    sums = list(turn.values)
                    for shift in range(recipe.shifts):
                        theirs = (right + turn.index + shift).vector(lanes)
                        for row in range(recipe.rows):
                            number = row * recipe.shifts + shift
                            sums[number] = code.multiply_add(ours[row], theirs, sums[number])
                    turn.carry(sums)
                place = out + (rows.index * s["shift_blocks"] + shifts.index) * block
                for number, value in enumerate(turn.values):
                    (place + number).store(code.sum_of(value))
    code.finish()
