"""Options for the kernel of a fit, checked: penalties, a basis, constraints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convolith.errors import ConvolithError
from convolith.fitting.results import is_number
from convolith.fitting.solving.bases import basis_of
from convolith.fitting.solving.constraints import check_constraints, needs_solver, space_in_basis, space_of
from convolith.fitting.solving.least_squares import Penalty
from convolith.geometry import check_whole


@dataclass(frozen=True)
class KernelOptions:
    """Options of `fit` that concern the kernel alone.

    Attributes:
        ridge: penalty on the squared weights.
        smoothness: penalty on the squared differences of neighbouring weights, along every axis.
        basis: arrays, (count, *kernel_size), or the name of a basis.
        constraints: names of constraints, or one name.
        x_noise_variance: variance of white noise in x, one number or one for each input channel.
        constant: indices of the basis kernels whose coefficients do not vary with position.
    """

    ridge: float = 0.0
    smoothness: float = 0.0
    basis: Any = None
    constraints: Any = ()
    x_noise_variance: Any = 0.0
    constant: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("ridge", "smoothness"):
            value = getattr(self, name)
            if not is_number(value) or value < 0:
                remedy = '; "auto" is for `fit` with one constant kernel alone; pass a number' * (value == "auto")
                raise ConvolithError(f"{name} is {value!r}; expected a finite number, 0 or more{remedy}")
        check_constraints(self.constraints)
        try:
            noise = np.asarray(self.x_noise_variance)
        except ValueError:  # ragged
            noise = np.array("ragged")
        if noise.ndim > 1 or noise.dtype.kind not in "iuf" or not np.isfinite(noise).all() or (noise < 0).any():
            raise ConvolithError(
                f"x_noise_variance is {self.x_noise_variance!r}; expected a finite number, 0 or more, or one for each "
                "input channel"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the constraints."""
        return check_constraints(self.constraints)

    @property
    def plain(self) -> bool:
        """Whether no option but a ridge is set."""
        more = self.smoothness or self.basis is not None or np.any(self.x_noise_variance)
        return not more and not self.names

    def coefficients(self, kernel: np.ndarray) -> np.ndarray | None:
        """Return the coefficients of the basis kernels in a kernel, (out_channels, in_channels, count)."""
        basis = basis_of(self.basis, kernel.shape[2:])
        if basis is None:
            return None
        flat = kernel.reshape(-1, basis[0].size).T
        solution: np.ndarray = np.linalg.lstsq(basis.reshape(len(basis), -1).T, flat, rcond=None)[0]
        return solution.T.reshape(*kernel.shape[:2], len(basis))

    def _check_constant(self, basis: np.ndarray | None) -> None:
        if basis is None:
            raise ConvolithError(f"constant is {self.constant} without a basis, whose kernels it numbers; pass basis=")
        for number in self.constant:
            if check_whole("constant", number, 0) >= len(basis):
                raise ConvolithError(f"constant is {self.constant}; expected numbers below {len(basis)}, of the basis")

    def variances(self, in_channels: int) -> np.ndarray:
        """Return the noise variance of each channel of x, (in_channels,).

        Raises:
            ConvolithError: several variances, but not one for each channel.
        """
        values = np.broadcast_to(self.x_noise_variance, np.shape(self.x_noise_variance) or in_channels).astype(float)
        if len(values) != in_channels:
            raise ConvolithError(
                f"x_noise_variance has {len(values)} numbers; expected one, or one for each of {in_channels} channels"
            )
        return values

    def penalty(
        self, in_channels: int, kernel_size: tuple[int, ...], noise: np.ndarray | None, terms: int = 1
    ) -> Penalty:
        """Return the penalties and constraints as matrices.

        Args:
            in_channels, kernel_size: shape of the kernel.
            noise: contribution of noise in x to the normal matrix, or None.
            terms: number of monomials of position, each with weights of its own.

        Raises:
            ConvolithError: a basis of another shape, constraints that no kernel of the basis satisfies.
        """
        names = self.names
        planes, taps = terms * in_channels, int(np.prod(kernel_size))
        matrix = self.ridge * np.eye(planes * taps) if self.ridge or self.smoothness else None
        if matrix is not None and self.smoothness:
            matrix += self.smoothness * np.kron(np.eye(planes), _roughness(kernel_size))
        basis = basis_of(self.basis, kernel_size)
        if len(self.constant):
            self._check_constant(basis)
        model = space_of(in_channels, kernel_size, basis, (), terms, self.constant)
        space = space_of(in_channels, kernel_size, basis, names, terms, self.constant) if names else model
        return Penalty(matrix, noise, space, needs_solver(names), model)

    def penalty_in_basis(
        self, in_channels: int, kernel_size: tuple[int, ...], directions: np.ndarray, noise: np.ndarray | None
    ) -> Penalty:
        """Return penalties and constraints on the coefficients of orthonormal kernels, (taps, count), as matrices."""
        matrix = None
        if self.ridge or self.smoothness:
            kernels, count = directions.reshape(*kernel_size, -1), directions.shape[1]
            steps = [np.diff(kernels, axis=axis).reshape(-1, count) for axis in range(len(kernel_size))]
            roughness = self.ridge * np.eye(count) + self.smoothness * sum(step.T @ step for step in steps)
            matrix = np.kron(np.eye(in_channels), roughness)
        space = space_in_basis(in_channels, directions, self.names)
        weights = np.kron(np.eye(in_channels), directions)
        return Penalty(matrix, noise, space, needs_solver(self.names), weights=weights)


def whole_numbers(argument: str, value: Any) -> tuple[int, ...]:
    """Return one whole number or several as a tuple.

    Raises:
        ConvolithError: anything else.
    """
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, str | bytes) or not (is_number(value) or isinstance(value, Iterable)):
        raise ConvolithError(f"{argument} is {value!r}; expected whole numbers, 0 or more")
    return tuple(check_whole(argument, one, 0) for one in (value if isinstance(value, Iterable) else (value,)))


def _roughness(kernel_size: tuple[int, ...]) -> np.ndarray:
    """Return the matrix of the sum of squared differences of neighbouring taps, (taps, taps)."""
    taps = int(np.prod(kernel_size))
    matrix = np.zeros((taps, taps))
    numbers = np.arange(taps).reshape(kernel_size)
    for axis, k in enumerate(kernel_size):
        lower, upper = (numbers.take(range(*ends), axis).ravel() for ends in ((0, k - 1), (1, k)))
        differences = np.eye(taps)[upper] - np.eye(taps)[lower]
        matrix += differences.T @ differences
    return matrix
