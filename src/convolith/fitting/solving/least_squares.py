"""Solution of least-squares problems from moments: by Cholesky, or by eigenvectors if the data are rank-deficient.

Columns are scaled to one length first, so that a channel of small numbers does not count as weak. The condition number
of the normal matrix is the square of that of the data, which costs accuracy; `fit` has the data and recovers it, by
adding the solution for the residual of the first solution (Bjoerck 1987, corrected semi-normal equations).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from convolith.errors import ConvolithError, warn
from convolith.fitting.solving.constraints import ROUNDING, Space, check_combinations, projected, without_negatives

BLOCK, POWERS = 8, 6
"""Number of columns in a block of the Krylov space, and most multiplications of a block."""


class System(NamedTuple):
    """Least-squares problem `|A b - y|^2 = b'Gb - 2 r'b + q`, with the offset already eliminated.

    Attributes:
        normal: G, (unknowns, unknowns).
        cross: r, (unknowns, out_channels).
        squares: q, (out_channels,).
        equations: number of pixels of y with nonzero weight.
        used: number of eliminated unknowns per output channel.
    """

    normal: np.ndarray
    cross: np.ndarray
    squares: np.ndarray
    equations: int
    used: int

    def residual(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the sum of squared residuals per output channel; exact to 1e-16 of q."""
        squares = self.squares - (coefficients * (2 * self.cross - self.normal @ coefficients)).sum(0)
        floored: np.ndarray = np.maximum(squares, 0.0)
        return floored


class Inverse(NamedTuple):
    """Matrix that gives the minimum-norm solution of `(G + penalty) b = r` in a space of b.

    Attributes:
        matrix: (free, free), in coordinates of the space.
        rank: number of coordinates that the data determine.
        condition: condition number with columns scaled to one length.
        directions: (n, free), of the space; None for all b.
    """

    matrix: np.ndarray
    rank: int
    condition: float
    directions: np.ndarray | None = None

    def times(self, vectors: np.ndarray) -> np.ndarray:
        """Return the solution for right-hand sides, (n, ...)."""
        if self.directions is None:
            whole: np.ndarray = self.matrix @ vectors
            return whole
        solution: np.ndarray = self.directions @ (self.matrix @ (self.directions.T @ vectors))
        return solution

    def spread(self, normal: np.ndarray | None) -> np.ndarray:
        """Return the diagonal of `inverse normal inverse`, (n,); None for a normal matrix whose inverse it is."""
        D = self.directions
        left = self.matrix if D is None else D @ self.matrix
        if normal is None:
            right = np.eye(len(left)) if D is None else D
        else:
            right = left @ (normal if D is None else D.T @ normal @ D)
        diagonal: np.ndarray = np.einsum("ij,ij->i", left, right)
        return diagonal


def inverse(matrix: np.ndarray, floor: np.ndarray | float = 0.0) -> Inverse:
    """Invert a symmetric positive semidefinite matrix, for the minimum-norm solution if it is singular.

    Args:
        matrix: (n, n).
        floor: rounding of the diagonal; where the diagonal is no larger, it counts as zero.
    """
    diagonal = np.diag(matrix)
    none = diagonal <= floor
    scale = np.where(none, 1.0, np.sqrt(np.where(none, 1.0, diagonal)))
    scaled = torch.from_numpy(np.where(none | none[:, None], 0.0, matrix / scale / scale[:, None]))
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if not failed:
        inverted = torch.cholesky_inverse(factor)
        condition = largest(scaled) * largest(inverted)
        if condition * len(scale) * ROUNDING < 1:
            return Inverse(inverted.numpy() / scale / scale[:, None], len(scale), condition)
    values, vectors = (part.numpy() for part in torch.linalg.eigh(scaled))
    kept = values > values[-1] * len(scale) * ROUNDING
    partial = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T / scale / scale[:, None]
    free = np.linalg.qr(vectors[:, ~kept] / scale[:, None])[0]
    return Inverse(partial - free @ (free.T @ partial), int(kept.sum()), float("inf"))


