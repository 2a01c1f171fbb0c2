"""Least squares in closed form: the equations are reduced by QR a chunk at a time, and the small triangle is solved.

Working on the triangle R of the window matrix, and never on its normal matrix R'R, keeps the condition number unsquared
(it is 1e3 to 1e4 on photographs where the normal matrix has 1e7 and more). Method: sequential QR, as in Golub and Van
Loan, Matrix Computations, section 6.5.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from convolith.errors import ConvolithError
from convolith.fitting.problem import Problem


@dataclass(frozen=True)
class Triangle:
    """The equations [A, y] reduced to [[R, Q'y], [0, rest]]: |A b - y|^2 = |R b - target|^2 + |rest|^2."""

    R: np.ndarray
    target: np.ndarray
    rest: np.ndarray

    @property
    def largest_eigenvalue(self) -> float:
        """Of the normal matrix A'A."""
        return float(np.linalg.norm(self.R, 2) ** 2)


@dataclass(frozen=True)
class Solution:
    """Coefficients (unknowns, out_channels) and what is known about them."""

    coefficients: np.ndarray
    squares: float
    stderr: np.ndarray
    condition: float


def reduce(problem: Problem) -> Triangle:
    """Pass over the data once."""
    n = problem.unknowns
    R = np.zeros((0, n + problem.spec.out_channels))
    for rows in problem.rows():
        R = np.asarray(np.linalg.qr(np.concatenate([R, rows]), mode="r"))
    R = np.concatenate([R, np.zeros((max(n - len(R), 0), R.shape[1]))])
    return Triangle(R[:n, :n], R[:n, n:], R[n:, n:])


def least_squares(problem: Problem, ridge: float) -> Solution:
    """The coefficients that minimise sum of w (A b - y)^2 + ridge |kernel|^2, with their standard errors."""
    if problem.equations < problem.unknowns and not ridge:
        raise ConvolithError(
            f"y has {problem.equations} pixels to fit but each output channel has {problem.unknowns} unknowns; "
            "expected at least as many pixels; use a smaller kernel_size, more data, or ridge="
        )
    triangle = reduce(problem)
    n, channels = problem.unknowns, problem.spec.out_channels
    penalty = np.sqrt(ridge) * np.eye(n)[: n - problem.offset]
    stacked = np.concatenate([triangle.R, penalty]) if ridge else triangle.R
    targets = np.concatenate([triangle.target, np.zeros((len(stacked) - n, channels))])
    scale = np.linalg.norm(stacked, axis=0)  # a column of ones beside columns of bright pixels is not a weak direction
    scale[scale == 0] = 1.0
    left, singular, right = np.linalg.svd(stacked / scale, full_matrices=False)
    kept = singular > singular[0] * max(problem.equations, n) * np.finfo(float).eps
    if not kept.all():
        warnings.warn(
            f"the data determine only {int(kept.sum())} of {n} coefficients (flat or regular images repeat "
            "themselves); of all kernels that explain y the smallest is given; add varied data, or choose with ridge=",
            RuntimeWarning,
            stacklevel=4,
        )
    inverse = np.where(kept, 1 / np.where(kept, singular, 1.0), 0.0)
    solve = (right.T * inverse) @ left.T / scale[:, None]  # the pseudo-inverse of the stacked triangle
    coefficients = solve @ targets
    residuals = np.concatenate([triangle.R @ coefficients - triangle.target, triangle.rest])
    squares = (residuals**2).sum(axis=0)
    spare = problem.equations - n
    variance = squares / spare if spare > 0 else np.full(channels, np.nan)
    spread = np.linalg.norm(triangle.R @ (solve @ solve.T), axis=0)  # sqrt diag of (G + ridge)^-1 G (G + ridge)^-1
    condition = float((singular[0] / singular[-1]) ** 2) if kept.all() else float("inf")
    return Solution(coefficients, float(squares.sum()), spread[:, None] * np.sqrt(variance), condition)
