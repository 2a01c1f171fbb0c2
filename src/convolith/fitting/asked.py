"""What is asked of a kernel beside the data, checked: penalties, a basis, constraints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from convolith.errors import ConvolithError
from convolith.fitting.bases import basis_of
from convolith.fitting.restrict import check_constraints, needs_solver, space_of
from convolith.fitting.result import is_number
from convolith.fitting.solve import Penalty


@dataclass(frozen=True)
class Asked:
    """Options of `fit` that concern the kernel alone.

    Attributes:
        ridge: of the squared weights.
        smoothness: of the squared differences of weights beside one another, along every axis.
        basis: arrays, (count, *kernel_size), or the name of one.
        constraints: names of them, or one name.
    """

    ridge: float = 0.0
    smoothness: float = 0.0
    basis: Any = None
    constraints: Any = ()

    def __post_init__(self) -> None:
        for name in ("ridge", "smoothness"):
            value = getattr(self, name)
            if not is_number(value) or value < 0:
                raise ConvolithError(f"{name} is {value!r}; expected a finite number, 0 or more")
        check_constraints(self.constraints)

    @property
    def plain(self) -> bool:
        """Whether nothing but a ridge is asked."""
        return not self.smoothness and self.basis is None and not check_constraints(self.constraints)

    def coefficients(self, kernel: np.ndarray) -> np.ndarray | None:
        """Of the basis' kernels in a kernel that is made of them, (out_channels, in_channels, count)."""
        basis = basis_of(self.basis, kernel.shape[2:])
        if basis is None:
            return None
        flat = kernel.reshape(-1, basis[0].size).T
        found: np.ndarray = np.linalg.lstsq(basis.reshape(len(basis), -1).T, flat, rcond=None)[0]
        return found.T.reshape(*kernel.shape[:2], len(basis))

    def penalty(self, in_channels: int, kernel_size: tuple[int, ...]) -> Penalty:
        """The same in matrices.

        Raises:
            ConvolithError: a basis of another shape, constraints that no kernel of the basis meets.
        """
        names = check_constraints(self.constraints)
        taps = int(np.prod(kernel_size))
        matrix = self.ridge * np.eye(in_channels * taps)
        if self.smoothness:
            matrix += self.smoothness * np.kron(np.eye(in_channels), _roughness(kernel_size))
        space = space_of(in_channels, kernel_size, basis_of(self.basis, kernel_size), names)
        return Penalty(matrix, space, needs_solver(names))


def _roughness(kernel_size: tuple[int, ...]) -> np.ndarray:
    """(taps, taps): the sum of squared differences of neighbours."""
    taps = int(np.prod(kernel_size))
    found = np.zeros((taps, taps))
    numbers = np.arange(taps).reshape(kernel_size)
    for axis, k in enumerate(kernel_size):
        lower, upper = (numbers.take(range(*ends), axis).ravel() for ends in ((0, k - 1), (1, k)))
        differences = np.eye(taps)[upper] - np.eye(taps)[lower]
        found += differences.T @ differences
    return found
