"""A solution of the normal equations made as good as one of the data: what is left is fitted again.

The normal matrix squares the condition number. The residual, computed from the data, does not, and solving for it with
the same inverse brings the error down by as much again (Bjoerck, Stability analysis of the method of seminormal
equations, 1987).
"""

from __future__ import annotations

import numpy as np
import torch

from convolith.correlation import correlate
from convolith.fitting.gram import Gram
from convolith.fitting.moments import gradient
from convolith.fitting.problem import Problem
from convolith.fitting.solve import Penalty, Solution

WELL = 1e8
"""A condition number up to which one pass leaves but rounding; beyond it two are made."""


def refined(problem: Problem, gram: Gram, solution: Solution, penalty: Penalty) -> tuple[np.ndarray, float]:
    """Coefficients (unknowns, out_channels), an offset's row last, and the sum of squares that is left."""
    n = gram.windows
    coefficients = solution.coefficients
    if problem.offset:
        coefficients = np.concatenate([coefficients, gram.offset_of(coefficients)[None]])
    sums = gram.about(np.zeros_like(gram.shift))[n, : n + 1]
    residual = residual_of(problem, gram, coefficients)
    best, squares, least = (
        coefficients,
        _squares(problem, residual),
        _loss(problem, residual, coefficients[:n], penalty),
    )
    for _ in range(1 if solution.condition < WELL else 2):
        slope = gradient(problem, residual)
        slope[:n] -= penalty.whole @ coefficients[:n]
        if problem.offset:
            slope[:n] -= np.outer(sums[:n], slope[n]) / sums[n]
        change = solution.change(slope[:n])
        if problem.offset:
            change = np.concatenate([change, (slope[n] - sums[:n] @ change)[None] / sums[n]])
        coefficients = coefficients + change
        residual = residual_of(problem, gram, coefficients)
        loss = _loss(problem, residual, coefficients[:n], penalty)
        if loss < least:
            best, squares, least = coefficients, _squares(problem, residual), loss
    return best, squares


def residual_of(problem: Problem, gram: Gram, coefficients: np.ndarray) -> np.ndarray:
    """What is left of y."""
    kernel = torch.from_numpy(gram.kernel_of(coefficients))
    bias = torch.from_numpy(coefficients[-1].copy()) if problem.offset else None
    with torch.no_grad():
        predicted = correlate(
            torch.from_numpy(problem.padded), kernel, bias, stride=problem.spec.stride, dilation=problem.spec.dilation
        )
    left: np.ndarray = problem.y - predicted.numpy()
    return left


def _loss(problem: Problem, residual: np.ndarray, kernel: np.ndarray, penalty: Penalty) -> float:
    return _squares(problem, residual) + float((kernel * (penalty.whole @ kernel)).sum())


def _squares(problem: Problem, residual: np.ndarray) -> float:
    return float((problem.weights[:, None] * residual**2).sum())
