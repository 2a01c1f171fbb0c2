"""Training forms as torch layers: a sum of branches, each a row of convolutions and norms that begin as identities."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convolith.algebra import average_pool, compose
from convolith.conv import Conv
from convolith.errors import ConvolithError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
PADS = {"zeros": "ZeroPad", "reflect": "ReflectionPad", "replicate": "ReplicationPad", "circular": "CircularPad"}
"""Torch's padding modules by padding mode, before the number of axes."""


class TrainingForm(nn.Module):
    """The sum of branches that read the same x.

    Attributes:
        branches: by name, each a row of torch's own layers; `"kernel"` is the one that holds what was expanded.
    """

    def __init__(self, branches: dict[str, nn.Module], axes: int) -> None:
        super().__init__()
        self.axes = axes
        self.branches = nn.ModuleDict(branches)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, *size) to (N, out_channels, *size)."""
        _check_batched(x, self.axes)
        first, *others = self.branches.values()
        y: Tensor = first(x)
        for branch in others:
            y = y + branch(x)
        return y


@torch.fx.wrap  # fx sees one call: what it traces with has no number of axes
def _check_batched(x: Tensor, axes: int) -> None:
    """A norm over one axis would take an x without batch for one without that axis."""
    if x.ndim != axes + 2:
        raise ConvolithError(
            f"x has shape {tuple(x.shape)}; expected (N, in_channels, *size) with {axes} spatial axes, as norms need; "
            "pass x[None] for a single image"
        )


class Step(NamedTuple):
    """A convolution of a branch, and the layers that compute it; a norm follows each."""

    conv: Conv
    layers: tuple[nn.Module, ...]


def convolution_step(conv: Conv) -> Step:
    """The torch layers of a convolution: padding that differs by side stands in front."""
    axes = len(conv.kernel_size)
    even = all(before == after for before, after in conv.padding)
    padded = even and any(map(any, conv.padding))
    kind: Any = CONVOLUTIONS[axes - 1]
    layer = kind(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=tuple(before for before, _ in conv.padding) if even else 0,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=False,
        padding_mode=conv.padding_mode if padded else "zeros",
        device="meta",  # its own random weights would move torch's global random numbers
    )
    layer.weight = nn.Parameter(conv.weight.clone())
    if even:
        return Step(conv, (layer,))
    amounts = tuple(amount for pair in reversed(conv.padding) for amount in pair)
    return Step(conv, (getattr(nn, f"{PADS[conv.padding_mode]}{axes}d")(amounts), layer))


def average_step(like: Conv) -> Step:
    """The mean of each window of a kernel."""
    axes, size = len(like.kernel_size), like.kernel_size
    conv = average_pool(like.out_channels, size, stride=like.stride, axes=axes, sample=like.weight)
    kind: Any = POOLS[axes - 1]
    return Step(conv, (kind(size, like.stride),))


def branch_of(steps: list[Step], axes: int, x: Tensor | None, bias: Tensor | None = None) -> nn.Sequential:
    """A branch's layers, with norms that give what they take, the last one with a bias more.

    Their statistics are those on x, or, if it is None, on noise of variance 1: a sum of squared weights.
    """
    row: list[nn.Module] = []
    whole = steps[0].conv
    kind: Any = NORMS[axes - 1]
    with torch.no_grad():
        for number, step in enumerate(steps):
            whole = compose(whole, step.conv).conv if number else whole
            norm = kind(step.conv.out_channels, dtype=torch.float64)
            if x is None:
                norm.running_var.copy_(whole.weight.flatten(1).square().sum(1))
            else:
                x = nn.Sequential(*step.layers)(x)
                over = (0, *range(2, axes + 2))
                norm.running_mean.copy_(x.mean(over))
                norm.running_var.copy_(x.var(over, correction=0))
            norm.weight.copy_((norm.running_var + norm.eps).sqrt())
            norm.bias.copy_(norm.running_mean)
            row += [*step.layers, norm]
        if bias is not None:
            norm.bias += bias
    return nn.Sequential(*row)
