"""Operations of elementwise operators, softmax and transforms, from the shapes of arguments and results.

Multiplications, additions and all other operations (comparisons, divisions, roots, exponentials, one each) are those of
the operator's formula; a kernel may repeat or save some. Moving numbers counts none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2, prod
from typing import Any

import torch

from convolith.work import Backward, Count

Rule = Callable[..., Count | Backward]
"""Function `rule(*arguments, out=result, convention=..., **keywords)` that reads shapes and dtypes of tensors only."""


def numel(value: Any) -> int:
    """Return the number of elements of a tensor, or of the first tensor in a sequence."""
    if isinstance(value, torch.Tensor):
        return value.numel()
    return next((part.numel() for part in value if isinstance(part, torch.Tensor)), 0)


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """Return the shape to which several shapes broadcast."""
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]  # torch's own is untyped


def sums_of_products(products: int, results: int, *, biased: int = 0) -> Count:
    """Count products that are summed into results, and `biased` more additions."""
    return Count(products, max(products - results, 0) + biased if products else biased)


def softmax_of(n: int, rows: int) -> Count:
    """Count a softmax: subtraction of the maximum, exponentials, their sum, and quotients."""
    return Count(0, 2 * n - rows, others=3 * n - rows)


def softmax_slope(n: int, rows: int) -> Count:
    """Count a softmax's gradient: gradients times results, their sum in each row, and its subtraction."""
    return Count(2 * n, 2 * n - rows, elementwise=2 * n)


def softmax(x: torch.Tensor, dim: int, *_: Any, **__: Any) -> Count:
    """Count a softmax of rows along an axis."""
    return softmax_of(x.numel(), x.numel() // max(x.shape[dim], 1) if x.ndim else 1)


def log_softmax(x: torch.Tensor, dim: int, *_: Any, **__: Any) -> Count:
    """Count the logarithm of a softmax: the logarithm of each sum is subtracted, in place of quotients."""
    n, rows = x.numel(), x.numel() // max(x.shape[dim], 1) if x.ndim else 1
    return Count(0, 3 * n - rows, others=2 * n)


def softmax_backward(grad: torch.Tensor, y: torch.Tensor, dim: int, *_: Any, **__: Any) -> Count:
    """Count the gradient of a softmax or of its logarithm."""
    return softmax_slope(y.numel(), y.numel() // max(y.shape[dim], 1) if y.ndim else 1)


def each(multiplications: int = 0, additions: int = 0, others: int = 0) -> Rule:
    """Return a rule of counts per element of the result."""

    def rule(*_: Any, out: Any, **__: Any) -> Count:
        n = numel(out)
        return Count(multiplications * n, additions * n, elementwise=multiplications * n, others=others * n)

    return rule


def added(*_: Any, out: torch.Tensor, alpha: float = 1, **__: Any) -> Count:
    """Count add and sub, with a product if alpha is not one."""
    scaled = out.numel() * (alpha != 1)
    return Count(scaled, out.numel(), elementwise=scaled)


def power(x: Any, exponent: Any, *, out: torch.Tensor, **_: Any) -> Count:
    """Count a power: squares and cubes as products, another exponent as one other operation."""
    n = out.numel()
    if isinstance(exponent, int | float) and exponent in (2, 3):
        products = (int(exponent) - 1) * n
        return Count(products, elementwise=products)
    return Count(others=n)


def put(x: Any, indices: Any, values: torch.Tensor, accumulate: bool = False, **_: Any) -> Count:
    """Count values written at an index; only accumulated ones are added."""
    return Count(0, values.numel() if accumulate else 0)


def gradient_of_rows(grad: torch.Tensor, *_: Any, **__: Any) -> Count:
    """Count an addition per gradient: to the row of an embedding or the pixel of a window from which it came."""
    return Count(0, grad.numel())


def transform(x: torch.Tensor, axes: Sequence[int], *_: Any, out: torch.Tensor, **__: Any) -> Count:
    """Count a Fourier transform: 5 N log2 N real operations, two multiplications to three additions (Cooley and Tukey
    1965); half as many if input or output is real.
    """
    wide = x if x.numel() >= out.numel() else out
    length = prod(wide.shape[axis] for axis in axes)
    steps = wide.numel() * log2(max(length, 1)) * (1 if x.is_complex() and out.is_complex() else 0.5)
    multiplications = round(2 * steps)
    return Count(multiplications, round(3 * steps), elementwise=multiplications)


def nothing(*_: Any, **__: Any) -> Count:
    """Count no operations: numbers are only moved, created or inspected."""
    return Count()


def negative_likelihood(axis: int) -> Rule:
    """Return a rule that counts the sum of one log-probability per row, and a division."""

    def rule(x: torch.Tensor, *_: Any, **__: Any) -> Count:
        return Count(0, max(x.numel() // max(x.shape[axis], 1) - 1, 0), others=1)

    return rule
