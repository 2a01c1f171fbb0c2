"""Checks of a fit by its residual: the explained variance, a kernel_size that is too small, invalid standard errors."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch

from convolith.errors import warn
from convolith.fitting.data.problem import Problem
from convolith.fitting.moments.moments import gradient
from convolith.geometry import per_axis

ROUNDING = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 0.1, "float16": 0.01}
"""Residuals below this share of y (root mean squares) are the rounding of its dtype, and tell nothing."""
CORRELATED = 0.1
"""Correlation coefficient from which the residual counts as correlated, with its neighbours or with x."""
UNEVEN = 1.5
"""Ratio of the residual's variances where the prediction is bright and dark from which it counts as uneven."""
CERTAIN = 6.0
"""Number of standard deviations from zero at which an effect counts as certain."""
LITTLE_EXPLAINED = 0.5
"""Share of variance that is explained below which x and y are compared for a shift."""
PEAK = 12.0
"""Height of the peak of a phase correlation, in standard deviations, from which it is a shift."""
OUTERMOST = 0.05
"""Share of a kernel's magnitudes in its outermost weights from which it may go on beyond them."""
CONSTANT = 0.5
"""Share of the residuals' squares in their mean from which a constant is missing."""
TINY = float(np.finfo(float).tiny)
FEWEST = 100
"""Number of pixels from which a correlation is looked for."""
ENOUGH, TILES, MOST_IMAGES, SHORTEST = 1 << 18, 3, 16, 32
"""Number of pixels that are examined of larger data; of tiles per axis and of images among which they are spread; and
least length of a tile."""
ENOUGH_FOR_SHIFT = 1 << 20
"""Number of pixels, in the middle, that are compared to find a shift."""
QUARTERS = 4
"""Number of groups into which pixels are sorted by their prediction."""


def explained(problem: Problem, squares: float) -> float:
    """Return the share of the variance of y that the fit explains: 1 less the mean square of the residual over it."""
    weights = problem.weights[:, None]
    total = float(weights.sum())
    mean = (weights * problem.y).sum((0, *range(2, problem.y.ndim)), keepdims=True) / total
    variance = float((weights * (problem.y - mean) ** 2).sum())
    return 1 - squares / variance if variance else float("nan")


def examine(
    problem: Problem,
    residual: np.ndarray,
    kernel: np.ndarray | None,
    share: float,
    origin: Any = 0,
    *,
    white: bool,
    free: bool = True,
) -> None:
    """Warn where the kernel is cut off by its size, or where standard errors for white noise do not hold.

    Args:
        problem: the equations.
        residual: y less the prediction.
        kernel: the fitted kernel, (out_channels, in_channels, *kernel_size); None if it varies.
        share: share of the variance that is explained.
        origin: as for `fit`.
        white: whether the standard errors are those for white noise.
        free: whether the kernel's weights are free of constraints, which may leave a constant in the residual.
    """
    everything = problem
    problem, residual = _sample(problem, residual)
    used = problem.weights > 0
    standard = np.sqrt(problem.weights)[:, None] * residual
    size, whole = (np.sqrt(np.sum(part**2)) for part in (standard, np.sqrt(problem.weights)[:, None] * problem.y))
    if not size > _rounding(problem) * whole or used.sum() < FEWEST:
        return
    if free and not problem.used and _warn_of_constant(standard, problem.weights):
        return
    outermost = 0.0
    if kernel is not None and max(problem.spec.stride) == 1:
        mass = np.abs(kernel).sum((0, 1))
        within = tuple(slice(1, -1) if k > 2 else slice(None) for k in mass.shape)  # an axis of one tap has no ends
        outermost = (mass.sum() - mass[within].sum()) / max(mass.sum(), TINY)
        unpadded = not any(map(any, problem.spec.padding))  # where `origin` applies
        if _cut_off(problem, residual, mass, outermost, origin if unpadded else None):
            return
        shift = _shift(everything, origin) if unpadded and share < LITTLE_EXPLAINED else None
        if shift is not None:
            given = any(per_axis("origin", origin, problem.spec.axes, -(1 << 40)))
            where = "not shifted against x" if not any(shift) else f"like x shifted by about {shift} pixels"
            where += f", but origin is {origin}" if given else ", which is out of the kernel's reach"
            advice = f"pass origin={shift}" if given else f"register them, or pass origin={shift}"
            warn(f"the fit explains {share:.0%} of the variance of y, and y looks {where}; {advice}")
            return
    if white:
        _warn_if_correlated(standard, used, outermost)
        _warn_if_uneven(standard, problem.y - residual, used)


