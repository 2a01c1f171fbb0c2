"""What a kernel may be, as equations and inequalities on its weights: bases, symmetry, a sum, no negative weights.

A kernel that is a combination of others, `b = M t`, one that is its own mirror image, one whose weights add up to one:
all lie in a flat space `b0 + M t`, and the least-squares problem on t is as small or smaller. Where weights may not be
negative, those that are zero in the best kernel are found by a dual active-set method (Arnstroem, Bemporad and Axehill
2022, the daqp library), and are then held there, which is one more equation each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from convolith.errors import ConvolithError, missing_extra

CONSTRAINTS = ("symmetric", "sum-to-one", "nonnegative", "simplex")
"""Names that `constraints` takes; a simplex is both of those before it."""
ACTIVE = 1e-9
"""Of the largest weight: what a weight that is held at zero may come out as."""
DEPENDENT = 1e-12
"""Of the largest, what a singular value of equations may be that says nothing new, in columns of one length."""
TOLERANCE = 1e-12
"""Of the solver, in columns of one length."""


class Space(NamedTuple):
    """Kernels `start + directions @ t`: (n,) and (n, free)."""

    start: np.ndarray
    directions: np.ndarray

    def where(self, rows: np.ndarray, values: np.ndarray) -> Space:
        """Those of them for which `rows @ b = values`.

        Raises:
            ConvolithError: if there are none.
        """
        if not len(rows) or not self.directions.shape[1]:
            return self
        left = values - rows @ self.start
        outer, singular, right = np.linalg.svd(rows @ self.directions)
        rank = int((singular > DEPENDENT * np.linalg.norm(rows, 2)).sum())
        step = right[:rank].T @ ((outer[:, :rank].T @ left) / singular[:rank])
        missed = np.abs(rows @ self.directions @ step - left).max()
        if missed > TOLERANCE * max(1.0, float(np.abs(left).max())):
            raise ConvolithError("basis and constraints leave no kernel; take other basis kernels or fewer constraints")
        return Space(self.start + self.directions @ step, self.directions @ right[rank:].T)


def _spanned(columns: np.ndarray) -> np.ndarray:
    """(rows, rank): an orthonormal basis of what columns span."""
    if not columns.size:
        return columns
    left, singular, _ = np.linalg.svd(columns / np.linalg.norm(columns, axis=0), full_matrices=False)
    spanned: np.ndarray = left[:, singular > singular[0] * max(columns.shape) * np.finfo(float).eps]
    return spanned


def check_constraints(constraints: Any) -> tuple[str, ...]:
    """The names, each of them known.

    Raises:
        ConvolithError: another name.
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
    """Whether weights may not be negative."""
    return "nonnegative" in names or "simplex" in names


def space_of(
    in_channels: int,
    kernel_size: tuple[int, ...],
    basis: np.ndarray | None,
    names: Sequence[str],
    terms: int = 1,
    constant: Sequence[int] = (),
) -> Space | None:
    """The kernels of one output channel that equations allow; None where all are allowed.

    Args:
        in_channels, kernel_size: of the kernel.
        basis: (count, *kernel_size), the same for every input channel, or None.
        names: constraints.
        terms: monomials of position, the constant first; for each there are weights, and the kernel is their sum.
        constant: which of the basis' kernels are in that of the first term alone.
    """
    taps = int(np.prod(kernel_size))
    planes = terms * in_channels
    n = planes * taps
    adds_up = "sum-to-one" in names or "simplex" in names
    if basis is None and "symmetric" not in names and not adds_up:
        return None
    found = Space(np.zeros(n), _columns(in_channels, taps, basis, terms, constant))
    if "symmetric" in names:
        mirrored = np.arange(n).reshape(planes, taps)[:, ::-1].ravel()
        differences = np.eye(n) - np.eye(n)[mirrored]
        half = np.arange(n) < mirrored
        found = found.where(differences[half], np.zeros(int(half.sum())))
    if adds_up:  # everywhere: what varies adds up to zero
        sums = np.kron(np.eye(terms), np.ones((1, in_channels * taps)))
        found = found.where(sums, np.eye(terms)[0])
    return found


def _columns(in_channels: int, taps: int, basis: np.ndarray | None, terms: int, constant: Sequence[int]) -> np.ndarray:
    """(terms * in_channels * taps, free): an orthonormal basis of the weights."""
    if basis is None:
        return np.eye(terms * in_channels * taps)
    flat = basis.reshape(len(basis), taps)
    varying = np.delete(flat, list(constant), 0)
    first = np.kron(np.eye(in_channels), _spanned(flat.T))
    others = np.kron(np.eye((terms - 1) * in_channels), _spanned(varying.T))
    found = np.zeros((terms * in_channels * taps, first.shape[1] + others.shape[1]))
    found[: len(first), : first.shape[1]] = first
    found[len(first) :, first.shape[1] :] = others
    return found


def without_negatives(normal: np.ndarray, cross: np.ndarray, space: Space | None) -> Space:
    """The kernels of a space that are zero where the best one without negative weights is.

    Args:
        normal: (n, n), of which the best one minimises `b' normal b - 2 cross' b`.
        cross: (n,).
        space: what equations allow, or None.

    Raises:
        ConvolithError: a space without such a kernel.
    """
    n = len(cross)
    if space is None:
        space = Space(np.zeros(n), np.eye(n))
    inner = space.directions.T @ normal @ space.directions
    slope = space.directions.T @ (cross - normal @ space.start)
    scale = 1 / np.sqrt(np.maximum(np.diag(inner), np.finfo(float).tiny))
    steps, _, status, _ = _solver().solve(
        np.ascontiguousarray(inner * scale * scale[:, None]),
        np.ascontiguousarray(-slope * scale),
        np.ascontiguousarray(space.directions * scale),
        np.full(n, 1e30),
        np.ascontiguousarray(-space.start),
        np.zeros(n, dtype=np.int32),
        primal_tol=TOLERANCE,
        dual_tol=TOLERANCE,
    )
    if status < 1:
        raise ConvolithError("basis and constraints leave no kernel without negative weights; take others, or fewer")
    weights = space.start + space.directions @ (scale * steps)
    held = weights <= ACTIVE * np.abs(weights).max()
    found = space.where(np.eye(n)[held], np.zeros(int(held.sum())))
    free = ~held  # without the rounding of what is zero
    return Space(found.start * free, found.directions * free[:, None])


def _solver() -> Any:
    try:
        import daqp
    except ImportError:
        raise missing_extra("daqp", "fit", "a kernel without negative weights") from None
    return daqp
