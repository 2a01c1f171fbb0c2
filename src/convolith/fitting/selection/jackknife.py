"""Standard errors of a kernel for spatially correlated noise: one tile is omitted at a time.

The delete-a-group jackknife (Kuensch 1989; Shao and Wu 1989): with b_t the kernel without tile t, of T,
`stderr^2 = (T - 1) / T * sum over t of (b_t - mean of b)^2`. Its only assumption about the noise is that tiles are
larger than its correlation length.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

from convolith.fitting.gram import Accumulator
from convolith.fitting.kernel_options import KernelOptions
from convolith.fitting.solving.least_squares import least_squares


class LeftOut(NamedTuple):
    """Kernels without each tile in turn, (tiles, windows, out_channels), and the rms error of predicting the tile."""

    kernels: np.ndarray
    rms: float

    @property
    def stderr(self) -> np.ndarray:
        """Standard errors of the weights, (windows, out_channels)."""
        return self._spread(self.kernels)

    def stderr_of(self, sums: np.ndarray) -> np.ndarray:
        """Return standard errors of linear combinations of weights, (combinations, out_channels).

        Args:
            sums: (windows, combinations), the factors.
        """
        return self._spread(np.einsum("two,wc->tco", self.kernels, sums))

    @staticmethod
    def _spread(values: np.ndarray) -> np.ndarray:
        spread: np.ndarray = np.sqrt((len(values) - 1) / len(values) * ((values - values.mean(0)) ** 2).sum(0))
        return spread


def jackknife(total: Accumulator, tiles: Sequence[Accumulator], kernel_options: KernelOptions, used: int) -> LeftOut:
    """Fit without each tile in turn, and return standard errors and prediction errors.

    Args:
        total: the state of all equations.
        tiles: states whose sum is the whole.
        kernel_options: penalties and constraints on the kernel.
        used: number of known columns to fit: 1 for a constant.
    """
    coefficients, squares = [], 0.0
    for tile in tiles:
        rest = total.like().merge(total).subtract(tile)
        solution = least_squares(
            rest.system(used), rest.penalty_of(kernel_options), warns=False
        )  # the fit of all tiles does
        coefficients.append(solution.coefficients)
        squares += tile.squares_left(coefficients[-1], rest.known_of(coefficients[-1], used))
    return LeftOut(np.stack(coefficients), sqrt(squares / (total.weight * total.out_channels)))
