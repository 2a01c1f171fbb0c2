"""Pooling of planes, as a step of a program: the maximum or the mean of windows.

A row of outputs is reduced over planes and rows first, in vectors, to a row of scratch memory with what lies outside
the image at both ends; then along that row.
"""

from __future__ import annotations

from math import prod
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
    *("x", "y", "scratch", "plane_scales", "row_scales", "column_scales", "counters", "tasks", "blocks", "block_rows"),
    *("channels", "x_image", "y_image", "depth", "height", "width", "out_depth", "out_height", "out_width"),
    *("pad_depth", "pad_height", "pad_width", "row_elements"),
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
    kernel_size: tuple[int, int, int]
    stride: tuple[int, int, int]
    dtype: str


class Window(NamedTuple):
    """Windows of a pooling layer, with one number per axis."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def on_three_axes(self) -> Window:
        """Return the windows with axes of one position before their own."""
        missing = 3 - len(self.stride)
        return Window((1,) * missing + self.kernel_size, (1,) * missing + self.stride, (0,) * missing + self.padding)


def write(module: ir.Module, target: Target, recipe: PoolRecipe) -> None:
    """Generate the region: blocks of rows of outputs."""
    element = STORED[recipe.dtype]
    lanes = target.lanes(itemsize(element))
    names = ("x", "y", "scratch", "plane_scales", "row_scales", "column_scales")
    code, s = ARGUMENTS.begin(module, dict.fromkeys(names, element))
    row = s["scratch"] + code.fetch_add(s["counters"] + 8) * s["row_elements"]
    kind = ir.VectorType(element, lanes)
    least = constant(kind, float("-inf") if recipe.kind == "max" else 0.0)
    (taps_in, taps_down, taps), (stride_in, stride_down, stride) = recipe.kernel_size, recipe.stride
    with code.loop(0, s["row_elements"], lanes) as at:
        (row + at.index).store(least)
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        plane, block = task // s["blocks"], task % s["blocks"]
        image, channel = plane // s["channels"], plane % s["channels"]
        x = s["x"] + image * s["x_image"] + channel * (s["depth"] * s["height"] * s["width"])
        rows = s["out_depth"] * s["out_height"]
        y = s["y"] + image * s["y_image"] + channel * rows * s["out_width"]
        first = block * s["block_rows"]
        with code.loop(first, code.minimum(first + s["block_rows"], rows)) as down:
            inward, below = down.index // s["out_height"], down.index % s["out_height"]
            front, top = inward * stride_in - s["pad_depth"], below * stride_down - s["pad_height"]
            planes = code.maximum(front, 0), code.minimum(front + taps_in, s["depth"])
            lines = code.maximum(top, 0), code.minimum(top + taps_down, s["height"])
            with code.loop(0, s["width"], lanes) as at:
                mask = code.lanes_below(s["width"] - at.index, lanes)
                with code.loop(*planes, values=[least]) as within:
                    start = x + within.index * s["height"] * s["width"] + at.index
                    with code.loop(*lines, values=within.values) as line:
                        value = (start + line.index * s["width"]).masked_vector(lanes, mask)
                        line.carry([_reduced(code, recipe, line.values[0], value)])
                    within.carry(line.values)
                (row + s["pad_width"] + at.index).masked_store(within.values[0], mask)
            with code.loop(0, s["out_width"], lanes) as at:
                made = least
                for tap in range(taps):
                    made = _reduced(code, recipe, made, _apart(code, row + at.index * stride + tap, stride, lanes))
                mask = code.lanes_below(s["out_width"] - at.index, lanes)
                if recipe.kind == "mean":
                    scale = code.ir.fmul((s["plane_scales"] + inward).load(), (s["row_scales"] + below).load())
                    columns = (s["column_scales"] + at.index).masked_vector(lanes, mask)
                    made = code.ir.fmul(made, code.ir.fmul(code.splat(scale, lanes), columns))
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
    shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    pitches: tuple[int, int],
    scales: tuple[torch.Tensor, ...] | None,
    dtype: str,
) -> Steps:
    """Return the step that pools an image.

    Args:
        kind: `"max"` or `"mean"`.
        window: the windows.
        shape, out_shape: shapes of the image and of the result, (N, channels, *size).
        pitches: distances of images in x and in y, in elements.
        scales: for means, one over the number of positions of each window along each axis.
        dtype: dtype of all numbers.
    """
    ones = (1,) * (5 - len(shape))
    size, out_size = (*ones, *shape[2:]), (*ones, *out_shape[2:])
    window = window.on_three_axes()
    width, out_width, stride, taps, pad = size[2], out_size[2], window.stride[2], window.kernel_size[2], window.padding
    rows = out_size[0] * out_size[1]
    block = max(1, min(rows, BLOCK // out_width))
    threads = 1 if prod(out_shape) < SERIAL else thread_count()
    lanes = host().vector_bytes // 4
    widest = max(width + pad[2], -(-out_width // lanes) * lanes * stride + taps)
    row_elements = -(-(widest + pad[2] + 2 * lanes * stride + MARGIN) // 64) * 64
    values = {
        "tasks": shape[0] * shape[1] * -(-rows // block),
        "blocks": -(-rows // block),
        "block_rows": block,
        "channels": shape[1],
        "x_image": pitches[0],
        "y_image": pitches[1],
        "row_elements": row_elements,
    }
    for number, axis in enumerate(("depth", "height", "width")):
        values |= {axis: size[number], f"out_{axis}": out_size[number], f"pad_{axis}": pad[number]}
    tensors = {}
    if scales is not None:
        one = torch.ones(1, dtype=scales[0].dtype, device="cpu")
        tensors = dict(
            zip(("plane_scales", "row_scales", "column_scales"), (*(one,) * len(ones), *scales), strict=True)
        )
    three = (window.kernel_size[0], window.kernel_size[1], taps), (window.stride[0], window.stride[1], stride)
    region = routine(write, host(), PoolRecipe(kind, *three, dtype))
    places = {"x": 0, "y": OUTPUT}
    step = Step(region, ARGUMENTS, ARGUMENTS.new(values), places, tensors, {"scratch": 0}, threads)
    return Steps((step,), row_elements * 8 * threads)
