"""The decoder of a latent-diffusion VAE: nearest-neighbour enlargement then 3x3 is one transposed convolution."""

from torch import Tensor, nn
from torch.nn import functional

from bench.networks.randomise import randomised


class Upsample(nn.Module):
    """Each pixel becomes 2 x 2 equal ones, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class ResidualBlock(nn.Module):
    """shortcut(x) + W2 * silu(GN(W1 * silu(GN(x)))), the shortcut a 1x1 where the channels change."""

    def __init__(self, in_channels: int, out_channels: int, groups: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(groups, in_channels, eps=1e-6),
            nn.SiLU(),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.GroupNorm(groups, out_channels, eps=1e-6),
            nn.SiLU(),
            nn.Dropout(0.0),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        changed = in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if changed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


def vae_decoder(*, quantised: bool = False) -> nn.Module:
    """Four latent channels to an image four times as large; `quantised` begins with the 1x1 that follows the codebook."""
    layers = [
        *([nn.Conv2d(4, 4, 1)] if quantised else []),
        nn.Conv2d(4, 64, 3, padding=1),
        ResidualBlock(64, 64),
        *(ResidualBlock(64, 64), Upsample(64)),
        *(ResidualBlock(64, 32), Upsample(32)),
        ResidualBlock(32, 32),
        *(nn.GroupNorm(8, 32, eps=1e-6), nn.SiLU(), nn.Conv2d(32, 3, 3, padding=1)),
    ]
    return randomised(nn.Sequential(*layers))
