"""Two padded 3x3 convolutions with a wide middle and no activation between them: trained wider than they are used."""

from torch import nn

from bench.networks.randomise import randomised


def widened(channels: int, middle: int) -> nn.Module:
    """The two with their norms, and a head after an activation."""
    layers = [nn.Conv2d(channels, middle, 3, padding=1), nn.BatchNorm2d(middle)]
    layers += [nn.Conv2d(middle, channels, 3, padding=1), nn.BatchNorm2d(channels)]
    return randomised(nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(channels, 4, 3, padding=1)))
