"""Norms as steps of a program: over the channels of each position, over groups of channels, or over rows of numbers.

A mean is taken first, then the mean of squared differences from it, so that large means cost no digits.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from llvmlite import ir

from convolith.engines.steps import OUTPUT, Step, Steps
from convolith.jit import host, routine, thread_count
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import FunctionBuilder, Int, Pointer, constant, itemsize, suffix, zero
from convolith.jit.conversions import STORED
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("x", "y", "weight", "bias", "epsilon", "counters", "tasks", "chunk", "blocks", "block_positions"),
    *("channels", "groups", "positions", "x_image", "y_image"),
)
"""Arguments of the region: addresses, counts, and the distances of images in elements."""
BLOCK_BYTES = 1 << 17
"""Upper bound on the bytes of a block of positions, all channels of which stay in a second-level cache."""
CHAINS = 4
"""Number of vectors of positions, or of independent sums, that are computed together."""
ROW_ELEMENTS = 1 << 12
"""Number of elements of the rows that a thread takes at a time."""
SERIAL = 1 << 13
"""Number of elements below which one thread has finished before a second one has started."""


class NormRecipe(NamedTuple):
    """Parameters of the generated code."""

    kind: str
    """`"channels"`: over the channels of each position; `"groups"`: over groups of channels; `"rows"`: over rows of
    contiguous numbers, each with a weight and a bias of its own."""
    dtype: str


def write(module: ir.Module, target: Target, recipe: NormRecipe) -> None:
    """Generate the region."""
    element = STORED[recipe.dtype]
    lanes = target.lanes(itemsize(element))
    names = ("x", "y", "weight", "bias", "epsilon")
    code, s = ARGUMENTS.begin(module, dict.fromkeys(names, element))
    kind = ir.VectorType(element, lanes)
    with code.tasks(s["counters"], s["tasks"], s["chunk"]) as task:
        image, part = task // s["blocks"], task % s["blocks"]
        x, y = s["x"] + image * s["x_image"], s["y"] + image * s["y_image"]
        if recipe.kind == "channels":
            begin = part * s["block_positions"]
            end = code.minimum(begin + s["block_positions"], s["positions"])
            wide = lanes * CHAINS
            whole = begin + (end - begin) // wide * wide
            with code.loop(begin, whole, wide) as at:
                _channels(code, kind, s, x + at.index, y + at.index, CHAINS, None)
            with code.loop(whole, end, lanes) as at:
                mask = code.lanes_below(end - at.index, lanes)
                _channels(code, kind, s, x + at.index, y + at.index, 1, mask)
        elif recipe.kind == "groups":
            _group(code, kind, s, x, y, part)
        else:
            _row(code, kind, s, x + part * s["channels"], y + part * s["channels"])
    code.finish()


def _load(place: Pointer, lanes: int, mask: ir.Value | None) -> ir.Value:
    return place.vector(lanes) if mask is None else place.masked_vector(lanes, mask)


def _root(code: FunctionBuilder, value: ir.Value) -> ir.Value:
    return code.intrinsic(f"llvm.sqrt.{suffix(value.type)}", value.type, [value])


def _channels(
    code: FunctionBuilder,
    kind: ir.VectorType,
    s: dict[str, Any],
    x: Pointer,
    y: Pointer,
    vectors: int,
    mask: ir.Value | None,
) -> None:
    """Generate the norm of some vectors of positions over all channels."""
    lanes = kind.count
    count = code.splat(code.ir.sitofp(s["channels"].value, kind.element), lanes)
    epsilon = code.splat(s["epsilon"].load(), lanes)
    none = [zero(kind)] * vectors

    def values(channel: Int) -> list[ir.Value]:
        return [_load(x + channel * s["positions"] + v * lanes, lanes, mask) for v in range(vectors)]

    with code.loop(0, s["channels"], values=none) as channel:
        channel.carry([code.ir.fadd(a, b) for a, b in zip(channel.values, values(channel.index), strict=True)])
    means = [code.ir.fdiv(total, count) for total in channel.values]
    with code.loop(0, s["channels"], values=none) as channel:
        apart = [code.ir.fsub(a, b) for a, b in zip(values(channel.index), means, strict=True)]
        channel.carry([code.multiply_add(a, a, b) for a, b in zip(apart, channel.values, strict=True)])
    one = constant(kind, 1.0)
    scales = [
        code.ir.fdiv(one, _root(code, code.ir.fadd(code.ir.fdiv(squares, count), epsilon)))
        for squares in channel.values
    ]
    with code.loop(0, s["channels"]) as channel:
        weight, bias = (code.splat((s[name] + channel.index).load(), lanes) for name in ("weight", "bias"))
        for v, value in enumerate(values(channel.index)):
            made = code.ir.fmul(code.ir.fsub(value, means[v]), scales[v])
            made = code.multiply_add(made, weight, bias)
            goal = y + channel.index * s["positions"] + v * lanes
            goal.store(made) if mask is None else goal.masked_store(made, mask)


def _moments(
    code: FunctionBuilder, kind: ir.VectorType, x: Pointer, elements: Int, epsilon: Pointer
) -> tuple[ir.Value, ir.Value]:
    """Generate the mean of contiguous numbers, and one over their standard deviation, in all lanes."""
    lanes = kind.count
    count = code.ir.sitofp(elements.value, kind.element)

    def total(of: ir.Value | None) -> ir.Value:
        """Return the sum of all elements, or of their squared distances from a vector, divided by their number."""

        def added(sums: ir.Value, value: ir.Value, mask: ir.Value | None) -> ir.Value:
            if of is None:
                return code.ir.fadd(sums, value)
            apart = code.ir.fsub(value, of)
            if mask is not None:
                apart = code.ir.select(mask, apart, zero(kind))
            return code.multiply_add(apart, apart, sums)

        wide = lanes * CHAINS
        whole = elements // wide * wide
        with code.loop(0, whole, wide, values=[zero(kind)] * CHAINS) as at:
            at.carry([added(sums, (x + at.index + n * lanes).vector(lanes), None) for n, sums in enumerate(at.values)])
        merged = code.ir.fadd(code.ir.fadd(*at.values[:2]), code.ir.fadd(*at.values[2:]))
        with code.loop(whole, elements, lanes, values=[merged]) as rest:
            mask = code.lanes_below(elements - rest.index, lanes)
            rest.carry([added(rest.values[0], (x + rest.index).masked_vector(lanes, mask), mask)])
        return code.ir.fdiv(code.sum_of(rest.values[0]), count)

    mean = code.splat(total(None), lanes)
    variance = code.splat(code.ir.fadd(total(mean), epsilon.load()), lanes)
    return mean, code.ir.fdiv(constant(kind, 1.0), _root(code, variance))


def _group(code: FunctionBuilder, kind: ir.VectorType, s: dict[str, Any], x: Pointer, y: Pointer, group: Int) -> None:
    """Generate the norm of one group of channels."""
    lanes, per_group = kind.count, s["channels"] // s["groups"]
    first = group * per_group
    x, y = x + first * s["positions"], y + first * s["positions"]
    mean, scale = _moments(code, kind, x, per_group * s["positions"], s["epsilon"])
    with code.loop(0, per_group) as channel:
        weight = code.ir.fmul(scale, code.splat((s["weight"] + first + channel.index).load(), lanes))
        bias = code.splat((s["bias"] + first + channel.index).load(), lanes)
        source, goal = x + channel.index * s["positions"], y + channel.index * s["positions"]
        whole = s["positions"] // lanes * lanes
        with code.loop(0, whole, lanes) as at:
            apart = code.ir.fsub((source + at.index).vector(lanes), mean)
            (goal + at.index).store(code.multiply_add(apart, weight, bias))
        with code.when(whole < s["positions"]):
            mask = code.lanes_below(s["positions"] - whole, lanes)
            apart = code.ir.fsub((source + whole).masked_vector(lanes, mask), mean)
            (goal + whole).masked_store(code.multiply_add(apart, weight, bias), mask)


def _row(code: FunctionBuilder, kind: ir.VectorType, s: dict[str, Any], x: Pointer, y: Pointer) -> None:
    """Generate the norm of one row of contiguous numbers."""
    lanes, length = kind.count, s["channels"]
    mean, scale = _moments(code, kind, x, length, s["epsilon"])
    with code.loop(0, length, lanes) as at:
        mask = code.lanes_below(length - at.index, lanes)
        value, weight, bias = ((base + at.index).masked_vector(lanes, mask) for base in (x, s["weight"], s["bias"]))
        made = code.ir.fmul(code.ir.fsub(value, mean), scale)
        (y + at.index).masked_store(code.multiply_add(made, weight, bias), mask)


def steps(
    groups: int,
    shape: tuple[int, ...],
    pitches: tuple[int, int],
    parameters: tuple[torch.Tensor, torch.Tensor],
    epsilon: float,
    dtype: str,
    *,
    rows: bool = False,
) -> Steps:
    """Return the step that normalises an image.

    Args:
        groups: number of groups of channels; 0 to normalise each position over its channels.
        shape: shape of the image, (N, channels, *size); of rows, (N, number of rows, length).
        pitches: distances of images in x and in y, in elements.
        parameters: weight and bias, one number per channel, or per number of a row, each.
        epsilon: number that is added to the variance.
        dtype: dtype of all numbers.
        rows: whether rows are normalised.
    """
    batch, channels, positions = shape[0], shape[1], prod(shape[2:])
    threads = 1 if prod(shape) < SERIAL else thread_count()
    wide = host().vector_bytes // 4 * CHAINS
    block = max(wide, BLOCK_BYTES // (4 * channels) // wide * wide)
    while block > wide and batch * -(-positions // block) < 4 * threads:
        block = max(wide, block // 2 // wide * wide)
    blocks, chunk = groups or -(-positions // block), 1
    if rows:
        blocks, channels, positions = shape[1], shape[2], 1
        chunk = max(1, min(ROW_ELEMENTS // channels, batch * blocks // (4 * threads)))
    values = {
        "tasks": batch * blocks,
        "chunk": chunk,
        "blocks": blocks,
        "block_positions": block,
        "channels": channels,
        "groups": max(groups, 1),
        "positions": positions,
        "x_image": pitches[0],
        "y_image": pitches[1],
    }
    tensors = {"weight": parameters[0], "bias": parameters[1]}
    tensors["epsilon"] = torch.full((1,), epsilon, dtype=parameters[0].dtype, device="cpu")
    kind = "rows" if rows else "groups" if groups else "channels"
    region = routine(write, host(), NormRecipe(kind, dtype))
    return Steps((Step(region, ARGUMENTS, ARGUMENTS.new(values), {"x": 0, "y": OUTPUT}, tensors, {}, threads),))
