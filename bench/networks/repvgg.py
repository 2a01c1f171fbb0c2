"""RepVGG: a 3x3, a 1x1 and an identity branch, each under its own BatchNorm, are one 3x3 convolution."""

from torch import Tensor, nn

from bench.networks.layers import convolution_norm
from bench.networks.randomise import randomised


class RepVGGBlock(nn.Module):
    """BN(W3 * x) + BN(W1 * x) + BN(x), the last where input and output have one shape; the activation stands outside."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.dense = convolution_norm(in_channels, out_channels, 3, stride=stride, groups=groups)
        self.pointwise = convolution_norm(in_channels, out_channels, 1, stride=stride, groups=groups)
        self.identity = nn.BatchNorm2d(in_channels) if stride == 1 and in_channels == out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.dense(x) + self.pointwise(x)
        return y if self.identity is None else y + self.identity(x)


def repvgg(depths: tuple[int, ...], widths: tuple[int, ...], groups: int = 1, classes: int = 1000) -> nn.Module:
    """One stage for each depth, each opened by stride 2; every second block in `groups`, as in the paper's g2 and g4."""
    layers: list[nn.Module] = []
    in_channels, position = 3, 0
    for depth, width in zip(depths, widths):
        for i in range(depth):
            grouped = groups if position % 2 else 1
            layers += [RepVGGBlock(in_channels, width, stride=1 if i else 2, groups=grouped), nn.ReLU()]
            in_channels, position = width, position + 1
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, classes)]
    return randomised(nn.Sequential(*layers), gain=0.7)


def repvgg_a0() -> nn.Module:
    return repvgg((1, 2, 4, 14, 1), (48, 48, 96, 192, 1280))


def repvgg_grouped() -> nn.Module:
    return repvgg((1, 2, 3, 2), (16, 16, 32, 64), groups=4, classes=10)
