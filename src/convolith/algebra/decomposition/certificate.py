"""Certified bounds on the operator norm of the difference of two kernels, from finitely many frequencies.

A correlation's norm, `max ||y||_2 / ||x||_2` over all inputs of all sizes, is at most the largest spectral norm of its
frequency response `K^(w) = sum over t of K[t] e^(i w t)`; zero padding, strides and borders can only reduce it
(Sedghi, Gupta and Long, "The singular values of convolutional layers", ICLR 2019). Each `u* K^(w) v` is, up to a
factor of size 1, a trigonometric polynomial of degree (k - 1)/2 along an axis of k taps. A real function of exponential
type m whose largest value M is reached at w0 stays above `M cos(m (w - w0))` within pi/m of it (Duffin and Schaeffer,
"Some properties of functions of exponential type", Bull. AMS 44, 1938; for polynomials on grids Ehlich and Zeller,
Math. Z. 86, 1964). A grid of N points has one within pi/N of w0, so that the maximum over all frequencies is at most
the maximum over the grid divided by `cos(pi (k - 1) / (2 N))`, once for each axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, prod, sqrt

import numpy as np

from convolith.algebra.decomposition.blocks import as_integers, chained, exactly_chained, widened

OVERSAMPLING = (16, 8, 4, 2)
"""Grid points per (k - 1), finest first: the certificate is loose by 0.5%, 2%, 8% or 41% for each axis."""
BUDGET = 7e10
"""Largest number of operations for the eigenvalues over a grid; the finest grid within this limit is used."""
EXACT_PRODUCTS = 1 << 18
"""Largest number of products for which a chain is multiplied in integers; above it, its rounding is bounded."""
SHORT = 8
"""Largest number of parts for which the rounding bound is used; it grows with every part and becomes useless."""
SMALL = 8
"""Largest number of input or output channels, the smaller of both, for which `norm_sketch` computes `norm_bounds`."""
ROUNDS = 8
"""Number of power iterations of a sketch."""
UNIT = 2.0**-53
"""Half a unit in the last place of float64, relative."""


def difference(blocks: np.ndarray, parts: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """Return chain minus kernel as blocks, and a bound on the norm of the rounding error in it."""
    groups = blocks.shape[0]
    if len(parts) > SHORT or _products(parts, groups) <= EXACT_PRODUCTS:
        (whole, power), (kernel, shift) = exactly_chained(parts, groups), as_integers(blocks)
        low = min(power, shift)
        gaps = whole * 2 ** (power - low) - kernel * 2 ** (shift - low)
        return np.array([_scaled(int(gap), low) for gap in gaps.flat]).reshape(blocks.shape), 0.0
    sizes = [np.abs(widened(part, groups)).reshape(groups, *_matrix(part, groups), -1).sum(-1) for part in parts]
    reach = sizes[0]
    for size in sizes[1:]:
        reach = size @ reach
    roundings = sum(size.shape[2] * prod(part.shape[3:]) + 2 for size, part in zip(sizes, parts, strict=True))
    largest = np.linalg.norm(reach + np.abs(blocks).reshape(*reach.shape, -1).sum(-1), axis=(1, 2)).max()
    return chained(parts, groups) - blocks, float(roundings * UNIT * largest)


def _products(parts: Sequence[np.ndarray], groups: int) -> int:
    """Count the products that multiplying the parts of a chain into one kernel takes."""
    total, taps = 0, parts[0].shape[3:]
    for part in parts[1:]:
        into = parts[0].shape[0] // groups * parts[0].shape[2]
        total += groups * into * prod(taps) * prod(_matrix(part, groups)) * prod(part.shape[3:])
        taps = tuple(n + m - 1 for n, m in zip(taps, part.shape[3:], strict=True))
    return total


def _matrix(part: np.ndarray, groups: int) -> tuple[int, int]:
    each = part.shape[0] // groups
    return each * part.shape[1], each * part.shape[2]


def _scaled(value: int, power: int) -> float:
    """Return `value * 2**power`, rounded once."""
    return value / (1 << -power) if power <= 0 else float(value << power)


def norm_bounds(blocks: np.ndarray, oversampling: int = OVERSAMPLING[0]) -> tuple[float, float]:
    """Return a lower and an upper bound on the largest spectral norm over all frequencies and groups.

    Args:
        blocks: the kernel.
        oversampling: largest number of grid points per (k - 1).
    """
    taps, (out, into) = blocks.shape[3:], blocks.shape[1:3]
    each = blocks.shape[0] * min(out, into) ** 2 * (max(out, into) + 10 * min(out, into))
    allowed = [n for n in OVERSAMPLING if n <= oversampling]
    finest = next((n for n in allowed if each * prod(max(n * (k - 1), 1) for k in taps) / 2 <= BUDGET), 2)
    points = [max(finest * (k - 1), 1) for k in taps]
    scale = float(np.abs(blocks).max())
    if scale == 0:
        return 0.0, 0.0
    response = np.fft.rfftn(blocks / scale, points, axes=range(3, blocks.ndim))
    flat = np.moveaxis(response.reshape(*blocks.shape[:3], -1), 3, 1)
    if min(out, into) == 1:
        largest = float(np.linalg.norm(flat, axis=(2, 3)).max())
    else:
        short = flat if out <= into else flat.swapaxes(2, 3)
        largest = sqrt(max(float(np.linalg.eigvalsh(short @ short.conj().swapaxes(2, 3)).max()), 0.0))
    total = float(np.linalg.norm(flat, axis=(2, 3)).max())
    slack = float(64 * UNIT * (out + into) * np.log2(2 + prod(points))) * total
    loose = prod(1 / cos(pi * (k - 1) / (2 * n)) for k, n in zip(taps, points, strict=True))
    return max(largest - slack, 0.0) * scale, (largest + slack) * loose * scale


def norm_sketch(blocks: np.ndarray) -> tuple[float, float]:
    """Return looser bounds than `norm_bounds`, faster: power iteration from below, the sum of squares from above."""
    taps, (out, into) = blocks.shape[3:], blocks.shape[1:3]
    if min(out, into) <= SMALL:
        return norm_bounds(blocks)
    points = [max(4 * (k - 1), 1) for k in taps]
    response = np.fft.rfftn(blocks, points, axes=range(3, blocks.ndim))
    flat = np.ascontiguousarray(np.moveaxis(response.reshape(*blocks.shape[:3], -1), 3, 1))
    total = float(np.linalg.norm(flat, axis=(2, 3)).max())
    v = np.random.default_rng(0).normal(size=(*flat.shape[:2], into, 1)).astype(flat.dtype)
    low = 0.0
    for _ in range(ROUNDS):
        v /= np.maximum(np.linalg.norm(v, axis=2, keepdims=True), np.finfo(float).tiny)
        moved = flat @ v
        low = max(low, float(np.linalg.norm(moved, axis=2).max()))
        v = (moved.conj().swapaxes(2, 3) @ flat).conj().swapaxes(2, 3)
    loose = prod(1 / cos(pi * (k - 1) / (2 * n)) for k, n in zip(taps, points, strict=True))
    return low * (1 - 1e-12), total * loose * (1 + 1e-12)


def chain_sketch(blocks: np.ndarray, parts: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return looser bounds than `chain_bounds`, faster."""
    residual, rounding = difference(blocks, parts)
    low, high = norm_sketch(residual)
    return max(low - rounding, 0.0), high + rounding


def chain_bounds(blocks: np.ndarray, parts: Sequence[np.ndarray], limit: float | None = None) -> tuple[float, float]:
    """Return a lower and an upper bound on the norm of chain minus kernel.

    With a limit, bounds need to be no tighter than tells on which side of it the norm lies.
    """
    residual, rounding = difference(blocks, parts)
    for oversampling in OVERSAMPLING[:1] if limit is None else OVERSAMPLING[::-1]:
        low, high = norm_bounds(residual, oversampling)
        low, high = max(low - rounding, 0.0), high + rounding
        if limit is not None and not low <= limit < high:
            break
    return low, high


def padding_gain(padding: Sequence[tuple[int, int]], mode: str) -> float:
    """Bound the growth of ||x||_2 by padding: 1 for zeros; other modes repeat an input once per padded position."""
    return 1.0 if mode == "zeros" else sqrt(prod(1 + before + after for before, after in padding))