def _sample(problem: Problem, residual: np.ndarray) -> tuple[Problem, np.ndarray]:
    """Return tiles of large data, spread over all axes and images, as images of their own; small data as they are."""
    n, sizes = len(problem.y), problem.y.shape[2:]
    if n * prod(sizes) <= ENOUGH:
        return problem, residual
    images = np.unique(np.linspace(0, n - 1, min(n, MOST_IMAGES)).astype(int))
    tile = max(int((ENOUGH / (len(images) * TILES ** len(sizes))) ** (1 / len(sizes))), SHORTEST)
    spans = [
        [(0, size)]
        if size <= TILES * tile
        else [(start, start + tile) for start in np.linspace(0, size - tile, TILES).astype(int).tolist()]
        for size in sizes
    ]
    parts = [
        (problem.cut(slice(image, image + 1), place), residual[(slice(image, image + 1), slice(None), *slices)])
        for image in images.tolist()
        for place in product(*spans)
        for slices in [[slice(*span) for span in place]]
    ]
    cuts = [cut for cut, _ in parts]
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(c, name) for c in cuts]) for name in ("padded", "y", "weights")
    }
    return replace(problem, **joined), np.concatenate([part for _, part in parts])


def _rounding(problem: Problem) -> float:
    return max(ROUNDING.get(name, ROUNDING["float64"]) for name in problem.dtypes)


def _warn_of_constant(standard: np.ndarray, weights: np.ndarray) -> bool:
    """Warn, and return True, if the residuals of a fit without a constant are a constant for the larger part."""
    scale = np.sqrt(weights)[:, None]
    count, power = float((weights > 0).sum()), float((weights[:, None] * np.ones_like(standard)).sum())
    mean, squares = float((scale * standard).sum()) / power, float((standard**2).sum()) / power
    if mean**2 < CONSTANT * squares or mean**2 < CERTAIN**2 * squares / count:
        return False
    warn(
        f"the residuals have a mean of {mean:.3g} and a root mean square of {np.sqrt(squares):.3g}: y has a constant "
        "that the kernel does not give; pass offset=True"
    )
    return True


def _cut_off(problem: Problem, residual: np.ndarray, mass: np.ndarray, outermost: float, origin: Any) -> bool:
    """Warn, and return True, if the residual is correlated with x one tap beyond the kernel.

    Args:
        problem, residual: as for `examine`.
        mass: magnitudes of the kernel's weights, (*kernel_size).
        outermost: share of them in the outermost weights.
        origin: as for `fit`; None where it does not apply.
    """
    spec = problem.spec
    inner: Any = tuple(slice(d, n - d) for d, n in zip(spec.dilation, residual.shape[2:], strict=True))
    if any(n <= 2 * d for d, n in zip(spec.dilation, residual.shape[2:], strict=True)):
        return False
    cut, weights = residual[(..., *inner)], problem.weights[(..., *inner)]
    wider = replace(spec, kernel_size=tuple(k + 2 for k in spec.kernel_size))
    around = replace(problem, spec=wider, y=cut, weights=weights, used=0)
    sums = gradient(around, cut).reshape(spec.in_channels, *wider.kernel_size, -1)
    twice = replace(wider, out_channels=2 * spec.out_channels)
    squares = replace(around, spec=twice, padded=problem.padded**2, weights=np.ones_like(weights))
    both = np.concatenate([(weights[:, None] * cut) ** 2, np.broadcast_to(weights[:, None], cut.shape)], 1)
    spreads, power = np.split(gradient(squares, both).reshape(*sums.shape[:-1], -1), 2, axis=-1)
    left = float((weights[:, None] * cut**2).sum(axis=(0, *range(2, cut.ndim))).max())
    correlation = np.abs(sums) / np.sqrt(np.maximum(power * left, TINY))
    certain = np.abs(sums) > CERTAIN * np.sqrt(np.maximum(spreads, TINY))
    middle = (slice(None), *(slice(1, -1) for _ in spec.kernel_size))
    inside = float(correlation[middle].max())  # beyond rounding, where constraints or a ridge leave something there
    correlation[middle] = 0.0
    strongest = float(np.max(np.where(certain, correlation, 0.0)))
    if strongest < max(CORRELATED, 2 * inside):
        return False
    places = np.meshgrid(*(np.arange(k) - (k - 1) / 2 for k in mass.shape), indexing="ij")
    centre = [float((mass * place).sum() / max(mass.sum(), TINY)) for place in places]
    apart = ""
    if any(abs(one) > k / 4 for one, k in zip(centre, mass.shape, strict=True)):
        apart = f", and its centre of mass lies {tuple(round(one, 1) for one in centre)} from the middle"
        if origin is not None:
            shifts = per_axis("origin", origin, spec.axes, -(1 << 40))
            nearer = tuple(shift - round(one) for shift, one in zip(shifts, centre, strict=True))
            apart += f" (origin={nearer} would put it there)"
    warn(
        f"the kernel goes on beyond kernel_size {spec.kernel_size}: the residual is correlated with x just outside it "
        f"({strongest:.2f}), {outermost:.0%} of its absolute sum is in the outermost weights{apart}; pass a larger "
        "kernel_size"
    )
    return True


