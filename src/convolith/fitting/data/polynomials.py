"""Polynomials of position: the monomials up to a total degree, and their expansion at shifted positions.

Positions run from -1 to 1 across a frame along each axis. A monomial of a shifted position is a combination of those up
to its own degree, `phi_t(z + d) = sum over m of moved[t, m] phi_m(z)`: so a kernel that is modulated at the input
pixels equals one that is modulated at the output pixels, with other coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import comb

import numpy as np

Powers = tuple[tuple[int, ...], ...]
"""Exponents along each axis, of several monomials."""


def monomials(axes: int, degree: int) -> Powers:
    """Return the monomials up to a total degree, sorted by degree, then by descending powers of the first axes.

    Example:
        >>> monomials(2, 2)
        ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
    """
    candidates = [powers for powers in product(range(degree + 1), repeat=axes) if sum(powers) <= degree]
    return tuple(sorted(candidates, key=lambda powers: (sum(powers), [-power for power in powers])))


def positions(first: int, count: int, frame: int) -> np.ndarray:
    """Return the positions of pixels from `first` on, (count,): -1 is the first pixel of a frame and 1 the last."""
    half = (frame - 1) / 2
    return (np.arange(first, first + count) - half) / (half or 1.0)


def values(places: Sequence[np.ndarray], powers: Powers) -> np.ndarray:
    """Evaluate monomials at every point of a grid, (rows, monomials, *lengths).

    Args:
        places: positions along each axis, (rows, length).
        powers: exponents of the monomials.
    """
    rows = max(len(place) for place in places)
    result = np.ones((rows, len(powers), *(place.shape[1] for place in places)))
    for axis, place in enumerate(places):
        shape = [len(place), 1] + [1] * len(places)
        shape[2 + axis] = place.shape[1]
        column = place.reshape(shape)
        for m, exponents in enumerate(powers):
            if exponents[axis]:
                result[:, m : m + 1] *= column ** exponents[axis]
    return result


def moved(powers: Powers, into: Powers, steps: np.ndarray) -> np.ndarray:
    """Expand shifted monomials, (steps, powers, into): `phi_t(z + step) = sum over m of moved[step, t, m] phi_m(z)`.

    Args:
        powers: exponents of the shifted monomials.
        into: exponents of the monomials to expand in; complete up to the degree of any of `powers`.
        steps: shifts, (steps, axes).
    """
    result = np.ones((len(steps), len(powers), len(into)))
    for (t, ours), (m, theirs) in product(enumerate(powers), enumerate(into)):
        for axis, (e, f) in enumerate(zip(ours, theirs, strict=True)):
            result[:, t, m] *= comb(e, f) * (steps[:, axis] ** (e - f) if e >= f else 0.0)
    return result
