"""Kernel size and ridge by cross-validation: each tile is predicted by the kernel of all the others.

With the taps sorted from the centre outwards, the normal matrix of a smaller kernel is a leading block of that of a
larger one; so one Cholesky factor for each omitted tile and each ridge gives the kernels of every size. The chosen size
is the smallest whose error exceeds the least by no more than the standard error of the difference, over tiles (Breiman
et al. 1984).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.errors import ConvolithError
from convolith.fitting.data.problem import no_pixels, read
from convolith.fitting.data.shapes import spatial_axes
from convolith.fitting.gram import Gram
from convolith.fitting.results import Candidate
from convolith.fitting.selection.tiles import states_of_tiles
from convolith.geometry import per_axis

RIDGES = (0.0, *(10.0**power for power in range(-9, 1)))
"""Ridges to choose from, relative to the mean square of a column."""
JITTER = 1e-13
"""Least ridge, relative to the mean square of a column, so that the Cholesky factor exists for rank-deficient data."""


class Chosen(NamedTuple):
    """Chosen kernel size and ridge, and all candidates."""

    kernel_size: tuple[int, ...]
    ridge: float
    selection: tuple[Candidate, ...]


def choose_size(
    x: Any, y: Any, max_size: int | None, ridges: Sequence[float], data: dict[str, Any], geometry: dict[str, Any]
) -> Chosen:
    """Choose the kernel size for an x and a y of equal size.

    Args:
        x, y: as for `fit`.
        max_size: largest size to consider.
        ridges: multiples of the mean square of a column, or a single absolute ridge.
        data: options of pixels, offset and origin.
        geometry: stride, padding, dilation and padding mode.

    Raises:
        ConvolithError: sizes that differ, a stride, another padding.
    """
    shapes = {name: tuple(np.shape(array)) for name, array in (("x", x), ("y", y))}
    axes = spatial_axes("auto", shapes["x"])
    if per_axis("stride", geometry["stride"], axes, 1) != (1,) * axes or not (
        isinstance(geometry["padding"], str) and geometry["padding"] in ("valid", "same")
    ):
        raise ConvolithError('kernel_size="auto" goes with stride 1, and padding "valid" or "same" alone')
    size = shapes["x"][-axes:]
    if shapes["y"][-axes:] != size:
        raise ConvolithError(
            f'y has shape {shapes["y"]} but x {shapes["x"]}; kernel_size="auto" expects both of one size'
        )
    steps = per_axis("dilation", geometry["dilation"], axes, 1)
    sizes = odd_sizes([(n - 1) // d + 1 for n, d in zip(size, steps, strict=True)], max_size)
    problem = read(x, y, kernel_size=sizes[-1], **data, **geometry)
    if not problem.equations:
        raise no_pixels()
    gram = Gram(sizes[-1], problem.spec.in_channels, problem.spec.out_channels, **geometry)
    tiles = states_of_tiles(problem, gram)
    for tile in tiles:
        gram.merge(tile)
    if not gram.unit > 0:
        raise ConvolithError("x is the same in all pixels that count, so that it tells nothing about a kernel's size")
    shares = list(ridges) if len(ridges) > 1 else [ridges[0] / gram.unit]
    compared = candidates(gram, tiles, sizes, shares, offset=data["offset"])
    best = chosen(compared)
    return Chosen(best.kernel_size, best.ridge, tuple(compared))


def candidates(
    total: Gram, tiles: Sequence[Gram], sizes: Sequence[tuple[int, ...]], ridges: Sequence[float], *, offset: bool
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
    whole = total.matrix if offset else total.about(base)
    parts = [tile.matrix if offset else tile.about(base) for tile in tiles]
    errors = np.stack([_errors(whole - part, part, order, counts, ridges, offset=offset) for part in parts], -1)
    weights = np.array([tile.weight for tile in tiles]) * total.out_channels
    return _compared(total, sizes, ridges, errors, weights)


def chosen(found: Sequence[Candidate]) -> Candidate:
    """Return the best ridge of the smallest size whose error is not significantly above the least."""
    best = min(found, key=lambda one: one.rms)
    comparable = [one for one in found if one.excess_mse <= one.excess_mse_stderr]
    least = min((one.kernel_size for one in comparable), key=np.prod, default=best.kernel_size)
    return min((one for one in found if one.kernel_size == least), key=lambda one: one.rms)


def _rings(total: Gram, sizes: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, list[int]]:
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
    train: np.ndarray, test: np.ndarray, order: np.ndarray, counts: list[int], ridges: Sequence[float], *, offset: bool
) -> np.ndarray:
    """Return the sum of squared errors on `test` of the kernels fitted to `train`, (sizes, ridges)."""
    n = len(order)
    at = np.concatenate([order, np.arange(n, len(train))])
    train, test = train[np.ix_(at, at)], test[np.ix_(at, at)]
    remaining = train - np.outer(train[:, n], train[n]) / train[n, n] if offset else train
    normal, cross = torch.from_numpy(remaining[:n, :n].copy()), torch.from_numpy(remaining[:n, n + 1 :].copy())
    unit = float(normal.diagonal().mean())
    errors = np.empty((len(counts), len(ridges)))
    for column, ridge in enumerate(ridges):
        factor = torch.linalg.cholesky(
            normal + max(ridge, JITTER) * unit * torch.eye(n, dtype=torch.float64, device="cpu")
        )
        half = torch.linalg.solve_triangular(factor, cross, upper=False)
        for row, count in enumerate(counts):
            block = factor[:count, :count].T
            kernel = torch.linalg.solve_triangular(block, half[:count], upper=True).numpy()
            constant = (train[n, n + 1 :] - train[n, :count] @ kernel) / train[n, n] if offset else 0 * kernel[0]
            selected = np.concatenate([np.arange(count), np.arange(n, len(test))])
            outputs = np.eye(kernel.shape[1])
            vectors = np.concatenate([-kernel, -constant[None], outputs])
            errors[row, column] = np.einsum("io,ij,jo->", vectors, test[np.ix_(selected, selected)], vectors)
    return errors


def _compared(
    total: Gram, sizes: Sequence[tuple[int, ...]], ridges: Sequence[float], errors: np.ndarray, weights: np.ndarray
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
