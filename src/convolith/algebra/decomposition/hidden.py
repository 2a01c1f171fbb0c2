"""Kernels that pass through few hidden channels between two smaller kernels: a common factor, by linear algebra.

`K[o] = sum over h of B[o, h] * A[h]`: every shifted row of K (one output channel's filters) lies in the span of the
shifted rows of A. With enough shifts those of K span the same space, and what of it fits into a window of A's size is A
itself, up to a mixture of the hidden channels; B follows by least squares. This is the shift structure that finds a
common divisor of many polynomials from the null space of their Sylvester matrix (Bitmead et al., IEEE Trans. Automatic
Control 23, 1978). It needs fewer hidden channels than K has on its larger side: the rank of K's response at any point.
"""

from __future__ import annotations

from itertools import count, product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from convolith.algebra.decomposition.blocks import Kernel, Ladder, Shape, multiplications
from convolith.algebra.decomposition.reducible import Split, rank

WORK = 5e10
"""Operations on the shifted rows of all groups at most; more shifts than that are not tried. About two seconds."""
NOISE = 1e-7
"""Singular values below this, relative to the largest, count as zero; the Gram matrices tell no smaller ones."""
ROUNDINGS = 30
"""Roundings of the weights' dtype below which they do too."""
COARSE = 1e-2
"""The same in a second search, for kernels that are only nearly so."""
TRIES = 2
"""Numbers of shifts that are tried for each split, from the least that may do: at that one, little is left over."""
ROUNDS = 20
"""Alternations of the two least-squares problems at most, which take away what the search left; two or three do."""

Taps = tuple[int, ...]


class Pair(NamedTuple):
    """The two parts of one group, (hidden, in, *taps) and (out, hidden, *taps), and how far they are away, relative."""

    first: np.ndarray
    second: np.ndarray
    distance: float


def propose(kernel: Kernel) -> list[Ladder] | str:
    """The splits into two parts of several taps each that every group has, where those save products."""
    groups, out, into = kernel.blocks.shape[:3]
    if out == into == 1 or prod(kernel.taps) == 1:
        return "hidden channels between two smaller kernels need several channels and several taps"
    for noise in (max(NOISE, ROUNDINGS * kernel.rounding), COARSE):
        found = [pairs(block, noise, WORK / groups) for block in kernel.blocks]
        ladders = []
        for size, pair in found[0].items():
            shapes = [(groups, *part.shape) for part in pair[:2]]
            same = all(size in other and other[size].first.shape == pair.first.shape for other in found)
            if same and multiplications(shapes, kernel.stride) < kernel.blocks.size:
                ladders.append(_ladder([group[size] for group in found], shapes))
        if ladders:
            return ladders
    return "no two smaller kernels with fewer channels between them were found"


def _ladder(found: list[Pair], shapes: list[Shape]) -> Ladder:
    parts = [np.stack([pair[at] for pair in found]) for at in (0, 1)]
    return Ladder("reducible", 1, lambda _level: shapes, lambda _level: parts)


def pairs(block: np.ndarray, noise: float, work: float) -> dict[Taps, Pair]:
    """Two parts whose product is (nearly) the block and forms fewer products, by the taps of the first."""
    out, into = block.shape[:2]
    if into > out:  # rows are shorter than columns: the second part, turned, is the first of the turned kernel
        turned = pairs(block.swapaxes(0, 1), noise, work).values()
        swapped = [Pair(pair.second.swapaxes(0, 1), pair.first.swapaxes(0, 1), pair.distance) for pair in turned]
        return {pair.first.shape[2:]: pair for pair in swapped}
    hidden = rank(block, noise)
    found: dict[Taps, Pair] = {}
    if not 0 < hidden < out:
        return found
    left, spent = _splits(block, hidden), 0.0
    for steps in count(1):
        left = [split for split in left if not _spans(steps - TRIES, out, hidden, split.second)]
        ready = [split for split in left if _spans(steps, out, hidden, split.second)]
        if not left:
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
            if pair is not None and (split.first not in found or pair.distance < found[split.first].distance):
                found[split.first] = pair
    return found


