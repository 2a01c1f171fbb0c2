"""Kernels as a chain of two smaller ones: the bilinear equations of their taps, solved by least squares.

`K[t] = sum over i + j = t of B[j] @ A[i]` is linear in A and in B. Most polynomials in two variables are irreducible,
so that most kernels are not of this form (`bivariate` finds exact factors if none is repeated, and `hidden` those with
few hidden channels). All other exact and approximate factors are searched by Levenberg and Marquardt's damped
Gauss-Newton steps from several starts (Marquardt, J. SIAM 11, 1963). The result is verified, but the search is not
exhaustive: factors that it does not find may still exist.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from convolith.algebra.decomposition.blocks import Kernel, Ladder, Shape, multiplications

NEARLY = 1e-3
"""Relative residual up to which a given first part is refined."""
STARTS = 12
"""Number of random starts; products of two random 3x3 kernels are found from about half of them."""
STEPS = 150
"""Largest number of damped steps."""
ROUND, STALLED = 10, 1e-3
"""Number of steps after which starts are dropped whose error fell by less than this share in them."""
LEAST_DAMPING = 1e-12
"""Smallest damping; it keeps systems regular along scalings and channel mixtures that do not change the product."""
RANK = 0.05
"""Singular value, relative to the largest, up to which one adds no hidden channel."""
SOLVED = 1e-15
"""Residual, relative to the kernel, at which the search ends."""
LARGEST = 400
"""Largest number of unknowns; each step solves a dense system of this size."""
WORK = 4e9
"""Largest number of operations of all searches for one kernel; the cheapest chains are searched first."""


class Split(NamedTuple):
    """The taps of two parts, and the number of hidden channels between them."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    hidden: int


def propose(kernel: Kernel) -> list[Ladder] | str:
    """Propose every split into two parts that saves products, the cheapest first, within `WORK`."""
    if not kernel.wide_axes or (kernel.one_to_one and len(kernel.wide_axes) < 2):
        return "a chain of two smaller kernels needs two axes, or several channels"
    ladders, spent = [], 0.0
    before = kernel.blocks.size
    splits = [(multiplications(_shapes(kernel, split), kernel.stride), split) for split in _splits(kernel)]
    for cost, split in sorted(splits):
        effort = _effort(kernel, split)
        if cost >= before or spent + effort > WORK:
            continue
        spent += effort
        ladders.append(_ladder(kernel, split))
    return ladders or "no chain of two smaller kernels saves products, or the search for it is too large"


def _splits(kernel: Kernel) -> list[Split]:
    width = max(rank(block, RANK) for block in kernel.blocks)
    splits = []
    for first in product(*(range(1, n + 1) for n in kernel.taps)):
        second = tuple(n - a + 1 for n, a in zip(kernel.taps, first, strict=True))
        separable = all(min(a, b) == 1 for a, b in zip(first, second, strict=True))  # `lowrank` has the optimum
        if not separable and not (kernel.one_to_one and first > second and _plain(kernel)):
            splits.append(Split(first, second, max(width, 1)))
    return splits


def rank(block: np.ndarray, negligible: float) -> int:
    """Return the rank of the response at a random frequency: the smallest possible number of hidden channels."""
    response = block
    for angle in np.random.default_rng(0).uniform(0, 2 * np.pi, block.ndim - 2):
        response = np.tensordot(response, np.exp(1j * angle * np.arange(response.shape[2])), (2, 0))
    values = np.linalg.svd(response, compute_uv=False)
    return int((values > negligible * values[0]).sum()) if values[0] > 0 else 0


def _plain(kernel: Kernel) -> bool:
    """Return whether the order of the two parts does not affect the cost: stride 1."""
    return max(kernel.stride) == 1


def _shapes(kernel: Kernel, split: Split) -> list[Shape]:
    groups, out, into = kernel.blocks.shape[:3]
    return [(groups, split.hidden, into, *split.first), (groups, out, split.hidden, *split.second)]


def _effort(kernel: Kernel, split: Split) -> float:
    """Estimate the operations of a search; infinity for one that is too large."""
    unknowns = sum(prod(shape[1:]) for shape in _shapes(kernel, split))
    if unknowns > LARGEST:
        return float("inf")
    return STARTS * STEPS / 3 * kernel.blocks.size * unknowns**2


def _ladder(kernel: Kernel, split: Split) -> Ladder:
    return Ladder("reducible", 1, lambda _level: _shapes(kernel, split), lambda _level: solved(kernel.blocks, split))


