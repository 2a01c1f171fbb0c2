"""ResNet-18 and ResNet-50, where only BatchNorm folds: a ReLU stands between any two convolutions in a row."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.networks.layers import convolution_norm
from bench.networks.randomise import randomised


class Residual(nn.Module):
    """relu(body(x) + shortcut(x)); the shortcut is a 1x1 convolution where the shape changes, else x itself."""

    def __init__(self, body: nn.Sequential, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = body
        changed = stride != 1 or in_channels != out_channels
        self.shortcut = convolution_norm(in_channels, out_channels, stride=stride) if changed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y += self.shortcut(x)
        return functional.relu(y)


def basic(in_channels: int, channels: int, stride: int) -> Residual:
    """Two 3x3."""
    body = nn.Sequential(
        convolution_norm(in_channels, channels, 3, stride=stride),
        nn.ReLU(inplace=True),
        convolution_norm(channels, channels, 3),
    )
    return Residual(body, in_channels, channels, stride)


def bottleneck(in_channels: int, channels: int, stride: int) -> Residual:
    """1x1, 3x3 with the stride, and 1x1 to four times the channels."""
    body = nn.Sequential(
        convolution_norm(in_channels, channels),
        nn.ReLU(inplace=True),
        convolution_norm(channels, channels, 3, stride=stride),
        nn.ReLU(inplace=True),
        convolution_norm(channels, 4 * channels),
    )
    return Residual(body, in_channels, 4 * channels, stride)


class ResNet(nn.Module):
    """A 7x7 stem of stride 2, max pooling, four stages and a classifier."""

    def __init__(self, block, depths: tuple[int, ...], expansion: int, classes: int = 1000) -> None:
        super().__init__()
        self.stem = convolution_norm(3, 64, 7, stride=2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        layers: list[nn.Module] = []
        in_channels = 64
        for stage, depth in enumerate(depths):
            for i in range(depth):
                layers.append(block(in_channels, 64 * 2**stage, 2 if stage and not i else 1))
                in_channels = 64 * 2**stage * expansion
        self.stages = nn.Sequential(*layers)
        self.classifier = nn.Linear(in_channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.stem(x)))
        return self.classifier(self.stages(x).mean((2, 3)))


def resnet18() -> nn.Module:
    return randomised(ResNet(basic, (2, 2, 2, 2), 1))


def resnet50() -> nn.Module:
    return randomised(ResNet(bottleneck, (3, 4, 6, 3), 4))
