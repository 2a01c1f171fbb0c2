"""MobileNetV2: inverted residuals with linear bottlenecks, where only BatchNorm folds at a profit."""

from torch import Tensor, nn
from torch.nn import functional

from bench.networks.layers import convolution_norm
from bench.networks.randomise import randomised

# expansion, channels, blocks, stride of the first block: table 2 of the paper
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """A 1x1 that expands, a depthwise 3x3 and a 1x1 without activation; the input is added where shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        layers = [] if expansion == 1 else [convolution_norm(in_channels, hidden), nn.ReLU6(inplace=True)]
        self.body = nn.Sequential(
            *layers,
            convolution_norm(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.ReLU6(inplace=True),
            convolution_norm(hidden, out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV2(nn.Module):
    """Width 1.0: a stem of 32 channels, the stages, a 1x1 to 1280 channels and a classifier."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [convolution_norm(3, 32, 3, stride=2), nn.ReLU6(inplace=True)]
        in_channels = 32
        for expansion, channels, blocks, stride in STAGES:
            for i in range(blocks):
                layers.append(InvertedResidual(in_channels, channels, stride=1 if i else stride, expansion=expansion))
                in_channels = channels
        self.features = nn.Sequential(*layers, convolution_norm(in_channels, 1280), nn.ReLU6(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def mobilenet_v2() -> nn.Module:
    return randomised(MobileNetV2())