def solved(blocks: np.ndarray, split: Split) -> list[np.ndarray]:
    """Search each group for two parts whose product approximates its block; return the best of all starts."""
    groups, out, into = blocks.shape[:3]
    shapes = ((split.hidden, into, *split.first), (out, split.hidden, *split.second))
    pairs = [_searched(block, split) for block in blocks]
    return [np.stack([pair[at] for pair in pairs]).reshape(groups, *shape) for at, shape in enumerate(shapes)]


@lru_cache(maxsize=64)
def _places(out: int, into: int, split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each product of a weight of A and one of B, the flat indices of the weights of K, A and B."""
    taps = tuple(a + b - 1 for a, b in zip(split.first, split.second, strict=True))
    n, m = prod(split.first), prod(split.second)
    o, i, h, a, b = (axis.ravel() for axis in np.indices((out, into, split.hidden, n, m)))
    near, far = np.unravel_index(a, split.first), np.unravel_index(b, split.second)
    tap = np.ravel_multi_index(tuple(p + q for p, q in zip(near, far, strict=True)), taps)
    return (o * into + i) * prod(taps) + tap, (h * into + i) * n + a, (o * split.hidden + h) * m + b


def polished(plane: np.ndarray, split: Split, first: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Refine a first part of a single-channel kernel and compute the second; None if the first was not nearly right."""
    rows, columns, others = _places(1, 1, split)
    design = np.zeros((plane.size, prod(split.second)))
    design[rows, others] = first.ravel()[columns]
    second = np.linalg.lstsq(design, plane.ravel(), rcond=None)[0]
    if np.linalg.norm(design @ second - plane.ravel()) > NEARLY * np.linalg.norm(plane):
        return None
    sizes = np.linalg.norm(first), np.linalg.norm(second)
    start = np.concatenate([first.ravel() / sizes[0], second / sizes[1]])
    return _searched(plane[None, None], split, start[None])


def _searched(block: np.ndarray, split: Split, starts: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return A and B, flat and with equal norms, from the best of all starts."""
    out, into = block.shape[:2]
    rows, columns, others = _places(out, into, split)
    few = split.hidden * into * prod(split.first)
    count = few + split.hidden * out * prod(split.second)
    target, scale = block.ravel(), np.linalg.norm(block)
    if scale == 0:
        return np.zeros(few), np.zeros(count - few)
    target = target / scale
    x = np.random.default_rng(0).normal(size=(STARTS, count)) if starts is None else starts
    x = x / (np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(2))
    damping = np.full(len(x), 1e-2 if starts is None else LEAST_DAMPING)
    jacobian, rest = _equations(x, target, rows, columns, others, few)
    error = (rest**2).sum(1)
    earlier = error
    for number in range(STEPS):
        turned = jacobian.swapaxes(1, 2)
        system, gradient = turned @ jacobian, (turned @ rest[:, :, None])
        step = np.linalg.solve(system + damping[:, None, None] * np.eye(count), gradient)[:, :, 0]
        tried = x + step
        fresh, residual = _equations(tried, target, rows, columns, others, few)
        squares = (residual**2).sum(1)
        better = squares < error
        x, rest = np.where(better[:, None], tried, x), np.where(better[:, None], residual, rest)
        jacobian, error = np.where(better[:, None, None], fresh, jacobian), np.where(better, squares, error)
        damping = np.clip(np.where(better, damping / 5, damping * 4), LEAST_DAMPING, 1e6)
        if error.min() <= SOLVED**2 or damping.min() >= 1e6:
            break
        if (number + 1) % ROUND == 0:
            moving = error < (1 - STALLED) * earlier
            if not moving.any():
                break
            moving[error.argmin()] = True
            x, rest, jacobian = x[moving], rest[moving], jacobian[moving]
            error, damping = error[moving], damping[moving]
            earlier = error
    best = x[error.argmin()]
    A, B = best[:few], best[few:]
    even = np.sqrt(np.linalg.norm(B) / max(np.linalg.norm(A), np.finfo(float).tiny))
    root = np.sqrt(scale)
    return A * even * root, B / max(even, np.finfo(float).tiny) * root


def _equations(
    x: np.ndarray, target: np.ndarray, rows: np.ndarray, columns: np.ndarray, others: np.ndarray, few: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Jacobian and the residual, for every start."""
    jacobian = np.zeros((len(x), len(target), x.shape[1]))
    jacobian[:, rows, columns] = x[:, few + others]
    jacobian[:, rows, few + others] = x[:, columns]
    product = (jacobian[:, :, :few] @ x[:, :few, None])[:, :, 0]
    return jacobian, target - product
