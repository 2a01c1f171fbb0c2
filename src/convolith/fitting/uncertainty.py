"""How far a kernel may be off where the noise of neighbouring pixels is alike: tiles are left out in turn.

The delete-a-group jackknife (Kuensch 1989; Shao and Wu 1989): with b_t the kernel without tile t, of T,
`stderr^2 = (T - 1) / T * sum over t of (b_t - mean of b)^2`. It asks nothing of the noise but that tiles are larger
than it reaches.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from convolith.fitting.asked import Asked
from convolith.fitting.gram import Gram
from convolith.fitting.solve import least_squares


def jackknife(total: Gram, tiles: Sequence[Gram], asked: Asked, used: int) -> np.ndarray:
    """(windows, out_channels): standard errors.

    Args:
        total: the state of all equations.
        tiles: states that together are the whole.
        asked: what else is asked of the kernel.
        used: how many known columns are sought too: 1 for a constant.
    """
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the whole has said what the data do not determine
        for tile in tiles:
            rest = total.like().merge(total).subtract(tile)
            found.append(least_squares(rest.system(used), rest.penalty_of(asked)).coefficients)
    spread = np.stack(found)
    errors: np.ndarray = np.sqrt((len(found) - 1) / len(found) * ((spread - spread.mean(0)) ** 2).sum(0))
    return errors
