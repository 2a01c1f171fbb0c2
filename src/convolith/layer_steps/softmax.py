"""Softmax as a step of a program: over the channels of each position, or over rows of contiguous numbers.

The largest number is subtracted first, so that no exponential overflows.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from convolith.engines.steps import OUTPUT, Step, Steps
from convolith.jit import host, routine, thread_count
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import FunctionBuilder, Number, Pointer, constant, itemsize, suffix, zero
from convolith.jit.conversions import STORED
from convolith.jit.denormals import flush_denormals, restore_control
from convolith.jit.functions import larger, unlimited_exponential
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("x", "y", "counters", "tasks", "chunk", "blocks", "block_positions", "channels", "positions"),
    *("x_image", "y_image"),
)
"""Arguments of the region: addresses, counts, and the distances of images in elements."""
BLOCK_BYTES = 1 << 17
"""Upper bound on the bytes of a block of positions, all channels of which stay in a second-level cache."""
BLOCK_ELEMENTS = 1 << 12
"""Number of elements of the rows that a thread takes at a time."""
LEAST = 1e-30
"""Least sum of a safe softmax, which is 1 or more where any number is finite."""
SERIAL = 1 << 12
"""Number of elements below which one thread has finished before a second one has started."""


class SoftmaxRecipe(NamedTuple):
    """Parameters of the generated code."""

    rows: bool
    """Whether numbers of a sum are contiguous; else they are the channels of a position."""
    dtype: str
    safe: bool = False
    """Whether the softmax of minus infinity alone is zero, not NaN."""


def write(module: ir.Module, target: Target, recipe: SoftmaxRecipe) -> None:
    """Generate the region."""
    element = STORED[recipe.dtype]
    lanes = target.lanes(itemsize(element))
    code, s = ARGUMENTS.begin(module, {"x": element, "y": element})
    before = flush_denormals(code, target)
    kind = ir.VectorType(element, lanes)
    with code.tasks(s["counters"], s["tasks"], s["chunk"]) as task:
        image, part = task // s["blocks"], task % s["blocks"]
        x, y = s["x"] + image * s["x_image"], s["y"] + image * s["y_image"]
        if recipe.rows:
            _row(code, recipe, kind, x + part * s["channels"], y + part * s["channels"], s["channels"])
        else:
            begin = part * s["block_positions"]
            end = code.minimum(begin + s["block_positions"], s["positions"])
            with code.loop(begin, end, lanes) as at:
                mask = code.lanes_below(end - at.index, lanes)
                _channels(code, recipe, kind, s, x + at.index, y + at.index, mask)
    restore_control(code, before)
    code.finish()


def _channels(
    code: FunctionBuilder,
    recipe: SoftmaxRecipe,
    kind: ir.VectorType,
    s: dict[str, Any],
    x: Pointer,
    y: Pointer,
    mask: ir.Value,
) -> None:
    """Generate the softmax of a vector of positions over all channels."""
    lanes, pitch = kind.count, s["positions"]
    with code.loop(0, s["channels"], values=[constant(kind, float("-inf"))]) as at:
        at.carry([larger(code, (x + at.index * pitch).masked_vector(lanes, mask), at.values[0])])
    most = _at_least(code, at.values[0], lowest(recipe)) if recipe.safe else at.values[0]
    with code.loop(0, s["channels"], values=[zero(kind)]) as at:
        value = (x + at.index * pitch).masked_vector(lanes, mask)
        power = unlimited_exponential(code, code.ir.fsub(value, most))
        (y + at.index * pitch).masked_store(power, mask)
        at.carry([code.ir.fadd(at.values[0], power)])
    total = _at_least(code, at.values[0], LEAST) if recipe.safe else at.values[0]
    scale = code.ir.fdiv(constant(kind, 1.0), total)
    with code.loop(0, s["channels"]) as at:
        goal = y + at.index * pitch
        goal.masked_store(code.ir.fmul(goal.masked_vector(lanes, mask), scale), mask)


def lowest(recipe: SoftmaxRecipe) -> float:
    """Return the lowest finite number, which stands for the largest one where all are minus infinity."""
    return float(np.finfo(recipe.dtype).min)


def _at_least(code: FunctionBuilder, x: ir.Value, least: float) -> ir.Value:
    return larger(code, x, constant(x.type, least))


def _row(
    code: FunctionBuilder, recipe: SoftmaxRecipe, kind: ir.VectorType, x: Pointer, y: Pointer, length: Number
) -> None:
    """Generate the softmax of a row of contiguous numbers."""
    lanes, none = kind.count, constant(kind, float("-inf"))

    def value(at: Number, mask: ir.Value) -> ir.Value:
        return code.ir.select(mask, (x + at).masked_vector(lanes, mask), none)

    with code.loop(0, length, lanes, values=[none]) as at:
        at.carry([larger(code, value(at.index, code.lanes_below(length - at.index, lanes)), at.values[0])])
    most = code.intrinsic(f"llvm.vector.reduce.fmax.{suffix(kind)}", kind.element, [at.values[0]])
    highest = code.splat(most, lanes)
    highest = _at_least(code, highest, lowest(recipe)) if recipe.safe else highest
    with code.loop(0, length, lanes, values=[zero(kind)]) as at:
        mask = code.lanes_below(length - at.index, lanes)
        power = unlimited_exponential(code, code.ir.fsub(value(at.index, mask), highest))
        (y + at.index).masked_store(power, mask)
        at.carry([code.ir.fadd(at.values[0], code.ir.select(mask, power, zero(kind)))])
    total = code.splat(code.sum_of(at.values[0]), lanes)
    total = _at_least(code, total, LEAST) if recipe.safe else total
    scale = code.ir.fdiv(constant(kind, 1.0), total)
    with code.loop(0, length, lanes) as at:
        mask, goal = code.lanes_below(length - at.index, lanes), y + at.index
        goal.masked_store(code.ir.fmul(goal.masked_vector(lanes, mask), scale), mask)


def steps(shape: tuple[int, ...], pitches: tuple[int, int], dtype: str, *, rows: bool, safe: bool = False) -> Steps:
    """Return the step that computes a softmax.

    Args:
        shape: (N, channels, *size) for a softmax over channels; (N, number of rows, length) for one of rows.
        pitches: distances of images in x and in y, in elements.
        dtype: dtype of all numbers.
        rows: whether sums are over the last axis; else they are over the channels.
        safe: whether the softmax of minus infinity alone is zero, not NaN.
    """
    target, threads = host(), 1 if prod(shape) < SERIAL else thread_count()
    batch, channels, positions = shape[0], shape[1], prod(shape[2:])
    if rows:
        blocks, block, channels, positions = shape[1], 1, shape[2], 1
        chunk = max(1, min(BLOCK_ELEMENTS // channels, batch * blocks // (4 * threads)))
    else:
        lanes, chunk = target.lanes(itemsize(STORED[dtype])), 1
        block = max(lanes, BLOCK_BYTES // (8 * channels) // lanes * lanes)
        while block > lanes and batch * -(-positions // block) < 4 * threads:
            block = max(lanes, block // 2 // lanes * lanes)
        blocks = -(-positions // block)
    values = {"tasks": batch * blocks, "chunk": chunk, "blocks": blocks, "block_positions": block}
    values |= {"channels": channels, "positions": positions, "x_image": pitches[0], "y_image": pitches[1]}
    region = routine(write, target, SoftmaxRecipe(rows, dtype, safe))
    return Steps((Step(region, ARGUMENTS, ARGUMENTS.new(values), {"x": 0, "y": OUTPUT}, {}, {}, threads),))
