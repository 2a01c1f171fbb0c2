"""Readers of norms and of softmax."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from convolith.network.graph.nodes import (
    Node,
    Norm,
    Operand,
    Softmax,
)
from convolith.network.graph.readers.arguments import (
    Values,
    constant_of,
    is_free,
    own_argument,
    own_result,
)
from convolith.network.graph.readers.elementwise import elementwise_map
from convolith.network.graph.trace import Op


def batch_norm(op: Op, values: Values) -> Node | None:
    """Read a batch norm with running statistics as a scale and a shift per channel."""
    weight, bias, mean, variance, *rest = op.args[1:]
    own = own_argument(op, 0, values)
    training = rest[0] if op.name == "aten.native_batch_norm.default" else False
    if training:
        return _instance_norm(op, values)
    parts = [constant_of(part, values) for part in (mean, variance)]
    if own is None or training or any(p is None for p in parts) or len(values[own].shape) < 2:
        return None
    if not (is_free(weight, values) and is_free(bias, values)):
        return None
    given_mean, given_variance = (p.double() for p in parts if p is not None)
    scale = (given_variance + rest[-1]).rsqrt()
    if weight is not None:
        scale = scale * values[weight.number].constant.double()
    shift = -given_mean * scale
    if bias is not None:
        shift = shift + values[bias.number].constant.double()
    dtype = values[own].dtype
    operands = [
        Operand("x", own),
        Operand("channel", constant=scale.to(dtype)),
        Operand("channel", constant=shift.to(dtype)),
    ]
    expression = ("add", ("multiply", ("x", 0), ("channel", 0)), ("channel", 1))
    return elementwise_map(op, values, expression, operands, values[own].shape)


def _instance_norm(op: Op, values: Values) -> Node | None:
    """Read an instance norm, which torch computes as a batch norm of one image with all channels of all images."""
    x, weight, bias, mean, variance = own_argument(op, 0, values), *op.args[1:5]
    if x is None or values[x].shape[0] != 1 or mean is not None or variance is not None:
        return None
    if not (is_free(weight, values) and is_free(bias, values)):
        return None
    shape = values[x].shape
    found = parameters(weight, bias, shape[1], values, values[x].dtype)
    return Norm(op.where, [x], [own_result(op)], shape[1], *found, op.args[7], shape)


def group_norm(op: Op, values: Values) -> Node | None:
    """Read a norm over groups of channels."""
    x, channels, groups, epsilon = own_argument(op, 0, values), op.args[4], op.args[6], op.args[7]
    if x is None or not (is_free(op.args[1], values) and is_free(op.args[2], values)):
        return None
    weight, bias = parameters(op.args[1], op.args[2], channels, values, values[x].dtype)
    return Norm(op.where, [x], [own_result(op)], groups, weight, bias, epsilon, values[x].shape)


def parameters(
    weight: Any, bias: Any, channels: int, values: Values, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight and the bias of a norm, or ones and zeros where they are absent."""
    given = [None if part is None else values[part.number].constant for part in (weight, bias)]
    ones, zeros = (make(channels, dtype=dtype, device="cpu") for make in (torch.ones, torch.zeros))
    found = [new if own is None else own.detach().contiguous() for own, new in zip(given, (ones, zeros), strict=True)]
    return found[0], found[1]


def layer_norm(op: Op, values: Values) -> Node | None:
    """Read the norm of vectors, (N, channels), or of rows of contiguous numbers, the last axes of an image."""
    x, length = own_argument(op, 0, values), prod(op.args[1])
    if x is None or len(values[x].shape) <= len(op.args[1]):
        return None
    if not (is_free(op.args[2], values) and is_free(op.args[3], values)):
        return None
    shape = values[x].shape
    weight, bias = parameters(op.args[2], op.args[3], length, values, values[x].dtype)
    rows = (shape[0], prod(shape[1:]) // length, length)
    return Norm(op.where, [x], [own_result(op)], 0, weight.reshape(-1), bias.reshape(-1), op.args[4], rows, rows=True)


def softmax(op: Op, values: Values) -> Node | None:
    """Read a softmax over the channels or over the last axis."""
    x, axis = own_argument(op, 0, values), op.args[1]
    shape, safe = () if x is None else values[x].shape, "safe" in op.name
    if x is None or len(shape) < 2 or (len(op.args) > 2 and op.args[2]) or op.kwargs.get("dtype"):
        return None
    if axis % len(shape) == len(shape) - 1:
        rows = (shape[0], prod(shape[1:-1]), shape[-1])
        return Softmax(op.where, [x], [own_result(op)], rows, rows=True, safe=safe)
    return Softmax(op.where, [x], [own_result(op)], shape, safe=safe) if axis == 1 else None