def _shift(problem: Problem, origin: Any) -> tuple[int, ...] | None:
    """Return the shift of y against x by phase correlation, if it is clear and beyond the kernel's reach."""
    spec = problem.spec
    longest = round(ENOUGH_FOR_SHIFT ** (1 / spec.axes))
    spans = [((n - m) // 2, (n - m) // 2 + m) for n in problem.y.shape[2:] for m in [min(n, longest)]]
    problem = problem.cut(slice(0, 1), spans)
    x = problem.padded[0].mean(0)
    y = np.where(problem.weights[0] > 0, problem.y[0].mean(0), 0.0)
    y = np.where(problem.weights[0] > 0, y - y[problem.weights[0] > 0].mean(), 0.0) if problem.weights[0].any() else y
    shape = [n + m for n, m in zip(x.shape, y.shape, strict=True)]
    axes = tuple(range(spec.axes))
    first, second = (torch.fft.rfftn(torch.from_numpy(part), s=shape, dim=axes) for part in (x - x.mean(), y))
    product = first * second.conj()
    magnitude = product.abs()
    phase = product / magnitude.clamp_min(1e-9 * float(magnitude.max()) or 1.0)
    surface = torch.fft.irfftn(phase, s=shape, dim=axes).numpy()
    peak = np.unravel_index(int(surface.argmax()), surface.shape)
    if surface[peak] < PEAK * surface.std():
        return None
    starts = [int(p) if p < n else int(p) - total for p, n, total in zip(peak, x.shape, shape, strict=True)]
    inside = all(0 <= s < extent for s, extent in zip(starts, spec.extent, strict=True))
    if inside:
        return None
    shifts = per_axis("origin", origin, spec.axes, -(1 << 40))
    return tuple(
        shift + round(((extent - 1) // 2 - s) / d)
        for shift, extent, s, d in zip(shifts, spec.extent, starts, spec.dilation, strict=True)
    )


def _warn_if_correlated(standard: np.ndarray, used: np.ndarray, outermost: float) -> None:
    """Warn if neighbouring residuals are correlated, as correlated noise makes them and a kernel that is cut off."""
    found = {}
    for axis in range(2, standard.ndim):
        if standard.shape[axis] < 3:
            continue
        first, second = _neighbours(standard, axis)
        both = np.logical_and(*_neighbours(used, axis - 1))
        count = int(both.sum())
        if count < FEWEST:
            continue
        kept = np.broadcast_to(both[:, None], first.shape)
        energy = 0.5 * float((first[kept] ** 2).sum() + (second[kept] ** 2).sum())
        correlation = float((first[kept] * second[kept]).sum()) / energy if energy else 0.0
        if abs(correlation) > max(CORRELATED, CERTAIN / np.sqrt(count)):
            found[axis - 2] = correlation
    if found:
        axis, most = max(found.items(), key=lambda one: abs(one[1]))
        larger = f"; {outermost:.0%} of the kernel is in its outermost weights: try a larger kernel_size too"
        larger = larger if outermost > OUTERMOST else ""
        warn(
            f"residuals of neighbouring pixels are correlated ({most:.2f} along spatial axis {axis}), but stderr "
            'assumes white noise and may be several times off; pass errors="jackknife"' + larger
        )


def _neighbours(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all entries but the last along an axis, and all but the first."""
    n = array.shape[axis]
    return array.take(range(n - 1), axis), array.take(range(1, n), axis)


def _warn_if_uneven(standard: np.ndarray, predicted: np.ndarray, used: np.ndarray) -> None:
    """Warn if the variance of residuals depends on the prediction, as that of counts does."""
    kept = np.broadcast_to(used[:, None], standard.shape)
    squares, at = standard[kept] ** 2, predicted[kept]
    if len(at) < QUARTERS * FEWEST or np.ptp(at) == 0:
        return
    edges = np.quantile(at, [1 / QUARTERS, 1 - 1 / QUARTERS])
    low, high = squares[at <= edges[0]], squares[at >= edges[1]]
    dark, bright = float(low.mean()), float(high.mean())
    spread = np.sqrt(low.var() / len(low) + high.var() / len(high))
    if dark and bright and abs(bright - dark) > CERTAIN * spread and max(bright / dark, dark / bright) > UNEVEN:
        where = (
            f"{bright / dark:.1f} times as much where the prediction is large as where it is small, as counts do"
            if bright > dark
            else f"{dark / bright:.1f} times as much where the prediction is small as where it is large"
        )
        warn(
            f"residuals vary {where}, but stderr takes the given weights for the inverse variance of every pixel "
            '(up to a factor); pass weights=1/variance, or errors="jackknife"'
        )
