"""Polynomials of position: the monomials up to a total degree, and what they become where a position moves.

Positions run from -1 to 1 across a frame along each axis. A monomial of a moved position is a combination of those up
to its own degree, `phi_t(z + d) = sum over m of moved[t, m] phi_m(z)`: so a kernel that is modulated at the pixels that
it reads is one that is modulated at the pixels that it makes, with other coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import comb

import numpy as np

Powers = tuple[tuple[int, ...], ...]
"""Exponents along each axis, of several monomials."""


def monomials(axes: int, degree: int) -> Powers:
    """Those of a total degree up to one, lowest first, and of one degree those with more of the first axis first.

    Example:
        >>> monomials(2, 2)
        ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
    """
    found = [powers for powers in product(range(degree + 1), repeat=axes) if sum(powers) <= degree]
    return tuple(sorted(found, key=lambda powers: (sum(powers), [-power for power in powers])))


def positions(first: int, count: int, frame: int) -> np.ndarray:
    """(count,): of pixels from `first` on, where -1 is the first pixel of a frame and 1 its last one."""
    half = (frame - 1) / 2
    return (np.arange(first, first + count) - half) / (half or 1.0)


def values(places: Sequence[np.ndarray], powers: Powers) -> np.ndarray:
    """(rows, monomials, *lengths): at every place of a grid.

    Args:
        places: for each axis (rows, length).
        powers: exponents of the monomials.
    """
    rows = max(len(place) for place in places)
    found = np.ones((rows, len(powers), *(place.shape[1] for place in places)))
    for axis, place in enumerate(places):
        shape = [len(place), 1] + [1] * len(places)
        shape[2 + axis] = place.shape[1]
        column = place.reshape(shape)
        for m, exponents in enumerate(powers):
            if exponents[axis]:
                found[:, m : m + 1] *= column ** exponents[axis]
    return found


def moved(powers: Powers, into: Powers, steps: np.ndarray) -> np.ndarray:
    """(steps, powers, into): `phi_t(z + step) = sum over m of moved[step, t, m] phi_m(z)`.

    Args:
        powers: of the moved monomials.
        into: of those that they are made of; they hold all of a lower degree than any of `powers`.
        steps: (steps, axes).
    """
    found = np.ones((len(steps), len(powers), len(into)))
    for (t, ours), (m, theirs) in product(enumerate(powers), enumerate(into)):
        for axis, (e, f) in enumerate(zip(ours, theirs, strict=True)):
            found[:, t, m] *= comb(e, f) * (steps[:, axis] ** (e - f) if e >= f else 0.0)
    return found
