"""The equations cut into tiles, a state for each: what cross-validation and the jackknife leave out in turn."""

from __future__ import annotations

from itertools import pairwise, product
from math import ceil

import numpy as np

from convolith.errors import ConvolithError
from convolith.fitting.data.problem import Problem
from convolith.fitting.gram import Gram

TILES = 25
"""About as many; Student's t of 24 degrees of freedom is within 2% of normal at one deviation."""
LEAST = 8
"""Fewer tell nothing of the spread."""


def states_of_tiles(problem: Problem, gram: Gram) -> list[Gram]:
    """A state of each tile of y that has equations, all about the same shift; together they are the whole.

    Args:
        problem: the equations.
        gram: an empty state of their geometry, or their own, whose shift is taken.

    Raises:
        ConvolithError: too few pixels for tiles.
    """
    found = []
    for part in _parts(problem):
        if part.equations:
            state = gram.like()
            state.dtypes, state.size = problem.dtypes, problem.spec.size
            state.shift = gram.shift if gram.dtypes else problem.means()
            found.append(state.add(part))
    if len(found) < LEAST:
        raise ConvolithError(
            f"y falls into {len(found)} tiles with pixels that count; expected {LEAST} or more for "
            "cross-validation and the jackknife; give more data"
        )
    return found


def _parts(problem: Problem) -> list[Problem]:
    """Images by themselves if they are many, cut along every axis if they are few."""
    images, *lengths = problem.weights.shape
    groups = min(images, TILES)
    each = ceil((TILES / groups) ** (1 / len(lengths)))
    cuts = [np.linspace(0, n, min(each, n) + 1).astype(int) for n in lengths]
    batches = np.linspace(0, images, groups + 1).astype(int)
    found = []
    for batch in pairwise(batches):
        spans = product(*(pairwise(cut) for cut in cuts))
        found += [problem.cut(slice(*batch), part) for part in spans]
    return found
