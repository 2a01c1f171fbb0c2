"""The rows of the grid: the shapes that people run, and a second set drawn at random that nobody tuned for."""

from __future__ import annotations

from typing import Any

import numpy as np

from convolith import ConvSpec


def image(size: int, kernel_size: int, **options: Any) -> ConvSpec:
    """One channel in, one out, as large an output as its input."""
    return layer(1, 1, size, kernel_size, **options)


def layer(in_channels: int, out_channels: int, size: int, kernel_size: int, **options: Any) -> ConvSpec:
    """A layer on a square picture, padded by half its kernel."""
    return ConvSpec(
        in_channels=in_channels,
        out_channels=out_channels,
        size=(size, size),
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        **options,
    )


def depthwise(channels: int, size: int, kernel_size: int, **options: Any) -> ConvSpec:
    """Every channel by itself."""
    return layer(channels, channels, size, kernel_size, groups=channels, **options)


def dilated(in_channels: int, out_channels: int, size: int, dilation: int, **options: Any) -> ConvSpec:
    """3x3 taps apart, as large an output as its input."""
    return ConvSpec(
        in_channels=in_channels,
        out_channels=out_channels,
        size=(size, size),
        kernel_size=3,
        padding=dilation,
        dilation=dilation,
        **options,
    )


def strided_signal(in_channels: int, out_channels: int, size: int, kernel_size: int, stride: int) -> ConvSpec:
    """On one axis, padded by half the kernel."""
    return ConvSpec(
        in_channels=in_channels,
        out_channels=out_channels,
        size=size,
        kernel_size=kernel_size,
        stride=stride,
        padding=kernel_size // 2,
    )


def patches(out_channels: int, in_channels: int, size: int, patch: int) -> ConvSpec:
    """Patches side by side, as vision transformers embed them."""
    return ConvSpec(
        in_channels=in_channels, out_channels=out_channels, size=(size, size), kernel_size=patch, stride=patch
    )


def signal(size: int, kernel_size: int, dilation: int = 1, channels: int = 1) -> ConvSpec:
    """On one axis, as long an output as its input."""
    return ConvSpec(
        in_channels=channels,
        out_channels=channels,
        size=size,
        kernel_size=kernel_size,
        padding=dilation * (kernel_size - 1) // 2,
        dilation=dilation,
    )


def volume(in_channels: int, out_channels: int, size: int, kernel_size: int) -> ConvSpec:
    """On three axes, as large an output as its input."""
    return ConvSpec(
        in_channels=in_channels,
        out_channels=out_channels,
        size=(size,) * 3,
        kernel_size=(kernel_size,) * 3,
        padding=kernel_size // 2,
    )


