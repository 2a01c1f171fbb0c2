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
from convolith.fitting.restrict import Space, without_negatives

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


class Penalty(NamedTuple):
    """What is asked of a kernel beside the data.

    Attributes:
        matrix: (n, n), P of `b'Pb`, which is added to what is minimised; zero where nothing is asked.
        noise: (n, n), what noise in x adds to G, and is taken off it; None where it has none.
        space: what equations on the weights leave, or None.
        nonnegative: whether no weight may be negative.
    """

    matrix: np.ndarray
    noise: np.ndarray | None = None
    space: Space | None = None
    nonnegative: bool = False

    @property
    def whole(self) -> np.ndarray:
        """(n, n): what is added to G."""
        return self.matrix if self.noise is None else self.matrix - self.noise

    def paid(self, coefficients: np.ndarray) -> float:
        """`b'Pb` of all output channels together."""
        return float((coefficients * (self.matrix @ coefficients)).sum())


class Solution(NamedTuple):
    """Coefficients (n, out_channels), for each what gives changes of it, residual squares, errors, condition."""

    coefficients: np.ndarray
    inverses: tuple[np.ndarray, ...]
    squares: np.ndarray
    stderr: np.ndarray
    condition: float

    def change(self, slope: np.ndarray) -> np.ndarray:
        """The change of the coefficients where the slope of the sum of squares, (n, out_channels), is not yet zero."""
        return np.stack([own @ column for own, column in zip(self.inverses, slope.T, strict=True)], 1)


def least_squares(system: System, penalty: Penalty) -> Solution:
    """The coefficients that minimise `b'Gb - 2 r'b + b'Pb` among those that are allowed.

    The variance of the noise is that of the residuals of the fit without penalty and constraints (which bias their
    own); it is NaN where no equation is to spare. Standard errors are those of kernels in the space that is left.

    Raises:
        ConvolithError: fewer equations than unknowns, constraints that no kernel meets.
    """
    n, outputs = system.cross.shape
    noisy, asked = penalty.noise is not None, bool(penalty.matrix.any())
    space = penalty.space or Space(np.zeros(n), np.eye(n))
    if system.equations < space.directions.shape[1] + system.used and not asked:
        raise ConvolithError(
            f"y has {system.equations} pixels to fit but each output channel has "
            f"{space.directions.shape[1] + system.used} unknowns; expected at least as many pixels; use a smaller "
            "kernel_size, more data, or ridge="
        )
    free = inverse(system.normal)
    total = system.normal + penalty.whole
    found = inverse(total) if asked or noisy else free
    if noisy and found.rank < n:
        raise ConvolithError(
            "x_noise_variance is as much as x varies at all in some direction of its windows, or more; expected the "
            "variance of x's noise alone; take a smaller one, a smaller kernel_size, or add ridge="
        )
    spaces = [penalty.space] * outputs
    if penalty.nonnegative:
        spaces = [without_negatives(total, cross, penalty.space) for cross in system.cross.T]
    inverses, rank, condition = [], n, found.condition
    for own in spaces:
        within = found if own is None else _within(total, own)
        inverses.append(within.matrix)
        left = n if own is None else own.directions.shape[1]
        rank = min(rank, n - (left - within.rank))
        condition = max(condition, within.condition) if own is None else within.condition
    if rank < n:
        _warn_of(rank - n + space.directions.shape[1] + system.used, space.directions.shape[1] + system.used)
    starts = np.stack([np.zeros(n) if own is None else own.start for own in spaces], 1)
    solution = Solution(starts, tuple(inverses), np.zeros(outputs), starts, condition)
    coefficients = starts
    for _ in range(2):  # the second time for what the first one's rounding left
        coefficients = coefficients + solution.change(system.cross - total @ coefficients)
    unpenalised = system.residual(coefficients if noisy else free.matrix @ system.cross)
    spare = system.equations - free.rank - system.used
    variance = unpenalised / spare if spare > 0 else np.full(outputs, np.nan)
    spread = [np.einsum("ij,ij->i", own @ system.normal, own) for own in inverses]
    stderr = np.sqrt(np.maximum(np.stack(spread, 1), 0.0) * variance)
    return Solution(coefficients, tuple(inverses), system.residual(coefficients), stderr, condition)


def _within(total: np.ndarray, space: Space) -> Inverse:
    """The inverse on a space, in the coordinates of the weights."""
    if not space.directions.shape[1]:
        return Inverse(np.zeros_like(total), 0, 1.0)
    inner = inverse(space.directions.T @ total @ space.directions)
    return inner._replace(matrix=space.directions @ inner.matrix @ space.directions.T)


def _warn_of(known: int, unknowns: int) -> None:
    warnings.warn(
        f"the data determine only {known} of {unknowns} coefficients (flat or regular images repeat themselves); "
        "of all solutions that explain y the smallest is given; add varied data, or choose with ridge=",
        RuntimeWarning,
        stacklevel=5,
    )
