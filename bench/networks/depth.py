"""The neck of a depth estimator, after DPT: projected, resized by transposed convolutions, fused from coarse to fine."""

from torch import Tensor, nn
from torch.nn import functional

from bench.networks.randomise import randomised


def reassembled(in_channels: int, channels: int, out_channels: int, factor: float) -> nn.Sequential:
    """1x1, then resized by `factor` (transposed with kernel = stride, nothing, or a 3x3 with stride), then 3x3."""
    if factor > 1:
        resize = nn.ConvTranspose2d(channels, channels, int(factor), int(factor))
    elif factor == 1:
        resize = nn.Identity()
    else:
        resize = nn.Conv2d(channels, channels, 3, round(1 / factor), 1)
    last = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1), resize, last)


class ResidualUnit(nn.Module):
    """x + W2 * relu(W1 * relu(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.relu(self.first(functional.relu(x))))


class Fusion(nn.Module):
    """The coarse map plus the unit of a fine one, another unit, enlarged bilinearly, then a 1x1."""

    def __init__(self, channels: int, *, first: bool) -> None:
        super().__init__()
        self.fine = None if first else ResidualUnit(channels)
        self.sum = ResidualUnit(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, coarse: Tensor | None, fine: Tensor, size: tuple[int, int]) -> Tensor:
        x = fine if self.fine is None else coarse + self.fine(fine)
        x = functional.interpolate(self.sum(x), size=size, mode="bilinear", align_corners=True)
        return self.project(x)


class DepthNeck(nn.Module):
    """Four levels of one feature map, fused from the coarsest, and the head that makes depths of them."""

    def __init__(self, in_channels: int, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            reassembled(in_channels, width, channels, factor) for width, factor in zip(widths, (4, 2, 1, 0.5))
        )
        self.fusions = nn.ModuleList(Fusion(channels, first=i == 0) for i in range(len(widths)))
        self.before = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.after = nn.Conv2d(channels // 2, channels // 2, 3, padding=1)
        self.depth = nn.Conv2d(channels // 2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [level(x) for level in self.levels]
        height, width = maps[0].shape[2:]
        sizes = [*(m.shape[2:] for m in maps[-2::-1]), (2 * height, 2 * width)]
        y = None
        for fusion, fine, size in zip(self.fusions, maps[::-1], sizes):
            y = fusion(y, fine, size)
        y = functional.interpolate(self.before(y), scale_factor=2, mode="bilinear", align_corners=True)
        return functional.relu(self.depth(functional.relu(self.after(y))))


def depth_neck() -> nn.Module:
    return randomised(DepthNeck(48, (24, 32, 40, 48), 32))
