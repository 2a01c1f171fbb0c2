"""The kernel from the sums of a fit: the choice of its size and ridge, the solution, its refinement on the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from convolith.big.fitting.checkpoint import Reached
from convolith.big.fitting.jobs import Sums
from convolith.errors import ConvolithError, warn
from convolith.fitting.data.problem import Problem
from convolith.fitting.gram import Gram
from convolith.fitting.kernel_options import KernelOptions
from convolith.fitting.moments.moments import gradient
from convolith.fitting.refinement import residual_of
from convolith.fitting.results import Candidate, Fit
from convolith.fitting.selection.cross_validation import RIDGES, candidates, chosen, constant_x
from convolith.fitting.selection.jackknife import LeftOut
from convolith.fitting.selection.tiles import LEAST
from convolith.fitting.solving.least_squares import Penalty, Solution, least_squares
from convolith.fitting.solving.normal_equations import solved

EPS = float(np.finfo(float).eps)


class Choice(NamedTuple):
    """Kernel size and ridge, with the error of predicting each fold by the kernel of the others, if they were chosen.

    Attributes:
        kernel_size, ridge: those that are fitted.
        selection: every size and ridge that was compared.
        held_out: root mean square error of the chosen ones.
    """

    kernel_size: tuple[int, ...]
    ridge: float
    selection: tuple[Candidate, ...] = ()
    held_out: float | None = None


def check_folds(folds: Sequence[Gram]) -> None:
    """Refuse too few folds for cross-validation and the jackknife."""
    if len(folds) < LEAST:
        raise ConvolithError(
            f"y falls into {len(folds)} folds with pixels that count; expected {LEAST} or more for cross-validation "
            "and the jackknife; give more data or a larger folds="
        )


def choose(
    total: Gram,
    folds: Sequence[Gram],
    sizes: Sequence[tuple[int, ...]] | None,
    ridge: float | None,
    tolerance: float,
    *,
    offset: bool,
) -> Choice:
    """Choose the kernel size and the ridge, each if it is not given.

    Args:
        total: the state of all equations, for the largest size.
        folds: states of the folds, with the same shift.
        sizes: sizes to choose from, in ascending order, or None for the size of the states.
        ridge: the ridge, or None to choose one.
        tolerance: share of what size explains that may be given up for a smaller kernel.
        offset: whether a constant is fitted too; one is always fitted in the comparison of sizes.
    """
    if sizes is None:
        if ridge is not None:
            return Choice(total.kernel_size, ridge)
        compared = candidates(total, folds, [total.kernel_size], RIDGES, offset=offset)
        best = chosen(compared)
        return Choice(total.kernel_size, best.ridge, tuple(compared), best.rms)
    if not total.unit > 0:
        raise constant_x()
    shares = RIDGES if ridge is None else [ridge / total.unit]
    compared = candidates(total, folds, sizes, shares, offset=True)
    least = min(one.rms for one in compared) ** 2
    allowed = tolerance * (min(one.rms for one in compared if one.kernel_size == sizes[0]) ** 2 - least)
    best = chosen(compared, allowed)
    if best.kernel_size == sizes[-1] and len(sizes) > 1:
        warn(
            f"the chosen kernel_size {best.kernel_size} is the largest that was tried: errors fall up to it; pass a "
            "larger max_size, or see Fit.selection"
        )
    share = [best.ridge / total.unit]
    for axis in range(len(sizes[0])):
        k = best.kernel_size
        shorter = [(*k[:axis], n, *k[axis + 1 :]) for n in range(1, k[axis] + 1, 2)]
        best = chosen(candidates(total, folds, shorter, share, offset=True), allowed)
    return Choice(best.kernel_size, best.ridge, tuple(compared), best.rms)


@dataclass(frozen=True)
class Solver:
    """Solution of the normal equations, which is refined on the data.

    Attributes:
        total: the state of all equations.
        solution: their solution.
        penalty: penalties and constraints.
        used: number of known columns to fit: 1 for a constant.
    """

    total: Gram
    solution: Solution
    penalty: Penalty
    used: int

    @classmethod
    def of(cls, total: Gram, options: KernelOptions, used: int) -> Solver:
        """Solve the normal equations."""
        penalty = total.penalty_of(options)
        return cls(total, least_squares(total.system(used), penalty), penalty, used)

    @property
    def coefficients(self) -> np.ndarray:
        """Coefficients before any refinement, (unknowns, out_channels)."""
        own = self.solution.coefficients
        return np.concatenate([own, self.total.known_of(own, self.used)])

    def parts(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the kernel, (out_channels, in_channels, *kernel_size), and the coefficients of the known columns."""
        n = self.total.windows
        kernel: np.ndarray = self.total.kernel_of(coefficients[:n])[0]
        return kernel, coefficients[n:]

    def accuracy(self, passes: int) -> float:
        """Return the error of the kernel by rounding, relative to it, after a number of passes over the data."""
        condition = self.solution.condition
        if passes == 1:
            return condition * EPS
        return max((condition * EPS) ** passes, sqrt(condition) * EPS)

    def sums(self, coefficients: np.ndarray) -> Slopes:
        """Return the sums of a pass that refines coefficients."""
        return Slopes(self.total.geometry, coefficients)

    def corrected(self, reached: Reached) -> tuple[np.ndarray, float]:
        """Return coefficients after a step of refinement, and their squared residuals.

        The step is not taken if it does not lower the objective.
        """
        before, slope = reached.coefficients, reached.slope
        assert before is not None  # noqa: S101 - of a pass that is complete
        assert slope is not None  # noqa: S101
        n, used = self.total.windows, self.used
        sums = self.total.known_sums()[:used, : n + used]
        mixed, own = sums[:, :n].T, sums[:, n:]
        change = self.solution.change(slope[:n] - self.penalty.of(before[:n]) - mixed @ solved(own, slope[n:]))
        change = np.concatenate([change, solved(own, slope[n:] - mixed.T @ change)])
        normal = self.total.moments[: n + used, : n + used]
        gain = float((change * (2 * slope - normal @ change)).sum())
        penalty = float((change[:n] * (2 * self.penalty.of(before[:n]) + self.penalty.of(change[:n]))).sum())
        if not gain >= penalty:
            return before, reached.squares
        return before + change, max(reached.squares - gain, 0.0)


