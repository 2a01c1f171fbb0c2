"""Constraints on a kernel, as equations and inequalities for its weights: bases, symmetry, a sum, no negative weights.

A combination of basis kernels, `b = M t`, a kernel that equals its mirror image, a kernel whose weights sum to one: all
lie in an affine space `b0 + M t`, and the least-squares problem for t is as small or smaller. For nonnegative weights,
those that are zero in the best kernel are found by a dual active-set method (Arnstroem, Bemporad and Axehill 2022, the
daqp library), and are then fixed at zero by one more equation each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from convolith.errors import ConvolithError, missing_extra

CONSTRAINTS = ("symmetric", "sum-to-one", "nonnegative", "simplex")
"""Names for `constraints`; "simplex" combines "sum-to-one" and "nonnegative"."""
ROUNDING = 8 * np.finfo(float).eps
"""Bound on the rounding of a zero eigenvalue, relative to the largest eigenvalue, per unknown."""
ACTIVE = 1e-9
"""Bound, relative to the largest weight, up to which a weight counts as fixed at zero."""
DEPENDENT = 1e-12
"""Bound, relative to the largest, up to which a singular value of the equations is zero; columns have one length."""
TOLERANCE = 1e-12
"""Tolerance of the solver, with columns of one length."""


IMPOSSIBLE = "basis and constraints leave no kernel without negative weights; take others, or fewer"


class Space(NamedTuple):
    """Affine space of kernels `start + directions @ t`: (n,) and (n, free)."""

    start: np.ndarray
    directions: np.ndarray

    def where(self, rows: np.ndarray, values: np.ndarray, scale: float | None = None) -> Space:
        """Return the subspace of the kernels b for which `rows @ b = values`.

        Args:
            rows, values: the equations.
            scale: norm to which singular values of the rows are compared; by default theirs.

        Raises:
            ConvolithError: no such kernel exists.
        """
        if not len(rows) or not self.directions.shape[1]:
            return self
        remaining = values - rows @ self.start
        outer, singular, right = np.linalg.svd(rows @ self.directions)
        scale = float(np.linalg.norm(rows, 2)) if scale is None else scale
        rank = int((singular > DEPENDENT * scale).sum())
        step = right[:rank].T @ ((outer[:, :rank].T @ remaining) / singular[:rank])
        violation = np.abs(rows @ self.directions @ step - remaining).max()
        if violation > TOLERANCE * max(1.0, float(np.abs(remaining).max())):
            raise ConvolithError("basis and constraints leave no kernel; take other basis kernels or fewer constraints")
        return Space(self.start + self.directions @ step, self.directions @ right[rank:].T)


def spanned(columns: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the span of columns, (rows, rank)."""
    if not columns.size:
        return columns
    left, singular, _ = np.linalg.svd(columns / np.linalg.norm(columns, axis=0), full_matrices=False)
    spanned: np.ndarray = left[:, singular > singular[0] * max(columns.shape) * np.finfo(float).eps]
    return spanned


def check_constraints(constraints: Any) -> tuple[str, ...]:
    """Return the names of constraints as a tuple.

    Raises:
        ConvolithError: an unknown name.
    """
    if not isinstance(constraints, Iterable):
        raise ConvolithError(f"constraints is {constraints!r}; expected some of {', '.join(CONSTRAINTS)}")
    names = (constraints,) if isinstance(constraints, str) else tuple(constraints)
    unknown = [name for name in names if name not in CONSTRAINTS]
    if unknown:
        raise ConvolithError(f"constraints has {unknown[0]!r}; expected some of {', '.join(CONSTRAINTS)}")
    if needs_solver(names):
        _solver()
    return names


def needs_solver(names: Sequence[str]) -> bool:
    """Return whether constraints require nonnegative weights."""
    return "nonnegative" in names or "simplex" in names


def space_of(
    in_channels: int,
    kernel_size: tuple[int, ...],
    basis: np.ndarray | None,
    names: Sequence[str],
    terms: int = 1,
    constant: Sequence[int] = (),
) -> Space | None:
    """Return the space of one output channel's kernels that satisfy the equations; None without equations.

    Args:
        in_channels, kernel_size: shape of the kernel.
        basis: (count, *kernel_size), shared by all input channels, or None.
        names: names of constraints.
        terms: number of monomials of position, the constant first; each has weights, and the kernel is their sum.
        constant: indices of the basis kernels that occur in the first term only.
    """
    taps = int(np.prod(kernel_size))
    planes = terms * in_channels
    n = planes * taps
    adds_up = "sum-to-one" in names or "simplex" in names
    if basis is None and "symmetric" not in names and not adds_up:
        return None
    space = Space(np.zeros(n), _columns(in_channels, taps, basis, terms, constant))
    if "symmetric" in names:
        mirrored = np.arange(n).reshape(planes, taps)[:, ::-1].ravel()
        differences = np.eye(n) - np.eye(n)[mirrored]
        half = np.arange(n) < mirrored
        space = space.where(differences[half], np.zeros(int(half.sum())))
    if adds_up:  # at every position: the varying terms sum to zero
        sums = np.kron(np.eye(terms), np.ones((1, in_channels * taps)))
        space = space.where(sums, np.eye(terms)[0])
    return space


def space_in_basis(in_channels: int, directions: np.ndarray, names: Sequence[str]) -> Space | None:
    """Return the space of the coefficients of a basis whose kernels satisfy the equations; None without equations.

    Args:
        in_channels: number of input channels.
        directions: (taps, count), orthonormal kernels, of every input channel.
        names: names of constraints.
    """
    taps, count = directions.shape
    free = in_channels * count
    space = Space(np.zeros(free), np.eye(free))
    if "symmetric" in names:
        differences = np.kron(np.eye(in_channels), np.linalg.qr(directions - directions[::-1], "r"))
        space = space.where(differences, np.zeros(len(differences)), 1.0)
    if "sum-to-one" in names:
        sums = np.tile(directions.sum(0), in_channels)[None]
        space = space.where(sums, np.ones(1), float(np.sqrt(in_channels * taps)))
    return space if names else None