IMAGES = {f"image {n}, {k}x{k}": image(n, k) for n in (512, 1024, 4096) for k in (3, 5, 7, 11, 15, 31, 63, 127)}
DTYPES = {
    "image 1024, 3x3, uint8": image(1024, 3, dtype="uint8", kernel_dtype="float32"),
    "image 1024, 7x7, uint8": image(1024, 7, dtype="uint8", kernel_dtype="float32"),
    "image 1024, 5x5, float64": image(1024, 5, dtype="float64"),
    "image 1024, 15x15, float64": image(1024, 15, dtype="float64"),
    "image 1024, 63x63, float64": image(1024, 63, dtype="float64"),
}
FEW_CHANNELS = {
    "3 -> 64, 7x7, stride 2, 224": layer(3, 64, 224, 7, stride=2),
    **{f"1 -> 16, {k}x{k}, 512": layer(1, 16, 512, k) for k in (3, 7, 15, 31)},
}
DEPTHWISE = {
    f"depthwise {c}, {k}x{k}, {n}": depthwise(c, n, k)
    for c, n, k in ((32, 112, 3), (128, 56, 3), (512, 14, 3), (96, 56, 5), (96, 56, 7), (96, 56, 13), (128, 56, 31))
}
DEEP = {
    f"{c} -> {c}, 3x3, {n}" + (f", batch {b}" if b > 1 else ""): layer(c, c, n, 3, batch=b)
    for b in (1, 8)
    for c, n in ((64, 56), (128, 28), (256, 14), (512, 7))
}
POINTWISE = {
    f"{c} -> {o}, 1x1, {n}" + (f", batch {b}" if b > 1 else ""): layer(c, o, n, 1, batch=b)
    for c, o, n, b in ((256, 64, 56, 1), (64, 256, 56, 8), (512, 128, 28, 1), (1024, 256, 14, 1))
}
OTHERS = {
    "64 -> 64, 13x13, 56": layer(64, 64, 56, 13),
    **{f"1-d, {k} taps, 100000": signal(100_000, k) for k in (9, 101, 1023, 4095)},
    "1-d, 9 taps, dilation 64, 100000": signal(100_000, 9, 64),
    "1-d, 16 -> 16, 9 taps, 20000": signal(20_000, 9, channels=16),
    "3-d, 8 -> 8, 3x3x3, 32": volume(8, 8, 32, 3),
    "3-d, 1 -> 1, 5x5x5, 96": volume(1, 1, 96, 5),
}
GRID: dict[str, ConvSpec] = IMAGES | DTYPES | FEW_CHANNELS | DEPTHWISE | DEEP | POINTWISE | OTHERS
"""The shapes that are tuned for. A row is never taken out because it is lost."""

STRIDED: dict[str, ConvSpec] = {
    "Inception v3: 3 -> 32, 3x3, stride 2, 299": ConvSpec(
        in_channels=3, out_channels=32, size=(299, 299), kernel_size=3, stride=2
    ),
    "MobileNet v2: 3 -> 32, 3x3, stride 2, 224": layer(3, 32, 224, 3, stride=2),
    "MobileNet v3: 3 -> 16, 3x3, stride 2, 224": layer(3, 16, 224, 3, stride=2),
    "YOLOv5s: 3 -> 32, 6x6, stride 2, 320": ConvSpec(
        in_channels=3, out_channels=32, size=(320, 320), kernel_size=6, stride=2, padding=2
    ),
    "ResNet: 3 -> 64, 7x7, stride 2, 224": layer(3, 64, 224, 7, stride=2),
    "YOLOv5s: 32 -> 64, 3x3, stride 2, 160": layer(32, 64, 160, 3, stride=2),
    "32 -> 64, 3x3, stride 2, 112": layer(32, 64, 112, 3, stride=2),
    "HRNet: 64 -> 64, 3x3, stride 2, 112": layer(64, 64, 112, 3, stride=2),
    "ResNet-50: 128 -> 128, 3x3, stride 2, 56": layer(128, 128, 56, 3, stride=2),
    "ResNet-50: 256 -> 256, 3x3, stride 2, 28": layer(256, 256, 28, 3, stride=2),
    "ResNet-50: 512 -> 512, 3x3, stride 2, 14": layer(512, 512, 14, 3, stride=2),
    "ResNet-18: 64 -> 128, 3x3, stride 2, 56": layer(64, 128, 56, 3, stride=2),
    "ResNet-18: 64 -> 128, 1x1, stride 2, 56": layer(64, 128, 56, 1, stride=2),
    "ResNet-50: 256 -> 512, 1x1, stride 2, 56": layer(256, 512, 56, 1, stride=2),
    "ResNeXt-50: 256 -> 256, 3x3, 32 groups, stride 2, 56": layer(256, 256, 56, 3, stride=2, groups=32),
    "MobileNet v2: depthwise 96, 3x3, stride 2, 112": depthwise(96, 112, 3, stride=2),
    "depthwise 96, 3x3, stride 2, 56": depthwise(96, 56, 3, stride=2),
    "MobileNet v2: depthwise 144, 3x3, stride 2, 56": depthwise(144, 56, 3, stride=2),
    "MobileNet v2: depthwise 192, 3x3, stride 2, 28": depthwise(192, 28, 3, stride=2),
    "MobileNet v2: depthwise 576, 3x3, stride 2, 14": depthwise(576, 14, 3, stride=2),
    "EfficientNet-B0: depthwise 144, 5x5, stride 2, 56": depthwise(144, 56, 5, stride=2),
    "EfficientNet-B0: depthwise 672, 5x5, stride 2, 14": depthwise(672, 14, 5, stride=2),
    "MobileNet v3: depthwise 72, 5x5, stride 2, 56": depthwise(72, 56, 5, stride=2),
    "ConvNeXt: 3 -> 96, 4x4, stride 4, 224": patches(96, 3, 224, 4),
    "ConvNeXt: 96 -> 192, 2x2, stride 2, 56": patches(192, 96, 56, 2),
    "ViT-S: 3 -> 384, 16x16, stride 16, 224": patches(384, 3, 224, 16),
    "64 -> 64, 3x3, dilation 6, 33": dilated(64, 64, 33, 6),
    "DeepLab v3: 256 -> 256, 3x3, dilation 2, 33": dilated(256, 256, 33, 2),
    "DeepLab v3: 256 -> 256, 3x3, dilation 12, 33": dilated(256, 256, 33, 12),
    "DeepLab v3+: depthwise 256, 3x3, dilation 6, 65": dilated(256, 256, 65, 6, groups=256),
    "Whisper: 384 -> 384, 3 taps, stride 2, 3000": strided_signal(384, 384, 3000, 3, 2),
    "wav2vec 2: 1 -> 512, 10 taps, stride 5, 16000": strided_signal(1, 512, 16000, 10, 5),
    "wav2vec 2: 512 -> 512, 3 taps, stride 2, 1599": strided_signal(512, 512, 1599, 3, 2),
    "WaveNet: 64 -> 64, 2 taps, dilation 128, 16000": ConvSpec(
        in_channels=64, out_channels=64, size=16000, kernel_size=2, dilation=128
    ),
}
"""Strided, dilated and depthwise strided layers of networks, at the sizes that they are used at."""


