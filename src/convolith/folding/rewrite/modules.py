"""A convolution of the algebra as a torch module, made of nothing but torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from convolith.algebra.affine import Affine
from convolith.algebra.kernels import to_dense
from convolith.conv import Conv
from convolith.folding.search.strips import Stripped

PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PADS: dict[str, tuple[Any, ...]] = {
    "zeros": (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
    "reflect": (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    "replicate": (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    "circular": (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
}
"""Modules that pad each side by itself, by the number of axes."""


def module_of(one: Affine, *, flat: bool, by_channel: bool) -> nn.Module:
    """The module of a convolution in float64, with its border correction if it has one.

    Args:
        flat: for (N, channels): a linear layer.
        by_channel: correct the border by a channel of ones; by a map that is added, if not.
    """
    if flat:
        return _linear(one.conv).eval()
    if one.row is not None:
        return _traced(Stripped(_convolution(one.conv), one.row))
    if one.edge is None:
        return _convolution(one.conv).eval()
    if by_channel:
        return _with_ones(one.conv, one.edge).eval()
    return _traced(_Bordered(one.conv, one.edge))


def _traced(module: nn.Module) -> nn.Module:
    """The same without a class of ours."""
    traced = torch.fx.symbolic_trace(module)
    for node in traced.graph.nodes:
        node.type = None  # annotations are text here, which fx cannot pickle
    traced.recompile()
    return traced.eval()


def _with_ones(conv: Conv, edge: Conv) -> nn.Module:
    """The convolution of x with one more channel, of ones."""
    axes = len(conv.kernel_size)
    pad = nn.ConstantPad3d if axes > 1 else nn.ConstantPad2d  # they hand on whatever axes they are given
    amounts: Any = (0, 0) * axes + (0, 1)
    weight = torch.cat([conv.weight, edge.weight], 0 if conv.transposed else 1)
    return nn.Sequential(pad(amounts, 1.0), _convolution(Conv(weight, None, **conv.options)))


def unfilled(kind: Any, *args: Any, **options: Any) -> Any:
    """Return a module in float64 that was not filled with random numbers first."""
    without_values = type(kind.__name__, (kind,), {"reset_parameters": lambda _: None})
    made = without_values(*args, dtype=torch.float64, **options)
    made.__class__ = kind
    return made


def _linear(conv: Conv) -> nn.Module:
    made: nn.Module = unfilled(nn.Linear, conv.in_channels, conv.out_channels, bias=conv.bias is not None)
    _fill(made, to_dense(conv.weight, conv).flatten(1), conv.bias)
    return made


def _convolution(conv: Conv) -> nn.Module:
    """Padding that differs by side is put in front (what a transposed one crops, behind)."""
    axes = len(conv.kernel_size)
    even = all(before == after for before, after in conv.padding)
    options: dict[str, Any] = {name: getattr(conv, name) for name in ("stride", "dilation", "groups")}
    if conv.transposed:
        options["output_padding"] = conv.output_padding
        options["padding"] = tuple(min(pair) for pair in conv.padding)
    else:
        options["padding_mode"] = conv.padding_mode if even else "zeros"
        options["padding"] = tuple(before for before, _ in conv.padding) if even else 0
    kind: Any = (TRANSPOSED if conv.transposed else PLAIN)[axes - 1]
    made: nn.Module = unfilled(
        kind,
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        bias=conv.bias is not None,
        **options,
    )
    _fill(made, conv.weight, conv.bias)
    if even:
        return made
    if conv.transposed:
        amounts = [min(pair) - amount for pair in reversed(conv.padding) for amount in pair]
        return nn.Sequential(made, PADS["zeros"][axes - 1](tuple(amounts)))
    amounts = [amount for pair in reversed(conv.padding) for amount in pair]
    return nn.Sequential(PADS[conv.padding_mode][axes - 1](tuple(amounts)), made)


def _fill(made: Any, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)


class _Bordered(nn.Module):
    """`conv(x) + edge(ones)`, the second from how many of its taps lie on the image; traced, it leaves torch's own."""

    def __init__(self, conv: Conv, edge: Conv) -> None:
        super().__init__()
        self.conv = _convolution(conv)
        self.edge = nn.Parameter((edge.weight[0] if edge.transposed else edge.weight[:, 0]).clone())
        self.geometry = edge
        for axis, (k, d) in enumerate(zip(edge.kernel_size, edge.dilation, strict=True)):
            places = torch.arange(k)[:, None] * d - edge.padding[axis][0]
            self.register_buffer(f"places_{axis}", -places if edge.transposed else places)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Its shapes may be symbols."""
        y: torch.Tensor = self.conv(x)
        border: torch.Tensor = self.edge
        for axis, stride in enumerate(self.geometry.stride):
            places, size, outputs = getattr(self, f"places_{axis}"), x.shape[axis + 2], y.shape[axis + 2]
            if self.geometry.transposed:  # an output lies on pixels at every stride-th place
                place = torch.arange(outputs, device=x.device) + places
                on_image = place.clamp(0, (size - 1) * stride) == place
                if stride > 1:
                    on_image = on_image & (place % stride == 0)
            else:
                place = torch.arange(0, outputs * stride, stride, device=x.device) + places
                on_image = place.clamp(0, size - 1) == place
            border = torch.matmul(border.movedim(axis + 1, -1), on_image.to(x.dtype)).movedim(-1, axis + 1)
        return y.add_(border)  # a convolution keeps its output for no gradient
