"""Kernels that others are combinations of: given as arrays, or Gaussians times polynomials."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from convolith.errors import ConvolithError

SIGMAS, DEGREES = (0.7, 1.5, 3.0), (6, 4, 2)
"""In pixels, and of the polynomials of each: what Alard and Lupton 1998 take."""


def gaussian_hermite(
    kernel_size: tuple[int, ...], sigmas: Sequence[float] = SIGMAS, degrees: Sequence[int] = DEGREES
) -> np.ndarray:
    """Gaussians times the monomials of u up to a total degree (Alard and Lupton 1998), (count, *kernel_size).

    Those that are even along every axis add up to one, and but for the very first, which carries the sum, the first is
    taken off them; so all others add up to zero.

    Args:
        kernel_size: along each axis; u is 0 at its middle.
        sigmas: of the Gaussians, in pixels.
        degrees: of the polynomials of each.

    Example:
        >>> gaussian_hermite((19, 19), [3.0], [3]).shape
        (10, 19, 19)
    """
    found: list[np.ndarray] = []
    axes = [np.arange(k) - (k - 1) / 2 for k in kernel_size]
    for sigma, degree in zip(sigmas, degrees, strict=True):
        for powers in product(range(degree + 1), repeat=len(axes)):
            if sum(powers) > degree:
                continue
            factors = [np.exp(-(u**2) / (2 * sigma**2)) * u**power for u, power in zip(axes, powers, strict=True)]
            if all(power % 2 == 0 for power in powers):
                factors = [factor / factor.sum() for factor in factors]
            kernel = factors[0]
            for factor in factors[1:]:
                kernel = np.multiply.outer(kernel, factor)
            if found and all(power % 2 == 0 for power in powers):
                kernel = kernel - found[0]
            found.append(kernel)
    return np.stack(found)


def basis_of(basis: Any, kernel_size: tuple[int, ...]) -> np.ndarray | None:
    """(count, *kernel_size), in float64, or None for none.

    Raises:
        ConvolithError: another name, another shape, more kernels than taps, kernels of which some depend on others.
    """
    if basis is None:
        return None
    if isinstance(basis, str):
        if basis != "gaussian-hermite":
            raise ConvolithError(f'basis is {basis!r}; expected arrays, (count, *kernel_size), or "gaussian-hermite"')
        return gaussian_hermite(kernel_size)
    try:
        found = np.asarray(basis, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConvolithError("basis is no array of numbers; expected arrays, (count, *kernel_size)") from None
    if found.ndim != len(kernel_size) + 1 or found.shape[1:] != kernel_size or not len(found):
        raise ConvolithError(f"basis has shape {found.shape}; expected (count, *kernel_size) with {kernel_size}")
    if not np.isfinite(found).all():
        raise ConvolithError("basis has values that are not finite; expected finite numbers")
    flat = found.reshape(len(found), prod(kernel_size))
    rank = int(np.linalg.matrix_rank(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-300)))
    if rank < len(flat):
        raise ConvolithError(f"basis has {len(flat)} kernels of which {rank} are independent; leave the others out")
    return found
