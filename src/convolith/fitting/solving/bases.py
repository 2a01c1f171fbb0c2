"""Bases of kernels: given as arrays, or Gaussians times polynomials."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from convolith.errors import ConvolithError

SIGMAS, DEGREES = (0.7, 1.5, 3.0), (6, 4, 2)
"""Widths of the Gaussians, in pixels, and degrees of their polynomials (Alard and Lupton 1998)."""


def gaussian_hermite(
    kernel_size: tuple[int, ...], sigmas: Sequence[float] = SIGMAS, degrees: Sequence[int] = DEGREES
) -> np.ndarray:
    """Return Gaussians times the monomials of u up to a total degree, (count, *kernel_size) (Alard and Lupton 1998).

    Kernels that are even along every axis are scaled to sum to one; then the first kernel is subtracted from all others
    of them. So all kernels but the first sum to zero.

    Args:
        kernel_size: size along each axis; u is 0 at the centre.
        sigmas: widths of the Gaussians, in pixels.
        degrees: degree of the polynomials of each Gaussian.

    Example:
        >>> gaussian_hermite((19, 19), [3.0], [3]).shape
        (10, 19, 19)
    """
    kernels: list[np.ndarray] = []
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
            if kernels and all(power % 2 == 0 for power in powers):
                kernel = kernel - kernels[0]
            kernels.append(kernel)
    return np.stack(kernels)


def basis_of(basis: Any, kernel_size: tuple[int, ...]) -> np.ndarray | None:
    """Return a basis as an array, (count, *kernel_size), in float64, or None for no basis.

    Raises:
        ConvolithError: an unknown name, another shape, more kernels than taps, linearly dependent kernels.
    """
    if basis is None:
        return None
    if isinstance(basis, str):
        if basis != "gaussian-hermite":
            raise ConvolithError(f'basis is {basis!r}; expected arrays, (count, *kernel_size), or "gaussian-hermite"')
        return gaussian_hermite(kernel_size)
    try:
        array = np.asarray(basis, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConvolithError("basis is no array of numbers; expected arrays, (count, *kernel_size)") from None
    if array.ndim != len(kernel_size) + 1 or array.shape[1:] != kernel_size or not len(array):
        raise ConvolithError(f"basis has shape {array.shape}; expected (count, *kernel_size) with {kernel_size}")
    if not np.isfinite(array).all():
        raise ConvolithError("basis has values that are not finite; expected finite numbers")
    flat = array.reshape(len(array), prod(kernel_size))
    rank = int(np.linalg.matrix_rank(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-300)))
    if rank < len(flat):
        raise ConvolithError(f"basis has {len(flat)} kernels of which {rank} are independent; leave the others out")
    return array
