"""Pooling of planes, as a step of a program: the maximum or the mean of windows.

A row of outputs is reduced down its columns first, in vectors, to a row of scratch memory with what lies outside the
image at both ends; then along that row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from llvmlite import ir

from convolith.engines.steps import OUTPUT, Step, Steps
from convolith.jit import host, routine, thread_count
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import FunctionBuilder, Number, constant, itemsize
from convolith.jit.conversions import STORED
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("x", "y", "scratch", "row_scales", "column_scales", "counters", "tasks", "blocks", "block_rows", "channels"),
    *("x_image", "y_image", "height", "width", "out_height", "out_width", "pad_height", "pad_width", "row_elements"),
)
"""Arguments of the region: addresses, counts, distances in elements, sizes; scales of means by row and by column."""
BLOCK = 1 << 11
"""Number of outputs that form one task."""
SERIAL = 1 << 13
"""Number of outputs below which one thread has finished before a second one has started."""
MARGIN = 64
"""Elements of a row of scratch beyond the last window, which vectors read."""


class PoolRecipe(NamedTuple):
    """Parameters of the generated code."""

    kind: str
    """`"max"` or `"mean"`."""
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dtype: str


class Window(NamedTuple):
    """Windows of a pooling layer on two axes."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


def write(module: ir.Module, target: Target, recipe: PoolRecipe) -> None:
    """Generate the region: blocks of rows of outputs."""
    element = STORED[recipe.dtype]
    lanes = target.lanes(itemsize(element))
    names = ("x", "y", "scratch", "row_scales", "column_scales")
    code, s = ARGUMENTS.begin(module, dict.fromkeys(names, element))
    row = s["scratch"] + code.fetch_add(s["counters"] + 8) * s["row_elements"]
    kind = ir.VectorType(element, lanes)
    least = constant(kind, float("-inf") if recipe.kind == "max" else 0.0)
    (taps_down, taps), (stride_down, stride) = recipe.kernel_size, recipe.stride
    with code.loop(0, s["row_elements"], lanes) as at:
        (row + at.index).store(least)
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        plane, block = task // s["blocks"], task % s["blocks"]
        image, channel = plane // s["channels"], plane % s["channels"]
        x = s["x"] + image * s["x_image"] + channel * (s["height"] * s["width"])
        y = s["y"] + image * s["y_image"] + channel * (s["out_height"] * s["out_width"])
        first = block * s["block_rows"]
        with code.loop(first, code.minimum(first + s["block_rows"], s["out_height"])) as down:
            top = down.index * stride_down - s["pad_height"]
            begin = code.maximum(top, 0)
            end = code.minimum(top + taps_down, s["height"])
            with code.loop(0, s["width"], lanes) as at:
                mask = code.lanes_below(s["width"] - at.index, lanes)
                with code.loop(begin, end, values=[least]) as line:
                    value = (x + line.index * s["width"] + at.index).masked_vector(lanes, mask)
                    line.carry([_reduced(code, recipe, line.values[0], value)])
                (row + s["pad_width"] + at.index).masked_store(line.values[0], mask)
            with code.loop(0, s["out_width"], lanes) as at:
                made = least
                for tap in range(taps):
                    made = _reduced(code, recipe, made, _apart(code, row + at.index * stride + tap, stride, lanes))
                mask = code.lanes_below(s["out_width"] - at.index, lanes)
                if recipe.kind == "mean":
                    scale = code.splat((s["row_scales"] + down.index).load(), lanes)
                    columns = (s["column_scales"] + at.index).masked_vector(lanes, mask)
                    made = code.ir.fmul(made, code.ir.fmul(scale, columns))
                (y + down.index * s["out_width"] + at.index).masked_store(made, mask)
    code.finish()


def _reduced(code: FunctionBuilder, recipe: PoolRecipe, a: ir.Value, b: ir.Value) -> ir.Value:
    """Return the sum of two vectors, or the larger numbers; NaN stays."""
    if recipe.kind == "mean":
        return code.ir.fadd(a, b)
    larger = code.ir.or_(code.ir.fcmp_ordered("<", a, b), code.ir.fcmp_unordered("uno", b, b))
    return code.ir.select(larger, b, a)


def _apart(code: FunctionBuilder, place: Number, stride: int, lanes: int) -> ir.Value:
    """Load a vector of numbers that lie `stride` apart."""
    if stride == 1:
        return place.vector(lanes)
    if stride == 2:
        return code.shuffle(place.vector(lanes), (place + lanes).vector(lanes), range(0, 2 * lanes, 2))
    made = ir.Constant(ir.VectorType(place.element, lanes), ir.Undefined)
    for lane in range(lanes):
        made = code.ir.insert_element(made, (place + lane * stride).load(), ir.Constant(ir.IntType(32), lane))
    return made


def steps(
    kind: str,
    window: Window,
    shape: tuple[int, int, int, int],
    out_size: tuple[int, int],
    pitches: tuple[int, int],
    scales: tuple[torch.Tensor, torch.Tensor] | None,
    dtype: str,
) -> Steps:
    """Return the step that pools an image.

    Args:
        kind: `"max"` or `"mean"`.
        window: the windows.
        shape: shape of the image, (N, channels, height, width).
        out_size: height and width of the result.
        pitches: distances of images in x and in y, in elements.
        scales: for means, one over the numbers of rows and of columns of each window.
        dtype: dtype of all numbers.
    """
    (batch, channels, height, width), (out_height, out_width) = shape, out_size
    rows = max(1, min(out_height, BLOCK // out_width))
    blocks = -(-out_height // rows)
    threads = 1 if batch * channels * out_height * out_width < SERIAL else thread_count()
    lanes = host().vector_bytes // 4
    widest = max(width + window.padding[1], (-(-out_width // lanes) * lanes) * window.stride[1] + window.kernel_size[1])
    row_elements = -(-(widest + window.padding[1] + 2 * lanes * window.stride[1] + MARGIN) // 64) * 64
    values = {
        "tasks": batch * channels * blocks,
        "blocks": blocks,
        "block_rows": rows,
        "channels": channels,
        "x_image": pitches[0],
        "y_image": pitches[1],
        "height": height,
        "width": width,
        "out_height": out_height,
        "out_width": out_width,
        "pad_height": window.padding[0],
        "pad_width": window.padding[1],
        "row_elements": row_elements,
    }
    tensors = {} if scales is None else {"row_scales": scales[0], "column_scales": scales[1]}
    region = routine(write, host(), PoolRecipe(kind, window.kernel_size, window.stride, dtype))
    places = {"x": 0, "y": OUTPUT}
    step = Step(region, ARGUMENTS, ARGUMENTS.new(values), places, tensors, {"scratch": 0}, threads)
    return Steps((step,), row_elements * 8 * threads)
