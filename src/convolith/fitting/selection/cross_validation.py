"""Kernel size and ridge by cross-validation: each tile is predicted by the kernel of all the others.

With the taps sorted from the centre outwards, the normal matrix of a smaller kernel is a leading block of that of a
larger one; so one Cholesky factor for each omitted tile and each ridge gives the kernels of every size.

The chosen size is the smallest whose error exceeds the least by no more than the standard error of the difference, over
tiles (Breiman et al. 1984), or by no more than a share of what size explains: the least error less that of size 1. The
share keeps models that are a little wrong (a vignette, a gamma curve, a rotation) from gaining more by ever larger
kernels; for the same reason a constant is always fitted in the comparison. Then each axis is shortened by the same
rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.errors import ConvolithError, warn
from convolith.fitting.data.problem import no_pixels, read
from convolith.fitting.data.shapes import spatial_axes
from convolith.fitting.gram import Accumulator, Gram
from convolith.fitting.results import Candidate, is_number
from convolith.fitting.selection.tiles import states_of_tiles
from convolith.geometry import per_axis

TILES = 16
"""Approximate number of tiles from which a size is chosen."""
TOLERANCE = 3e-4
"""Share of what size explains that may be given up for a smaller size."""
ROUNDING = 1e-12
"""Share of the mean square of y below which a difference of mean squared errors is the rounding of sums of products."""
RIDGES = (0.0, *(10.0**power for power in range(-9, 1)))
"""Ridges to choose from, relative to the mean square of a column."""
JITTER = 1e-13
"""Least ridge, relative to the mean square of a column, so that the Cholesky factor exists for rank-deficient data."""


class Chosen(NamedTuple):
    """Chosen kernel size and ridge, and the candidates of equal size along all axes."""

    kernel_size: tuple[int, ...]
    ridge: float
    rms: float
    selection: tuple[Candidate, ...]


def check_auto(geometry: Mapping[str, Any]) -> None:
    """Refuse a stride or a padding with which no kernel size can be chosen."""
    padding = geometry["padding"]
    if np.any(np.asarray(geometry["stride"]) != 1) or not (isinstance(padding, str) and padding in ("valid", "same")):
        raise ConvolithError(
            'kernel_size="auto" goes with stride 1, and padding "valid" or "same" alone; pass these, or a number'
        )


def constant_x() -> ConvolithError:
    """Return the error for an x of one value, with which every kernel size explains y as well."""
    return ConvolithError(
        "x is the same in all pixels that count, so that it tells nothing about a kernel's size; pass a number as "
        "kernel_size"
    )


def choose_size(
    x: Any,
    y: Any,
    max_size: int | None,
    tolerance: float,
    ridges: Sequence[float],
    data: dict[str, Any],
    geometry: dict[str, Any],
) -> Chosen:
    """Choose the kernel size for an x and a y of equal size.

    Args:
        x, y: as for `fit`.
        max_size: largest size to consider.
        tolerance: share of what size explains that may be given up.
        ridges: multiples of the mean square of a column, or a single absolute ridge.
        data: options of pixels, offset and origin.
        geometry: stride, padding, dilation and padding mode.

    Raises:
        ConvolithError: sizes that differ, a stride, another padding, an invalid tolerance.
    """
    if not is_number(tolerance) or not 0 <= tolerance < 1:
        raise ConvolithError(f"size_tolerance is {tolerance!r}; expected 0 or more and less than 1")
    shapes = {name: tuple(np.shape(array)) for name, array in (("x", x), ("y", y))}
    axes = spatial_axes("auto", shapes["x"])
    per_axis("stride", geometry["stride"], axes, 1)
    check_auto(geometry)
    size = shapes["x"][-axes:]
    if shapes["y"][-axes:] != size:
        raise ConvolithError(
            f'y has shape {shapes["y"]} but x {shapes["x"]}; kernel_size="auto" expects both of one size; pass a number'
        )
    steps = per_axis("dilation", geometry["dilation"], axes, 1)
    sizes = odd_sizes([(n - 1) // d + 1 for n, d in zip(size, steps, strict=True)], max_size)
    problem = read(x, y, kernel_size=sizes[-1], **data, **geometry)
    if not problem.equations:
        raise no_pixels()
    gram = Gram(sizes[-1], problem.spec.in_channels, problem.spec.out_channels, **geometry)
    tiles = states_of_tiles(problem, gram, TILES)
    for tile in tiles:
        gram.merge(tile)
    if not gram.unit > 0:
        raise constant_x()
    shares = list(ridges) if len(ridges) > 1 else [ridges[0] / gram.unit]
    compared = candidates(gram, tiles, sizes, shares, offset=True)
    least = min(one.rms for one in compared) ** 2
    explained = min(one.rms for one in compared if one.kernel_size == sizes[0]) ** 2 - least
    squares = float(np.diag(gram.matrix)[-gram.out_channels :].sum()) / (gram.weight * gram.out_channels)
    allowed = max(tolerance * explained, ROUNDING * squares)
    best = chosen(compared, allowed)
    kept = [best.ridge / gram.unit]
    for axis in range(axes):
        k = best.kernel_size
        shorter = [(*k[:axis], n, *k[axis + 1 :]) for n in range(1, k[axis] + 1, 2)]
        best = chosen(candidates(gram, tiles, shorter, kept, offset=True), allowed)
    if max(best.kernel_size) == max(sizes[-1]) and len(sizes) > 1:
        warn(
            f"the chosen kernel_size {best.kernel_size} reaches the largest that was tried, {max(sizes[-1])}: errors "
            "fall up to it; pass a larger max_size, or see Fit.selection"
        )
    return Chosen(best.kernel_size, best.ridge, best.rms, tuple(compared))


def candidates(
    total: Accumulator,
    tiles: Sequence[Accumulator],
    sizes: Sequence[tuple[int, ...]],
    ridges: Sequence[float],
    *,
    offset: bool,
) -> list[Candidate]:
    """Compare every size with every ridge, sizes from the smallest on.

    Args:
        total: the state of all equations, for the largest size.
        tiles: states whose sum is the whole, with the same shift.
        sizes: sizes in ascending order, each centred in the next.
        ridges: multiples of the mean square of a column of x.
        offset: whether a constant is fitted too.
    """
    order, counts = _rings(total, sizes)
    base = np.zeros_like(total.shift)
    at = np.concatenate([order, np.arange(total.windows, len(total.matrix))])

    def sorted_sums(state: Accumulator) -> np.ndarray:
        sums: np.ndarray = (state.matrix if offset else state.about(base))[np.ix_(at, at)]
        return sums

    whole = sorted_sums(total)
    errors = np.stack([_errors(whole, sorted_sums(tile), counts, ridges, offset=offset) for tile in tiles], -1)
    weights = np.array([tile.weight for tile in tiles]) * total.out_channels
    return _compared(total, sizes, ridges, errors, weights)


def chosen(found: Sequence[Candidate], allowed: float = 0.0) -> Candidate:
    """Return the best ridge of the smallest size whose error is not significantly, or not much, above the least.

    Args:
        found: candidates.
        allowed: excess of the mean squared error that is not much.
    """
    best = min(found, key=lambda one: one.rms)
    comparable = [one for one in found if one.excess_mse <= max(one.excess_mse_stderr, allowed)]
    least = min((one.kernel_size for one in comparable), key=np.prod, default=best.kernel_size)
    return min((one for one in found if one.kernel_size == least), key=lambda one: one.rms)


def _rings(total: Accumulator, sizes: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, list[int]]:
    """Return the taps, those of the smallest size first, and the number of taps of each size."""
    indices = np.arange(total.windows).reshape(total.in_channels, *total.kernel_size)
    order: list[int] = []
    counts = []
    for size in sizes:
        index = [slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(total.kernel_size, size, strict=True)]
        inner = indices[(slice(None), *index)].ravel().tolist()
        order += sorted({*inner} - {*order})
        counts.append(len(inner))
    return np.array(order), counts


def _errors(
    whole: np.ndarray, test: np.ndarray, counts: list[int], ridges: Sequence[float], *, offset: bool
) -> np.ndarray:
    """Return the sum of squared errors in a tile of the kernels fitted to all other tiles, (sizes, ridges).

    Args:
        whole, test: sums of all tiles and of the tile, with the taps of the smallest size first.
        counts: number of taps of each size.
        ridges: multiples of the mean square of a column of x.
        offset: whether a constant is fitted too.
    """
    n, train = counts[-1], whole - test
    remaining = train[:n, :n].copy()
    cross = train[:n, n + 1 :].copy()
    if offset:
        remaining -= np.outer(train[:n, n], train[n, :n] / train[n, n])
        cross -= np.outer(train[:n, n], train[n, n + 1 :] / train[n, n])
    normal, right = torch.from_numpy(remaining), torch.from_numpy(cross)
    unit, outputs = float(normal.diagonal().mean()), cross.shape[1]
    least = JITTER * max(unit, float(np.diag(whole)[:n].mean()))
    errors = np.empty((len(counts), len(ridges)))
    for column, ridge in enumerate(ridges):
        regular = normal.clone()
        regular.diagonal().add_(max(ridge * unit, least))
        factor, failed = torch.linalg.cholesky_ex(regular)
        if failed:
            raise ConvolithError(
                "x varies in too few places to compare kernels on parts of it; give kernel_size and ridge as numbers"
            )
        half = torch.linalg.solve_triangular(factor, right, upper=False)
        vectors = np.zeros((len(test), len(counts), outputs))
        vectors[n + 1 :] = np.eye(outputs)[:, None]
        for row, count in enumerate(counts):
            block = factor[:count, :count].T
            kernel = torch.linalg.solve_triangular(block, half[:count], upper=True).numpy()
            vectors[:count, row] = -kernel
            if offset:
                vectors[n, row] = -(train[n, n + 1 :] - train[n, :count] @ kernel) / train[n, n]
        flat = vectors.reshape(len(test), -1)
        errors[:, column] = (flat * (test @ flat)).sum(0).reshape(len(counts), outputs).sum(1)
    return errors


def _compared(
    total: Accumulator,
    sizes: Sequence[tuple[int, ...]],
    ridges: Sequence[float],
    errors: np.ndarray,
    weights: np.ndarray,
) -> list[Candidate]:
    """Return the candidates, from the errors of each tile, (sizes, ridges, tiles)."""
    means = errors.sum(-1) / weights.sum()
    best = errors.reshape(-1, errors.shape[-1])[means.argmin()]
    unit = total.unit
    result = []
    for row, size in enumerate(sizes):
        for column, ridge in enumerate(ridges):
            difference = (errors[row, column] - best) / weights.mean()
            spread = difference.std(ddof=1) / np.sqrt(len(difference))
            rms = float(np.sqrt(max(means[row, column], 0.0)))
            result.append(Candidate(size, ridge * unit, rms, float(difference.mean()), float(spread)))
    return result


def odd_sizes(size: Sequence[int], largest: int | None) -> list[tuple[int, ...]]:
    """Return 1, 3, 5, ... along every axis, up to the largest, or to 31 or a third of the image.

    Raises:
        ConvolithError: a largest size that exceeds the image.
    """
    most = min(31, min(size) // 3) if largest is None else largest
    if not 1 <= most <= min(size):
        raise ConvolithError(f"max_size is {most}; expected 1 to {min(size)}, the smallest axis of x")
    return [(k,) * len(size) for k in range(1, most + 1, 2)]
