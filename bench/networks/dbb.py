"""Diverse Branch Block: kxk, 1x1, 1x1 then kxk, and 1x1 then average pooling are one kxk convolution."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.networks.layers import convolution_norm
from bench.networks.randomise import randomised


class PaddedNorm(nn.Module):
    """BatchNorm, then a border of BN(0) = beta - mean gamma / sigma instead of zeros, so that a kxk may be merged before it."""

    def __init__(self, channels: int, padding: int, *, assigned: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.padding = padding
        self.assigned = assigned

    def forward(self, x: Tensor) -> Tensor:
        y, p = self.norm(x), self.padding
        sigma = torch.sqrt(self.norm.running_var + self.norm.eps)
        border = (self.norm.bias - self.norm.running_mean * self.norm.weight / sigma).view(1, -1, 1, 1)
        if not self.assigned:
            return functional.pad(y - border, (p, p, p, p)) + border
        y = functional.pad(y, (p, p, p, p))
        y[:, :, :p] = border
        y[:, :, -p:] = border
        y[..., :p] = border
        y[..., -p:] = border
        return y


class DiverseBranchBlock(nn.Module):
    """BN(W * x) + BN(w * x) + BN(V * pad(BN(v * x))) + BN(mean(pad(BN(u * x)))).

    `assigned` writes the border by assignment to slices, as most code does; otherwise by padding a difference.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        assigned: bool = False,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        convolution = partial(nn.Conv2d, bias=False, groups=groups)
        self.dense = convolution_norm(in_channels, out_channels, kernel_size, stride=stride, groups=groups)
        self.pointwise = convolution_norm(in_channels, out_channels, 1, stride=stride, groups=groups)
        self.expanded = nn.Sequential(
            convolution(in_channels, in_channels, 1),
            PaddedNorm(in_channels, padding, assigned=assigned),
            convolution(in_channels, out_channels, kernel_size, stride),
            nn.BatchNorm2d(out_channels),
        )
        self.averaged = nn.Sequential(
            convolution(in_channels, out_channels, 1),
            PaddedNorm(out_channels, padding, assigned=assigned),
            nn.AvgPool2d(kernel_size, stride),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x) + self.pointwise(x) + self.expanded(x) + self.averaged(x)


class PooledBranchBlock(nn.Module):
    """BN(W * x) + BN(mean x): the depthwise form, whose pooling has no 1x1 before it and may pad with zeros that count."""

    def __init__(self, channels: int, kernel_size: int, *, stride: int = 1) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        self.dense = convolution_norm(channels, channels, kernel_size, stride=stride, groups=channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        padding = self.kernel_size // 2
        mean = functional.avg_pool2d(x, self.kernel_size, self.stride, padding, count_include_pad=True)
        return self.dense(x) + self.norm(mean)


def dbb(*, assigned: bool = False) -> nn.Module:
    block = partial(DiverseBranchBlock, assigned=assigned)
    layers = [
        block(3, 16, 3, stride=2),
        nn.ReLU(),
        block(16, 16, 5),
        nn.ReLU(),
        block(16, 32, 3, stride=2, groups=2),
        nn.ReLU(),
        PooledBranchBlock(32, 3),
        nn.ReLU(),
        block(32, 32, 3),
        nn.ReLU(),
    ]
    return randomised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)))
