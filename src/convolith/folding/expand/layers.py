"""Training forms as torch layers: sums of branches, each a chain of convolutions and norms that start as identities."""

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
"""Names of torch's padding modules by padding mode, without the number of axes."""


class TrainingForm(nn.Module):
    """Sum of branches that read the same x; `expand` returns it.

    Args:
        branches: chains of torch's own layers, by name; `"kernel"` starts as the kernel minus all others.
        axes: number of spatial axes.
    """

    def __init__(self, branches: dict[str, nn.Module], axes: int) -> None:
        super().__init__()
        self.axes = axes
        self.branches = nn.ModuleDict(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, *size) to (N, out_channels, *output_size).

        Args:
            x: the images.

        Raises:
            ConvolithError: an x without a batch axis.
        """
        _check_batched(x, self.axes)
        first, *others = self.branches.values()
        y: Tensor = first(x)
        for branch in others:
            y = y + branch(x)
        return y


@torch.fx.wrap  # fx records one call: its proxies have no number of axes
def _check_batched(x: Tensor, axes: int) -> None:
    """Check for a batch axis: a norm with one spatial axis would take (channels, size) for (N, channels)."""
    if x.ndim != axes + 2:
        raise ConvolithError(
            f"x has shape {tuple(x.shape)}; expected (N, in_channels, *size) with {axes} spatial axes, as norms need; "
            "pass x[None] for a single image"
        )


class Step(NamedTuple):
    """Convolution of a branch, and the layers that compute it; a norm follows each step."""

    conv: Conv
    layers: tuple[nn.Module, ...]


def convolution_step(conv: Conv) -> Step:
    """Return a convolution and its torch layers; padding that differs by side becomes a layer before it."""
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
        device="meta",  # initial random weights would change torch's global random state
    )
    layer.weight = nn.Parameter(conv.weight.clone())
    if even:
        return Step(conv, (layer,))
    amounts = tuple(amount for pair in reversed(conv.padding) for amount in pair)
    return Step(conv, (getattr(nn, f"{PADS[conv.padding_mode]}{axes}d")(amounts), layer))


def average_step(like: Conv) -> Step:
    """Return an average pooling with the kernel size and stride of `like`."""
    axes, size = len(like.kernel_size), like.kernel_size
    conv = average_pool(like.out_channels, size, stride=like.stride, axes=axes, sample=like.weight)
    kind: Any = POOLS[axes - 1]
    return Step(conv, (kind(size, like.stride),))


def branch_of(steps: list[Step], axes: int, x: Tensor | None, bias: Tensor | None = None) -> nn.Sequential:
    """Return a branch's layers, with norms that are identities, the last one with `bias` added.

    The norms' statistics are those on x or, if it is None, on noise of variance 1, which are sums of squared weights.
    """
    layers: list[nn.Module] = []
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
            layers += [*step.layers, norm]
        if bias is not None:
            norm.bias += bias
    return nn.Sequential(*layers)
