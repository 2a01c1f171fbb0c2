"""Images resized by linear or cubic interpolation, as a step of a program.

A row of results is a weighted sum of a few rows, which goes to a row of scratch memory, and then of a few neighbours
within it. Where an image grows, the inputs of a vector of results lie within a vector, from which one instruction
takes them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from llvmlite import ir

from convolith.engines.steps import OUTPUT, Step, Steps
from convolith.jit import host, routine, thread_count
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import I32, I64, FunctionBuilder, Number, Pointer, itemsize, zero
from convolith.jit.conversions import STORED
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("x", "y", "scratch", "rows", "row_weights", "starts", "places", "weights", "counters", "tasks", "blocks"),
    *("block_rows", "channels", "x_image", "y_image", "height", "width", "out_height", "out_width", "row_elements"),
    "padded",
)
"""Arguments of the region: addresses of images and tables, counts, sizes; `padded` columns are in the tables."""
TAKES = {("avx512", 16): "llvm.x86.avx512.permvar.sf.512", ("avx2", 8): "llvm.x86.avx2.permps"}
"""Instruction that takes lanes of a vector in any order, by target and number of lanes."""
BLOCK = 1 << 12
"""Number of results that form one task."""
SERIAL = 1 << 13
"""Number of results below which one thread has finished before a second one has started."""


class ResizeRecipe(NamedTuple):
    """Parameters of the generated code."""

    row_taps: int
    taps: int
    near: bool
    """Whether the inputs of a vector of results lie within a vector for each tap."""
    dtype: str


class Weights(NamedTuple):
    """Interpolation along one axis: first input of each result, and weights, (results, taps)."""

    starts: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, matrix: torch.Tensor) -> Weights:
        """Return the weights of a matrix, (results, inputs), each of whose rows has a few neighbouring numbers."""
        there = matrix != 0
        starts = there.to(torch.int64).argmax(1)
        ends = matrix.shape[1] - there.flip(1).to(torch.int64).argmax(1)
        taps = int(torch.where(there.any(1), ends - starts, 1).max())
        places = starts[:, None] + torch.arange(taps, device="cpu")
        inside = places < matrix.shape[1]
        weights = torch.where(inside, matrix.gather(1, places.clamp(max=matrix.shape[1] - 1)), 0.0)
        return cls(starts, weights)


def write(module: ir.Module, target: Target, recipe: ResizeRecipe) -> None:
    """Generate the region: blocks of rows of results."""
    element = STORED[recipe.dtype]
    lanes = target.lanes(itemsize(element))
    kinds = dict.fromkeys(("x", "y", "scratch", "row_weights", "weights"), element)
    code, s = ARGUMENTS.begin(module, kinds | {"rows": I64, "starts": I64, "places": I32})
    row = s["scratch"] + code.fetch_add(s["counters"] + 8) * s["row_elements"]
    none = zero(ir.VectorType(element, lanes))
    with code.loop(0, s["row_elements"], lanes) as at:
        (row + at.index).store(none)
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        plane, block = task // s["blocks"], task % s["blocks"]
        image, channel = plane // s["channels"], plane % s["channels"]
        x = s["x"] + image * s["x_image"] + channel * (s["height"] * s["width"])
        y = s["y"] + image * s["y_image"] + channel * (s["out_height"] * s["out_width"])
        first = block * s["block_rows"]
        with code.loop(first, code.minimum(first + s["block_rows"], s["out_height"])) as down:
            at_row = down.index * recipe.row_taps
            lines = [x + (s["rows"] + at_row + n).integer() * s["width"] for n in range(recipe.row_taps)]
            factors = [code.splat((s["row_weights"] + at_row + n).load(), lanes) for n in range(recipe.row_taps)]
            with code.loop(0, s["width"], lanes) as at:
                mask = code.lanes_below(s["width"] - at.index, lanes)
                made = none
                for line, factor in zip(lines, factors, strict=True):
                    made = code.multiply_add((line + at.index).masked_vector(lanes, mask), factor, made)
                (row + at.index).masked_store(made, mask)
            goal = y + down.index * s["out_width"]
            if recipe.near:
                _near(code, target, recipe, s, row, goal, lanes)
            else:
                _anywhere(code, recipe, s, row, goal)
    code.finish()


def _near(
    code: FunctionBuilder,
    target: Target,
    recipe: ResizeRecipe,
    s: dict[str, Number],
    row: Pointer,
    goal: Pointer,
    lanes: int,
) -> None:
    """Generate a row of results in vectors."""
    kind = ir.VectorType(row.element, lanes)
    with code.loop(0, s["out_width"], lanes) as at:
        base = row + (s["starts"] + at.index).integer()
        places, made = (s["places"] + at.index).vector(lanes), zero(kind)
        for tap in range(recipe.taps):
            taken = code.intrinsic(TAKES[target.name, lanes], kind, [(base + tap).vector(lanes), places])
            weights = (s["weights"] + s["padded"] * tap + at.index).vector(lanes)
            made = code.multiply_add(taken, weights, made)
        (goal + at.index).masked_store(made, code.lanes_below(s["out_width"] - at.index, lanes))


def _anywhere(code: FunctionBuilder, recipe: ResizeRecipe, s: dict[str, Number], row: Pointer, goal: Pointer) -> None:
    """Generate a row of results one by one."""
    with code.loop(0, s["out_width"]) as at:
        place = row + (s["starts"] + at.index).integer()
        made = zero(ir.VectorType(row.element, 1))
        for tap in range(recipe.taps):
            weight = (s["weights"] + s["padded"] * tap + at.index).vector(1)
            made = code.multiply_add((place + tap).vector(1), weight, made)
        (goal + at.index).store(made)


def steps(shape: tuple[int, ...], axes: tuple[Weights, Weights], pitches: tuple[int, int], dtype: str) -> Steps:
    """Return the step that resizes an image.

    Args:
        shape: shape of the image, (N, channels, height, width).
        axes: interpolation along the height and along the width.
        pitches: distances of images in x and in y, in elements.
        dtype: dtype of all numbers.
    """
    down, across = axes
    (out_height, row_taps), (out_width, taps) = down.weights.shape, across.weights.shape
    target, kind = host(), down.weights.dtype
    lanes = target.lanes(kind.itemsize)
    padded = -(-out_width // lanes) * lanes
    starts = torch.cat([across.starts, across.starts[-1:].expand(padded - out_width)]).reshape(-1, lanes)
    near = (target.name, lanes) in TAKES and dtype == "float32"
    near = near and bool((starts.amax(1) - starts.amin(1) < lanes).all()) and bool((starts.diff() >= 0).all())
    places = (starts - starts[:, :1]).to(torch.int32).reshape(-1).contiguous()
    columns = torch.zeros(taps, padded, dtype=kind, device="cpu")
    columns[:, :out_width] = across.weights.T
    rows = (down.starts[:, None] + torch.arange(row_taps, device="cpu")).clamp(max=shape[2] - 1)
    block = max(1, min(out_height, BLOCK // out_width))
    blocks = -(-out_height // block)
    threads = 1 if shape[0] * shape[1] * out_height * out_width < SERIAL else thread_count()
    row_elements = -(-(shape[3] + taps + 2 * lanes) // 64) * 64
    values = {
        "tasks": shape[0] * shape[1] * blocks,
        "blocks": blocks,
        "block_rows": block,
        "channels": shape[1],
        "x_image": pitches[0],
        "y_image": pitches[1],
        "height": shape[2],
        "width": shape[3],
        "out_height": out_height,
        "out_width": out_width,
        "row_elements": row_elements,
        "padded": padded,
    }
    tensors = {
        "rows": rows.contiguous(),
        "row_weights": down.weights.contiguous(),
        "starts": starts.reshape(-1).contiguous(),
        "places": places,
        "weights": columns,
    }
    region = routine(write, target, ResizeRecipe(row_taps, taps, near, dtype))
    places_of = {"x": 0, "y": OUTPUT}
    step = Step(region, ARGUMENTS, ARGUMENTS.new(values), places_of, tensors, {"scratch": 0}, threads)
    return Steps((step,), row_elements * 8 * threads)
