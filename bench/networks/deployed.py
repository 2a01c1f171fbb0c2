"""Networks as people run them, at their usual sizes, which `python -m bench models` times as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.networks.authors import ecbsr_m4c16
from bench.networks.classics import densenet121, efficientnet_b0, transformers_model
from bench.networks.depth import DepthNeck
from bench.networks.mobilenet import mobilenet_v2
from bench.networks.randomise import randomised
from bench.networks.repvgg import repvgg_a0
from bench.networks.resnet import resnet50
from bench.networks.transformers_models import rtdetr_backbone
from bench.networks.vae import vae_decoder


class Deployed(NamedTuple):
    """A model in eval mode, the shape of its input, and the least ratio to the best peer that it is to reach."""

    factory: Callable[[], nn.Module]
    shape: tuple[int, ...]
    target: float = 1.0


def double(axes: int, inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions with norms and ReLU."""
    conv, norm = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[axes]
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [conv(channels, outputs, 3, padding=1, bias=False), norm(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Ronneberger et al. 2015, padded, on two or three axes."""

    def __init__(self, axes: int, inputs: int, width: int, levels: int, outputs: int) -> None:
        super().__init__()
        up = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[axes]
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[axes]
        widths = [width << n for n in range(levels + 1)]
        self.down = nn.ModuleList(double(axes, a, b) for a, b in zip([inputs, *widths[:-1]], widths, strict=True))
        self.pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[axes](2)
        self.ups = nn.ModuleList(up(2 * w, w, 2, 2) for w in reversed(widths[:-1]))
        self.merged = nn.ModuleList(double(axes, 2 * w, w) for w in reversed(widths[:-1]))
        self.last = conv(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for number, down in enumerate(self.down):
            x = down(self.pool(x) if number else x)
            kept.append(x)
        for up, merged, other in zip(self.ups, self.merged, kept[-2::-1], strict=True):
            x = merged(torch.cat([other, up(x)], 1))
        return self.last(x)


def super_resolution() -> nn.Module:
    """Six layers of 32 channels, and pixels shuffled to twice the size (Shi et al. 2016)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()]
    for _ in range(5):
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2))


def filter_bank() -> nn.Module:
    """64 filters of 31x31, their energies and the largest of 4x4."""
    return nn.Sequential(nn.Conv2d(1, 64, 31, padding=15), nn.ReLU(), nn.MaxPool2d(4))


class Dilated(nn.Module):
    """One residual layer of WaveNet (van den Oord et al. 2016): two dilated convolutions, one of which gates."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.shape = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.gate = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(torch.tanh(self.shape(x)) * torch.sigmoid(self.gate(x)))


def wavenet() -> nn.Module:
    """Two rows of eight dilated layers."""
    layers = [Dilated(32, 1 << n) for _ in range(2) for n in range(8)]
    return nn.Sequential(nn.Conv1d(1, 32, 3, padding=1), *layers, nn.Conv1d(32, 1, 1))


class Shuffled(nn.Module):
    """A unit of ShuffleNetV2 (Ma et al. 2018): half of the channels pass, then both halves are interleaved."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half, own = outputs // 2, inputs if stride > 1 else inputs // 2
        self.stride = stride

        def depthwise(channels: int) -> list[nn.Module]:
            layer = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
            return [layer, nn.BatchNorm2d(channels)]

        def mixed(a: int) -> list[nn.Module]:
            return [nn.Conv2d(a, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)]

        self.passed = nn.Sequential(*depthwise(own), *mixed(own)) if stride > 1 else nn.Identity()
        self.body = nn.Sequential(*mixed(own), *depthwise(half), *mixed(half))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            y = torch.cat([self.passed(x), self.body(x)], 1)
        else:
            a, b = x.chunk(2, 1)
            y = torch.cat([a, self.body(b)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet_v2() -> nn.Module:
    """ShuffleNetV2 of width 1."""
    layers: list[nn.Module] = [nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    channels = 24
    for outputs, count in ((116, 4), (232, 8), (464, 4)):
        for number in range(count):
            layers.append(Shuffled(channels, outputs, 1 if number else 2))
            channels = outputs
    layers += [nn.Conv2d(464, 1024, 1, bias=False), nn.BatchNorm2d(1024), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000))


class Logits(nn.Module):
    """A model of `transformers`, from an image to its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def convnext_tiny() -> nn.Module:
    """Liu et al. 2022."""
    return Logits(transformers_model("convnext_tiny"))


def regnet_y() -> nn.Module:
    """Radosavovic et al. 2020: grouped convolutions, and squeeze and excitation."""
    import transformers as hf

    return Logits(hf.RegNetForImageClassification(hf.RegNetConfig(num_labels=1000, layer_type="y")))


IMAGE = (1, 3, 224, 224)
DEPLOYED: dict[str, Deployed] = {
    "ResNet-50": Deployed(resnet50, IMAGE, 1.15),
    "MobileNetV2": Deployed(mobilenet_v2, IMAGE),
    "ConvNeXt-T": Deployed(lambda: randomised(convnext_tiny()), IMAGE),
    "RegNet-Y": Deployed(lambda: randomised(regnet_y()), IMAGE),
    "RepVGG-A0": Deployed(repvgg_a0, IMAGE, 1.6),
    "U-Net 32": Deployed(lambda: randomised(UNet(2, 3, 32, 4, 2)), (1, 3, 256, 256), 2.5),
    "super-resolution": Deployed(lambda: randomised(super_resolution()), (1, 3, 360, 640), 2.5),
    "filter bank": Deployed(lambda: randomised(filter_bank()), (1, 1, 512, 512), 2.5),
    "RT-DETR backbone": Deployed(lambda: randomised(rtdetr_backbone()), IMAGE),
    "EfficientNet-B0": Deployed(lambda: randomised(efficientnet_b0()), IMAGE),
    "DenseNet-121": Deployed(lambda: randomised(densenet121()), IMAGE),
    "ShuffleNetV2": Deployed(lambda: randomised(shufflenet_v2()), IMAGE),
    "VAE decoder": Deployed(vae_decoder, (1, 4, 64, 64)),
    "depth neck": Deployed(lambda: randomised(DepthNeck(384, (48, 96, 192, 384), 64)), (1, 384, 24, 32)),
    "ECBSR, 720p": Deployed(lambda: randomised(ecbsr_m4c16()), (1, 1, 720, 1280)),
    "WaveNet": Deployed(lambda: randomised(wavenet()), (1, 1, 16000)),
    "3-d U-Net": Deployed(lambda: randomised(UNet(3, 1, 16, 3, 2)), (1, 1, 64, 64, 64)),
}
"""Networks by name."""
BATCHES: dict[str, Deployed] = {
    f"{name}, batch 8": Deployed(DEPLOYED[name].factory, (8, *DEPLOYED[name].shape[1:]), DEPLOYED[name].target)
    for name in ("ResNet-50", "MobileNetV2", "RepVGG-A0")
}
"""The same with several images."""
