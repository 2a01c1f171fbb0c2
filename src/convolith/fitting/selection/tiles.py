"""Tiles of the equations, with a state for each, for cross-validation and the jackknife."""

from __future__ import annotations

from itertools import pairwise, product
from math import ceil

import numpy as np

from convolith.errors import ConvolithError
from convolith.fitting.data.problem import Problem
from convolith.fitting.gram import Accumulator

TILES = 25
"""Approximate number of tiles; Student's t of 24 degrees of freedom is within 2% of normal at one deviation."""
LEAST = 8
"""Least number of tiles from which the spread can be estimated."""


def states_of_tiles(problem: Problem, gram: Accumulator, tiles: int = TILES) -> list[Accumulator]:
    """Return a state for each tile of y that has equations, all with the same shift; their sum is the whole.

    Args:
        problem: the equations.
        gram: an empty state of their geometry, or the state of these equations, whose shift is taken.
        tiles: approximate number of tiles.

    Raises:
        ConvolithError: too few pixels for tiles.
    """
    states = []
    for part in _parts(problem, tiles):
        if part.equations:
            state = gram.like()
            state.dtypes, state.size = problem.dtypes, problem.spec.size
            state.shift = gram.shift if gram.dtypes else problem.means()
            states.append(state.add(part))
    if len(states) < LEAST:
        raise ConvolithError(
            f"y falls into {len(states)} tiles with pixels that count; expected {LEAST} or more for "
            "cross-validation and the jackknife; give more data"
        )
    return states


def _parts(problem: Problem, tiles: int) -> list[Problem]:
    """Split the batch into groups of images and, if the images are few, each image along every axis."""
    images, *lengths = problem.weights.shape
    groups = min(images, tiles)
    each = ceil((tiles / groups) ** (1 / len(lengths)))
    cuts = [np.linspace(0, n, min(each, n) + 1).astype(int) for n in lengths]
    batches = np.linspace(0, images, groups + 1).astype(int)
    parts = []
    for batch in pairwise(batches):
        spans = product(*(pairwise(cut) for cut in cuts))
        parts += [problem.cut(slice(*batch), part) for part in spans]
    return parts
