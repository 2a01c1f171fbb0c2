"""How far a kernel may be off where the noise of neighbouring pixels is alike: tiles are left out in turn.

The delete-a-group jackknife (Kuensch 1989; Shao and Wu 1989): with b_t the kernel without tile t, of T,
`stderr^2 = (T - 1) / T * sum over t of (b_t - mean of b)^2`. It asks nothing of the noise but that tiles are larger
than it reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

from convolith.fitting.gram import Gram
from convolith.fitting.kernel_options import KernelOptions
from convolith.fitting.solving.least_squares import least_squares


class LeftOut(NamedTuple):
    """Standard errors, (windows, out_channels), and the rms of what kernels of all other tiles leave of each."""

    stderr: np.ndarray
    rms: float


def jackknife(total: Gram, tiles: Sequence[Gram], kernel_options: KernelOptions, used: int) -> LeftOut:
    """What leaving out a tile at a time tells.

    Args:
        total: the state of all equations.
        tiles: states that together are the whole.
        kernel_options: what else is asked of the kernel.
        used: how many known columns are sought too: 1 for a constant.
    """
    found, squares = [], 0.0
    for tile in tiles:
        rest = total.like().merge(total).subtract(tile)
        solution = least_squares(
            rest.system(used), rest.penalty_of(kernel_options), warns=False
        )  # the whole has warned
        found.append(solution.coefficients)
        squares += tile.squares_left(found[-1], rest.known_of(found[-1], used))
    spread = np.stack(found)
    errors = np.sqrt((len(found) - 1) / len(found) * ((spread - spread.mean(0)) ** 2).sum(0))
    return LeftOut(errors, sqrt(squares / (total.weight * total.out_channels)))
