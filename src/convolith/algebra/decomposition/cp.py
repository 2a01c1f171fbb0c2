"""Kernels as a sum of R products of one vector per axis: a 1x1 part into R channels, one part per axis, a 1x1 part.

The canonical polyadic decomposition, `K[o, i, s, t] = sum over r of a[o, r] b[i, r] c[s, r] d[t, r]`, by alternating
least squares (Carroll and Chang; Harshman, 1970). If R is at most the number of input and of output channels, it
starts from the joint eigenvectors of two mixtures of taps, which give an exact decomposition if one exists (Leurgans,
Ross and Abel, SIAM J. Matrix Anal. Appl. 14, 1993). For layers: Lebedev et al., "Speeding-up
convolutional neural networks using fine-tuned CP-decomposition", ICLR 2015.
"""

from __future__ import annotations

from math import prod

import numpy as np

from convolith.algebra.decomposition.blocks import Kernel, Ladder, Shape

MOST_TERMS = 32
"""Largest number of terms; the size of the least-squares systems grows with its square."""
LARGEST = 1 << 16
"""Largest number of weights in a group; each round reads all of them once for each axis."""
ROUNDS = 100
"""Largest number of rounds; they end earlier when the error no longer decreases."""
GAIN = 1e-4
"""Relative decrease of the error in a round below which the rounds end."""


def propose(kernel: Kernel) -> list[Ladder] | str:
    """Propose sums of R terms for layers with several input channels, output channels and taps."""
    groups, out, into = kernel.blocks.shape[:3]
    wide = kernel.wide_axes
    if out == 1 or into == 1 or not wide:
        return "a sum of products over all axes needs several input channels, output channels and taps"
    if kernel.blocks[0].size > LARGEST:
        return f"more than {LARGEST} weights in a group: alternating least squares would take too long"
    ones = (1,) * len(kernel.taps)

    def shapes(level: int) -> list[Shape]:
        rank = level + 1
        along = [(groups * rank, 1, 1, *(n if a == axis else 1 for a, n in enumerate(kernel.taps))) for axis in wide]
        return [(groups, rank, into, *ones), *along, (groups, out, rank, *ones)]

    def build(level: int) -> list[np.ndarray]:
        tensors = kernel.blocks.reshape(groups, out, into, *(kernel.taps[axis] for axis in wide))
        by_group = [terms(tensor, level + 1) for tensor in tensors]
        stacked = [np.stack(factors) for factors in zip(*by_group, strict=True)]  # (groups, length, rank)
        ordered = [stacked[1].swapaxes(1, 2), *(factor.swapaxes(1, 2) for factor in stacked[2:]), stacked[0]]
        return [factor.reshape(shape) for factor, shape in zip(ordered, shapes(level), strict=True)]

    ladder = Ladder("cp", min(MOST_TERMS, out * into), shapes, build)
    joint = max(_mixed_rank(tensor) for tensor in kernel.blocks)
    if joint >= min(out, into, MOST_TERMS + 1):
        return [ladder]
    exact = ladder._replace(levels=1, shapes=lambda _level: shapes(joint - 1), build=lambda _level: build(joint - 1))
    return [exact, ladder]


def _mixed_rank(tensor: np.ndarray) -> int:
    """Return the rank of a random mixture of the taps: the number of terms, if below the input and output channels."""
    slices = tensor.reshape(*tensor.shape[:2], -1)
    mixture = slices @ np.random.default_rng(0).normal(size=slices.shape[2])
    return max(int(np.linalg.matrix_rank(mixture, rtol=1e-11)), 1)


def terms(tensor: np.ndarray, rank: int) -> list[np.ndarray]:
    """Return, for each axis of a tensor, `rank` columns whose sum of outer products approximates the tensor."""
    size = np.linalg.norm(tensor)
    if size == 0:
        return [np.zeros((n, rank)) for n in tensor.shape]
    factors = _beginning(tensor, rank)
    error = np.inf
    for _ in range(ROUNDS):
        for axis in range(tensor.ndim):
            factors[axis] = _best(tensor, factors, axis)
            if axis < tensor.ndim - 1:  # the last axis holds the scale of each term
                factors[axis] = factors[axis] / np.maximum(np.linalg.norm(factors[axis], axis=0), np.finfo(float).tiny)
        residual = float(np.linalg.norm(tensor - _summed(factors)) / size)
        if not residual < error * (1 - GAIN) or residual < 1e-15:
            break
        error = residual
    spread = np.linalg.norm(factors[-1], axis=0)
    factors[-1] = factors[-1] / np.maximum(spread, np.finfo(float).tiny)
    each = spread ** (1 / len(factors))
    return [factor * each for factor in factors]


def _best(tensor: np.ndarray, factors: list[np.ndarray], axis: int) -> np.ndarray:
    """Solve for the columns of one axis with all others fixed: a linear least-squares problem."""
    rank = factors[0].shape[1]
    others = [factor for at, factor in enumerate(factors) if at != axis]
    design = np.ones((1, rank))
    for factor in others:
        design = (design[:, None] * factor).reshape(-1, rank)
    matrix = np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)
    gram = np.prod([factor.T @ factor for factor in others], axis=0)
    columns: np.ndarray = (matrix @ design) @ np.linalg.pinv(gram, rcond=1e-13, hermitian=True)
    return columns


def _summed(factors: list[np.ndarray]) -> np.ndarray:
    rank = factors[0].shape[1]
    design = np.ones((1, rank))
    for factor in factors[:-1]:
        design = (design[:, None] * factor).reshape(-1, rank)
    summed: np.ndarray = (design @ factors[-1].T).reshape([len(factor) for factor in factors])
    return summed


def _beginning(tensor: np.ndarray, rank: int) -> list[np.ndarray]:
    """Return starting columns: from joint eigenvectors if the rank allows it, otherwise random."""
    rng = np.random.default_rng(0)
    random = [rng.normal(size=(n, rank)) for n in tensor.shape]
    out, into = tensor.shape[:2]
    if rank > min(out, into) or prod(tensor.shape[2:]) < 2:
        return random
    slices = tensor.reshape(out, into, -1)
    V, _, Wt = (side for side in np.linalg.svd(slices @ rng.normal(size=slices.shape[2]), full_matrices=False))
    core = np.einsum("or,oit,si->rst", V[:, :rank], slices, Wt[:rank])
    one, two = (core @ rng.normal(size=core.shape[2]) for _ in range(2))
    columns = V[:, :rank] @ np.linalg.eig(one @ np.linalg.pinv(two))[1].real
    rows = np.linalg.pinv(columns, rcond=1e-12) @ slices.reshape(out, -1)
    rest = rows.reshape(rank, into, *tensor.shape[2:])
    factors = [columns]
    for axis in range(1, tensor.ndim):
        unfolded = np.moveaxis(rest, axis, 1).reshape(rank, tensor.shape[axis], -1)
        factors.append(np.linalg.svd(unfolded, full_matrices=False)[0][:, :, 0].T.copy())
    return factors
