"""Iterative refinement of a solution of the normal equations: its residual, computed from the data, is fitted again.

The normal matrix squares the condition number. The residual, computed from the data, does not suffer from this, and
solving for it with the same inverse reduces the error by the same factor again (Bjoerck, Stability analysis of the
method of seminormal equations, 1987).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from convolith.fitting.data.polynomials import values
from convolith.fitting.data.problem import Problem
from convolith.fitting.gram import Accumulator
from convolith.fitting.moments.moments import gradient, tiles
from convolith.fitting.solving.least_squares import Penalty, Solution
from convolith.fitting.solving.normal_equations import solved
from convolith.planner import plan
from convolith.spec import ConvSpec

WELL = 1e8
"""Condition number up to which the error after one pass is mere rounding; above it two passes are made."""


class Refined(NamedTuple):
    """Coefficients (unknowns, out_channels), known columns last; sum of squared residuals; residuals of y."""

    coefficients: np.ndarray
    squares: float
    residual: np.ndarray


def refined(problem: Problem, gram: Accumulator, solution: Solution, penalty: Penalty) -> Refined:
    """Return a solution after one or two steps of refinement."""
    n, used = gram.windows, problem.used
    coefficients = np.concatenate([solution.coefficients, gram.known_of(solution.coefficients, used)])
    sums = gram.known_sums()[:used, : n + used]
    mixed, own = gram.outward(sums[:, :n].T), sums[:, n:]
    residual = residual_of(problem, gram, coefficients)
    best, least = (coefficients, residual), _loss(problem, residual, coefficients[:n], penalty)
    for _ in range(1 if solution.condition < WELL else 2):
        slope = gradient(problem, residual)
        of_kernel = gram.outward(slope[:n]) - penalty.of(coefficients[:n]) - mixed @ solved(own, slope[n:])
        change = solution.change(of_kernel)
        change = np.concatenate([change, solved(own, slope[n:] - mixed.T @ change)])
        coefficients = coefficients + change
        coefficients[:n] = penalty.clipped(coefficients[:n])
        residual = residual_of(problem, gram, coefficients)
        loss = _loss(problem, residual, coefficients[:n], penalty)
        if loss < least:
            best, least = (coefficients, residual), loss
    return Refined(best[0], _squares(problem, best[1]), best[1])


def residual_of(problem: Problem, gram: Accumulator, coefficients: np.ndarray) -> np.ndarray:
    """Return y less the prediction from coefficients (unknowns, out_channels)."""
    n, used = gram.windows, problem.used
    residual: np.ndarray = problem.y - predicted(problem, gram.inward(coefficients[:n]))
    for part in tiles(replace(problem, y=residual)) if used else ():
        monomials = values(part.centres(), problem.known[:used])
        sky = coefficients[n:].T @ monomials.reshape(*monomials.shape[:2], -1)
        np.subtract(part.y, sky.reshape(len(sky), -1, *part.y.shape[2:]), out=part.y)
    return residual


def predicted(problem: Problem, weights: np.ndarray) -> np.ndarray:
    """Return the correlation of modulated x with a kernel, (windows, out_channels), in the shape of y."""
    spec = problem.spec
    kernel = torch.from_numpy(np.ascontiguousarray(weights.T).reshape(-1, problem.channels, *spec.kernel_size))
    result = np.empty_like(problem.y)
    for part in tiles(replace(problem, y=result)):
        with torch.no_grad():
            x = torch.from_numpy(part.modulated())
            layer = ConvSpec.of(x, kernel, stride=spec.stride, dilation=spec.dilation)
            part.y[...] = plan(layer)(x, kernel).numpy()  # by the same engine, whether the kernel was seen or not
    return result


def _loss(problem: Problem, residual: np.ndarray, kernel: np.ndarray, penalty: Penalty) -> float:
    return _squares(problem, residual) + float((kernel * penalty.of(kernel)).sum())


def _squares(problem: Problem, residual: np.ndarray) -> float:
    return float((problem.weights[:, None] * residual**2).sum())