def _columns(in_channels: int, taps: int, basis: np.ndarray | None, terms: int, constant: Sequence[int]) -> np.ndarray:
    """Return an orthonormal basis of the weights, (terms * in_channels * taps, free)."""
    if basis is None:
        return np.eye(terms * in_channels * taps)
    flat = basis.reshape(len(basis), taps)
    varying = np.delete(flat, list(constant), 0)
    first = np.kron(np.eye(in_channels), spanned(flat.T))
    others = np.kron(np.eye((terms - 1) * in_channels), spanned(varying.T))
    columns = np.zeros((terms * in_channels * taps, first.shape[1] + others.shape[1]))
    columns[: len(first), : first.shape[1]] = first
    columns[len(first) :, first.shape[1] :] = others
    return columns


def projected(matrix: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a symmetric matrix in coordinates of a space, and the rounding of its diagonal.

    Where the matrix hardly varies along a direction, what is left of its sums is their rounding.
    """
    inner = directions.T @ matrix @ directions
    largest = np.einsum("ij,ij->j", np.abs(directions), np.abs(matrix) @ np.abs(directions))
    return inner, ROUNDING * len(matrix) * largest


def without_negatives(normal: np.ndarray, cross: np.ndarray, space: Space | None) -> Space:
    """Restrict a space to the kernels that are zero where the best nonnegative kernel is zero.

    The problem is scaled to numbers near one first, in the objective and in every inequality: the solver's tolerances
    are absolute. Directions that the data do not determine get a tiny penalty, and are left out of the result, which
    begins at the solver's solution.

    Args:
        normal: (n, n), matrix of the objective `b' normal b - 2 cross' b` of the best kernel.
        cross: (n,), vector of the objective.
        space: space of kernels that the equations allow, or None.

    Raises:
        ConvolithError: a space without a nonnegative kernel.
    """
    n = len(cross)
    if space is None:
        space = Space(np.zeros(n), np.eye(n))
    D = space.directions
    if not D.shape[1]:
        if (space.start < -ACTIVE * np.abs(space.start).max()).any():
            raise ConvolithError(IMPOSSIBLE)
        return Space(np.maximum(space.start, 0.0), D)
    inner, floor = projected(normal, D)
    diagonal = np.diag(inner)
    none = diagonal <= floor
    scale = np.where(
        none, np.sqrt(max(float(diagonal.max()), np.finfo(float).tiny)), np.sqrt(np.where(none, 1.0, diagonal))
    )
    slope = D.T @ (cross - normal @ space.start)
    noise = ROUNDING * n * (np.abs(D).T @ (np.abs(cross) + np.abs(normal) @ np.abs(space.start)))
    slope = np.where(none | (np.abs(slope) <= noise), 0.0, slope) / scale
    scaled = np.where(none | none[:, None], 0.0, inner / scale / scale[:, None])
    scaled += len(scaled) * ROUNDING * np.eye(len(scaled))
    rows = D / scale
    norms = np.linalg.norm(rows, axis=1)
    held_anyway = norms <= ROUNDING * norms.max()
    bounds = np.where(held_anyway, 0.0, -space.start / np.where(held_anyway, 1.0, norms))
    size = max(float(np.abs(slope).max()), float(np.abs(bounds).max())) or 1.0
    counted = ~held_anyway
    steps, _, status, _ = _solver().solve(
        np.ascontiguousarray(scaled),
        np.ascontiguousarray(-slope / size),
        np.ascontiguousarray(rows[counted] / norms[counted, None]),
        np.full(int(counted.sum()), 1e30),
        np.ascontiguousarray(bounds[counted] / size),
        np.zeros(int(counted.sum()), dtype=np.int32),
        primal_tol=TOLERANCE,
        dual_tol=TOLERANCE,
    )
    if status < 1 or (space.start[held_anyway] < -ACTIVE * np.abs(space.start).max()).any():
        raise ConvolithError(IMPOSSIBLE)
    weights = space.start + size * (rows @ steps)
    held = weights <= max(ACTIVE * float(np.abs(weights).max()), TOLERANCE * size * float(norms.max()))
    restricted = space.where(np.eye(n)[held], np.zeros(int(held.sum())))
    free = ~held  # fixed weights become exactly zero
    R = restricted.directions * free[:, None]
    start = restricted.start + restricted.directions @ (restricted.directions.T @ (weights - restricted.start))
    if not R.shape[1]:
        return Space(np.maximum(start, 0.0) * free, R)
    return Space(np.maximum(start, 0.0) * free, R @ _determined(*projected(normal, R)))


def _determined(inner: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Return the directions along which a matrix is more than rounding, (n, rank)."""
    diagonal = np.diag(inner)
    none = diagonal <= floor
    scale = np.where(none, 1.0, np.sqrt(np.where(none, 1.0, diagonal)))
    values, vectors = np.linalg.eigh(np.where(none | none[:, None], 0.0, inner / scale / scale[:, None]))
    kept = values > max(float(values[-1]), 0.0) * len(values) * ROUNDING
    if kept.all():
        return np.eye(len(values))
    columns: np.ndarray = vectors[:, kept] / scale[:, None]
    return columns


def _solver() -> Any:
    try:
        import daqp
    except ImportError:
        raise missing_extra("daqp", "fit", "a kernel without negative weights") from None
    return daqp
