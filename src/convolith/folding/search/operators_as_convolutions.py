"""Nodes of a captured graph as `Conv` values in float64: one entry of `READERS` for each operator that equals one."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch.fx import Node

from convolith.algebra import average_pool, batch_norm, identity, linear, pad, rescale, select, upsample
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.folding.search.lowering import operator_of

aten = torch.ops.aten


class OperatorCall(NamedTuple):
    """Arguments of an operator, and the shape and position of the only one that is not constant."""

    shape: tuple[int, ...]
    at: int
    args: list[Any]


Read = Callable[[OperatorCall], "Conv | str | None"]
"""Function that returns the convolution that a call equals, a reason to refuse the call, or None for other calls."""
Values = dict[Node, Any]
"""Constants of a graph in float64, by node."""
SAMPLE = torch.zeros(1, dtype=torch.float64, device="cpu")


class ConvNode(NamedTuple):
    """Node that applies a convolution to another node's tensor."""

    source: Node
    conv: Conv
    target: Any
    """Operator that the node computes."""

    @property
    def multiplies(self) -> bool:
        """Whether the node multiplies; padding, slices and upsampling only move values."""
        return self.target not in MOVES


def read_node(node: Node, values: Values) -> ConvNode | str | None:
    """Return the convolution that a node equals at every input size, a reason to refuse it, or None for other nodes."""
    called = operator_of(node)
    read = None if called is None else READERS.get(called.target)
    if called is None or read is None:
        return None
    moving = [a for a in called.args if isinstance(a, Node) and a not in values]
    if len(moving) != 1 or any(
        isinstance(a, list | tuple) and any(isinstance(v, Node) for v in a) for a in called.args
    ):
        return None
    shape = shape_of(moving[0])
    settled = [_settled(a, values) for a in called.args]
    if shape is None or any(isinstance(a, torch.Tensor) and a.is_complex() for a in settled):
        return None
    try:
        at = next(place for place, a in enumerate(called.args) if a is moving[0])
        conv = read(OperatorCall(shape, at, settled))
    except ConvolithError as refusal:
        return str(refusal)
    if not isinstance(conv, Conv):
        return conv
    if len(conv.kernel_size) != axes_of(shape) or (len(shape) == 2 and called.target not in FLAT):
        unbatched = read in (_conv, _transposed, _pooled)
        return "it reads an image without a batch axis; add a batch axis to the example" if unbatched else None
    if conv.in_channels != shape[1]:
        return f"it expects {conv.in_channels} channels but reads {shape[1]}"
    return ConvNode(moving[0], conv, called.target)


def _settled(argument: Any, values: Values) -> Any:
    """Return an argument, with a constant node replaced by its value and floating-point tensors in float64."""
    value = values[argument] if isinstance(argument, Node) and argument in values else argument
    if isinstance(value, torch.Tensor):
        return value.detach().double() if value.is_floating_point() else value.detach()
    return value


def shape_of(node: Node) -> tuple[int, ...] | None:
    """Return the shape of a node's tensor on the example if it is (N, channels, *size), else None."""
    shape = node.meta.get("example_shape")
    return shape if isinstance(shape, tuple) and len(shape) in (2, 3, 4, 5) else None


def axes_of(shape: tuple[int, ...]) -> int:
    """Return the number of spatial axes of (N, channels, *size); (N, channels) counts as maps of one pixel."""
    return max(len(shape) - 2, 1)


def _conv(call: OperatorCall) -> Conv | str | None:
    if call.at != 0:
        return None
    defaults = [None, 1, 0, 1, 1, "zeros"]
    _, weight, bias, stride, padding, dilation, groups, mode = call.args + defaults[len(call.args) - 2 :]
    return Conv(weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups, padding_mode=mode)


def _transposed(call: OperatorCall) -> Conv | str | None:
    if call.at != 0:
        return None
    defaults = [None, 1, 0, 0, 1, 1]
    _, weight, bias, stride, padding, output_padding, groups, dilation = (call.args + defaults[len(call.args) - 2 :])[
        :8
    ]
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


def _norm(call: OperatorCall) -> Conv | str | None:
    _, weight, bias, mean, variance, training, _, eps, _ = call.args
    if call.at != 0:
        return None
    if training or mean is None or variance is None:
        return "the norm computes its statistics from the batch; only running statistics are constants"
    return batch_norm(mean, variance, weight, bias, eps=eps, axes=axes_of(call.shape))


def _pooled(call: OperatorCall) -> Conv | str | None:
    _, size, stride, padding, ceil_mode, counted, divisor = (
        call.args + [[], 0, False, True, None][len(call.args) - 2 :]
    )[:7]
    padded = any(padding) if isinstance(padding, list | tuple) else bool(padding)
    if call.at != 0:
        return None
    if ceil_mode or divisor is not None or (padded and not counted):
        return "the pooling divides by another number at the border (count_include_pad, ceil_mode, divisor_override)"
    axes = axes_of(call.shape)
    return average_pool(call.shape[1], size, stride=stride or None, padding=padding, axes=axes, sample=SAMPLE)


