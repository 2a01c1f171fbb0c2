"""FastViT: the RepMixer, x + scale (mixer(x) - BN(x)), is one depthwise convolution; so is each block of the stem."""

import torch
from torch import Tensor, nn

from bench.networks.layers import convolution_norm
from bench.networks.mobileone import MobileOneBlock
from bench.networks.randomise import randomised


class RepMixer(nn.Module):
    """x + s (mixer(x) - BN(x)), where the mixer is a depthwise 3x3, a 1x1 scale and a skip, each under BatchNorm."""

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.mixer = MobileOneBlock(channels, channels, kernel_size, groups=channels, branches=1)
        self.norm = nn.BatchNorm2d(channels)
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * (self.mixer(x) - self.norm(x))


class FeedForward(nn.Module):
    """x + s (w2 * gelu(w1 * BN(W * x) + b1) + b2) with a depthwise 7x7 W."""

    def __init__(self, channels: int, ratio: int = 3) -> None:
        super().__init__()
        self.depthwise = convolution_norm(channels, channels, 7, groups=channels)
        self.expand = nn.Conv2d(channels, ratio * channels, 1)
        self.reduce = nn.Conv2d(ratio * channels, channels, 1)
        self.activation = nn.GELU()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.reduce(self.activation(self.expand(self.depthwise(x))))


class LargeKernelEmbedding(nn.Module):
    """BN(W * x) + BN(w * x) of stride 2 with 7x7 and 3x3 kernels in groups of one input channel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.large = convolution_norm(in_channels, out_channels, 7, stride=2, groups=in_channels)
        self.small = convolution_norm(in_channels, out_channels, 3, stride=2, groups=in_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.large(x) + self.small(x)


def convolutional_stem(channels: int) -> list[nn.Module]:
    """A dense 3x3 and a depthwise 3x3, each of stride 2, then a 1x1."""
    return [
        *(MobileOneBlock(3, channels, 3, stride=2, branches=1), nn.GELU()),
        *(MobileOneBlock(channels, channels, 3, stride=2, groups=channels, branches=1), nn.GELU()),
        *(MobileOneBlock(channels, channels, 1, branches=1), nn.GELU()),
    ]


def fastvit(channels: int = 16) -> nn.Module:
    wide = 2 * channels
    layers = [
        *convolutional_stem(channels),
        *(RepMixer(channels), FeedForward(channels), RepMixer(channels), FeedForward(channels)),
        *(LargeKernelEmbedding(channels, wide), nn.GELU(), MobileOneBlock(wide, wide, 1, branches=1), nn.GELU()),
        *(RepMixer(wide), FeedForward(wide)),
    ]
    return randomised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 10)), gain=0.7)
