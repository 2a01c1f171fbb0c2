"""Layers around convolutions as `Conv` values: identities, norms, pooling, padding, slices, upsampling.

Each is exact at every input size, borders included. `compose` and `add` merge them into other convolutions and report
where the result is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from convolith.arrays import as_tensor, check_same_kind, like, placed
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.geometry import Axes, Padding, check_whole, per_axis

DOUBLE = np.zeros(1)
"""Default sample for the array kind and dtype of weights: NumPy, float64."""


def identity(channels: int, *, axes: int = 2, sample: Any = DOUBLE) -> Conv:
    """Return `y = x` as a depthwise convolution with a single tap of 1.

    Args:
        channels: number of channels of x and y.
        axes: number of spatial axes of x.
        sample: array whose kind and dtype the weights get.

    Example:
        >>> identity(3).weight.shape
        (3, 1, 1, 1)
    """
    weight = _ones((check_whole("channels", channels, 1), 1, *(1,) * axes), sample)
    return Conv(weight, groups=channels)


def pad(channels: int, padding: Padding, *, axes: int = 2, padding_mode: str = "zeros", sample: Any = DOUBLE) -> Conv:
    """Return the identity with padding.

    Example:
        >>> pad(3, (1, 2)).spec((1, 3, 8, 8)).output_shape
        (1, 3, 10, 12)
    """
    weight = _ones((check_whole("channels", channels, 1), 1, *(1,) * axes), sample)
    return Conv(weight, padding=padding, padding_mode=padding_mode, groups=channels)


def average_pool(
    channels: int,
    kernel_size: Axes,
    *,
    stride: Axes | None = None,
    padding: Padding = 0,
    axes: int = 2,
    sample: Any = DOUBLE,
) -> Conv:
    """Return the mean of each window, padding included, as a depthwise convolution with weights of `1 / taps`.

    This is torch's `avg_pool` with `count_include_pad=True`, its default, without `ceil_mode` and `divisor_override`:
    no convolution has a divisor that depends on the position.

    Args:
        stride: `kernel_size` if None, as in torch.

    Example:
        >>> average_pool(1, 2).weight.tolist()
        [[[[0.25, 0.25], [0.25, 0.25]]]]
    """
    size = per_axis("kernel_size", kernel_size, axes, 1)
    weight = _ones((check_whole("channels", channels, 1), 1, *size), sample) / np.prod(size).item()
    return Conv(weight, stride=size if stride is None else stride, padding=padding, groups=channels)


def upsample(channels: int, scale: Axes, *, axes: int = 2, sample: Any = DOUBLE) -> Conv:
    """Return the transposed convolution (taps of 1, stride `scale`) that repeats pixels `scale` times along each axis.

    This is nearest-neighbour interpolation by a whole factor.

    Example:
        >>> upsample(3, 2).spec((1, 3, 8, 8)).output_shape
        (1, 3, 16, 16)
    """
    size = per_axis("scale", scale, axes, 1)
    weight = _ones((check_whole("channels", channels, 1), 1, *size), sample)
    return Conv(weight, stride=size, groups=channels, transposed=True)


def batch_norm(
    mean: Any, variance: Any, weight: Any = None, bias: Any = None, *, eps: float = 1e-5, axes: int = 2
) -> Conv:
    """Return `y = (x - mean) / sqrt(variance + eps) * weight + bias` for each channel: one tap and a bias.

    This is batch normalisation in evaluation mode, with the running statistics (Ioffe and Szegedy 2015).

    Args:
        mean, variance: (channels,), the running statistics.
        weight, bias: (channels,), or None for 1 and 0.

    Raises:
        ConvolithError: shapes that differ, a variance plus eps that is not positive.

    Example:
        >>> import numpy as np
        >>> norm = batch_norm(np.array([1.0]), np.array([4.0]), eps=0.0)
        >>> norm.weight.item(), norm.bias.item()
        (0.5, -0.5)
    """
    given = {"mean": mean, "variance": variance, "weight": weight, "bias": bias}
    check_same_kind(**{name: value for name, value in given.items() if value is not None})
    tensors = {name: as_tensor(name, value) for name, value in given.items() if value is not None}
    channels = tensors["mean"].numel()
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != (channels,):
            raise ConvolithError(
                f"{name} has shape {tuple(tensor.shape)}; expected ({channels},), one number per channel"
            )
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    spread = wide["variance"] + eps
    if not bool((spread > 0).all()):
        raise ConvolithError(f"variance + eps has a minimum of {spread.min().item():g}; expected more than 0")
    factor = spread.rsqrt() * wide.get("weight", torch.ones((), device="cpu"))
    shift = wide.get("bias", torch.zeros((), device="cpu")) - wide["mean"] * factor
    dtype = tensors["mean"].dtype
    taps = factor.reshape(channels, 1, *(1,) * axes).to(dtype)
    return Conv(like(taps, mean), like(shift.to(dtype), mean), groups=channels)


def rescale(factors: Any, shift: Any = None, *, axes: int = 2) -> Conv:
    """Return `y = factors * x + shift` for each channel, as in LayerScale (Touvron et al. 2021).

    Args:
        factors: (channels,).
        shift: (channels,) or None.

    Example:
        >>> import numpy as np
        >>> rescale(np.array([2.0, 3.0])).weight.shape
        (2, 1, 1, 1)
    """
    tensor = as_tensor("factors", factors)
    if tensor.ndim != 1:
        raise ConvolithError(f"factors has shape {tuple(tensor.shape)}; expected (channels,), one number per channel")
    return Conv(like(tensor.reshape(-1, 1, *(1,) * axes), factors), shift, groups=tensor.numel())


def linear(weight: Any, bias: Any = None, *, axes: int = 2) -> Conv:
    """Return a fully connected layer, applied at every pixel, as a convolution with a single tap.

    Args:
        weight: (out_channels, in_channels).

    Example:
        >>> import numpy as np
        >>> linear(np.ones((4, 3))).kernel_size
        (1, 1)
    """
    tensor = as_tensor("weight", weight)
    if tensor.ndim != 2:
        raise ConvolithError(f"weight has shape {tuple(tensor.shape)}; expected (out_channels, in_channels)")
    return Conv(like(tensor.reshape(*tensor.shape, *(1,) * axes), weight), bias)


def select(in_channels: int, channels: Sequence[int], *, axes: int = 2, sample: Any = DOUBLE) -> Conv:
    """Return a selection of the channels of x, in the given order: a single tap with ones and zeros.

    Composed before a convolution, it selects input channels; after a convolution, it selects output channels.

    Example:
        >>> select(4, [2, 0]).weight[:, :, 0, 0].tolist()
        [[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    """
    wanted = list(channels)
    if not wanted or any(not 0 <= channel < in_channels for channel in wanted):
        raise ConvolithError(f"channels is {wanted}; expected some numbers from 0 to {in_channels - 1}")
    matrix = torch.zeros(len(wanted), in_channels, dtype=as_tensor("sample", sample).dtype, device="cpu")
    matrix[range(len(wanted)), wanted] = 1
    return linear(placed(matrix, sample), axes=axes)


def _ones(shape: tuple[int, ...], sample: Any) -> Any:
    return placed(torch.ones(shape, dtype=as_tensor("sample", sample).dtype, device="cpu"), sample)
