"""Machine code for weighted products at many lags: `out[r, s] = sum over p of a[p - row[r]] first[p+s] second[p+s]`.

The product of two rows of an image is formed once in a thread's scratch memory, which stays in the first cache, and
summed under many rows of weights. A block of rows and shifts stays in registers.
"""

from __future__ import annotations

from llvmlite import ir

from convolith.fitting.moments.emit_lagged_products import LaggedProductsRecipe, write_sums
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import F64, I64
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("a", "first", "second", "rows", "out", "scratch", "counters"),
    *("tasks", "length", "reach", "thread_elements", "row_blocks", "shift_blocks"),
)
"""Arguments of the region; a, first and second are tables of addresses, one for each task."""


def write(module: ir.Module, target: Target, recipe: LaggedProductsRecipe) -> None:
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
        write_sums(code, lanes, recipe, s, a, products, s["length"], out)
    code.finish()
