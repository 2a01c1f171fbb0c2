"""RepLKNet: a large depthwise kernel beside a small one is one large kernel."""

from torch import Tensor, nn

from bench.networks.layers import convolution_norm
from bench.networks.randomise import randomised


class LargeKernel(nn.Module):
    """BN(W * x) + BN(w * x), a large and a small depthwise kernel with one centre."""

    def __init__(self, channels: int, large: int = 13, small: int = 5) -> None:
        super().__init__()
        self.large = convolution_norm(channels, channels, large, groups=channels)
        self.small = convolution_norm(channels, channels, small, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.large(x) + self.small(x)


class RepLKBlock(nn.Module):
    """x + BN(w2 * relu(large kernel(relu(BN(w1 * BN(x)))))): a BatchNorm also stands before the first 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            convolution_norm(channels, channels),
            nn.ReLU(),
            LargeKernel(channels),
            nn.ReLU(),
            convolution_norm(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ConvFFN(nn.Module):
    """x + BN(w2 * gelu(BN(w1 * BN(x)))), four times as wide inside."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            convolution_norm(channels, ratio * channels),
            nn.GELU(),
            convolution_norm(ratio * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def replknet(channels: int = 24, blocks: int = 2) -> nn.Module:
    stem = [
        *(convolution_norm(3, channels, 3, stride=2), nn.ReLU()),
        *(convolution_norm(channels, channels, 3, groups=channels), nn.ReLU()),
        *(convolution_norm(channels, channels), nn.ReLU()),
        *(convolution_norm(channels, channels, 3, stride=2, groups=channels), nn.ReLU()),
    ]
    stage = [layer for _ in range(blocks) for layer in (RepLKBlock(channels), ConvFFN(channels))]
    head = [nn.BatchNorm2d(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return randomised(nn.Sequential(*stem, *stage, *head))
