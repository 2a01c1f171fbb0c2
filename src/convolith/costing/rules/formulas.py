"""Rules for kinds of operators, from the shapes of arguments and results: norms, pooling, sums, elementwise operators.

Multiplications, additions and all other operations (comparisons, divisions, roots, exponentials, one each) are those of
the operator's formula; a kernel may repeat or save some. Moving numbers counts none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, log2, prod
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
