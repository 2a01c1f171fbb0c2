"""Sums of windows times polynomials of position, by thin matrix products: one axis after another.

`sum over p of X[p + u] prod over axes of z[p]^e` is, along each axis, a product with a band matrix: the powers of the
positions, once for each tap u, shifted by u.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from convolith.fitting.data.polynomials import Powers


def power_sums(
    planes: torch.Tensor, places: Sequence[torch.Tensor], taps: Sequence[int], powers: Powers
) -> torch.Tensor:
    """Sum `planes[p + u]` times each monomial at p over images and positions p, (channels, *taps, monomials).

    Args:
        planes: (N, channels, *size), float64.
        places: positions of p, for each axis (N, size - tap + 1), or (1, ...) if equal for all images.
        taps: number of taps of a window along each axis.
        powers: exponents of the monomials.
    """
    if len(planes) > 1 and all(len(place) == 1 for place in places):
        planes = planes.sum(0, keepdim=True)
    degrees = [max(exponents[axis] for exponents in powers) for axis in range(len(taps))]
    for place, k, degree in zip(places, taps, degrees, strict=True):
        band = _band(place, k, degree)
        planes = planes.movedim(2, -1) @ band.view(len(band), *(1,) * (planes.ndim - 3), *band.shape[1:])
        planes = planes.view(*planes.shape[:-1], k, degree + 1).movedim(-1, 1).flatten(1, 2)
    summed = planes.sum(0)
    summed = summed.view(*(degree + 1 for degree in reversed(degrees)), -1, *taps)
    chosen = [summed[tuple(reversed(exponents))] for exponents in powers]
    return torch.stack(chosen, -1)


def _band(place: torch.Tensor, k: int, degree: int) -> torch.Tensor:
    """Return (rows, length + k - 1, k * (degree + 1)): at [q, u, e] position q - u to the power of e, 0 outside."""
    rows, length = place.shape
    raised = torch.stack([place**power for power in range(degree + 1)], -1)
    band = place.new_zeros((rows, length + k - 1, k, degree + 1))
    for u in range(k):
        band[:, u : u + length, u] = raised
    return band.flatten(2)


def pixel_sums(planes: torch.Tensor, places: Sequence[np.ndarray], powers: Powers) -> np.ndarray:
    """Sum pixels times monomials of their positions, (channels, monomials)."""
    grids = [torch.from_numpy(place) for place in places]
    sums: np.ndarray = power_sums(planes, grids, (1,) * len(grids), powers).flatten(1, -2).squeeze(1).numpy()
    return sums
