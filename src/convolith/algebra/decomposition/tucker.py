"""Kernels with fewer channels: a 1x1 part on the input, a core with the taps, a 1x1 part to the output.

Tucker's decomposition of the two channel axes: `K[o, i, t] = sum over p, q of V[o, q] C[q, p, t] U[i, p]`, a 1x1 part,
a smaller kernel, and a 1x1 part. For one side only it is a truncated singular value decomposition, the nearest in the
sum of squares; for both sides it starts from the singular vectors of the two unfoldings (De Lathauwer, De Moor and
Vandewalle, "A multilinear singular value decomposition", SIAM J. Matrix Anal. Appl. 21, 2000) and alternates.
For layers: Kim et al., "Compression of deep convolutional neural networks", ICLR 2016.
"""

from __future__ import annotations

from math import prod

import numpy as np

from convolith.algebra.decomposition.blocks import Kernel, Ladder, Shape

ROUNDS = 20
"""Largest number of rounds over the two sides; they gain little after the first few."""
GAIN = 1e-2
"""Relative decrease of the squared error in a round below which the rounds end."""


def propose(kernel: Kernel) -> list[Ladder] | str:
    """Propose fewer channels on the input side, the output side, or both."""
    _, out, into = kernel.blocks.shape[:3]
    ladders = []
    if into > 1:
        ladders.append(_one_side(kernel, "in"))
    if out > 1 and prod(kernel.taps) > 1:  # for a single tap, both sides give equal chains
        ladders.append(_one_side(kernel, "out"))
    if into > 1 and out > 1 and prod(kernel.taps) > 1:
        ladders.append(_both_sides(kernel))
    return ladders or "input and output already have a single channel"


def unfolded(blocks: np.ndarray, side: str) -> np.ndarray:
    """Return the blocks as matrices, (groups, channels of a side, all other axes)."""
    matrix = blocks if side == "out" else blocks.swapaxes(1, 2)
    return matrix.reshape(*matrix.shape[:2], -1)


def _ones(kernel: Kernel) -> tuple[int, ...]:
    return (1,) * len(kernel.taps)


def _one_side(kernel: Kernel, side: str) -> Ladder:
    groups, out, into = kernel.blocks.shape[:3]
    channels, across = (into, out) if side == "in" else (out, into)

    def shapes(level: int) -> list[Shape]:
        rank, ones = level + 1, _ones(kernel)
        if side == "in":
            return [(groups, rank, into, *ones), (groups, out, rank, *kernel.taps)]
        return [(groups, rank, into, *kernel.taps), (groups, out, rank, *ones)]

    def build(level: int) -> list[np.ndarray]:
        left, values, right = np.linalg.svd(unfolded(kernel.blocks, side), full_matrices=False)
        rank = min(level + 1, values.shape[1])
        basis, rest = left[:, :, :rank], values[:, :rank, None] * right[:, :rank]
        tensor = rest.reshape(groups, rank, across, *kernel.taps)
        if side == "out":
            return [tensor, basis.reshape(groups, out, rank, *_ones(kernel))]
        return [basis.swapaxes(1, 2).reshape(groups, rank, into, *_ones(kernel)), tensor.swapaxes(1, 2)]

    return Ladder("tucker", min(channels, across * prod(kernel.taps)), shapes, build)


def _both_sides(kernel: Kernel) -> Ladder:
    groups, out, into = kernel.blocks.shape[:3]
    bases = {side: np.linalg.svd(unfolded(kernel.blocks, side), full_matrices=False)[:2] for side in ("in", "out")}
    spectra = {side: values.max(0) for side, (_, values) in bases.items()}
    steps = sorted([(-value, side) for side, values in spectra.items() for value in values[1:]])

    def ranks(level: int) -> tuple[int, int]:
        taken = [side for _, side in steps[:level]]
        return 1 + taken.count("in"), 1 + taken.count("out")

    def shapes(level: int) -> list[Shape]:
        p, q = ranks(level)
        ones = _ones(kernel)
        return [(groups, p, into, *ones), (groups, q, p, *kernel.taps), (groups, out, q, *ones)]

    def build(level: int) -> list[np.ndarray]:
        p, q = ranks(level)
        return _alternated(kernel.blocks, bases["in"][0][:, :, :p], bases["out"][0][:, :, :q])

    return Ladder("tucker", 1 + len(steps), shapes, build)


def _alternated(blocks: np.ndarray, U: np.ndarray, V: np.ndarray) -> list[np.ndarray]:
    """Run orthogonal iteration: the best basis of each side given that of the other, then the core between them."""
    ones = (1,) * (blocks.ndim - 3)
    p, q = U.shape[2], V.shape[2]
    whole, before = float((blocks**2).sum()), 0.0
    for _ in range(ROUNDS):
        U = np.linalg.svd(unfolded(_mixed(blocks, V), "in"), full_matrices=False)[0][:, :, :p]
        outer = _mixed(blocks.swapaxes(1, 2), U).swapaxes(1, 2)
        V = np.linalg.svd(unfolded(outer, "out"), full_matrices=False)[0][:, :, :q]
        core = _mixed(outer, V)
        energy = float((core**2).sum())
        if energy - before <= max(GAIN * (whole - before), 1e-26 * whole):
            break
        before = energy
    first = U.swapaxes(1, 2).reshape(*U.shape[:1], p, -1, *ones)
    return [first, core, V.reshape(*V.shape, *ones)]


def _mixed(blocks: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return the blocks with their output channels in a basis, (groups, channels, columns)."""
    mixed: np.ndarray = basis.swapaxes(1, 2) @ blocks.reshape(*blocks.shape[:2], -1)
    return mixed.reshape(*mixed.shape[:2], *blocks.shape[2:])
