"""ACNet: a square, a horizontal and a vertical kernel, each under its own BatchNorm, are one square kernel."""

from torch import Tensor, nn

from bench.networks.randomise import randomised


class AsymmetricBlock(nn.Module):
    """BN(W * x) + BN(h * x) + BN(v * x), with h of size 1 x k and v of size k x 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, *, stride: int = 1) -> None:
        super().__init__()
        k, p = kernel_size, kernel_size // 2
        # Padding "same" is for stride 1 only; its pairs of paddings are what a reader of graphs must also understand.
        flat = "same" if stride == 1 else (0, p)
        self.square = nn.Conv2d(in_channels, out_channels, k, stride, p, bias=False)
        self.horizontal = nn.Conv2d(in_channels, out_channels, (1, k), stride, flat, bias=False)
        self.vertical = nn.Conv2d(in_channels, out_channels, (k, 1), stride, (p, 0), bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(out_channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        square, horizontal, vertical = self.norms
        return square(self.square(x)) + horizontal(self.horizontal(x)) + vertical(self.vertical(x))


def acnet() -> nn.Module:
    layers: list[nn.Module] = []
    for in_channels, out_channels, kernel_size, stride in [
        (3, 16, 5, 2),
        (16, 16, 3, 1),
        (16, 32, 3, 2),
        (32, 32, 3, 1),
    ]:
        layers += [AsymmetricBlock(in_channels, out_channels, kernel_size, stride=stride), nn.ReLU(inplace=True)]
    return randomised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)))