def _splits(block: np.ndarray, hidden: int) -> list[Split]:
    """The taps of two parts of several taps each that form fewer products than the block."""
    out, into, *taps = block.shape
    splits = []
    for first in product(*(range(1, n + 1) for n in taps)):
        second = tuple(n - a + 1 for n, a in zip(taps, first, strict=True))
        few = hidden * (into * prod(first) + out * prod(second)) < block.size
        if few and prod(first) > 1 and prod(second) > 1:
            splits.append(Split(first, second, hidden))
    return splits


def _spans(steps: int, out: int, hidden: int, second: Taps) -> bool:
    """Whether so many shifts along each axis give as many rows of the block as there are of the first part in them."""
    wide = [n for n in second if n > 1]
    return steps > 0 and out * steps ** len(wide) >= hidden * prod(steps + n - 1 for n in wide)


def _shifted(block: np.ndarray, shifts: Taps) -> np.ndarray:
    """Every row of the block at every shift: (shifts * out, in, *(taps + shifts - 1))."""
    taps = block.shape[2:]
    rows = np.zeros((*shifts, *block.shape[:2], *(n + s - 1 for n, s in zip(taps, shifts, strict=True))))
    for shift in np.ndindex(*shifts):
        window: tuple[Any, ...] = tuple(slice(s, s + n) for s, n in zip(shift, taps, strict=True))
        rows[(*shift, slice(None), slice(None), *window)] = block
    return rows.reshape(-1, *rows.shape[len(shifts) + 1 :])


def _row_space(rows: np.ndarray, noise: float) -> np.ndarray:
    """An orthonormal basis of what the rows span."""
    values, vectors = np.linalg.eigh(rows @ rows.T)
    kept = values > noise**2 * values[-1]
    basis: np.ndarray = (vectors[:, kept] / np.sqrt(values[kept])).T @ rows
    return basis


def _inside(basis: np.ndarray, taps: Taps, hidden: int, noise: float) -> np.ndarray | None:
    """The `hidden` members of a space that are (nearly) zero outside of the first taps; None if fewer or more are."""
    window = basis[(slice(None), slice(None), *(slice(n) for n in taps))]
    flat = window.reshape(len(basis), -1)
    if min(flat.shape) < hidden:
        return None
    values, vectors = np.linalg.eigh(flat @ flat.T)  # the part of the energy that is inside, from 0 to 1
    inside = 1 - values < noise
    if inside.sum() != hidden:
        return None
    members: np.ndarray = np.tensordot(vectors[:, inside], window, (0, 0))
    return members


def _matched(block: np.ndarray, first: np.ndarray, noise: float) -> Pair | None:
    """The second part that goes with a first, after rounds in which each is fitted to the other."""
    before = np.inf
    for _ in range(ROUNDS):
        second, left = _fitted(block, first)
        if left > np.sqrt(noise):
            return None
        turned, left = _fitted(block.swapaxes(0, 1), second.swapaxes(0, 1))
        first = turned.swapaxes(0, 1)
        if left > before / 2:
            break
        before = left
    return Pair(first, second, left)


def _fitted(block: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, float]:
    """The second part for which the product with a first is nearest, and what is left, relative."""
    out, hidden = len(block), len(first)
    taps = tuple(n - a + 1 for n, a in zip(block.shape[2:], first.shape[2:], strict=True))
    design = _shifted(first, taps).reshape(prod(taps) * hidden, -1)
    target = block.reshape(out, -1)
    second = np.linalg.lstsq(design.T, target.T, rcond=None)[0].T
    left = float(np.linalg.norm(second @ design - target) / np.linalg.norm(target))
    return np.moveaxis(second.reshape(out, *taps, hidden), -1, 1), left