def largest(matrix: torch.Tensor) -> float:
    """Return the largest eigenvalue: to about a percent (block Krylov, Musco and Musco 2015), or exactly if small."""
    n = len(matrix)
    drawn = torch.Generator().manual_seed(0)
    block = torch.randn((n, min(n, BLOCK)), generator=drawn, dtype=matrix.dtype, device=matrix.device)
    blocks = [torch.linalg.qr(block).Q]
    for _ in range(min(POWERS, -(-n // BLOCK) - 1)):
        blocks.append(torch.linalg.qr(matrix @ blocks[-1]).Q)
    basis = torch.linalg.qr(torch.cat(blocks, 1)).Q
    return float(torch.linalg.eigvalsh(basis.T @ matrix @ basis)[-1])


class Penalty(NamedTuple):
    """Penalties and constraints on a kernel.

    Attributes:
        matrix: (n, n), P of `b'Pb`, which is added to the objective; None without a penalty.
        noise: (n, n), contribution of noise in x to G, which is subtracted from it; None without noise.
        space: space of kernels that satisfy equations on the weights, or None.
        nonnegative: whether all weights must be nonnegative.
        model: space of the kernels of a basis, before constraints, or None.
        weights: (taps, n), whose product with the coefficients is the kernel; None if they are its weights.
    """

    matrix: np.ndarray | None = None
    noise: np.ndarray | None = None
    space: Space | None = None
    nonnegative: bool = False
    model: Space | None = None
    weights: np.ndarray | None = None

    def of(self, coefficients: np.ndarray) -> np.ndarray:
        """Return half the gradient of everything that is added to `b'Gb`, (n, ...)."""
        slope = np.zeros_like(coefficients)
        if self.matrix is not None:
            slope += self.matrix @ coefficients
        return slope if self.noise is None else slope - self.noise @ coefficients

    def added_to(self, normal: np.ndarray) -> np.ndarray:
        """Return G with the penalty added and the noise subtracted, (n, n)."""
        total = normal if self.matrix is None else normal + self.matrix
        return total if self.noise is None else total - self.noise

    def clipped(self, coefficients: np.ndarray) -> np.ndarray:
        """Return coefficients without the negative rounding of weights that must not be negative, (n, ...)."""
        return np.maximum(coefficients, 0.0) if self.nonnegative and self.weights is None else coefficients

    def kernel_of(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the kernel, (taps, ...); nonnegative weights that are no larger than their rounding are zero."""
        if self.weights is None:
            return coefficients
        kernel: np.ndarray = self.weights @ coefficients
        if not self.nonnegative:
            return kernel
        largest = np.linalg.norm(self.weights, axis=1)[:, None] * np.linalg.norm(coefficients, axis=0)
        rounding = len(coefficients) * ROUNDING * largest
        return np.where(kernel <= rounding, 0.0, kernel)

    def paid(self, coefficients: np.ndarray) -> float:
        """Return the sum of `b'Pb` over all output channels."""
        return 0.0 if self.matrix is None else float((coefficients * (self.matrix @ coefficients)).sum())


class Solution(NamedTuple):
    """Solution of a system.

    Attributes:
        coefficients: (n, out_channels).
        inverses: an inverse per output channel.
        squares: (out_channels,), squared residuals.
        stderr: (n, out_channels), standard errors for white noise.
        condition: condition number.
        variance: (out_channels,), of the noise.
        normals: for each output channel the normal matrix, or None where it is that of the inverse.
    """

    coefficients: np.ndarray
    inverses: tuple[Inverse, ...]
    squares: np.ndarray
    stderr: np.ndarray
    condition: float
    variance: np.ndarray
    normals: tuple[np.ndarray | None, ...]

    def stderr_of(self, sums: np.ndarray) -> np.ndarray:
        """Return standard errors of linear combinations of coefficients, (combinations, out_channels).

        Args:
            sums: (n, combinations), the factors.
        """
        errors = []
        for inverse, normal, variance in zip(self.inverses, self.normals, self.variance, strict=True):
            moved = inverse.times(sums)
            squares = (moved * (sums if normal is None else normal @ moved)).sum(0)
            errors.append(np.sqrt(np.maximum(squares, 0.0) * variance))
        return np.stack(errors, 1)

    def change(self, slope: np.ndarray) -> np.ndarray:
        """Return the change of the coefficients that cancels a residual of the normal equations, (n, out_channels)."""
        return np.stack([own.times(column) for own, column in zip(self.inverses, slope.T, strict=True)], 1)


def least_squares(system: System, penalty: Penalty, *, warns: bool = True) -> Solution:
    """Minimise `b'Gb - 2 r'b + b'Pb` over the coefficients that the constraints allow.

    The variance of the noise is that of the residuals of the fit without penalty and constraints (which would bias it),
    in the space of the basis if there is one; it is NaN if the equations do not outnumber the unknowns. Standard errors
    are those of kernels in the allowed space. A warning says how many coefficients the data do not determine, unless
    `warns` is False.

    Raises:
        ConvolithError: fewer equations than unknowns, constraints that no kernel satisfies.
    """
    n, outputs = system.cross.shape
    noisy, kernel_options = penalty.noise is not None, penalty.matrix is not None
    unknowns = system.used + (n if penalty.space is None else penalty.space.directions.shape[1])
    if not kernel_options:
        check_determined(system.equations, unknowns)
    free = _within(system.normal, penalty.model)
    total = penalty.added_to(system.normal)
    inverted = _within(total, penalty.model) if kernel_options or noisy else free
    if noisy and inverted.rank < (n if penalty.model is None else penalty.model.directions.shape[1]):
        raise ConvolithError(
            "x_noise_variance is as much as x varies at all in some direction of its windows, or more; expected the "
            "variance of x's noise alone; take a smaller one, a smaller kernel_size, or add ridge="
        )
    spaces, undetermined = [penalty.space] * outputs, 0
    kernels = penalty.weights if penalty.model is None else penalty.model.directions
    if penalty.nonnegative and kernels is not None and warns:
        check_combinations(kernels)
    if penalty.nonnegative:  # whether weights that are held at zero are determined, only the whole space tells
        allowed = inverted if penalty.space is penalty.model else _within(total, penalty.space)
        undetermined = unknowns - system.used - allowed.rank
        spaces = [without_negatives(total, cross, penalty.space, penalty.weights) for cross in system.cross.T]
    inverses, condition = [], inverted.condition
    for own in spaces:
        within = inverted if own is penalty.model else _within(total, own)
        inverses.append(within)
        undetermined = max(undetermined, (n if own is None else own.directions.shape[1]) - within.rank)
        condition = max(condition, within.condition) if own is penalty.model else within.condition
    if undetermined and warns:
        _warn_of(unknowns - undetermined, unknowns)
    starts = np.stack([np.zeros(n) if own is None else own.start for own in spaces], 1)
    normals = tuple(None if own is free else system.normal for own in inverses)
    nothing = np.zeros(outputs)
    solution = Solution(starts, tuple(inverses), nothing, starts, condition, nothing, normals)
    coefficients = starts
    for _ in range(2):  # the second pass corrects the rounding of the first
        coefficients = penalty.clipped(coefficients + solution.change(system.cross - total @ coefficients))
    unpenalised = system.residual(coefficients if noisy else free.times(system.cross))
    spare = system.equations - free.rank - system.used
    if spare <= 0 and warns and not kernel_options:
        warn(
            f"y has {system.equations} pixels to fit, and each output channel no fewer unknowns: there are no standard "
            "errors (NaN); give more data"
        )
    variance = unpenalised / spare if spare > 0 else np.full(outputs, np.nan)
    spread = [own.spread(normal) for own, normal in zip(inverses, normals, strict=True)]
    return solution._replace(
        coefficients=coefficients,
        squares=system.residual(coefficients),
        stderr=np.sqrt(np.maximum(np.stack(spread, 1), 0.0) * variance),
        variance=variance,
    )


def check_determined(equations: int, unknowns: int) -> None:
    """Refuse fewer equations than unknowns."""
    if equations < unknowns:
        raise ConvolithError(
            f"y has {equations} pixels to fit but each output channel has {unknowns} unknowns; expected at "
            "least as many pixels; use a smaller kernel_size, more data, or ridge="
        )


def _within(total: np.ndarray, space: Space | None) -> Inverse:
    """Return the inverse on a space."""
    if space is None:
        return inverse(total)
    D = space.directions
    if not D.shape[1]:
        return Inverse(np.zeros((0, 0)), 0, 1.0, D)
    return inverse(*projected(total, D))._replace(directions=D)


def _warn_of(known: int, unknowns: int) -> None:
    warn(
        f"the data determine only {known} of {unknowns} coefficients (flat or regular images repeat themselves); "
        "of all solutions that explain y the smallest is given; add varied data, or choose with ridge=",
    )
