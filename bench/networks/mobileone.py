"""MobileOne: several convolution branches, a 1x1 scale branch and a BatchNorm skip are one convolution."""

from torch import Tensor, nn

from bench.networks.layers import convolution_norm
from bench.networks.randomise import randomised


class MobileOneBlock(nn.Module):
    """sum_i BN_i(W_i * x) + BN(w * x) + BN(x): k branches, the 1x1 scale where the kernel is larger, the skip where shapes agree."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1, branches: int
    ) -> None:
        super().__init__()
        sizes = [kernel_size] * branches + ([1] if kernel_size > 1 else [])
        self.branches = nn.ModuleList(
            convolution_norm(in_channels, out_channels, size, stride=stride, groups=groups) for size in sizes
        )
        self.skip = nn.BatchNorm2d(in_channels) if stride == 1 and in_channels == out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        y = sum(branch(x) for branch in self.branches)  # begins at the number 0, as written code often does
        return y if self.skip is None else y + self.skip(x)


def mobileone(depths: tuple[int, ...], widths: tuple[int, ...], strides: tuple[int, ...], branches: int) -> nn.Module:
    """A 3x3 stem of stride 2, then pairs of a depthwise 3x3 and a pointwise block, each with its ReLU."""
    layers: list[nn.Module] = [MobileOneBlock(3, widths[0], 3, stride=2, branches=branches), nn.ReLU()]
    in_channels = widths[0]
    for depth, width, stride in zip(depths, widths, strides):
        for i in range(depth):
            depthwise = MobileOneBlock(
                in_channels, in_channels, 3, stride=1 if i else stride, groups=in_channels, branches=branches
            )
            layers += [depthwise, nn.ReLU(), MobileOneBlock(in_channels, width, 1, branches=branches), nn.ReLU()]
            in_channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, 1000)]
    return randomised(nn.Sequential(*layers), gain=0.5)


def mobileone_s0() -> nn.Module:
    return mobileone((2, 8, 5, 5, 1), (48, 128, 256, 256, 1024), (2, 2, 2, 1, 2), branches=4)


def mobileone_small() -> nn.Module:
    return mobileone((1, 2), (16, 32), (2, 2), branches=2)
