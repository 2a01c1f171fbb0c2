"""ExpandNet: a layer written as 1x1, kxk, 1x1, or as a row of 3x3, without anything in between, is one convolution."""

from torch import nn

from bench.networks.randomise import randomised


def expanded_layer(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    rate: int = 4,
    padded_first: bool = True,
) -> nn.Sequential:
    """w2 * (W * (w1 * x + b1) + b) + b2; the padding stands at the first layer, as in the paper, or where the kxk is."""
    padding = kernel_size // 2
    first, second = (padding, 0) if padded_first else (0, padding)
    return nn.Sequential(
        nn.Conv2d(in_channels, rate * in_channels, 1, padding=first),
        nn.Conv2d(rate * in_channels, rate * out_channels, kernel_size, stride, padding=second),
        nn.Conv2d(rate * out_channels, out_channels, 1),
    )


def expanded_kernel(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, rate: int = 2
) -> nn.Sequential:
    """A kxk layer as (k - 1) / 2 layers of 3x3, all the padding at the first and the stride at the last."""
    count = (kernel_size - 1) // 2
    channels = [in_channels] + [rate * out_channels] * (count - 1) + [out_channels]
    return nn.Sequential(
        *(
            nn.Conv2d(
                channels[i],
                channels[i + 1],
                3,
                stride if i == count - 1 else 1,
                padding=0 if i else kernel_size // 2,
            )
            for i in range(count)
        )
    )


def expandnet(*, padded_first: bool = True) -> nn.Module:
    layers: list[nn.Module] = []
    for in_channels, out_channels, stride in [(3, 16, 2), (16, 16, 1), (16, 32, 2)]:
        layer = expanded_layer(in_channels, out_channels, 3, stride=stride, padded_first=padded_first)
        layers += [layer, nn.BatchNorm2d(out_channels), nn.ReLU()]
    return randomised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)))


def expandnet_kernels() -> nn.Module:
    layers = [
        expanded_kernel(3, 16, 7, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        expanded_kernel(16, 32, 5),
        nn.BatchNorm2d(32),
        nn.ReLU(),
    ]
    return randomised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)))
