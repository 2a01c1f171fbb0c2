"""What kinds of operators count, from the shapes that go in and come out: norms, pooling, sums, element by element.

Multiplications, additions and all other operations (comparisons, divisions, roots, exponentials, one each) are those of
the operator's formula; a kernel may repeat or save some. What only moves numbers counts none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, log2, prod
from typing import Any

import torch

from convolith.work import Backward, Count

Rule = Callable[..., Count | Backward]
"""Called as `rule(*arguments, out=result, convention=..., **keywords)`; of tensors only shapes and dtypes are read."""


def numel(value: Any) -> int:
    """Elements of a tensor, or of the first tensor of several."""
    if isinstance(value, torch.Tensor):
        return value.numel()
    return next((part.numel() for part in value if isinstance(part, torch.Tensor)), 0)


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that several have together."""
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]  # torch's own is untyped


def sums_of_products(products: int, results: int, *, biased: int = 0) -> Count:
    """Of products that are summed up into results."""
    return Count(products, max(products - results, 0) + biased if products else biased)


def softmax_of(n: int, rows: int) -> Count:
    """The largest taken off, exponentials, their sum, and quotients."""
    return Count(0, 2 * n - rows, others=3 * n - rows)


def softmax_slope(n: int, rows: int) -> Count:
    """Gradients times results, their sum in each row, taken off."""
    return Count(2 * n, 2 * n - rows, elementwise=2 * n)


