"""Operations of interpolation and of sampling at positions."""

from __future__ import annotations

from typing import Any

import torch

from convolith.costing.rules.elementwise import Rule, sums_of_products
from convolith.work import Count


def interpolation(neighbours: int) -> Rule:
    """Return a rule that counts each result as a weighted sum of its neighbours; the few weights are not counted."""

    def rule(*_: Any, out: torch.Tensor, **__: Any) -> Count:
        return _weighted(out.numel() * neighbours, out.numel())

    return rule


def _weighted(products: int, results: int) -> Count:
    """Count sums of products that are not a layer's, and therefore no macs."""
    return sums_of_products(products, results) + Count(elementwise=products)


SAMPLED = (4, 1, 16)
"""Number of pixels that a sample is interpolated from: bilinear, nearest, bicubic."""


def sampled(x: torch.Tensor, grid: torch.Tensor, mode: int, *_: Any, out: torch.Tensor, **__: Any) -> Count:
    """Count the interpolation of an image at the positions of a grid."""
    neighbours = SAMPLED[mode]
    return _weighted(out.numel() * neighbours, out.numel()) if neighbours > 1 else Count()


def interpolation_backward(neighbours: int) -> Rule:
    """Return a rule that counts each gradient times weights, and its addition to its neighbours."""

    def rule(grad: torch.Tensor, *_: Any, out: torch.Tensor, **__: Any) -> Count:
        return _weighted(grad.numel() * neighbours, min(out.numel(), grad.numel() * neighbours))

    return rule
