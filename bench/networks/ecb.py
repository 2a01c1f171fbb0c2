"""ECB of ECBSR: a 3x3, an expanded 3x3, two Sobel and one Laplacian branch are one 3x3 convolution."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.networks.randomise import randomised

SOBEL_X = ((1, 0, -1), (2, 0, -2), (1, 0, -1))
SOBEL_Y = ((1, 2, 1), (0, 0, 0), (-1, -2, -1))
LAPLACIAN = ((0, 1, 0), (1, -4, 1), (0, 1, 0))


class EdgeBranch(nn.Module):
    """(s M) * (w * x + a) + b: a 1x1 convolution, then a fixed 3x3 mask for each channel, with learned scale and bias.

    The 1x1 reads a padded image, so that the border holds its bias and the two are one convolution there too; with
    `padded_first=False` zeros are put between the two, and they are one in the interior only.
    """

    def __init__(
        self, in_channels: int, out_channels: int, mask: tuple[tuple[int, ...], ...], *, padded_first: bool
    ) -> None:
        super().__init__()
        self.expand = nn.Conv2d(in_channels, out_channels, 1)
        self.scale = nn.Parameter(torch.ones(out_channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("mask", torch.tensor(mask, dtype=torch.float32).expand(out_channels, 1, 3, 3).clone())
        self.padded_first = padded_first

    def forward(self, x: Tensor) -> Tensor:
        if self.padded_first:
            x = functional.pad(x, (1, 1, 1, 1))
        padding = 0 if self.padded_first else 1
        return functional.conv2d(
            self.expand(x), self.scale * self.mask, self.bias, padding=padding, groups=self.scale.shape[0]
        )


class EdgeBlock(nn.Module):
    """W * x + V * (v * x + a) + three edge branches, and x itself where the channels agree."""

    def __init__(self, in_channels: int, out_channels: int, *, padded_first: bool = True, multiplier: int = 2) -> None:
        super().__init__()
        hidden = multiplier * out_channels
        first, second = (1, 0) if padded_first else (0, 1)
        self.dense = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.expanded = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, padding=first), nn.Conv2d(hidden, out_channels, 3, padding=second)
        )
        self.edges = nn.ModuleList(
            EdgeBranch(in_channels, out_channels, mask, padded_first=padded_first)
            for mask in (SOBEL_X, SOBEL_Y, LAPLACIAN)
        )
        self.identity = in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.dense(x) + self.expanded(x)
        for edge in self.edges:
            y = y + edge(x)
        return y + x if self.identity else y


class ECBSR(nn.Module):
    """Blocks under PReLU, the luma image added to each of the s^2 channels, then a shuffle to an image s times as large."""

    def __init__(self, blocks: int, channels: int, scale: int, *, padded_first: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for in_channels in [1] + [channels] * blocks:
            layers += [EdgeBlock(in_channels, channels, padded_first=padded_first), nn.PReLU(channels)]
        self.body = nn.Sequential(*layers, EdgeBlock(channels, scale**2, padded_first=padded_first))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return functional.pixel_shuffle(self.body(x) + x, self.scale)


def ecbsr(*, padded_first: bool = True) -> nn.Module:
    return randomised(ECBSR(blocks=4, channels=16, scale=2, padded_first=padded_first), gain=0.2)
