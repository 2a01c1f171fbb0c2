"""Standard errors of a kernel for spatially correlated noise: one tile is omitted at a time.

The delete-a-group jackknife (Kuensch 1989; Shao and Wu 1989): with b_t the kernel without tile t, of T,
`stderr^2 = (T - 1) / T * sum over t of (b_t - mean of b)^2`. Its only assumption about the noise is that tiles are
larger than its correlation length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

from convolith.fitting.gram import Accumulator
from convolith.fitting.kernel_options import KernelOptions
from convolith.fitting.solving.least_squares import Penalty, least_squares

PenaltyOf = Callable[[Accumulator], Penalty]


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


def jackknife(
    total: Accumulator, tiles: Sequence[Accumulator], options: KernelOptions | PenaltyOf, used: int
) -> LeftOut:
    """Fit without each tile in turn, and return standard errors and prediction errors.

    Args:
        total: the state of all equations.
        tiles: states whose sum is the whole.
        options: penalties and constraints on the kernel, or a function that gives them as matrices for a state.
        used: number of known columns to fit: 1 for a constant.
    """
    coefficients, squares = [], 0.0
    for tile in tiles:
        rest = total.like().merge(total).subtract(tile)
        penalty = rest.penalty_of(options) if isinstance(options, KernelOptions) else options(rest)
        solution = least_squares(rest.system(used), penalty, warns=False)  # the fit of all tiles does
        coefficients.append(solution.coefficients)
        squares += tile.squares_left(coefficients[-1], rest.known_of(coefficients[-1], used))
    return LeftOut(np.stack(coefficients), sqrt(squares / (total.weight * total.out_channels)))
