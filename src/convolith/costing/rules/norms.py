"""Operations of normalisation: batch, layer, group and RMS norms, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from convolith.work import Count


def _normalised(n: int, groups: int, *, scaled: bool, shifted: bool) -> Count:
    """Count mean, variance and root of each group, subtraction and division, and an optional scale and shift."""
    return Count((2 + scaled) * n, 3 * n - 2 * groups + shifted * n, elementwise=(2 + scaled) * n, others=3 * groups)


def batch_norm(
    x: torch.Tensor,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: bool,
    *_: Any,
    **__: Any,
) -> Count:
    """Count a batch norm: in training with statistics of the batch, else one factor and one term per channel."""
    n, channels = x.numel(), x.shape[1]
    if training:
        return _normalised(n, channels, scaled=weight is not None, shifted=bias is not None)
    return Count(n + 2 * channels, n + 2 * channels, elementwise=n + 2 * channels, others=2 * channels)


def batch_norm_known(x: torch.Tensor, weight: Any, bias: Any, mean: Any, variance: Any, *_: Any, **__: Any) -> Count:
    """Count a batch norm with running statistics."""
    return batch_norm(x, weight, bias, mean, variance, training=False)


def batch_norm_trained(x: torch.Tensor, weight: Any, bias: Any, *_: Any, **__: Any) -> Count:
    """Count a batch norm with the statistics of the batch."""
    return _normalised(x.numel(), x.shape[1], scaled=weight is not None, shifted=bias is not None)


def _norm_slope(n: int, groups: int, *, statistics: bool = True, parameters: bool = True) -> Count:
    """Count a norm's gradients: the normalised input, sums of the gradient and its products, their subtraction."""
    if not statistics and not parameters:
        return Count(n, 0, elementwise=n)
    multiplications, additions = (4, 5) if statistics else (3, 3)
    return Count(multiplications * n, additions * n - 2 * groups, elementwise=multiplications * n)


def batch_norm_backward(grad: torch.Tensor, x: torch.Tensor, *rest: Any, **_: Any) -> Count:
    """Count a batch norm's gradients of input, scale and shift that the mask selects."""
    training, mask = rest[-3], rest[-1]
    return _norm_slope(x.numel(), x.shape[1], statistics=bool(training), parameters=any(mask[1:]))


def layer_norm(x: torch.Tensor, shape: Sequence[int], weight: Any, bias: Any, *_: Any, **__: Any) -> Count:
    """Count a layer norm over the last axes."""
    groups = x.numel() // max(prod(shape), 1)
    return _normalised(x.numel(), groups, scaled=weight is not None, shifted=bias is not None)


def layer_norm_backward(grad: torch.Tensor, x: torch.Tensor, shape: Sequence[int], *_: Any, **__: Any) -> Count:
    """Count a layer norm's gradients of input, scale and shift."""
    return _norm_slope(x.numel(), x.numel() // max(prod(shape), 1))


def group_norm(
    x: torch.Tensor, weight: Any, bias: Any, n: int, c: int, hw: int, groups: int, *_: Any, **__: Any
) -> Count:
    """Count a group norm, with statistics of every group of every image."""
    return _normalised(x.numel(), n * groups, scaled=weight is not None, shifted=bias is not None)


def group_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    mean: Any,
    rstd: Any,
    weight: Any,
    n: int,
    c: int,
    hw: int,
    groups: int,
    *_: Any,
    **__: Any,
) -> Count:
    """Count a group norm's gradients of input, scale and shift."""
    return _norm_slope(x.numel(), n * groups)


def rms_norm(x: torch.Tensor, shape: Sequence[int], weight: Any, *_: Any, **__: Any) -> Count:
    """Count the root mean square of each group, the division by it, and an optional scale."""
    n, groups = x.numel(), x.numel() // max(prod(shape), 1)
    scaled = 2 + (weight is not None)
    return Count(scaled * n, n, elementwise=scaled * n, others=2 * groups)