def _padded(call: OperatorCall) -> Conv | str | None:
    _, amounts, mode, value = (call.args + ["constant", None][len(call.args) - 2 :])[:4]
    axes = axes_of(call.shape)
    if call.at != 0 or len(amounts) > 2 * axes:
        return None
    if value or min(amounts) < 0:
        return "the padding crops" if min(amounts) < 0 else f"the padding is {value}, not zero"
    pairs = [(0, 0)] * (axes - len(amounts) // 2) + [
        (amounts[i], amounts[i + 1]) for i in range(len(amounts) - 2, -1, -2)
    ]
    named = "zeros" if mode == "constant" else mode
    return pad(call.shape[1], pairs, axes=axes, padding_mode=named, sample=SAMPLE)


def _scaled(call: OperatorCall) -> Conv | str | None:
    factors = _per_channel(call.shape, call.args[1 - call.at])
    return None if factors is None else rescale(factors, axes=axes_of(call.shape))


def _divided(call: OperatorCall) -> Conv | str | None:
    factors = _per_channel(call.shape, call.args[1])
    return None if call.at or factors is None else rescale(1 / factors, axes=axes_of(call.shape))


def _shifted(sign: int) -> Read:
    def read(call: OperatorCall) -> Conv | str | None:
        shift = _per_channel(call.shape, call.args[1 - call.at])
        if shift is None:
            return None
        factors = torch.ones_like(shift)
        if sign < 0 and call.at == 1:  # the constant minus the tensor
            return rescale(-factors, shift, axes=axes_of(call.shape))
        return rescale(factors, sign * shift, axes=axes_of(call.shape))

    return read


def _per_channel(shape: tuple[int, ...], value: Any) -> torch.Tensor | None:
    """Return a constant as one number for each channel, or None if it varies between pixels."""
    if isinstance(value, bool) or not isinstance(value, int | float | torch.Tensor):
        return None
    tensor = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    aligned = (1,) * (len(shape) - tensor.ndim) + tuple(tensor.shape)
    if len(aligned) != len(shape) or aligned[1] not in (1, shape[1]) or prod(aligned) != aligned[1]:
        return None
    return tensor.reshape(-1).expand(shape[1]).clone()


def _repeated(call: OperatorCall) -> Conv | str | None:
    axes = axes_of(call.shape)
    factors = call.args[1] if isinstance(call.args[1], list | tuple) else [call.args[1]] * axes
    if call.at != 0 or any(f is None or f != int(f) or f < 1 for f in factors) or len(factors) != axes:
        return "the upsampling has no whole factor, or a target size"
    return upsample(call.shape[1], [int(f) for f in factors], axes=axes_of(call.shape), sample=SAMPLE)


def _linear(call: OperatorCall) -> Conv | str | None:
    return linear(call.args[1], *call.args[2:3], axes=1) if call.at == 0 and len(call.shape) == 2 else None


def _sliced(call: OperatorCall) -> Conv | str | None:
    _, axis, start, stop, step = (call.args + [0, None, None, 1][len(call.args) - 1 :])[:5]
    if axis == 1:
        return select(call.shape[1], range(call.shape[1])[start:stop:step], axes=axes_of(call.shape), sample=SAMPLE)
    return (
        _same(OperatorCall(call.shape, call.at, call.args[:1]))
        if not start and stop in (None, FAR) and step == 1
        else None
    )


def _same(call: OperatorCall) -> Conv | str | None:
    return (
        identity(call.shape[1], axes=axes_of(call.shape), sample=SAMPLE)
        if call.at == 0 and len(call.args) == 1
        else None
    )


def _dropped(call: OperatorCall) -> Conv | str | None:
    return None if call.args[2] else _same(OperatorCall(call.shape, call.at, call.args[:1]))


def _negated(call: OperatorCall) -> Conv | str | None:
    return rescale(-torch.ones(call.shape[1], dtype=torch.float64, device="cpu"), axes=axes_of(call.shape))


FAR = 2**63 - 1
"""End index of a slice without an end."""
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
    "enlarge": _repeated,
    aten.linear.default: _linear,
    aten.slice.Tensor: _sliced,
    aten.dropout.default: _dropped,
    aten.clone.default: _same,
    aten.neg.default: _negated,
    aten.mul.Tensor: _scaled,
    aten.div.Tensor: _divided,
    aten.add.Tensor: _shifted(1),
    aten.sub.Tensor: _shifted(-1),
}
"""Functions that read an operator's arguments, by operator."""
MOVES = {row for row, read in READERS.items() if read in (_padded, _repeated, _sliced, _dropped, _same)}
"""Operators that only move values."""
CONVOLVE = {row for row, read in READERS.items() if read in (_conv, _transposed, _linear)}
"""Operators that sum over channels: convolutions and linear layers."""
IDLE = {row for row, read in READERS.items() if read in (_dropped, _same)}
"""Operators that return their input unchanged."""
FLAT = {row for row, read in READERS.items() if read in (_linear, _norm, _scaled, _divided, _sliced, _dropped, _same)}
FLAT |= {aten.neg.default, aten.add.Tensor, aten.sub.Tensor}
"""Operators that are also read on (N, channels)."""
