"""Readers of convolutions and linear layers."""

from __future__ import annotations

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


def convolution(op: Op, values: Values) -> Node | list[Node] | None:
    """Read a convolution whose weights are constants."""
    x, weight, bias = own_argument(op, 0, values), constant_of(op.args[1], values), op.args[2]
    stride, padding, dilation, transposed, output_padding, groups = op.args[3:9]
    if x is None or weight is None or not is_free(bias, values) or len(values[x].shape) != weight.ndim:
        return None
    options = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
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
    """Return a transposed layer as a layer whose channels are its phases, and the copy that interleaves them.

    A layer that also crops its result in the middle of a stride stays as it is; an engine computes it as a whole.
    """
    if phases.refuse(spec) is not None:
        return node
    inner, starts = layout(spec)
    whole = all(
        start % s == 0 and n % s == 0 for start, n, s in zip(starts, spec.output_size, spec.stride, strict=True)
    )
    if not whole or any(before != after for before, after in inner.padding):
        return node
    count = prod(spec.stride)
    made = new_value(values, inner.output_shape, values[node.outputs[0]].dtype)
    bias = None if node.bias is None else node.bias.repeat_interleave(count)
    padding = tuple(before for before, _ in inner.padding)
    options = {"padding": padding, "dilation": inner.dilation, "groups": inner.groups}
    weight = phase_kernels(spec, node.weight.detach())
    layer = Convolve(node.where, node.inputs, [made], weight, bias, options, node.size, inner.output_shape)
    sizes, size = inner.output_size, spec.output_size
    plane, out_plane = prod(sizes), prod(size)
    axes, offset = [Axis(spec.out_channels, count * plane, out_plane)], 0
    for axis, (s, n, start) in enumerate(zip(spec.stride, size, starts, strict=True)):
        row, out_row = prod(sizes[axis + 1 :]), prod(size[axis + 1 :])
        axes += [Axis(n // s, row, s * out_row), Axis(s, prod(spec.stride[axis + 1 :]) * plane, out_row)]
        offset += start // s * row
    return [layer, Copy(node.where, [made], node.outputs, tuple(axes), offset, spec.output_shape)]


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
