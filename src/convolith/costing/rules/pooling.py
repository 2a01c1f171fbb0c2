"""Operations of pooling: windows of a fixed size, and windows that adapt to the image."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, prod
from typing import Any

import torch

from convolith.costing.rules.elementwise import Rule, numel
from convolith.work import Count


def _window(kernel_size: Sequence[int], axes: int) -> int:
    return prod(kernel_size) if len(kernel_size) > 1 else kernel_size[0] ** axes


def max_pool(axes: int) -> Rule:
    """Return a rule that counts the comparisons of each window."""

    def rule(x: torch.Tensor, kernel_size: Sequence[int], *_: Any, out: Any, **__: Any) -> Count:
        return Count(others=numel(out) * (_window(kernel_size, axes) - 1))

    return rule


def average_pool(axes: int) -> Rule:
    """Return a rule that counts the sum of each window and a division."""

    def rule(x: torch.Tensor, kernel_size: Sequence[int], *_: Any, out: torch.Tensor, **__: Any) -> Count:
        return Count(0, out.numel() * (_window(kernel_size, axes) - 1), others=out.numel())

    return rule


def average_pool_backward(axes: int) -> Rule:
    """Return a rule that counts a division for each window, and its addition to all pixels of the window."""

    def rule(grad: torch.Tensor, x: torch.Tensor, kernel_size: Sequence[int], *_: Any, **__: Any) -> Count:
        spread = grad.numel() * _window(kernel_size, axes)
        return Count(0, max(spread - x.numel(), 0), others=grad.numel())

    return rule


def _adaptive_reads(size: Sequence[int], outputs: Sequence[int]) -> int:
    """Return the number of pixels in all windows of one plane; windows may overlap."""
    return prod(
        sum(ceil((i + 1) * n / m) - floor(i * n / m) for i in range(m)) for n, m in zip(size, outputs, strict=True)
    )


def adaptive_average_pool(x: torch.Tensor, size: Sequence[int], *, out: torch.Tensor, **_: Any) -> Count:
    """Count the sum of each window and a division."""
    axes = len(size)
    reads = prod(x.shape[:-axes]) * _adaptive_reads(x.shape[-axes:], size)
    return Count(0, reads - out.numel(), others=out.numel())


def adaptive_average_pool_backward(grad: torch.Tensor, x: torch.Tensor, **_: Any) -> Count:
    """Count a division for each window, and its addition to all pixels of the window."""
    axes = min(x.ndim - 1, 3 if x.ndim == 5 else 2)
    reads = prod(x.shape[:-axes]) * _adaptive_reads(x.shape[-axes:], grad.shape[-axes:])
    return Count(0, max(reads - x.numel(), 0), others=grad.numel())


def adaptive_max_pool(x: torch.Tensor, size: Sequence[int], *, out: Any, **_: Any) -> Count:
    """Count the comparisons of each window."""
    axes = len(size)
    return Count(others=prod(x.shape[:-axes]) * _adaptive_reads(x.shape[-axes:], size) - numel(out))
