"""The least-squares problem that moments hold, solved: Cholesky, or eigenvectors where the data leave something free.

Columns are scaled to one length first, so that a channel of small numbers is not taken for a weak one. What the normal
matrix loses beside the data themselves (its condition number is the square of theirs) `fit` wins back, for it has the
data: it adds the solution for what the first one leaves (Bjoerck 1987, corrected semi-normal equations).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from convolith.errors import ConvolithError, warn
from convolith.fitting.solving.constraints import Space, without_negatives

ROUNDING = 8 * np.finfo(float).eps
"""Of the largest eigenvalue, for each unknown: what a zero eigenvalue may come out as."""
BLOCK, POWERS = 8, 6
"""Columns that are multiplied together, and how often."""


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
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if not failed:
        whole = torch.cholesky_inverse(factor)
        condition = largest(scaled) * largest(whole)
        if condition * len(scale) * ROUNDING < 1:
            return Inverse(whole.numpy() / scale / scale[:, None], len(scale), condition)
    values, vectors = (part.numpy() for part in torch.linalg.eigh(scaled))
    kept = values > values[-1] * len(scale) * ROUNDING
    partial = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T / scale / scale[:, None]
    free = np.linalg.qr(vectors[:, ~kept] / scale[:, None])[0]
    return Inverse(partial - free @ (free.T @ partial), int(kept.sum()), float("inf"))


def largest(matrix: torch.Tensor) -> float:
    """The largest eigenvalue, to about a percent (block Krylov, Musco and Musco 2015), exactly for small matrices."""
    n = len(matrix)
    drawn = torch.Generator().manual_seed(0)
    block = torch.randn((n, min(n, BLOCK)), generator=drawn, dtype=matrix.dtype, device=matrix.device)
    blocks = [torch.linalg.qr(block).Q]
    for _ in range(min(POWERS, -(-n // BLOCK) - 1)):
        blocks.append(torch.linalg.qr(matrix @ blocks[-1]).Q)
    basis = torch.linalg.qr(torch.cat(blocks, 1)).Q
    return float(torch.linalg.eigvalsh(basis.T @ matrix @ basis)[-1])


class Penalty(NamedTuple):
    """What is asked of a kernel beside the data.

    Attributes:
        matrix: (n, n), P of `b'Pb`, which is added to what is minimised; None where nothing is asked.
        noise: (n, n), what noise in x adds to G, and is taken off it; None where it has none.
        space: what equations on the weights leave, or None.
        nonnegative: whether no weight may be negative.
    """

    matrix: np.ndarray | None = None
    noise: np.ndarray | None = None
    space: Space | None = None
    nonnegative: bool = False

    def of(self, coefficients: np.ndarray) -> np.ndarray:
        """(n, ...): half the slope of all that is added to `b'Gb`."""
        found = np.zeros_like(coefficients)
        if self.matrix is not None:
            found += self.matrix @ coefficients
        return found if self.noise is None else found - self.noise @ coefficients

    def added_to(self, normal: np.ndarray) -> np.ndarray:
        """(n, n): G with all that is added to it."""
        found = normal if self.matrix is None else normal + self.matrix
        return found if self.noise is None else found - self.noise

    def paid(self, coefficients: np.ndarray) -> float:
        """`b'Pb` of all output channels together."""
        return 0.0 if self.matrix is None else float((coefficients * (self.matrix @ coefficients)).sum())


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


def least_squares(system: System, penalty: Penalty, *, warns: bool = True) -> Solution:
    """The coefficients that minimise `b'Gb - 2 r'b + b'Pb` among those that are allowed.

    The variance of the noise is that of the residuals of the fit without penalty and constraints (which bias their
    own); it is NaN where no equation is to spare. Standard errors are those of kernels in the space that is left. It
    warns of coefficients that the data do not determine, unless `warns` is False.

    Raises:
        ConvolithError: fewer equations than unknowns, constraints that no kernel meets.
    """
    n, outputs = system.cross.shape
    noisy, kernel_options = penalty.noise is not None, penalty.matrix is not None
    sought = system.used + (n if penalty.space is None else penalty.space.directions.shape[1])
    if system.equations < sought and not kernel_options:
        raise ConvolithError(
            f"y has {system.equations} pixels to fit but each output channel has {sought} unknowns; expected at least "
            "as many pixels; use a smaller kernel_size, more data, or ridge="
        )
    free = inverse(system.normal)
    total = penalty.added_to(system.normal)
    found = inverse(total) if kernel_options or noisy else free
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
    if rank < n and warns:
        _warn_of(rank - n + sought, sought)
    starts = np.stack([np.zeros(n) if own is None else own.start for own in spaces], 1)
    solution = Solution(starts, tuple(inverses), np.zeros(outputs), starts, condition)
    coefficients = starts
    for _ in range(2):  # the second time for what the first one's rounding left
        coefficients = coefficients + solution.change(system.cross - total @ coefficients)
    unpenalised = system.residual(coefficients if noisy else free.matrix @ system.cross)
    spare = system.equations - free.rank - system.used
    variance = unpenalised / spare if spare > 0 else np.full(outputs, np.nan)
    spread = [_spread(own, None if own is free.matrix else system.normal) for own in inverses]
    stderr = np.sqrt(np.maximum(np.stack(spread, 1), 0.0) * variance)
    return Solution(coefficients, tuple(inverses), system.residual(coefficients), stderr, condition)


def _spread(own: np.ndarray, normal: np.ndarray | None) -> np.ndarray:
    """(n,): the diagonal of `own normal own`, where own is no inverse of the normal matrix."""
    return np.diag(own) if normal is None else np.einsum("ij,ij->i", own @ normal, own)


def _within(total: np.ndarray, space: Space) -> Inverse:
    """The inverse on a space, in the coordinates of the weights."""
    if not space.directions.shape[1]:
        return Inverse(np.zeros_like(total), 0, 1.0)
    inner = inverse(space.directions.T @ total @ space.directions)
    return inner._replace(matrix=space.directions @ inner.matrix @ space.directions.T)


def _warn_of(known: int, unknowns: int) -> None:
    warn(
        f"the data determine only {known} of {unknowns} coefficients (flat or regular images repeat themselves); "
        "of all solutions that explain y the smallest is given; add varied data, or choose with ridge=",
    )
