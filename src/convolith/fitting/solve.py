"""Least squares in closed form: the equations are reduced by QR a chunk at a time, and the small triangle is solved.

Working on the triangle R of the window matrix, and never on its normal matrix R'R, keeps the condition number unsquared
(it is 1e3 to 1e4 on photographs where the normal matrix has 1e7 and more). Method: sequential QR, as in Golub and Van
Loan, Matrix Computations, section 6.5.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import sqrt

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

    def residual_squares(self, coefficients: np.ndarray) -> np.ndarray:
        """What is left of y, squared and summed, per output channel."""
        misfit = self.R @ coefficients - self.target
        squares: np.ndarray = (misfit**2).sum(axis=0) + (self.rest**2).sum(axis=0)
        return squares


@dataclass(frozen=True)
class Solution:
    """Coefficients (unknowns, out_channels), residual squares, with the ridge's penalty, standard errors, condition."""

    coefficients: np.ndarray
    squares: float
    loss: float
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


@dataclass(frozen=True)
class Inverse:
    """The pseudo-inverse of a matrix, its rank, and the condition number of its column-scaled normal matrix."""

    matrix: np.ndarray
    rank: int
    condition: float


def pseudo_inverse(A: np.ndarray, equations: int) -> Inverse:
    """The matrix that gives the smallest of the least-squares solutions.

    The rank is judged with columns scaled to one length, so that a column of ones beside bright pixels is not taken for
    a weak direction; what is left free is then set to the smallest solution in the columns' own units.
    """
    scale = np.linalg.norm(A, axis=0)
    scale[scale == 0] = 1.0
    left, singular, right = np.linalg.svd(A / scale, full_matrices=False)
    kept = singular > singular[0] * max(equations, len(scale)) * np.finfo(float).eps
    reciprocal = np.where(kept, 1 / np.where(kept, singular, 1.0), 0.0)
    matrix = (right.T * reciprocal) @ left.T / scale[:, None]
    if kept.all():
        return Inverse(matrix, len(scale), float((singular[0] / singular[-1]) ** 2))
    free = np.linalg.qr((right[~kept] / scale).T)[0]
    return Inverse(matrix - free @ (free.T @ matrix), int(kept.sum()), float("inf"))


def least_squares(problem: Problem, ridge: float) -> Solution:
    """The coefficients that minimise sum of w (A b - y)^2 + ridge |kernel|^2, with their standard errors.

    The variance of the noise is that of the unpenalised fit's residuals (a ridge biases its own); it is NaN where no
    equation is to spare.
    """
    if problem.equations < problem.unknowns and not ridge:
        raise ConvolithError(
            f"y has {problem.equations} pixels to fit but each output channel has {problem.unknowns} unknowns; "
            "expected at least as many pixels; use a smaller kernel_size, more data, or ridge="
        )
    triangle = reduce(problem)
    n, channels = problem.unknowns, problem.spec.out_channels
    free = pseudo_inverse(triangle.R, problem.equations)
    unpenalised = triangle.residual_squares(free.matrix @ triangle.target)
    penalised = free
    if ridge:
        penalty = sqrt(ridge) * np.eye(n)[: n - problem.offset]
        penalised = pseudo_inverse(np.concatenate([triangle.R, penalty]), problem.equations)
    if penalised.rank < n:
        warnings.warn(
            f"the data determine only {penalised.rank} of {n} coefficients (flat or regular images repeat themselves); "
            "of all solutions that explain y the smallest is given; add varied data, or choose with ridge=",
            RuntimeWarning,
            stacklevel=4,
        )
    solve = penalised.matrix[:, :n]  # the rows of the penalty have targets of zero
    coefficients = solve @ triangle.target
    spare = problem.equations - free.rank
    variance = unpenalised / spare if spare > 0 else np.full(channels, np.nan)
    # Of (G + ridge)^-1 G (G + ridge)^-1 the diagonal: the rows of solve are those of (G + ridge)^-1 R'.
    stderr = np.linalg.norm(solve, axis=1)[:, None] * np.sqrt(variance)
    squares = float(triangle.residual_squares(coefficients).sum())
    penalty_paid = ridge * float((coefficients[: n - problem.offset] ** 2).sum())
    return Solution(coefficients, squares, squares + penalty_paid, stderr, penalised.condition)
