"""Kernels as two smaller kernels with few hidden channels between them: a common factor, by linear algebra.

`K[o] = sum over h of B[o, h] * A[h]`: every shifted row of K (one output channel's filters) lies in the span of the
shifted rows of A. With enough shifts the rows of K span it too, and its members that are zero outside a window of
A's size are A, up to a mixture of the hidden channels; B follows by least squares. The same shift structure gives a
common divisor of many polynomials from the null space of their Sylvester matrix (Bitmead et al., IEEE Trans. Automatic
Control 23, 1978). The hidden channels, the rank of K's response at any point, must be fewer than K's larger side has.
"""

from __future__ import annotations

from itertools import count, product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from convolith.algebra.decomposition.blocks import Kernel, Ladder, Shape, multiplications
from convolith.algebra.decomposition.reducible import Split, rank

WORK = 5e10
"""Largest number of operations on the shifted rows of all groups, which limits the shifts. About two seconds."""
NOISE = 1e-7
"""Singular value, relative to the largest, up to which one counts as zero; Gram matrices resolve no smaller ones."""
ROUNDINGS = 30
"""Relative singular value up to which one counts as zero, in roundings of the weights' dtype."""
COARSE = 1e-2
"""Relative singular value up to which one counts as zero in a second search, for approximate factors."""
TRIES = 2
"""Number of shift counts that are tried for each split, from the smallest possible; it may have too little margin."""
ROUNDS = 20
"""Largest number of alternations of the two least-squares problems, which refine the result; two or three suffice."""

Taps = tuple[int, ...]


class Pair(NamedTuple):
    """The two parts of one group, (hidden, in, *taps) and (out, hidden, *taps), and their relative error."""

    first: np.ndarray
    second: np.ndarray
    distance: float


def propose(kernel: Kernel) -> list[Ladder] | str:
    """Propose splits into two parts of several taps each that exist in every group and save products."""
    groups, out, into = kernel.blocks.shape[:3]
    if out == into == 1 or prod(kernel.taps) == 1:
        return "hidden channels between two smaller kernels need several channels and several taps"
    for noise in (max(NOISE, ROUNDINGS * kernel.rounding), COARSE):
        by_group = [pairs(block, noise, WORK / groups) for block in kernel.blocks]
        ladders = []
        for size, pair in by_group[0].items():
            shapes = [(groups, *part.shape) for part in pair[:2]]
            same = all(size in other and other[size].first.shape == pair.first.shape for other in by_group)
            if same and multiplications(shapes, kernel.stride) < kernel.blocks.size:
                ladders.append(_ladder([group[size] for group in by_group], shapes))
        if ladders:
            return ladders
    return "no two smaller kernels with fewer channels between them were found"


def _ladder(found: list[Pair], shapes: list[Shape]) -> Ladder:
    parts = [np.stack([pair[at] for pair in found]) for at in (0, 1)]
    return Ladder("reducible", 1, lambda _level: shapes, lambda _level: parts)


def pairs(block: np.ndarray, noise: float, work: float) -> dict[Taps, Pair]:
    """Return pairs of parts whose product (nearly) equals the block at a lower cost, by the taps of the first."""
    out, into = block.shape[:2]
    if into > out:  # swap the channels, which also swaps the two parts
        turned = pairs(block.swapaxes(0, 1), noise, work).values()
        swapped = [Pair(pair.second.swapaxes(0, 1), pair.first.swapaxes(0, 1), pair.distance) for pair in turned]
        return {pair.first.shape[2:]: pair for pair in swapped}
    hidden = rank(block, noise)
    best: dict[Taps, Pair] = {}
    if not 0 < hidden < out:
        return best
    remaining, spent = _splits(block, hidden), 0.0
    for steps in count(1):
        remaining = [split for split in remaining if not _spans(steps - TRIES, out, hidden, split.second)]
        ready = [split for split in remaining if _spans(steps, out, hidden, split.second)]
        if not remaining:
            break
        if not ready:
            continue
        shifts = tuple(steps if n > 1 else 1 for n in block.shape[2:])
        length = into * prod(n + s - 1 for n, s in zip(block.shape[2:], shifts, strict=True))
        spent += (out * prod(shifts)) ** 2 * (length + 10 * out * prod(shifts) * (1 + len(ready)))
        if spent > work:
            break
        rows = _shifted(block, shifts)
        basis = _row_space(rows.reshape(len(rows), -1), noise).reshape(-1, *rows.shape[1:])
        for split in ready:
            first = _inside(basis, split.first, hidden, noise)
            pair = None if first is None else _matched(block, first, noise)
            if pair is not None and (split.first not in best or pair.distance < best[split.first].distance):
                best[split.first] = pair
    return best


