"""Small networks of many kinds for training steps, each with the shape of its input."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bench.networks.classics import classic


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.inner, self.out = self.block(1, 16), self.block(16, 32), nn.Conv2d(32, 2, 1)
        self.up, self.last = nn.ConvTranspose2d(32, 16, 2, stride=2), self.block(32, 32)

    @staticmethod
    def block(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, x):
        wide = self.down(x)
        deep = self.inner(nn.functional.max_pool2d(wide, 2))
        return self.out(self.last(torch.cat([self.up(deep), wide], 1)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.out = nn.LSTM(40, 96, 2, bidirectional=True), nn.Linear(192, 5)

    def forward(self, x):
        return self.out(self.layers(x)[0])


class Words(nn.Module):
    """Numbers as words."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 64)

    def forward(self, x):
        return self.embed(x.long().clamp(0, 99))


class Again(nn.Module):
    """Computed again when gradients are."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False)


class Attends(nn.Module):
    """Two heads, and nothing around them."""

    def __init__(self):
        super().__init__()
        self.all = nn.Linear(64, 192)

    def forward(self, x):
        parts = self.all(x).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(*parts)


def row(*layers):
    return nn.Sequential(*layers)


NETWORKS = {
    "resnet18": (lambda: classic("resnet18"), (4, 3, 64, 64)),
    "resnet18 channels last": (lambda: classic("resnet18").to(memory_format=torch.channels_last), (4, 3, 64, 64)),
    "mobilenet_v3": (lambda: classic("mobilenet_v3_large"), (4, 3, 64, 64)),
    "efficientnet": (lambda: classic("efficientnet_b0"), (4, 3, 64, 64)),
    "convnext": (lambda: classic("convnext_tiny"), (2, 3, 64, 64)),
    "u-net": (UNet, (2, 1, 64, 64)),
    "denoiser": (lambda: row(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), *[row(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()) for _ in range(4)], nn.Conv2d(32, 3, 3, padding=1)), (2, 3, 64, 64)),
    "strided": (lambda: row(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)), (8, 3, 48, 48)),
    "transformer": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 256, batch_first=True), 2, enable_nested_tensor=False), (4, 32, 64)),
    "signals": (lambda: row(nn.Conv1d(4, 32, 9, padding=4), nn.ReLU(), nn.Conv1d(32, 32, 9, padding=4), nn.ReLU(), nn.Conv1d(32, 4, 9, padding=4)), (8, 4, 1024)),
    "volumes": (lambda: row(nn.Conv3d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv3d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv3d(32, 1, 1)), (2, 1, 16, 16, 16)),
    "large kernels": (lambda: row(nn.Conv2d(1, 8, 15, padding=7), nn.ReLU(), nn.Conv2d(8, 8, 15, padding=7), nn.ReLU(), nn.Conv2d(8, 1, 15, padding=7)), (2, 1, 96, 96)),
    "depthwise": (lambda: row(nn.Conv2d(16, 16, 7, padding=3, groups=16), nn.ReLU(), nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 13, padding=6, groups=32)), (4, 16, 64, 64)),
    "few channels": (lambda: row(nn.Conv2d(3, 6, 5, stride=2), nn.Tanh(), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.Conv2d(16, 120, 5, stride=2), nn.Flatten(), nn.Linear(120 * 25, 10)), (16, 3, 40, 40)),
    "padded unevenly": (lambda: row(nn.Conv2d(3, 16, 4, padding="same"), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular")), (4, 3, 64, 64)),
    "decoder": (lambda: row(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(64, 32, 2, stride=2), nn.Conv2d(32, 3, 1)), (4, 3, 48, 48)),
    "recurrent": (Recurrent, (50, 8, 40)),
    "words": (lambda: row(Words(), nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2, enable_nested_tensor=False), nn.Linear(64, 100)), (4, 32)),
    "a norm last": (lambda: row(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()), (4, 3, 32, 32)),
    "pooled, channels last": (lambda: row(nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1), nn.MaxPool2d(2)).to(memory_format=torch.channels_last), (8, 3, 32, 32)),
    "groups of many": (lambda: row(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 7, padding=3, groups=2)), (16, 3, 28, 28)),
    "checkpointed": (lambda: row(Again(), Again(), Again()), (8, 16, 32, 32)),
    "attention": (Attends, (2, 512, 64)),
    "perceptron": (lambda: row(nn.Flatten(), nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 3)), (64, 4, 8, 8)),
}  # fmt: skip


CONVERTED = {
    "winograd": (lambda: row(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 3, 3, padding=1)), (4, 3, 96, 96)),
    "circular": (lambda: row(nn.Conv2d(3, 16, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular")), (4, 3, 96, 96)),
    "single taps": (lambda: row(nn.Conv2d(16, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 16, 1)), (4, 16, 96, 96)),
    "large kernels": NETWORKS["large kernels"],
    "padded unevenly": NETWORKS["padded unevenly"],
    "resnet18": NETWORKS["resnet18"],
    "mobilenet_v3": NETWORKS["mobilenet_v3"],
}  # fmt: skip
