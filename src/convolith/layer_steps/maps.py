"""Elementwise maps: one loop for any expression of images, of numbers per image and channel, and of constants."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from llvmlite import ir

from convolith.engines.elementwise import Expression, emit, leaves
from convolith.engines.steps import OUTPUT, Step, Steps
from convolith.jit import host, routine, thread_count
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import Number, itemsize
from convolith.jit.conversions import STORED
from convolith.jit.denormals import flush_denormals, restore_control
from convolith.jit.target import Target
from convolith.tensors import torch_dtype

MOST_IMAGES, MOST_PLANES, MOST_CHANNELS = 6, 4, 8
"""Upper bounds on the operands of each kind."""
IMAGES, PITCHES = ([f"{name}{n}" for n in range(MOST_IMAGES)] for name in ("x", "image"))
PLANES, PLANE_PITCHES = ([f"{name}{n}" for n in range(MOST_PLANES)] for name in ("plane", "planes"))
CONSTANTS = [f"channel{n}" for n in range(MOST_CHANNELS)]
ARGUMENTS = ArgumentBlock(
    *("y", "y_image", "counters", "tasks", "chunk", "channels", "positions", "blocks", "block_positions"),
    *(*IMAGES, *PITCHES, *PLANES, *PLANE_PITCHES, *CONSTANTS),
)
"""Arguments of the region: addresses, counts, and the distances of images in elements."""
BLOCK = 1 << 12
"""Upper bound on the elements of a plane that form one task, and least number that a thread takes at a time."""
SERIAL = 1 << 14
"""Number of elements below which one thread has finished before a second one has started."""
TOGETHER = 2
"""Number of vectors that are computed together."""


class MapRecipe(NamedTuple):
    """Parameters of the generated code."""

    expression: Expression
    dtype: str


def write(module: ir.Module, target: Target, recipe: MapRecipe) -> None:
    """Generate the region: blocks of planes, vector by vector, the last one under a mask."""
    element = STORED[recipe.dtype]
    lanes = target.lanes(itemsize(element))
    code, s = ARGUMENTS.begin(module, dict.fromkeys(("y", *IMAGES, *PLANES, *CONSTANTS), element))
    before = flush_denormals(code, target)
    kind = ir.VectorType(element, lanes)
    images, planes, constants = (leaves(recipe.expression, name) for name in ("x", "plane", "channel"))
    with code.tasks(s["counters"], s["tasks"], s["chunk"]) as task:
        plane, block = task // s["blocks"], task % s["blocks"]
        image, channel = plane // s["channels"], plane % s["channels"]
        offset = channel * s["positions"]
        sources = {n: s[f"x{n}"] + image * s[f"image{n}"] + offset for n in images}
        goal = s["y"] + image * s["y_image"] + offset
        numbers = {n: s[f"plane{n}"] + image * s[f"planes{n}"] + channel for n in planes}
        fixed = {("plane", n): code.splat(number.load(), lanes) for n, number in numbers.items()}
        fixed |= {("channel", n): code.splat((s[f"channel{n}"] + channel).load(), lanes) for n in constants}
        first = block * s["block_positions"]
        end = code.minimum(first + s["block_positions"], s["positions"])

        def made(at: Number, mask: ir.Value | None = None) -> ir.Value:
            def leaf(name: str, number: int) -> ir.Value:
                if name != "x":
                    return fixed[name, number]
                source = sources[number] + at
                return source.vector(lanes) if mask is None else source.masked_vector(lanes, mask)

            return emit(code, recipe.expression, kind, leaf)

        several = first + (end - first) // (lanes * TOGETHER) * (lanes * TOGETHER)
        with code.loop(first, several, lanes * TOGETHER) as at:
            values = [made(at.index + n * lanes) for n in range(TOGETHER)]
            for n, value in enumerate(values):
                (goal + at.index + n * lanes).store(value)
        with code.loop(several, end, lanes) as at:
            mask = code.lanes_below(end - at.index, lanes)
            (goal + at.index).masked_store(made(at.index, mask), mask)
    restore_control(code, before)
    code.finish()


class Operand(NamedTuple):
    """Operand of a map: its kind ("x", "plane" or "channel"), its number among a step's operands, or its constant."""

    kind: str
    operand: int = 0
    image: int = 0
    """Distance of images in elements, of operands that are no constants."""
    constant: torch.Tensor | None = None


def steps(
    expression: Expression, operands: Sequence[Operand], shape: tuple[int, ...], y_image: int, dtype: str
) -> Steps:
    """Return the step that computes an expression; leaf n of each kind is the n-th operand of that kind.

    Args:
        expression: the expression.
        operands: the operands of all kinds.
        shape: shape of the result, (N, channels, *size).
        y_image: distance of images in the result, in elements.
        dtype: dtype of all numbers.
    """
    batch, channels, positions = shape[0], shape[1], prod(shape[2:])
    by_kind = {kind: [o for o in operands if o.kind == kind] for kind in ("x", "plane", "channel")}
    if not by_kind["plane"] and not by_kind["channel"]:  # channels make no difference
        channels, positions = 1, channels * positions
        if all(pitch == positions for pitch in (y_image, *(o.image for o in by_kind["x"]))):
            batch, positions = 1, batch * positions
    blocks = max(1, positions // BLOCK)
    block = -(-positions // blocks)
    block = -(-block // 64) * 64
    blocks = -(-positions // block)
    tasks = batch * channels * blocks
    total = batch * channels * positions
    threads = 1 if total < SERIAL else thread_count()
    values = {
        "y_image": y_image,
        "tasks": tasks,
        "chunk": max(1, min(BLOCK // block, tasks // (threads * 4))),
        "channels": channels,
        "positions": positions,
        "blocks": blocks,
        "block_positions": block,
    }
    places, tensors = {"y": OUTPUT}, {}
    for kind, name in (("x", "x"), ("plane", "plane")):
        for number, operand in enumerate(by_kind[kind]):
            places[f"{name}{number}"] = operand.operand
            values[f"image{number}" if kind == "x" else f"planes{number}"] = operand.image
    for number, operand in enumerate(by_kind["channel"]):
        if operand.constant is not None:
            tensors[f"channel{number}"] = operand.constant.detach().to(torch_dtype(dtype)).reshape(-1).contiguous()
    region = routine(write, host(), MapRecipe(expression, dtype))
    return Steps((Step(region, ARGUMENTS, ARGUMENTS.new(values), places, tensors, {}, threads),))