class Slopes(Sums):
    """Gradient of the squared residuals, and the squared residuals.

    Args:
        geometry: arguments of an empty `Gram`.
        coefficients: coefficients of the pass before.
    """

    def __init__(self, geometry: Mapping[str, Any], coefficients: np.ndarray) -> None:
        self.geometry, self.coefficients = dict(geometry), coefficients

    def of(self, problem: Problem) -> tuple[np.ndarray, float]:
        """Return the gradient and the squared residuals of a block."""
        total = Gram(**self.geometry)
        small = narrowed(problem, total.kernel_size)
        if not small.equations:
            return np.zeros_like(self.coefficients), 0.0
        residual = residual_of(small, total, self.coefficients)
        return gradient(small, residual), float((small.weights[:, None] * residual**2).sum())

    def added(self, first: tuple[np.ndarray, float], second: tuple[np.ndarray, float]) -> tuple[np.ndarray, float]:
        """Return the sums of both."""
        return first[0] + second[0], first[1] + second[1]


def merged_slope(reached: Reached, _: int, part: tuple[np.ndarray, float]) -> Mapping[str, Any]:
    """Return the gradient and the squared residuals with those of a group added."""
    slope, squares = part
    return {"slope": slope if reached.slope is None else reached.slope + slope, "squares": reached.squares + squares}


def narrowed(problem: Problem, kernel_size: tuple[int, ...]) -> Problem:
    """Return the same equations for a smaller kernel in the middle of the window."""
    spec = problem.spec
    if spec.kernel_size == kernel_size:
        return problem
    cuts: list[slice] = []
    for large, small, d, s, n in zip(
        spec.kernel_size, kernel_size, spec.dilation, spec.stride, problem.y.shape[2:], strict=True
    ):
        before = (large - small) // 2 * d
        cuts.append(slice(before, before + (n - 1) * s + d * (small - 1) + 1))
    padded = np.ascontiguousarray(problem.padded[(slice(None), slice(None), *cuts)])
    places = tuple(place[:, cut] for place, cut in zip(problem.places, cuts, strict=True))
    return replace(
        problem, spec=replace(spec, kernel_size=kernel_size, size=padded.shape[2:]), padded=padded, places=places
    )


def explained(total: Gram, squares: float) -> float:
    """Return the share of the variance of y that the fit explains."""
    n = total.windows
    sums, own = total.matrix[n, n + 1 :], np.diag(total.matrix)[n + 1 :]
    variance = float((own - sums**2 / total.weight).sum())
    return 1 - squares / variance if variance > 0 else float("nan")


def result(
    solver: Solver,
    coefficients: np.ndarray,
    squares: float,
    left_out: LeftOut | None,
    options: KernelOptions,
    choice: Choice,
    *,
    dtype: str,
    flip: bool,
) -> Fit:
    """Return the fit.

    Args:
        solver: the solution.
        coefficients, squares: those of the last pass.
        left_out: kernels without each fold, for errors by the jackknife, or None.
        options: options of the kernel.
        choice: its size and ridge.
        dtype: dtype of the kernel.
        flip: whether it is that for `convolve`.
    """
    total, n = solver.total, solver.total.windows
    accurate = left_out or solver.solution
    kernel, stderr = (total.kernel_of(rows)[0] for rows in (coefficients[:n], accurate.stderr))
    own = options.coefficients(kernel)
    if flip:
        axes = tuple(range(2, kernel.ndim))
        kernel, stderr = np.flip(kernel, axes).copy(), np.flip(stderr, axes).copy()
    return Fit(
        kernel=kernel.astype(dtype, copy=False),
        offset=coefficients[-1].astype(dtype) if solver.used else None,
        residual_rms=sqrt(squares / (total.weight * total.out_channels)),
        loss=(squares + solver.penalty.paid(coefficients[:n]),),
        stderr=stderr,
        condition=solver.solution.condition,
        method="lstsq",
        learning_rate=None,
        spec=total.spec_of(total.size),
        coefficients=own,
        selection=choice.selection,
        held_out_rms=choice.held_out if left_out is None else left_out.rms,
        flip=flip,
        explained=explained(total, squares),
        sum_stderr=accurate.stderr_of(total.sums_of_channels()).T.copy(),
    )