def _splits(block: np.ndarray, hidden: int) -> list[Split]:
    """Return the splits into two parts of several taps each that form fewer products than the block."""
    out, into, *taps = block.shape
    splits = []
    for first in product(*(range(1, n + 1) for n in taps)):
        second = tuple(n - a + 1 for n, a in zip(taps, first, strict=True))
        few = hidden * (into * prod(first) + out * prod(second)) < block.size
        if few and prod(first) > 1 and prod(second) > 1:
            splits.append(Split(first, second, hidden))
    return splits


def _spans(steps: int, out: int, hidden: int, second: Taps) -> bool:
    """Return whether `steps` shifts along each axis give as many rows of the block as of the first part within them."""
    wide = [n for n in second if n > 1]
    return steps > 0 and out * steps ** len(wide) >= hidden * prod(steps + n - 1 for n in wide)


def _shifted(block: np.ndarray, shifts: Taps) -> np.ndarray:
    """Return every row of the block at every shift: (shifts * out, in, *(taps + shifts - 1))."""
    taps = block.shape[2:]
    rows = np.zeros((*shifts, *block.shape[:2], *(n + s - 1 for n, s in zip(taps, shifts, strict=True))))
    for shift in np.ndindex(*shifts):
        window: tuple[Any, ...] = tuple(slice(s, s + n) for s, n in zip(shift, taps, strict=True))
        rows[(*shift, slice(None), slice(None), *window)] = block
    return rows.reshape(-1, *rows.shape[len(shifts) + 1 :])


def _row_space(rows: np.ndarray, noise: float) -> np.ndarray:
    """Return an orthonormal basis of the span of the rows."""
    values, vectors = np.linalg.eigh(rows @ rows.T)
    nonzero = values > noise**2 * values[-1]
    basis: np.ndarray = (vectors[:, nonzero] / np.sqrt(values[nonzero])).T @ rows
    return basis


def _inside(basis: np.ndarray, taps: Taps, hidden: int, noise: float) -> np.ndarray | None:
    """Return the `hidden` members of a space that are (nearly) zero outside the first taps; None for another number."""
    window = basis[(slice(None), slice(None), *(slice(n) for n in taps))]
    flat = window.reshape(len(basis), -1)
    if min(flat.shape) < hidden:
        return None
    values, vectors = np.linalg.eigh(flat @ flat.T)  # share of the energy inside the window, from 0 to 1
    inside = 1 - values < noise
    if inside.sum() != hidden:
        return None
    members: np.ndarray = np.tensordot(vectors[:, inside], window, (0, 0))
    return members


def _matched(block: np.ndarray, first: np.ndarray, noise: float) -> Pair | None:
    """Return both parts, refined by alternating least squares from the first; None if their product does not match."""
    before = np.inf
    for _ in range(ROUNDS):
        second, residual = _fitted(block, first)
        if residual > np.sqrt(noise):
            return None
        turned, residual = _fitted(block.swapaxes(0, 1), second.swapaxes(0, 1))
        first = turned.swapaxes(0, 1)
        if residual > before / 2:
            break
        before = residual
    return Pair(first, second, residual)


def _fitted(block: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the second part that fits the block best in a product with the first, and the relative residual."""
    out, hidden = len(block), len(first)
    taps = tuple(n - a + 1 for n, a in zip(block.shape[2:], first.shape[2:], strict=True))
    design = _shifted(first, taps).reshape(prod(taps) * hidden, -1)
    target = block.reshape(out, -1)
    second = np.linalg.lstsq(design.T, target.T, rcond=None)[0].T
    residual = float(np.linalg.norm(second @ design - target) / np.linalg.norm(target))
    return np.moveaxis(second.reshape(out, *taps, hidden), -1, 1), residual
