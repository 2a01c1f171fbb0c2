"""Machine code that rounds floats to small integers, half to even, clips them, and counts what it changed."""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import F32, F64, I32, constant, suffix, zero
from convolith.jit.conversions import STORED
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock("x", "y", "clipped", "missing", "counters", "tasks", "chunk", "vectors")
"""Arguments of the region; `clipped` and `missing` receive a vector of 32-bit counts for each task."""


class RoundingRecipe(NamedTuple):
    """Parameters of the generated code: float and integer dtypes, and the limits of the integers."""

    floats: str
    integers: str
    least: int
    largest: int


def lanes_of(target: Target, recipe: RoundingRecipe) -> int:
    """Return the number of values that are converted at once."""
    return target.lanes(4 if recipe.floats == "float32" else 8)


def write(module: ir.Module, target: Target, recipe: RoundingRecipe) -> None:
    """Generate the region; a task is a chunk of whole vectors."""
    element = F32 if recipe.floats == "float32" else F64
    lanes = lanes_of(target, recipe)
    kind, counts, stored = (ir.VectorType(one, lanes) for one in (element, I32, STORED[recipe.integers]))
    code, s = ARGUMENTS.begin(module, {"x": element, "y": STORED[recipe.integers], "clipped": I32, "missing": I32})
    least, largest = constant(kind, float(recipe.least)), constant(kind, float(recipe.largest))
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        start = task * s["chunk"]
        stop = code.minimum(start + s["chunk"], s["vectors"])
        with code.loop(start, stop, values=[zero(counts)] * 2) as turn:
            at = turn.index * lanes
            value = (s["x"] + at).vector(lanes)
            there = code.ir.fcmp_ordered("ord", value, value)
            rounded = code.intrinsic(f"llvm.rint.{suffix(kind)}", kind, [value])
            low, high = code.ir.fcmp_ordered("<", rounded, least), code.ir.fcmp_ordered(">", rounded, largest)
            bounded = code.ir.select(low, least, code.ir.select(high, largest, rounded))
            whole = code.ir.fptosi(code.ir.select(there, bounded, zero(kind)), counts)
            (s["y"] + at).store(code.ir.trunc(whole, stored))
            changed = [code.ir.zext(mask, counts) for mask in (code.ir.or_(low, high), code.ir.not_(there))]
            turn.carry([code.ir.add(total, more) for total, more in zip(turn.values, changed, strict=True)])
        for name, value in zip(("clipped", "missing"), turn.values, strict=True):
            (s[name] + task * lanes).store(value)
    code.finish()
