"""Machine code that rounds floats to small integers, half to even, clips them, and counts what it changed."""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import F32, F64, I32, zero
from convolith.jit.conversions import STORED, rounded
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock("x", "y", "clipped", "missing", "counters", "tasks", "chunk", "vectors")
"""Arguments of the region; `clipped` and `missing` receive a vector of 32-bit counts for each task."""


class RoundingRecipe(NamedTuple):
    """Parameters of the generated code: the dtypes of the floats and of the integers."""

    floats: str
    integers: str


def lanes_of(target: Target, recipe: RoundingRecipe) -> int:
    """Return the number of values that are converted at once."""
    return target.lanes(4 if recipe.floats == "float32" else 8)


def write(module: ir.Module, target: Target, recipe: RoundingRecipe) -> None:
    """Generate the region; a task is a chunk of whole vectors."""
    element = F32 if recipe.floats == "float32" else F64
    lanes = lanes_of(target, recipe)
    counts = ir.VectorType(I32, lanes)
    code, s = ARGUMENTS.begin(module, {"x": element, "y": STORED[recipe.integers], "clipped": I32, "missing": I32})
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        start = task * s["chunk"]
        stop = code.minimum(start + s["chunk"], s["vectors"])
        with code.loop(start, stop, values=[zero(counts)] * 2) as turn:
            at = turn.index * lanes
            made = rounded(code, (s["x"] + at).vector(lanes), recipe.integers)
            (s["y"] + at).store(made.integers)
            changed = [code.ir.zext(mask, counts) for mask in made[1:]]
            turn.carry([code.ir.add(total, more) for total, more in zip(turn.values, changed, strict=True)])
        for name, value in zip(("clipped", "missing"), turn.values, strict=True):
            (s[name] + task * lanes).store(value)
    code.finish()
