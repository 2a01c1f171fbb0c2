"""What a node of a captured graph does, as a `Conv` in float64: one row of the table for each operator that is one."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.fx import Node

from convolith.algebra import average_pool, batch_norm, pad, rescale, upsample
from convolith.conv import Conv

aten = torch.ops.aten
Read = Callable[..., Conv | None]
Values = dict[Node, Any]
"""The constants of a graph in float64, by node."""
SAMPLE = torch.zeros(1, dtype=torch.float64)


class Piece:
    """A node that applies a convolution to another node's tensor."""

    def __init__(self, source: Node, conv: Conv) -> None:
        self.source, self.conv = source, conv


def piece_of(node: Node, values: Values) -> Piece | None:
    """What a node does to its one tensor, if that is a convolution at every input size."""
    read = READERS.get(node.target)
    if read is None or node.op != "call_function":
        return None
    moving = [a for a in node.all_input_nodes if a not in values]
    if len(moving) != 1 or not isinstance(shape_of(moving[0]), tuple):
        return None
    settled = [values[a] if isinstance(a, Node) and a in values else a for a in node.args]
    if any(isinstance(a, torch.Tensor) and a.is_complex() for a in settled):
        return None
    shape = shape_of(moving[0])
    conv = read(shape, node.args.index(moving[0]), settled, node.kwargs)
    if conv is None or conv.in_channels != shape[1]:
        return None
    return Piece(moving[0], conv)


def shape_of(node: Node) -> tuple[int, ...] | None:
    """The shape of a node's tensor on the example."""
    found = node.meta.get("example_shape")
    return found if isinstance(found, tuple) and len(found) in (3, 4, 5) else None


def _conv(shape: tuple[int, ...], at: int, args: list[Any], kwargs: dict[str, Any]) -> Conv | None:
    if at != 0 or kwargs:
        return None
    _, weight, bias, stride, padding, dilation, groups = (args + [None, 1, 0, 1, 1][len(args) - 2 :])[:7]
    return Conv(weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)


def _transposed(shape: tuple[int, ...], at: int, args: list[Any], kwargs: dict[str, Any]) -> Conv | None:
    if at != 0 or kwargs:
        return None
    defaults = [None, 1, 0, 0, 1, 1]
    _, weight, bias, stride, padding, output_padding, groups, dilation = (args + defaults[len(args) - 2 :])[:8]
    return Conv(
        weight,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        output_padding=output_padding,
        transposed=True,
    )


def _norm(shape: tuple[int, ...], at: int, args: list[Any], kwargs: dict[str, Any]) -> Conv | None:
    _, weight, bias, mean, variance, training, _, eps, _ = args
    if at != 0 or training or mean is None or variance is None:
        return None
    return batch_norm(mean, variance, weight, bias, eps=eps, axes=len(shape) - 2)


def _pooled(shape: tuple[int, ...], at: int, args: list[Any], kwargs: dict[str, Any]) -> Conv | None:
    _, size, stride, padding, ceil_mode, counted, divisor = (args + [[], 0, False, True, None][len(args) - 2 :])[:7]
    padded = any(padding) if isinstance(padding, list | tuple) else bool(padding)
    if at != 0 or kwargs or ceil_mode or divisor is not None or (padded and not counted):
        return None
    axes = len(shape) - 2
    return average_pool(shape[1], size, stride=stride or None, padding=padding, axes=axes, sample=SAMPLE)


def _padded(shape: tuple[int, ...], at: int, args: list[Any], kwargs: dict[str, Any]) -> Conv | None:
    _, amounts, mode, value = (args + ["constant", None][len(args) - 2 :])[:4]
    axes = len(shape) - 2
    if at != 0 or kwargs or mode != "constant" or value or len(amounts) > 2 * axes or min(amounts) < 0:
        return None
    pairs = [(0, 0)] * (axes - len(amounts) // 2) + [
        (amounts[i], amounts[i + 1]) for i in range(len(amounts) - 2, -1, -2)
    ]
    return pad(shape[1], pairs, axes=axes, sample=SAMPLE)


def _scaled(shape: tuple[int, ...], at: int, args: list[Any], kwargs: dict[str, Any]) -> Conv | None:
    factors = _per_channel(shape, args[1 - at])
    return None if factors is None or kwargs else rescale(factors, axes=len(shape) - 2)


def _divided(shape: tuple[int, ...], at: int, args: list[Any], kwargs: dict[str, Any]) -> Conv | None:
    factors = _per_channel(shape, args[1])
    return None if at or factors is None or kwargs else rescale(1 / factors, axes=len(shape) - 2)


def _shifted(sign: int) -> Read:
    def read(shape: tuple[int, ...], at: int, args: list[Any], kwargs: dict[str, Any]) -> Conv | None:
        shift = _per_channel(shape, args[1 - at])
        if shift is None or kwargs:
            return None
        factors = torch.ones_like(shift)
        if sign < 0 and at == 1:  # a constant less the tensor
            return rescale(-factors, shift, axes=len(shape) - 2)
        return rescale(factors, sign * shift, axes=len(shape) - 2)

    return read


def _per_channel(shape: tuple[int, ...], value: Any) -> torch.Tensor | None:
    """A constant as one number for each channel, if it is that in every pixel."""
    if isinstance(value, bool) or not isinstance(value, int | float | torch.Tensor):
        return None
    tensor = torch.as_tensor(value, dtype=torch.float64)
    aligned = (1,) * (len(shape) - tensor.ndim) + tuple(tensor.shape)
    if len(aligned) != len(shape) or aligned[1] not in (1, shape[1]) or prod(aligned) != aligned[1]:
        return None
    return tensor.reshape(-1).expand(shape[1]).clone()


def _repeated(shape: tuple[int, ...], at: int, args: list[Any], kwargs: dict[str, Any]) -> Conv | None:
    _, size, factors = (args + [None, None])[:3]
    if at != 0 or kwargs or factors is None or size is not None or any(f != int(f) or f < 1 for f in factors):
        return None
    return upsample(shape[1], [int(f) for f in factors], axes=len(shape) - 2, sample=SAMPLE)


READERS: dict[Any, Read] = {
    aten.conv1d.default: _conv,
    aten.conv2d.default: _conv,
    aten.conv3d.default: _conv,
    aten.conv1d.padding: _conv,
    aten.conv2d.padding: _conv,
    aten.conv3d.padding: _conv,
    aten.conv_transpose1d.default: _transposed,
    aten.conv_transpose2d.input: _transposed,
    aten.conv_transpose3d.input: _transposed,
    aten.batch_norm.default: _norm,
    aten.avg_pool1d.default: _pooled,
    aten.avg_pool2d.default: _pooled,
    aten.avg_pool3d.default: _pooled,
    aten.pad.default: _padded,
    aten.constant_pad_nd.default: _padded,
    aten.upsample_nearest1d.vec: _repeated,
    aten.upsample_nearest2d.vec: _repeated,
    aten.upsample_nearest3d.vec: _repeated,
    aten.mul.Tensor: _scaled,
    aten.div.Tensor: _divided,
    aten.add.Tensor: _shifted(1),
    aten.sub.Tensor: _shifted(-1),
}
"""How each operator's arguments are read."""
