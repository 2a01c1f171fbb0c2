"""Kernels of thousands of taps, by conjugate gradients: no matrix of products of taps is formed.

Products with the normal matrix are those of a Toeplitz matrix corrected at the ends, for signals without weights; for
everything else, the kernel is applied to the data and the result correlated with them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.errors import warn
from convolith.fitting.data.problem import Problem
from convolith.fitting.kernel_options import KernelOptions
from convolith.fitting.moments.correlations import correlations
from convolith.fitting.moments.moments import gradient
from convolith.fitting.refinement import predicted
from convolith.fitting.solving.conjugate_gradients import (
    LEAST_EIGENVALUE,
    Operator,
    Toeplitz,
    circulant,
    conjugate_gradients,
)
from convolith.fitting.solving.least_squares import check_determined

MANY = 3500
"""Number of unknowns per output channel from which a kernel is found by conjugate gradients."""
CONVERGED = 1e-5
"""Residual of the normal equations, relative to their right-hand side, up to which an iteration has converged."""
PASSES = 2
"""Number of solves: the second one corrects the first by the residual of the data."""


class LongFit(NamedTuple):
    """Coefficients (unknowns, out_channels), the constant last; squared residuals, their sum; condition number."""

    coefficients: np.ndarray
    squares: float
    residual: np.ndarray
    condition: float


def is_long(problem: Problem, kernel_options: KernelOptions) -> bool:
    """Return whether a kernel has so many unknowns that it is found by conjugate gradients, and can be."""
    return problem.windows >= MANY and kernel_options.plain and max(problem.spec.stride) == 1


def fit_long(problem: Problem, ridge: float) -> LongFit:
    """Minimise the squared residuals plus `ridge |kernel|^2`, for a kernel with many taps and stride 1.

    Raises:
        ConvolithError: fewer equations than unknowns without a ridge.
    """
    if not ridge:
        check_determined(problem.equations, problem.unknowns)
    n, outputs, total = problem.windows, problem.spec.out_channels, float(problem.weights.sum())
    shape = (outputs, problem.channels, *problem.spec.kernel_size)
    means = problem.means()[: problem.channels] if problem.used else np.zeros(problem.channels)
    centred = replace(problem, padded=problem.modulated(means))  # without the mean, a constant costs no digits
    ones = np.broadcast_to(1.0, problem.y.shape)
    constant = gradient(replace(centred, used=0), ones)[:, :1] / total if problem.used else np.zeros((n, 1))
    auto = _autocorrelation(centred)
    precondition = circulant(auto, ridge)
    normal = _normal(centred, auto)
    mean = torch.from_numpy(np.ascontiguousarray(constant.T).reshape(1, *shape[1:]))
    axes = tuple(range(1, len(shape)))

    def product(vectors: torch.Tensor) -> torch.Tensor:
        result = normal(vectors) + ridge * vectors
        return result - total * mean * (mean * vectors).sum(axes, keepdim=True) if problem.used else result

    coefficients = np.zeros((n + problem.used, outputs))
    residual, unsolved = problem.y, list[float]()
    for _ in range(PASSES):
        slope = gradient(replace(centred, used=0), residual) - ridge * coefficients[:n]
        if problem.used:
            slope = slope - constant * (problem.weights[:, None] * residual).sum((0, *range(2, residual.ndim)))
        right = torch.from_numpy(np.ascontiguousarray(slope.T).reshape(shape))
        change, left_over = conjugate_gradients(product, right, precondition)
        coefficients[:n] += change.numpy().reshape(outputs, n).T
        unsolved.append(left_over)
        if problem.used:
            left = problem.y - predicted(centred, coefficients[:n])
            coefficients[n] = (problem.weights[:, None] * left).sum((0, *range(2, left.ndim))) / total
            residual = left - coefficients[n].reshape(1, -1, *[1] * problem.spec.axes)
        else:
            residual = problem.y - predicted(centred, coefficients)
    if unsolved[0] > CONVERGED:
        warn(
            f"the iteration for a kernel of {n:,} unknowns stopped with a relative residual of {unsolved[0]:.1e}: the "
            "kernel is not the best one; pass ridge=, more data, or a smaller kernel_size"
        )
    elif precondition.condition * LEAST_EIGENVALUE > 1:
        warn(
            "the data hardly determine some combinations of the kernel's weights (x lacks some frequencies); of all "
            "solutions that explain y a small one is given; add varied data, or choose with ridge="
        )
    if problem.used:  # the constant of x as it came
        taps = coefficients[:n].reshape(problem.channels, -1, outputs).sum(1)
        coefficients[n] -= means @ taps
    squares = float((problem.weights[:, None] * residual**2).sum())
    return LongFit(coefficients, squares, residual, precondition.condition)


def _autocorrelation(problem: Problem) -> torch.Tensor:
    """Return the autocorrelation of x at the lags of two taps, times the mean weight, (channels, channels, *lags)."""
    spec = problem.spec
    x, lags = torch.from_numpy(problem.padded), [2 * k - 1 for k in spec.kernel_size]
    total = x.new_zeros((problem.channels, problem.channels, *lags))
    for first in np.ndindex(*spec.dilation):
        index: Any = (..., *(slice(r, None, d) for r, d in zip(first, spec.dilation, strict=True)))
        if x[index].numel():
            total += correlations(x[index].contiguous(), None, spec.kernel_size).auto
    return total * float(problem.weights.mean())


def _normal(problem: Problem, auto: torch.Tensor) -> Operator:
    """Return the product with the normal matrix of the windows."""
    spec, first = problem.spec, float(problem.weights.flat[0])
    if spec.axes == 1 and spec.dilation == (1,) and (problem.weights == first).all():
        return Toeplitz(torch.from_numpy(problem.padded) * first**0.5, auto)
    bare = replace(problem, used=0)

    def product(vectors: torch.Tensor) -> torch.Tensor:
        flat = vectors.flatten(1).T.numpy()
        result = gradient(bare, predicted(bare, flat))
        return torch.from_numpy(np.ascontiguousarray(result.T)).view(vectors.shape)

    return product
