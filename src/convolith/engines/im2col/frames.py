"""Copies of images into frames of zeros, as steps of a program, for engines that read padded inputs."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from llvmlite import ir

from convolith.engines.emit_rows import copy_inside
from convolith.engines.padding import padded_size
from convolith.engines.steps import Step
from convolith.jit import host, routine, thread_count
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import itemsize, zero
from convolith.jit.conversions import STORED
from convolith.jit.target import Target
from convolith.spec import ConvSpec

ARGUMENTS = ArgumentBlock(
    *("x", "y", "counters", "tasks", "blocks", "block_rows", "channels", "x_image"),
    *("depth", "height", "width", "out_depth", "out_height", "out_width", "pad_depth", "pad_height", "pad_width"),
)
"""Arguments of the region: addresses, counts of tasks and rows, sizes before and after."""
BLOCK_ELEMENTS = 1 << 13
"""Number of elements of a frame that form one task."""
SERIAL_ELEMENTS = 1 << 14
"""Number of elements below which one thread has finished before a second one has started."""


class FrameRecipe(NamedTuple):
    """Parameters of the generated code."""

    dtype: str


def write(module: ir.Module, target: Target, recipe: FrameRecipe) -> None:
    """Generate the region: rows of the frame, each a margin, a row of the image, and a margin."""
    element = STORED[recipe.dtype]
    lanes = target.lanes(itemsize(element))
    code, s = ARGUMENTS.begin(module, {"x": element, "y": element})
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        plane, block = task // s["blocks"], task % s["blocks"]
        image, channel = plane // s["channels"], plane % s["channels"]
        x = s["x"] + image * s["x_image"] + channel * (s["depth"] * s["height"] * s["width"])
        rows = s["out_depth"] * s["out_height"]
        y = s["y"] + plane * rows * s["out_width"]
        first = block * s["block_rows"]
        with code.loop(first, code.minimum(first + s["block_rows"], rows)) as row:
            depth = row.index // s["out_height"] - s["pad_depth"]
            height = row.index % s["out_height"] - s["pad_height"]
            goal = y + row.index * s["out_width"]
            there = code.every(depth.below(s["depth"]), height.below(s["height"]))
            begin = code.choose(there, s["pad_width"], s["out_width"])
            end = code.choose(there, s["pad_width"] + s["width"], s["out_width"])
            with code.when(there):
                source = x + (depth * s["height"] + height) * s["width"]
                copy_inside(code, recipe.dtype, lanes, source, goal + s["pad_width"], code.integer(0), s["width"])
            for start, stop in ((code.integer(0), begin), (end, s["out_width"])):
                whole = start + (stop - start) // lanes * lanes
                with code.loop(start, whole, lanes) as column:
                    (goal + column.index).store(zero(ir.VectorType(element, lanes)))
                with code.loop(whole, stop) as column:
                    (goal + column.index).store(zero(element))
    code.finish()


def step(spec: ConvSpec, x_image: int) -> Step:
    """Return the step that copies x, operand 0, into a frame of zeros at the start of the scratch."""
    ones = (0,) * (3 - spec.axes)
    size, outer = ((1,) * len(ones) + tuple(n) for n in (spec.size, padded_size(spec)))
    before = ones + tuple(pair[0] for pair in spec.padding)
    rows = outer[0] * outer[1]
    block = max(1, min(rows, BLOCK_ELEMENTS // outer[2]))
    blocks = -(-rows // block)
    values = {
        "tasks": spec.batch * spec.in_channels * blocks,
        "blocks": blocks,
        "block_rows": block,
        "channels": spec.in_channels,
        "x_image": x_image,
        **dict(zip(("depth", "height", "width"), size, strict=True)),
        **dict(zip(("out_depth", "out_height", "out_width"), outer, strict=True)),
        **dict(zip(("pad_depth", "pad_height", "pad_width"), before, strict=True)),
    }
    few = spec.batch * spec.in_channels * prod(outer) < SERIAL_ELEMENTS
    region = routine(write, host(), FrameRecipe(spec.dtype))
    return Step(region, ARGUMENTS, ARGUMENTS.new(values), {"x": 0}, {}, {"y": 0}, 1 if few else thread_count())
