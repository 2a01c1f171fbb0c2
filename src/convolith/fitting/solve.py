"""The least-squares problem that moments hold, solved: Cholesky, or eigenvectors where the data leave something free.

Columns are scaled to one length first, so that a channel of small numbers is not taken for a weak one. What the normal
matrix loses beside the data themselves (its condition number is the square of theirs) `fit` wins back, for it has the
data: it adds the solution for what the first one leaves (Bjoerck 1987, corrected semi-normal equations).
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch

from convolith.errors import ConvolithError

ROUNDING = 8 * np.finfo(float).eps
"""Of the largest eigenvalue, for each unknown: what a zero eigenvalue may come out as."""


class System(NamedTuple):
    """`|A b - y|^2 = b'Gb - 2 r'b + q`, with what an offset takes of it already taken away.

    Attributes:
        normal: G, (unknowns, unknowns).
        cross: r, (unknowns, out_channels).
        squares: q, (out_channels,).
        equations: pixels of y that count.
        used: unknowns of each output channel beside b.
    """

    normal: np.ndarray
    cross: np.ndarray
    squares: np.ndarray
    equations: int
    used: int

    def residual(self, coefficients: np.ndarray) -> np.ndarray:
        """What is left of y, squared and summed, per output channel; exact to 1e-16 of q."""
        left = self.squares - (coefficients * (2 * self.cross - self.normal @ coefficients)).sum(0)
        floored: np.ndarray = np.maximum(left, 0.0)
        return floored


class Inverse(NamedTuple):
    """The matrix that gives the smallest solution of `(G + penalty) b = r`, its rank, and G's scaled condition."""

    matrix: np.ndarray
    rank: int
    condition: float


def inverse(matrix: np.ndarray) -> Inverse:
    """Of a symmetric matrix without negative eigenvalues."""
    scale = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    scale[scale == 0] = 1.0
    scaled = torch.from_numpy(matrix / scale / scale[:, None])
    values = torch.linalg.eigvalsh(scaled)
    least = float(values[-1]) * len(scale) * ROUNDING
    if values[0] > least:
        factor = torch.linalg.cholesky(scaled)
        whole = torch.cholesky_inverse(factor).numpy() / scale / scale[:, None]
        return Inverse(whole, len(scale), float(values[-1] / values[0]))
    values, vectors = (part.numpy() for part in torch.linalg.eigh(scaled))
    kept = values > least
    partial = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T / scale / scale[:, None]
    free = np.linalg.qr(vectors[:, ~kept] / scale[:, None])[0]
    return Inverse(partial - free @ (free.T @ partial), int(kept.sum()), float("inf"))


class Solution(NamedTuple):
    """Coefficients (unknowns, out_channels), what gives them, residual squares, standard errors, condition."""

    coefficients: np.ndarray
    inverse: np.ndarray
    squares: np.ndarray
    stderr: np.ndarray
    condition: float


def least_squares(system: System, ridge: float) -> Solution:
    """The coefficients that minimise `b'Gb - 2 r'b + ridge |b|^2`.

    The variance of the noise is that of the unpenalised fit's residuals (a ridge biases its own); it is NaN where no
    equation is to spare.

    Raises:
        ConvolithError: fewer equations than unknowns.
    """
    n = len(system.normal)
    if system.equations < n + system.used and not ridge:
        raise ConvolithError(
            f"y has {system.equations} pixels to fit but each output channel has {n + system.used} unknowns; expected "
            "at least as many pixels; use a smaller kernel_size, more data, or ridge="
        )
    free = inverse(system.normal)
    penalised = inverse(system.normal + ridge * np.eye(n)) if ridge else free
    if penalised.rank < n:
        known, unknowns = penalised.rank + system.used, n + system.used
        warnings.warn(
            f"the data determine only {known} of {unknowns} coefficients (flat or regular images repeat themselves); "
            "of all solutions that explain y the smallest is given; add varied data, or choose with ridge=",
            RuntimeWarning,
            stacklevel=4,
        )
    coefficients = penalised.matrix @ system.cross
    coefficients += penalised.matrix @ (system.cross - system.normal @ coefficients - ridge * coefficients)
    unpenalised = system.residual(free.matrix @ system.cross) if ridge else system.residual(coefficients)
    spare = system.equations - free.rank - system.used
    variance = unpenalised / spare if spare > 0 else np.full(len(unpenalised), np.nan)
    spread = np.einsum("ij,ji->i", penalised.matrix @ system.normal, penalised.matrix.T)
    stderr = np.sqrt(np.maximum(spread, 0.0))[:, None] * np.sqrt(variance)
    return Solution(coefficients, penalised.matrix, system.residual(coefficients), stderr, penalised.condition)