def softmax(x: torch.Tensor, dim: int, *_: Any, **__: Any) -> Count:
    """Of rows along an axis."""
    return softmax_of(x.numel(), x.numel() // max(x.shape[dim], 1) if x.ndim else 1)


def log_softmax(x: torch.Tensor, dim: int, *_: Any, **__: Any) -> Count:
    """The same with a logarithm of each sum, which is taken off."""
    n, rows = x.numel(), x.numel() // max(x.shape[dim], 1) if x.ndim else 1
    return Count(0, 3 * n - rows, others=2 * n)


def softmax_backward(grad: torch.Tensor, y: torch.Tensor, dim: int, *_: Any, **__: Any) -> Count:
    """Of softmax and of its logarithm."""
    return softmax_slope(y.numel(), y.numel() // max(y.shape[dim], 1) if y.ndim else 1)


def _normalised(n: int, groups: int, *, scaled: bool, shifted: bool) -> Count:
    """Mean, variance and root of each group, taken off and divided by; factors and terms after."""
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
    """Training: statistics of the batch; else one factor and one term for each channel."""
    n, channels = x.numel(), x.shape[1]
    if training:
        return _normalised(n, channels, scaled=weight is not None, shifted=bias is not None)
    return Count(n + 2 * channels, n + 2 * channels, elementwise=n + 2 * channels, others=2 * channels)


def batch_norm_known(x: torch.Tensor, weight: Any, bias: Any, mean: Any, variance: Any, *_: Any, **__: Any) -> Count:
    """With tracked statistics."""
    return batch_norm(x, weight, bias, mean, variance, training=False)


def batch_norm_trained(x: torch.Tensor, weight: Any, bias: Any, *_: Any, **__: Any) -> Count:
    """With the batch's statistics."""
    return _normalised(x.numel(), x.shape[1], scaled=weight is not None, shifted=bias is not None)


def _norm_slope(n: int, groups: int, *, statistics: bool = True, parameters: bool = True) -> Count:
    """The normalised input again; sums of the gradient and of its products; what they take off."""
    if not statistics and not parameters:
        return Count(n, 0, elementwise=n)
    multiplications, additions = (4, 5) if statistics else (3, 3)
    return Count(multiplications * n, additions * n - 2 * groups, elementwise=multiplications * n)


def batch_norm_backward(grad: torch.Tensor, x: torch.Tensor, *rest: Any, **_: Any) -> Count:
    """By its mask: of the input, the factors and the terms."""
    training, mask = rest[-3], rest[-1]
    return _norm_slope(x.numel(), x.shape[1], statistics=bool(training), parameters=any(mask[1:]))


def layer_norm(x: torch.Tensor, shape: Sequence[int], weight: Any, bias: Any, *_: Any, **__: Any) -> Count:
    """Over the last axes."""
    groups = x.numel() // max(prod(shape), 1)
    return _normalised(x.numel(), groups, scaled=weight is not None, shifted=bias is not None)


def layer_norm_backward(grad: torch.Tensor, x: torch.Tensor, shape: Sequence[int], *_: Any, **__: Any) -> Count:
    """Of the input, the factors and the terms."""
    return _norm_slope(x.numel(), x.numel() // max(prod(shape), 1))


def group_norm(
    x: torch.Tensor, weight: Any, bias: Any, n: int, c: int, hw: int, groups: int, *_: Any, **__: Any
) -> Count:
    """Of every group of every image."""
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
    """Of the input, the factors and the terms."""
    return _norm_slope(x.numel(), n * groups)


def rms_norm(x: torch.Tensor, shape: Sequence[int], weight: Any, *_: Any, **__: Any) -> Count:
    """The root of the mean square of each group, divided by; factors after."""
    n, groups = x.numel(), x.numel() // max(prod(shape), 1)
    scaled = 2 + (weight is not None)
    return Count(scaled * n, n, elementwise=scaled * n, others=2 * groups)


def _window(kernel_size: Sequence[int], axes: int) -> int:
    return prod(kernel_size) if len(kernel_size) > 1 else kernel_size[0] ** axes


def max_pool(axes: int) -> Rule:
    """Comparisons of each window."""

    def rule(x: torch.Tensor, kernel_size: Sequence[int], *_: Any, out: Any, **__: Any) -> Count:
        return Count(others=numel(out) * (_window(kernel_size, axes) - 1))

    return rule


def average_pool(axes: int) -> Rule:
    """The sum of each window and a quotient."""

    def rule(x: torch.Tensor, kernel_size: Sequence[int], *_: Any, out: torch.Tensor, **__: Any) -> Count:
        return Count(0, out.numel() * (_window(kernel_size, axes) - 1), others=out.numel())

    return rule


def average_pool_backward(axes: int) -> Rule:
    """A quotient for each window, added to all its pixels."""

    def rule(grad: torch.Tensor, x: torch.Tensor, kernel_size: Sequence[int], *_: Any, **__: Any) -> Count:
        spread = grad.numel() * _window(kernel_size, axes)
        return Count(0, max(spread - x.numel(), 0), others=grad.numel())

    return rule


def _adaptive_reads(size: Sequence[int], outputs: Sequence[int]) -> int:
    """Pixels of all windows of one plane; windows may overlap."""
    return prod(
        sum(ceil((i + 1) * n / m) - floor(i * n / m) for i in range(m)) for n, m in zip(size, outputs, strict=True)
    )


def adaptive_average_pool(x: torch.Tensor, size: Sequence[int], *, out: torch.Tensor, **_: Any) -> Count:
    """The sum of each window and a quotient."""
    axes = len(size)
    reads = prod(x.shape[:-axes]) * _adaptive_reads(x.shape[-axes:], size)
    return Count(0, reads - out.numel(), others=out.numel())


def adaptive_average_pool_backward(grad: torch.Tensor, x: torch.Tensor, **_: Any) -> Count:
    """A quotient for each window, added to all its pixels."""
    axes = min(x.ndim - 1, 3 if x.ndim == 5 else 2)
    reads = prod(x.shape[:-axes]) * _adaptive_reads(x.shape[-axes:], grad.shape[-axes:])
    return Count(0, max(reads - x.numel(), 0), others=grad.numel())


def adaptive_max_pool(x: torch.Tensor, size: Sequence[int], *, out: Any, **_: Any) -> Count:
    """Comparisons of each window."""
    axes = len(size)
    return Count(others=prod(x.shape[:-axes]) * _adaptive_reads(x.shape[-axes:], size) - numel(out))


def interpolation(neighbours: int) -> Rule:
    """Each result a weighted sum of its neighbours; the weights themselves are few."""

    def rule(*_: Any, out: torch.Tensor, **__: Any) -> Count:
        return _weighted(out.numel() * neighbours, out.numel())

    return rule


def _weighted(products: int, results: int) -> Count:
    """Sums of products that are no layer's, and no macs."""
    return sums_of_products(products, results) + Count(elementwise=products)


SAMPLED = (4, 1, 16)
"""Neighbours of a place in an image: bilinear, nearest, bicubic."""


def sampled(x: torch.Tensor, grid: torch.Tensor, mode: int, *_: Any, out: torch.Tensor, **__: Any) -> Count:
    """An image at places that are given."""
    neighbours = SAMPLED[mode]
    return _weighted(out.numel() * neighbours, out.numel()) if neighbours > 1 else Count()


def interpolation_backward(neighbours: int) -> Rule:
    """Each gradient times weights, added to its neighbours."""

    def rule(grad: torch.Tensor, *_: Any, out: torch.Tensor, **__: Any) -> Count:
        return _weighted(grad.numel() * neighbours, min(out.numel(), grad.numel() * neighbours))

    return rule


def each(multiplications: int = 0, additions: int = 0, others: int = 0) -> Rule:
    """So many for every element that comes out."""

    def rule(*_: Any, out: Any, **__: Any) -> Count:
        n = numel(out)
        return Count(multiplications * n, additions * n, elementwise=multiplications * n, others=others * n)

    return rule


def added(*_: Any, out: torch.Tensor, alpha: float = 1, **__: Any) -> Count:
    """add, sub; a factor that is not one multiplies."""
    scaled = out.numel() * (alpha != 1)
    return Count(scaled, out.numel(), elementwise=scaled)


def power(x: Any, exponent: Any, *, out: torch.Tensor, **_: Any) -> Count:
    """Squares and cubes are products."""
    n = out.numel()
    if isinstance(exponent, int | float) and exponent in (2, 3):
        products = (int(exponent) - 1) * n
        return Count(products, elementwise=products)
    return Count(others=n)


def put(x: Any, indices: Any, values: torch.Tensor, accumulate: bool = False, **_: Any) -> Count:
    """Into places of an index; added where they accumulate."""
    return Count(0, values.numel() if accumulate else 0)


def gradient_of_rows(grad: torch.Tensor, *_: Any, **__: Any) -> Count:
    """Added into the rows of an embedding, or into the places that a window was taken from."""
    return Count(0, grad.numel())


def transform(x: torch.Tensor, axes: Sequence[int], *_: Any, out: torch.Tensor, **__: Any) -> Count:
    """5 N log2 N real operations, two multiplications to three additions (Cooley and Tukey 1965); half if one
    side is real.
    """
    wide = x if x.numel() >= out.numel() else out
    length = prod(wide.shape[axis] for axis in axes)
    steps = wide.numel() * log2(max(length, 1)) * (1 if x.is_complex() and out.is_complex() else 0.5)
    multiplications = round(2 * steps)
    return Count(multiplications, round(3 * steps), elementwise=multiplications)


def nothing(*_: Any, **__: Any) -> Count:
    """Numbers are moved, made or looked at, and nothing is computed."""
    return Count()


def negative_likelihood(axis: int) -> Rule:
    """One logarithm of each row, summed, and a quotient."""

    def rule(x: torch.Tensor, *_: Any, **__: Any) -> Count:
        return Count(0, max(x.numel() // max(x.shape[axis], 1) - 1, 0), others=1)

    return rule
