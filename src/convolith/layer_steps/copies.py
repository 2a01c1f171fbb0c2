"""Copies between any two layouts, as a step of a program: permuted, mirrored or repeated elements, constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from llvmlite import ir

from convolith.engines.steps import OUTPUT, Step, Steps
from convolith.jit import host, routine, thread_count
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import Int, Pointer, itemsize
from convolith.jit.conversions import STORED
from convolith.jit.target import Target

MOST_AXES = 7
"""Upper bound on the axes of a copy, after those are merged that lie one after the other in both layouts."""
OUTER = MOST_AXES - 2
ARGUMENTS = ArgumentBlock(
    *("x", "y", "counters", "tasks", "chunk"),
    *(f"{name}{n}" for name in ("size", "from", "to") for n in range(MOST_AXES)),
)
"""Arguments of the region: addresses, counts, and the size and both strides of each axis, the innermost first."""
SERIAL = 1 << 14
"""Number of elements below which one thread has finished before a second one has started."""
CHUNK = 1 << 11
"""Number of elements that a thread takes at a time."""


class CopyRecipe(NamedTuple):
    """Parameters of the generated code."""

    dtype: str
    source: int
    """Stride of x along the innermost axis: 1, 0, or -1 for any."""
    goal: int
    """Stride of y along the innermost axis: 1, or -1 for any."""


def write(module: ir.Module, target: Target, recipe: CopyRecipe) -> None:
    """Generate the region: for every place on the outer axes, two loops, the inner one in vectors if it can be."""
    element = STORED[recipe.dtype]
    lanes = target.lanes(itemsize(element))
    code, s = ARGUMENTS.begin(module, {"x": element, "y": element})
    vectors = recipe.source >= 0 and recipe.goal == 1
    with code.tasks(s["counters"], s["tasks"], s["chunk"]) as task:
        x: Pointer = s["x"]
        y: Pointer = s["y"]
        rest: Int = task
        for axis in range(2, MOST_AXES):
            at, rest = rest % s[f"size{axis}"], rest // s[f"size{axis}"]
            x, y = x + at * s[f"from{axis}"], y + at * s[f"to{axis}"]
        with code.loop(0, s["size1"]) as row:
            source, goal = x + row.index * s["from1"], y + row.index * s["to1"]
            whole = s["size0"] // lanes * lanes if vectors else code.integer(0)
            if vectors:
                with code.loop(0, whole, lanes) as at:
                    value = (source + at.index).vector(lanes) if recipe.source else code.splat(source.load(), lanes)
                    (goal + at.index).store(value)
            with code.loop(whole, s["size0"]) as at:
                (goal + at.index * s["to0"]).store((source + at.index * s["from0"]).load())
    code.finish()


class Axis(NamedTuple):
    """One axis of a copy: its size and its strides in x and in y, in elements."""

    size: int
    source: int
    goal: int


def steps(axes: Sequence[Axis], dtype: str, constant: float | None = None) -> Steps | None:
    """Return the step that copies x to y, or None if there are too many axes.

    Args:
        axes: the axes, the outermost first.
        dtype: dtype of all elements.
        constant: a number that is copied instead of x; the strides in x are then 0.
    """
    ordered = _merged(axes)
    if len(ordered) > MOST_AXES:
        return None
    padded = [*([Axis(1, 0, 0)] * (MOST_AXES - len(ordered))), *ordered][::-1]
    total, inside = 1, padded[0].size * padded[1].size
    for axis in padded:
        total *= axis.size
    tasks = total // inside
    threads = 1 if total < SERIAL else thread_count()
    values = {"tasks": tasks, "chunk": max(1, min(CHUNK // inside, tasks // (threads * 4)))}
    for number, axis in enumerate(padded):
        values |= {f"size{number}": axis.size, f"from{number}": axis.source, f"to{number}": axis.goal}
    inner = padded[0]
    recipe = CopyRecipe(dtype, inner.source if inner.source in (0, 1) else -1, 1 if inner.goal == 1 else -1)
    region = routine(write, host(), recipe)
    places, tensors = {"x": 0, "y": OUTPUT}, {}
    if constant is not None:
        places, tensors = {"y": OUTPUT}, {"x": torch.tensor([constant], dtype=getattr(torch, dtype), device="cpu")}
    return Steps((Step(region, ARGUMENTS, ARGUMENTS.new(values), places, tensors, {}, threads),))


def _merged(axes: Sequence[Axis]) -> list[Axis]:
    """Return the axes in an order in which the innermost is long, without those of size 1, merged where possible."""
    found: list[Axis] = []
    for axis in axes:
        if axis.size == 1:
            continue
        if found:
            outer = found[-1]
            if outer.source == axis.source * axis.size and outer.goal == axis.goal * axis.size:
                found[-1] = Axis(outer.size * axis.size, axis.source, axis.goal)
                continue
        found.append(axis)
    if len(found) > 1 and found[-1].size < SHORT <= found[-2].size:
        found[-2:] = found[-2:][::-1]
    if len(found) > 1 and (found[-1].source, found[-1].goal) != (1, 1):  # rows that lie in both layouts go inside
        rows = [a for a in found if a.source == 1 and a.goal == 1 and a.size >= SHORT]
        found = [a for a in found if a not in rows] + rows
    return found


SHORT = 8
"""Number of elements of an innermost axis below which the axis around it goes inside."""
