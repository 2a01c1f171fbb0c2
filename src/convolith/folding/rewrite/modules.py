"""Conversion of a convolution of the algebra to a torch module that consists of torch's own layers and operators."""

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
"""Classes that pad each side by its own amount, by padding mode and number of axes."""


def module_of(one: Affine, *, flat: bool, by_channel: bool) -> nn.Module:
    """Return the module of a convolution in float64, with its border correction if it has one.

    Args:
        flat: make a linear layer, for inputs of (N, channels).
        by_channel: correct the border by a channel of ones, instead of a map that is added.
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
    """Return a module as a graph, without a class of this package."""
    traced = torch.fx.symbolic_trace(module)
    for node in traced.graph.nodes:
        node.type = None  # annotations are strings here, which fx cannot pickle
    traced.recompile()
    return traced.eval()


def _with_ones(conv: Conv, edge: Conv) -> nn.Module:
    """Return a convolution of x with one more channel, of ones."""
    axes = len(conv.kernel_size)
    pad = nn.ConstantPad3d if axes > 1 else nn.ConstantPad2d  # neither checks the number of axes
    amounts: Any = (0, 0) * axes + (0, 1)
    weight = torch.cat([conv.weight, edge.weight], 0 if conv.transposed else 1)
    return nn.Sequential(pad(amounts, 1.0), _convolution(Conv(weight, None, **conv.options)))


def unfilled(kind: Any, *args: Any, **options: Any) -> Any:
    """Return a module in float64 whose parameters are not initialised."""
    without_values = type(kind.__name__, (kind,), {"reset_parameters": lambda _: None})
    module = without_values(*args, dtype=torch.float64, **options)
    module.__class__ = kind
    return module


def _linear(conv: Conv) -> nn.Module:
    layer: nn.Module = unfilled(nn.Linear, conv.in_channels, conv.out_channels, bias=conv.bias is not None)
    _fill(layer, to_dense(conv.weight, conv).flatten(1), conv.bias)
    return layer


def _convolution(conv: Conv) -> nn.Module:
    """Return a convolution; padding that differs by side becomes a layer before it (a crop after it, if transposed)."""
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
    layer: nn.Module = unfilled(
        kind,
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        bias=conv.bias is not None,
        **options,
    )
    _fill(layer, conv.weight, conv.bias)
    if even:
        return layer
    if conv.transposed:
        amounts = [min(pair) - amount for pair in reversed(conv.padding) for amount in pair]
        return nn.Sequential(layer, PADS["zeros"][axes - 1](tuple(amounts)))
    amounts = [amount for pair in reversed(conv.padding) for amount in pair]
    return nn.Sequential(PADS[conv.padding_mode][axes - 1](tuple(amounts)), layer)


def _fill(made: Any, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)


class _Bordered(nn.Module):
    """Module, to be traced, that computes `conv(x) + edge(ones)`, the latter from the taps that lie on the image."""

    def __init__(self, conv: Conv, edge: Conv) -> None:
        super().__init__()
        self.conv = _convolution(conv)
        self.edge = nn.Parameter((edge.weight[0] if edge.transposed else edge.weight[:, 0]).clone())
        self.geometry = edge
        for axis, (k, d) in enumerate(zip(edge.kernel_size, edge.dilation, strict=True)):
            places = torch.arange(k, device="cpu")[:, None] * d - edge.padding[axis][0]
            self.register_buffer(f"places_{axis}", -places if edge.transposed else places)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output; sizes may be symbolic."""
        y: torch.Tensor = self.conv(x)
        border: torch.Tensor = self.edge
        for axis, stride in enumerate(self.geometry.stride):
            places, size, outputs = getattr(self, f"places_{axis}"), x.shape[axis + 2], y.shape[axis + 2]
            if self.geometry.transposed:  # pixels lie at every stride-th position
                place = torch.arange(outputs, device=x.device) + places
                on_image = place.clamp(0, (size - 1) * stride) == place
                if stride > 1:
                    on_image = on_image & (place % stride == 0)
            else:
                place = torch.arange(0, outputs * stride, stride, device=x.device) + places
                on_image = place.clamp(0, size - 1) == place
            border = torch.matmul(border.movedim(axis + 1, -1), on_image.to(x.dtype)).movedim(-1, axis + 1)
        return y.add_(border)  # a convolution's gradient does not need its output
