"""Machine code for products at many lags, `out[r, s] = sum over p of a[p - row[r]] b[p + first + s]`.

A block of rows and shifts stays in registers during a chunk of positions: each vector of b serves all rows of the
block, and each vector of a all shifts. Each chunk has its own sums, which are then added in the same order for any
number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir

from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import F64, I64, FunctionBuilder, Int, Pointer, zero
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("a", "b", "rows", "out", "counters", "pairs", "tasks", "chunk", "length", "row_blocks", "shift_blocks", "first")
)
"""Arguments of the region; a and b are tables of addresses, one for each pair."""


class LaggedProductsRecipe(NamedTuple):
    """Parameters of the generated code: rows and shifts of a block."""

    rows: int
    shifts: int


def write(module: ir.Module, target: Target, recipe: LaggedProductsRecipe) -> None:
    """Generate the region, which processes chunks of positions until all are done."""
    lanes = target.lanes(8)
    code, s = ARGUMENTS.begin(module, {"a": I64, "b": I64, "rows": I64, "out": F64})
    block = recipe.rows * recipe.shifts
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        pair, start = task % s["pairs"], task // s["pairs"] * s["chunk"]
        a, b = (code.slots(s[name] + pair, [F64])[0] + start for name in ("a", "b"))
        count = code.minimum(s["chunk"], s["length"] - start)
        out = s["out"] + task * s["row_blocks"] * s["shift_blocks"] * block
        write_sums(code, lanes, recipe, s, a, b + s["first"], count, out)
    code.finish()


def write_sums(
    code: FunctionBuilder,
    lanes: int,
    recipe: LaggedProductsRecipe,
    s: dict[str, Any],
    a: Pointer,
    b: Pointer,
    count: Int,
    out: Pointer,
) -> None:
    """Generate `out[r, s] = sum over p < count of a[p - row[r]] b[p + s]` for all blocks of rows and shifts.

    Args:
        code, lanes: the function, and the number of values in a vector.
        recipe: rows and shifts of a block.
        s: arguments of the region, of which `rows`, `row_blocks` and `shift_blocks` are read.
        a, b: first numbers.
        count: number of positions.
        out: (row blocks, shift blocks, rows, shifts).
    """
    block = recipe.rows * recipe.shifts
    with code.loop(0, s["row_blocks"]) as rows:
        at = s["rows"] + rows.index * recipe.rows
        lefts = [a - (at + r).integer() for r in range(recipe.rows)]
        with code.loop(0, s["shift_blocks"]) as shifts:
            right = b + shifts.index * recipe.shifts
            sums = [zero(ir.VectorType(F64, lanes))] * block
            with code.loop(0, count, lanes, values=sums) as turn:
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
