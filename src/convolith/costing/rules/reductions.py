"""Rules for operators that reduce many numbers: sums, extremes, norms, variances, running sums, losses."""

from __future__ import annotations

from math import ceil, log2, prod
from typing import Any

import torch

from convolith.costing.rules.elementwise import Rule, broadcast, numel
from convolith.work import Count

MEAN, SUM = 1, 2
"""Codes of a loss's reduction in torch's operators; 0 is no reduction."""


def summed(multiplications: int = 0, additions: int = 1, others: int = 0, last: int = 0) -> Rule:
    """Return a rule of counts per element beyond the first of its row, and `last` other operations per result."""

    def rule(x: torch.Tensor, *_: Any, out: Any, **__: Any) -> Count:
        rows = max(numel(out), 1)
        more = max(x.numel() - rows, 0)
        products = multiplications * more
        return Count(products, additions * more, elementwise=products, others=others * more + last * rows)

    return rule


def running(multiplications: int = 0, additions: int = 0, others: int = 0) -> Rule:
    """Return a rule of counts per element beyond the first of its row; all elements are results, not only the last."""

    def rule(x: torch.Tensor, dim: int, *_: Any, **__: Any) -> Count:
        more = x.numel() - x.numel() // max(x.shape[dim], 1) if x.ndim else 0
        products = multiplications * more
        return Count(products, additions * more, elementwise=products, others=others * more)

    return rule


def sorted_rows(x: torch.Tensor, *given: Any, dim: int = -1, **__: Any) -> Count:
    """Count about n log2 n comparisons for a row of length n, enough to distinguish all its orders."""
    axis = next((value for value in given if isinstance(value, int) and not isinstance(value, bool)), dim)
    return _comparisons(x, axis)


def largest_of_rows(x: torch.Tensor, k: int, dim: int = -1, *_: Any, **__: Any) -> Count:
    """Count the comparisons of sorting, whatever k is."""
    return _comparisons(x, dim)


def _comparisons(x: torch.Tensor, axis: int) -> Count:
    return Count(others=x.numel() * ceil(log2(max(x.shape[axis], 1))) if x.ndim else 0)


def variance(x: torch.Tensor, *_: Any, out: Any, **__: Any) -> Count:
    """Count the mean, its subtraction, and the mean of the squares; the root of a deviation is not counted."""
    n, rows = x.numel(), max(numel(out), 1)
    return Count(n, 3 * n - 2 * rows, elementwise=n, others=2 * rows)


def norm(x: torch.Tensor, order: Any = 2, *_: Any, out: torch.Tensor, **__: Any) -> Count:
    """Count squares, their sum and its root; for other orders, absolute values, their powers or their maximum."""
    n, rows = x.numel(), max(out.numel(), 1)
    order = 2 if order is None else order
    if order == 2:
        return Count(n, n - rows, elementwise=n, others=rows)
    if order in (float("inf"), float("-inf")):
        return Count(others=2 * n - rows)
    return Count(0, n - rows, others=n if order in (0, 1) else 2 * n + rows)


def loss(multiplications: int, additions: int, others: int = 0, *, reduction: int = 2) -> Rule:
    """Return a rule of counts per value and target, and their sum or mean; `reduction` is that argument's position."""

    def rule(x: torch.Tensor, target: torch.Tensor, *rest: Any, out: torch.Tensor, **named: Any) -> Count:
        n = prod(broadcast(x.shape, target.shape))
        mode = named.get("reduction", rest[reduction - 2] if len(rest) > reduction - 2 else MEAN)
        more = max(n - 1, 0) if mode in (MEAN, SUM) else 0
        products = multiplications * n
        return Count(products, additions * n + more, elementwise=products, others=others * n + (mode == MEAN))

    return rule


def scattered(x: torch.Tensor, dim: int, index: torch.Tensor, source: Any = None, *rest: Any, **named: Any) -> Count:
    """Count values written at an index; with a reduction, they are added or multiplied there."""
    mode = named.get("reduce", rest[0] if rest else None)
    n = index.numel()
    if mode in ("add", "sum", "mean"):
        return Count(0, n, others=x.numel() * (mode == "mean"))
    if mode in ("multiply", "prod"):
        return Count(n, elementwise=n)
    return Count(others=n if mode is not None else 0)


def added_into(
    x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, *_: Any, alpha: float = 1, **__: Any
) -> Count:
    """Count an addition per element of the source, and a product if alpha is not one."""
    products = source.numel() * (alpha != 1)
    return Count(products, source.numel(), elementwise=products)


def middle(x: torch.Tensor, *given: Any, **named: Any) -> Count:
    """Count the comparisons of sorting: of each row, or of all numbers if no axis is given."""
    return sorted_rows(x, *given, **named) if given or "dim" in named else sorted_rows(x.flatten())


def weight_norm(v: torch.Tensor, g: torch.Tensor, *_: Any, **__: Any) -> Count:
    """Count the norms of rows, and the scaling of every row to a given norm (Salimans and Kingma 2016)."""
    n, rows = v.numel(), g.numel()
    return Count(2 * n, n - rows, elementwise=2 * n, others=2 * rows)


def weight_norm_backward(grad: torch.Tensor, v: torch.Tensor, g: torch.Tensor, *_: Any, **__: Any) -> Count:
    """Count the dot products of the gradient with rows, and the terms that they subtract."""
    n, rows = v.numel(), g.numel()
    return Count(3 * n + 3 * rows, 2 * n - rows, elementwise=3 * n + 3 * rows, others=2 * rows)
