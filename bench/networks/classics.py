"""Networks whose products are known to the last one, written from their papers: what a count must find."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def alexnet() -> nn.Module:
    """One column, as it is trained today (Krizhevsky 2014)."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(inplace=True)),
        *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Linear(4096, 1000)),
    )


def vgg16() -> nn.Module:
    """Thirteen 3x3 (Simonyan and Zisserman 2014)."""
    layers: list[nn.Module] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(512 * 49, 4096), nn.ReLU(inplace=True), nn.Dropout()]
    layers += [nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers)


def norm(
    inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1, activation: type | None = None
) -> nn.Sequential:
    """A convolution without bias, its norm, and an activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class Squeeze(nn.Module):
    """Each channel times what two 1x1 make of the means of all (Hu et al. 2018)."""

    def __init__(self, channels: int, inner: int, first: type, last: type) -> None:
        super().__init__()
        self.down, self.first = nn.Conv2d(channels, inner, 1), first()
        self.up, self.last = nn.Conv2d(inner, channels, 1), last()

    def forward(self, x: Tensor) -> Tensor:
        means = functional.adaptive_avg_pool2d(x, 1)
        return x * self.last(self.up(self.first(self.down(means))))


class Inverted(nn.Module):
    """1x1 to a wide middle, depthwise, squeezed, 1x1 back; and x, where the shape stays (Sandler et al. 2018)."""

    def __init__(
        self, inputs: int, wide: int, outputs: int, size: int, stride: int, activation: type, squeeze: nn.Module | None
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [norm(inputs, wide, activation=activation)] if wide != inputs else []
        layers.append(norm(wide, wide, size, stride, groups=wide, activation=activation))
        layers += [squeeze] if squeeze else []
        self.body = nn.Sequential(*layers, norm(wide, outputs))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


def divisible(channels: float) -> int:
    """The nearest multiple of 8 that is not less than 90%."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found


def mobilenet_v3_large() -> nn.Module:
    """Howard et al. 2019, table 1."""
    relu, swish = nn.ReLU, nn.Hardswish
    rows = (
        (3, 16, 16, False, relu, 1), (3, 64, 24, False, relu, 2), (3, 72, 24, False, relu, 1), (5, 72, 40, True, relu, 2),
        (5, 120, 40, True, relu, 1), (5, 120, 40, True, relu, 1), (3, 240, 80, False, swish, 2), (3, 200, 80, False, swish, 1),
        (3, 184, 80, False, swish, 1), (3, 184, 80, False, swish, 1), (3, 480, 112, True, swish, 1), (3, 672, 112, True, swish, 1),
        (5, 672, 160, True, swish, 2), (5, 960, 160, True, swish, 1), (5, 960, 160, True, swish, 1),
    )  # fmt: skip
    layers: list[nn.Module] = [norm(3, 16, 3, 2, activation=swish)]
    channels = 16
    for size, wide, outputs, squeezed, activation, stride in rows:
        squeeze = Squeeze(wide, divisible(wide / 4), nn.ReLU, nn.Hardsigmoid) if squeezed else None
        layers.append(Inverted(channels, wide, outputs, size, stride, activation, squeeze))
        channels = outputs
    layers += [norm(160, 960, activation=swish), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(960, 1280), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1280, 1000))


def efficientnet_b0() -> nn.Module:
    """Tan and Le 2019, table 1."""
    rows = (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )
    layers: list[nn.Module] = [norm(3, 32, 3, 2, activation=nn.SiLU)]
    channels = 32
    for factor, size, stride, outputs, count in rows:
        for number in range(count):
            squeeze = Squeeze(channels * factor, max(1, channels // 4), nn.SiLU, nn.Sigmoid)
            step = stride if number == 0 else 1
            layers.append(Inverted(channels, channels * factor, outputs, size, step, nn.SiLU, squeeze))
            channels = outputs
    layers += [norm(320, 1280, activation=nn.SiLU), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(1280, 1000))


class Grouped(nn.Module):
    """1x1, 3x3 in 32 groups, 1x1, and x beside it (Xie et al. 2017)."""

    def __init__(self, inputs: int, wide: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm(inputs, wide, activation=nn.ReLU), norm(wide, wide, 3, stride, 32, nn.ReLU), norm(wide, outputs)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else norm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


def resnext50() -> nn.Module:
    """32x4d (Xie et al. 2017, table 1)."""
    layers: list[nn.Module] = [norm(3, 64, 7, 2, activation=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, count in enumerate((3, 4, 6, 3)):
        for number in range(count):
            stride = 2 if stage and number == 0 else 1
            layers.append(Grouped(channels, 128 * 2**stage, 256 * 2**stage, stride))
            channels = 256 * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


class Stacked(nn.Module):
    """What it makes is stacked on what it is given (Huang et al. 2017)."""

    def __init__(self, inputs: int, growth: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), nn.Conv2d(inputs, 4 * growth, 1, bias=False)),
            *(
                nn.BatchNorm2d(4 * growth),
                nn.ReLU(inplace=True),
                nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet121() -> nn.Module:
    """Huang et al. 2017, table 1."""
    layers: list[nn.Module] = [norm(3, 64, 7, 2, activation=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for block, count in enumerate((6, 12, 24, 16)):
        if block:
            layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(count):
            layers.append(Stacked(channels))
            channels += 32
    layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels, 1000))


def transformers_model(name: str) -> nn.Module:
    """From the package's own configurations, with a thousand labels."""
    import transformers as hf

    kinds = {
        "resnet18": (hf.ResNetForImageClassification, hf.ResNetConfig, {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}),
        "resnet50": (hf.ResNetForImageClassification, hf.ResNetConfig, {}),
        "resnet152": (hf.ResNetForImageClassification, hf.ResNetConfig, {"depths": [3, 8, 36, 3]}),
        "mobilenet_v2": (hf.MobileNetV2ForImageClassification, hf.MobileNetV2Config, {"tf_padding": False}),
        "convnext_tiny": (hf.ConvNextForImageClassification, hf.ConvNextConfig, {}),
    }  # fmt: skip
    model, config, options = kinds[name]
    return model(config(num_labels=1000, **options))


PRODUCTS = {
    "alexnet": 714_188_480,
    "vgg16": 15_470_264_320,
    "resnet18": 1_814_073_344,
    "resnet50": 4_089_184_256,
    "resnet152": 11_513_626_624,
    "resnext50": 4_230_479_872,
    "densenet121": 2_834_161_664,
    "mobilenet_v2": 300_774_272,
    "mobilenet_v3_large": 216_589_760,
    "efficientnet_b0": 385_814_752,
    "convnext_tiny": 4_455_531_264,
}
"""Of convolutions and matrix products, forward, for one image of 224x224."""
WRITTEN = {
    "alexnet": alexnet,
    "vgg16": vgg16,
    "resnext50": resnext50,
    "densenet121": densenet121,
    "mobilenet_v3_large": mobilenet_v3_large,
    "efficientnet_b0": efficientnet_b0,
}


def classic(name: str) -> nn.Module:
    """One of PRODUCTS."""
    return WRITTEN[name]() if name in WRITTEN else transformers_model(name)
