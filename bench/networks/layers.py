"""The pair that these networks are made of: a convolution without bias, then BatchNorm."""

from torch import nn


def convolution_norm(
    in_channels: int, out_channels: int, kernel_size: int = 1, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution and BatchNorm, padded so that stride 1 keeps the size."""
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))
