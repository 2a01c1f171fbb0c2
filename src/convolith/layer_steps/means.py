"""Means over the positions of each plane, as a step of a program."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from llvmlite import ir

from convolith.engines.steps import OUTPUT, Step, Steps
from convolith.jit import host, routine, thread_count
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import itemsize, zero
from convolith.jit.conversions import STORED
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock("x", "y", "counters", "tasks", "chunk", "channels", "positions", "x_image")
"""Arguments of the region: addresses, counts, and the distance of images in elements."""
CHAINS = 4
"""Number of independent sums."""
SERIAL = 1 << 14
"""Number of elements below which one thread has finished before a second one has started."""


class MeanRecipe(NamedTuple):
    """Parameters of the generated code."""

    dtype: str


def write(module: ir.Module, target: Target, recipe: MeanRecipe) -> None:
    """Generate the region: a sum for each plane, divided by the number of positions."""
    element = STORED[recipe.dtype]
    lanes = target.lanes(itemsize(element))
    code, s = ARGUMENTS.begin(module, {"x": element, "y": element})
    none = zero(ir.VectorType(element, lanes))
    with code.tasks(s["counters"], s["tasks"], s["chunk"]) as plane:
        image, channel = plane // s["channels"], plane % s["channels"]
        x = s["x"] + image * s["x_image"] + channel * s["positions"]
        several = s["positions"] // (lanes * CHAINS) * (lanes * CHAINS)
        with code.loop(0, several, lanes * CHAINS, values=[none] * CHAINS) as at:
            at.carry(
                [code.ir.fadd(value, (x + at.index + n * lanes).vector(lanes)) for n, value in enumerate(at.values)]
            )
        total = code.ir.fadd(code.ir.fadd(*at.values[:2]), code.ir.fadd(*at.values[2:]))
        with code.loop(several, s["positions"], lanes, values=[total]) as rest:
            mask = code.lanes_below(s["positions"] - rest.index, lanes)
            rest.carry([code.ir.fadd(rest.values[0], (x + rest.index).masked_vector(lanes, mask))])
        count = code.ir.sitofp(s["positions"].value, element)
        (s["y"] + plane).store(code.ir.fdiv(code.sum_of(rest.values[0]), count))
    code.finish()


def steps(shape: tuple[int, ...], x_image: int, dtype: str) -> Steps:
    """Return the step that computes the mean of each plane of an image, (N, channels, *size), to (N, channels)."""
    planes, positions = shape[0] * shape[1], prod(shape[2:])
    threads = 1 if planes * positions < SERIAL else thread_count()
    values = {
        "tasks": planes,
        "chunk": max(1, planes // (threads * 8)),
        "channels": shape[1],
        "positions": positions,
        "x_image": x_image,
    }
    region = routine(write, host(), MeanRecipe(dtype))
    return Steps((Step(region, ARGUMENTS, ARGUMENTS.new(values), {"x": 0, "y": OUTPUT}, {}, {}, threads),))