def drawn(count: int = 32, seed: int = 20261123) -> dict[str, ConvSpec]:
    """Shapes with odd sizes and channel counts, of every kind of the grid."""
    rng = np.random.default_rng(seed)

    def number(low: int, high: int) -> int:
        return int(np.exp(rng.uniform(np.log(low), np.log(high))))

    def odd(low: int, high: int) -> int:
        return number(low, high) // 2 * 2 + 1

    kinds = (
        lambda: image(number(100, 2500), odd(3, 61)),
        lambda: layer(number(2, 12), number(3, 40), number(30, 300), odd(3, 9), stride=int(rng.integers(1, 3))),
        lambda: depthwise(number(8, 300), number(9, 130), odd(3, 15)),
        lambda: layer(number(16, 300), number(16, 300), number(7, 90), 3, batch=int(rng.integers(1, 4))),
        lambda: layer(number(16, 700), number(16, 700), number(7, 90), 1),
        lambda: signal(number(3000, 300_000), odd(5, 3001)),
        lambda: layer(number(8, 80), number(8, 80), number(20, 90), odd(5, 9)),
        lambda: volume(number(1, 12), number(1, 12), number(10, 50), odd(3, 5)),
    )
    rows = {}
    for place in range(count):
        spec = kinds[place % len(kinds)]()
        sizes = "x".join(map(str, spec.size))
        kernel = "x".join(map(str, spec.kernel_size))
        groups = f", groups {spec.groups}" if spec.groups > 1 else ""
        stride = f", stride {spec.stride[0]}" if max(spec.stride) > 1 else ""
        batch = f", batch {spec.batch}" if spec.batch > 1 else ""
        name = f"{spec.in_channels} -> {spec.out_channels}, {kernel}, {sizes}{groups}{stride}{batch}"
        rows[name] = spec
    return rows


RANDOM = drawn()
SETS = {"grid": GRID, "random": RANDOM, "strided": STRIDED}
CONTROL = layer(16, 16, 64, 3)
"""The control row: torch under two names."""
