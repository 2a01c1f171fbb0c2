"""Readers of convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import torch

from convolith.engines.phases import layout, phase_kernels, phases
from convolith.errors import ConvolithError
from convolith.layer_steps.copies import Axis
from convolith.network.graph.nodes import (
    Convolve,
    Copy,
    Node,
    Piece,
    Product,
)
from convolith.network.graph.readers.arguments import (
    Values,
    constant_of,
    is_free,
    new_value,
    own_argument,
    own_result,
)
from convolith.network.graph.trace import Op
from convolith.spec import ConvSpec

Pairs = Sequence[tuple[int, int]]


def convolution(op: Op, values: Values, around: Pairs = ()) -> Node | list[Node] | None:
    """Read a convolution whose weights are constants; `around` are zeros before and after its input along each axis."""
    x, weight, bias = own_argument(op, 0, values), constant_of(op.args[1], values), op.args[2]
    stride, padding, dilation, transposed, output_padding, groups = op.args[3:9]
    if x is None or weight is None or not is_free(bias, values) or len(values[x].shape) != weight.ndim:
        return None
    options = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
    if around:
        if transposed:
            return None
        options["padding"] = tuple((p + a, p + b) for p, (a, b) in zip(padding, around, strict=True))
    if transposed:
        options |= {"transposed": True, "output_padding": tuple(output_padding)}
    node = Convolve(
        op.where,
        [x],
        [own_result(op)],
        weight,
        constant_of(bias, values),
        options,
        values[x].shape[2:],
        values[own_result(op)].shape,
    )
    try:
        spec = node.spec()
    except ConvolithError:  # a layer that only torch takes
        return None
    return _phases(node, spec, values) if spec.transposed else node


def _phases(node: Convolve, spec: ConvSpec, values: Values) -> list[Node] | Node:
    """Return a transposed layer as a layer whose channels are its phases, and the copy that interleaves them."""
    if phases.refuse(spec) is not None:
        return node
    inner, starts = layout(spec)
    count = prod(spec.stride)
    made = new_value(values, inner.output_shape, values[node.outputs[0]].dtype)
    bias = None if node.bias is None else node.bias.repeat_interleave(count)
    options = {"padding": inner.padding, "dilation": inner.dilation, "groups": inner.groups}
    weight = phase_kernels(spec, node.weight.detach())
    layer = Convolve(node.where, node.inputs, [made], weight, bias, options, node.size, inner.output_shape)
    pieces = _interleaved(spec, inner, starts)
    return [layer, Copy(node.where, [made], node.outputs, pieces, spec.output_shape)]


def _interleaved(spec: ConvSpec, inner: ConvSpec, starts: Sequence[int]) -> tuple[Piece, ...]:
    """Return the copy of phases to every `stride`-th place: in one piece where no phase is cut, else one for each."""
    sizes, size, count = inner.output_size, spec.output_size, prod(spec.stride)
    plane, channels = prod(sizes), Axis(spec.out_channels, count * prod(sizes), prod(size))
    rows = [(prod(sizes[axis + 1 :]), prod(size[axis + 1 :])) for axis in range(len(size))]
    if all(start % s == 0 and n % s == 0 for start, n, s in zip(starts, size, spec.stride, strict=True)):
        axes, source = [channels], 0
        for axis, (s, n, start) in enumerate(zip(spec.stride, size, starts, strict=True)):
            row, out_row = rows[axis]
            axes += [Axis(n // s, row, s * out_row), Axis(s, prod(spec.stride[axis + 1 :]) * plane, out_row)]
            source += start // s * row
        return (Piece(tuple(axes), source),)
    pieces = []
    for number, phase in enumerate(product(*map(range, spec.stride))):
        axes, source, goal = [channels], number * plane, 0
        for axis, (s, n, start) in enumerate(zip(spec.stride, size, starts, strict=True)):
            row, out_row = rows[axis]
            first = (phase[axis] - start) % s
            axes.append(Axis(len(range(first, n, s)), row, s * out_row))
            source, goal = source + (first + start) // s * row, goal + first * out_row
        pieces.append(Piece(tuple(axes), source, goal))
    return tuple(piece for piece in pieces if all(axis.size for axis in piece.axes))


def _linear(op: Op, values: Values, x: int | None, matrix: torch.Tensor | None, bias: Any) -> Node | None:
    """Return x (N, channels) times a matrix (channels, outputs) as a layer of one position."""
    if x is None or matrix is None or matrix.ndim != 2 or len(values[x].shape) != 2 or not is_free(bias, values):
        return None
    added = constant_of(bias, values)
    if added is not None and added.shape != (matrix.shape[1],):
        return None
    weight = matrix.t().unsqueeze(2)
    return Convolve(op.where, [x], [own_result(op)], weight, added, {}, (1,), values[own_result(op)].shape)


def matrix_product_and_sum(op: Op, values: Values) -> Node | None:
    """Read a linear layer with a bias."""
    if op.kwargs.get("beta", 1) != 1 or op.kwargs.get("alpha", 1) != 1:
        return None
    return _linear(op, values, own_argument(op, 1, values), constant_of(op.args[2], values), op.args[0])


def matrix_product(op: Op, values: Values) -> Node | None:
    """Read a linear layer without a bias."""
    return _linear(op, values, own_argument(op, 0, values), constant_of(op.args[1], values), None)


def batched_product(op: Op, values: Values) -> Node | None:
    """Read the products of two batches of matrices, neither of which is constant."""
    a, b = own_argument(op, 0, values), own_argument(op, 1, values)
    if a is None or b is None:
        return None
    return Product(op.where, [a, b], [own_result(op)], (*values[a].shape, values[b].shape[2]))
