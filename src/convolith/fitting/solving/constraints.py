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

from convolith.errors import ConvolithError, missing_extra, warn

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
ONLY_ZERO = (
    "the kernels of basis leave no kernel without negative weights, except zero; add kernels whose weights are 0 or "
    "more, or leave out the constraint"
)


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
        inner = rows @ self.directions
        outer, singular, right = np.linalg.svd(inner, full_matrices=len(inner) < inner.shape[1])
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
    if "sum-to-one" in names or "simplex" in names:
        sums = np.tile(directions.sum(0), in_channels)[None]
        space = space.where(sums, np.ones(1), float(np.sqrt(in_channels * taps)))
    return None if names in ((), ("nonnegative",)) else space


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


def check_combinations(kernels: np.ndarray) -> None:
    """Warn if no combination of kernels, (taps, count), is positive wherever one of them is not zero.

    Some of the kernels can then have no share in a kernel without negative weights, whatever the data.

    Raises:
        ConvolithError: zero is the only combination without negative weights.
    """
    lengths = np.linalg.norm(kernels, axis=1)
    kept = lengths > ROUNDING * lengths.max()
    rows, unit = kernels[kept] / lengths[kept, None], np.eye(kernels.shape[1])
    if _minimised(unit, np.zeros(len(unit)), rows, np.ones(len(rows)))[1]:
        return
    nearest, _ = _minimised(unit, rows.mean(0), rows, np.zeros(len(rows)))  # allowed, to the direction of largest sums
    if np.linalg.norm(nearest) <= ACTIVE:
        raise ConvolithError(ONLY_ZERO)
    warn(
        "every combination of the kernels of basis has weights below or at zero where some kernel is not zero: without "
        "negative weights, some kernels of basis can take no part in the fit; pass kernels whose weights are 0 or more"
    )


def without_negatives(normal: np.ndarray, cross: np.ndarray, space: Space | None, weights: np.ndarray | None) -> Space:
    """Restrict a space to the kernels that are zero where the best nonnegative kernel is zero.

    The problem is scaled to numbers near one first, in the objective and in every inequality: the solver's tolerances
    are absolute. Directions that the data do not determine get a tiny penalty, and are left out of the result, which
    begins at the solver's solution.

    Args:
        normal: (n, n), matrix of the objective `b' normal b - 2 cross' b` of the best kernel.
        cross: (n,), vector of the objective.
        space: space of kernels that the equations allow, or None.
        weights: (taps, n), whose product with b is the kernel; None if b is the kernel itself.

    Raises:
        ConvolithError: a space without a nonnegative kernel.
    """
    n = len(cross)
    if space is None:
        space = Space(np.zeros(n), np.eye(n))
    D = space.directions
    whole = space.start if weights is None else weights @ space.start
    lowest = -ACTIVE * float(np.abs(whole).max())
    if not D.shape[1]:
        if (whole < lowest).any():
            raise ConvolithError(IMPOSSIBLE)
        return Space(np.maximum(whole, 0.0), D) if weights is None else space
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
    rows = (D if weights is None else weights @ D) / scale
    norms = np.linalg.norm(rows, axis=1)
    counted = norms > ROUNDING * norms.max()
    if (whole[~counted] < lowest).any():
        raise ConvolithError(IMPOSSIBLE)
    rows, norms = rows[counted], norms[counted]
    bounds = -whole[counted] / norms
    size = max(float(np.abs(slope).max()), float(np.abs(bounds).max())) or 1.0
    steps, possible = _minimised(scaled, slope / size, rows / norms[:, None], bounds / size)
    if not possible:
        raise ConvolithError(IMPOSSIBLE)
    distances = size * (rows @ steps / norms) - bounds  # to zero, in coordinates of the solver
    held = ~counted & (whole <= -lowest)
    held[counted] = distances <= max(ACTIVE * float(np.abs(distances).max()), TOLERANCE * size)
    return _at_zero(normal, space, weights, held, space.start + D @ (size * steps / scale))


def _at_zero(normal: np.ndarray, space: Space, weights: np.ndarray | None, held: np.ndarray, best: np.ndarray) -> Space:
    """Return the determined directions of a space in which the held weights are zero, beginning at the best kernel."""
    every = np.eye(len(best)) if weights is None else weights
    lengths = np.linalg.norm(space.directions if weights is None else weights @ space.directions, axis=1)
    can_vary = held & (lengths > ROUNDING * lengths.max())
    equations = every[can_vary] / lengths[can_vary, None]
    restricted = space.where(equations, np.zeros(len(equations)), 1.0)
    R = restricted.directions
    start = restricted.start + R @ (R.T @ (best - restricted.start))
    if weights is None:  # fixed weights become exactly zero
        start, R = np.maximum(start, 0.0) * ~held, R * ~held[:, None]
    return Space(start, R @ _determined(*projected(normal, R)) if R.shape[1] else R)


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


def _minimised(normal: np.ndarray, slope: np.ndarray, rows: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, bool]:
    """Minimise `t' normal t / 2 - slope' t` where `rows @ t >= bounds`; return t, and whether there is such a t."""
    solution, _, status, _ = _solver().solve(
        np.ascontiguousarray(normal),
        np.ascontiguousarray(-slope),
        np.ascontiguousarray(rows),
        np.full(len(rows), 1e30),
        np.ascontiguousarray(bounds),
        np.zeros(len(rows), dtype=np.int32),
        primal_tol=TOLERANCE,
        dual_tol=TOLERANCE,
    )
    return solution, status > 0


def _solver() -> Any:
    try:
        import daqp
    except ImportError:
        raise missing_extra("daqp", "fit", "a kernel without negative weights") from None
    return daqp
