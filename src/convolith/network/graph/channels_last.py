"""Readers of operators on images whose channels are the last axis, which lie in memory as planes.

Many networks turn an image to (N, height, width, channels) for a layer norm and linear layers, and back. As planes,
these are a norm over channels and 1x1 convolutions, and nothing is turned.
"""

from __future__ import annotations

from math import prod

import torch

from convolith.network.graph.nodes import Alias, Convolve, Map, Node, Norm, Shape, Softmax
from convolith.network.graph.readers.arguments import FLOATS, Reader, Values, fits, own_result
from convolith.network.graph.readers.elementwise import Elementwise
from convolith.network.graph.readers.norms import parameters
from convolith.network.graph.trace import Op, Ref

Planes = dict[int, Shape]
"""Shape of the planes, (N, channels, *size), of each value with channels last."""
VIEWS = ("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "alias", "detach", "clone", "expand")
"""Operators that keep the order of all elements, at least where they keep their number."""


def channels_last(op: Op, values: Values, planes: Planes, reader: Reader | None) -> tuple[Node, Shape | None] | None:
    """Return the node of an operator, and the shape of the planes of its result, None if it is an ordinary image.

    Returns None if the operator is not one that begins, continues or ends with channels last.

    Args:
        op: the operator.
        values: the values.
        planes: values with channels last so far.
        reader: reader of the operator on ordinary images, if there is one.
    """
    if not any(number in planes for number in op.inputs):
        return _begin(op, values)
    name = op.name.split(".")[1] if op.name.startswith("aten.") else ""
    if name in ("permute", "transpose"):
        return _end(op, values, planes)
    if name in VIEWS:
        return _view(op, values, planes)
    if name == "native_layer_norm":
        return _norm(op, values, planes)
    if name == "_softmax":
        return _softmax(op, planes)
    if name in ("mm", "addmm", "bmm"):
        return _linear(op, values, planes, with_bias=name == "addmm")
    if isinstance(reader, Elementwise):
        node = reader(op, values, planes)
        return (node, node.shape) if isinstance(node, Map) else None
    return None


def _order(op: Op, ndim: int) -> list[int] | None:
    """Return the order of axes after a permutation or a transposition."""
    if op.name == "aten.permute.default":
        return [axis % ndim for axis in op.args[1]]
    if op.name == "aten.transpose.int":
        order = list(range(ndim))
        a, b = (axis % ndim for axis in op.args[1:3])
        order[a], order[b] = order[b], order[a]
        return order
    return None


def _begin(op: Op, values: Values) -> tuple[Node, Shape] | None:
    """Read the permutation that puts channels last, of an image that lies as planes."""
    if len(op.inputs) != 1:
        return None
    number = op.inputs[0]
    value, ndim = values[number], len(values[number].shape)
    if value.constant is not None or not fits(value) or ndim < 3:
        return None
    if _order(op, ndim) != [0, *range(2, ndim), 1]:
        return None
    return Alias(op.where, [number], [own_result(op)]), value.shape


def _end(op: Op, values: Values, planes: Planes) -> tuple[Node, None] | None:
    """Read the permutation that puts channels second again."""
    number = op.inputs[0]
    shape, value = planes[number], values[number]
    ndim = len(value.shape)
    last = (shape[0], *shape[2:], shape[1])
    flat = (shape[0], prod(shape[2:]), shape[1])
    if value.shape not in (last, flat) or _order(op, ndim) != [0, ndim - 1, *range(1, ndim - 1)]:
        return None
    return Alias(op.where, [number], [own_result(op)]), None


def _view(op: Op, values: Values, planes: Planes) -> tuple[Node, Shape] | None:
    """Read a view or a copy that only splits or merges positions."""
    number = op.inputs[0]
    shape, result = planes[number], values[own_result(op)].shape
    if op.kwargs.get("memory_format") not in (None, torch.contiguous_format, torch.preserve_format):
        return None
    if not result or result[-1] != shape[1] or prod(result) != prod(shape):
        return None
    return Alias(op.where, [number], [own_result(op)]), shape


def _norm(op: Op, values: Values, planes: Planes) -> tuple[Node, Shape] | None:
    """Read the norm over the channels of each position."""
    number = op.inputs[0]
    if number not in planes or list(op.args[1]) != [planes[number][1]]:
        return None
    if any(values[part.number].constant is None for part in op.args[2:4] if part is not None):
        return None
    shape, dtype = planes[number], values[number].dtype
    weight, bias = parameters(op.args[2], op.args[3], shape[1], values, dtype)
    return Norm(op.where, [number], [own_result(op)], 0, weight, bias, op.args[4], shape), shape


def _softmax(op: Op, planes: Planes) -> tuple[Node, Shape] | None:
    """Read the softmax over the channels of each position."""
    number = op.inputs[0]
    shape = planes[number]
    if op.args[1] != -1 or op.args[2]:
        return None
    return Softmax(op.where, [number], [own_result(op)], shape), shape


def _linear(op: Op, values: Values, planes: Planes, *, with_bias: bool) -> tuple[Node, Shape] | None:
    """Read a linear layer as a 1x1 convolution."""
    first = 1 if with_bias else 0
    x, matrix = op.args[first], op.args[first + 1]
    if not (isinstance(x, Ref) and isinstance(matrix, Ref)) or x.number not in planes:
        return None
    weight = values[matrix.number].constant
    if (
        weight is not None and weight.ndim == 3 and (weight.stride(0) == 0 or len(weight) == 1)
    ):  # one matrix, repeated for a batch
        weight = weight[0]
    bias = values[op.args[0].number].constant if with_bias else None
    shape = planes[x.number]
    if weight is None or weight.ndim != 2 or weight.dtype not in FLOATS or len(shape) > 5:
        return None
    if with_bias and (bias is None or bias.shape != (weight.shape[1],)):
        return None
    if op.kwargs.get("beta", 1) != 1 or op.kwargs.get("alpha", 1) != 1 or shape[1] != weight.shape[0]:
        return None
    size = shape[2:]
    result = (shape[0], weight.shape[1], *size)
    kernel = weight.t().reshape(*weight.shape[::-1], *[1] * len(size))
    return Convolve(op.where, [x.number], [own_result(op)], kernel, bias, {}, size, result), result
