"""Blurs: kernels that sum to one."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, cos, radians, sin, sqrt

import numpy as np

from convolith.errors import ConvolithError
from convolith.kernels.grids import axes_of, numbers, positive, radii_of, sizes_of, summing_to_one

TRUNCATE = 4.0
"""Number of standard deviations at which Gaussians are cut off, as in `scipy.ndimage`."""
FINER = 16
"""Number of points per pixel and axis at which the area of a disk is sampled."""
AIRY_ZERO = 3.8317059702075125
"""First zero of the Bessel function J1: the first dark ring of an Airy pattern."""
AIRY_RINGS = 4.0
"""Radius at which an Airy pattern is cut off by default, in radii of its first dark ring."""
MOFFAT_WIDTHS = 4.0
"""Radius at which a Moffat profile is cut off by default, in full widths at half maximum."""


def gaussian(sigma: float | Sequence[float], size: int | Sequence[int] | None = None) -> np.ndarray:
    """Return a Gaussian, sampled at the centres of pixels; its sum is 1.

    `exp(-(r / sigma)**2 / 2)`, scaled.

    Args:
        sigma: standard deviation in pixels: one number for two axes, or one for each of one to three axes.
        size: number of pixels, or one number per axis; by default `2 * ceil(r) + 1` with r = 4 sigma, so that the
            kernel reaches at least four standard deviations from the centre.

    Returns:
        A float64 array of one axis for each standard deviation, with its centre at element `(size - 1) / 2`.

    Raises:
        ConvolithError: a standard deviation or a size that is not positive.

    Example:
        >>> import convolith as cl
        >>> cl.kernels.gaussian((1.0,), 3).round(4).tolist()
        [0.2741, 0.4519, 0.2741]
    """
    sigmas = numbers("sigma", sigma)
    sizes = sizes_of(size, [TRUNCATE * one for one in sigmas])
    kernel = np.ones(())
    for one, points in zip(sigmas, axes_of(sizes), strict=True):
        kernel = np.multiply.outer(kernel, np.exp(-0.5 * (points / one) ** 2))
    return summing_to_one(kernel)


def box(size: int | Sequence[int]) -> np.ndarray:
    """Return a box of equal weights, the moving average; its sum is 1.

    Args:
        size: number of pixels along both axes, or one number for each of one to three axes.

    Returns:
        A float64 array of the given size.

    Raises:
        ConvolithError: a size that is not positive.

    Example:
        >>> import convolith as cl
        >>> cl.kernels.box((2, 2)).tolist()
        [[0.25, 0.25], [0.25, 0.25]]
    """
    return summing_to_one(np.ones(sizes_of(size, [0.0] * (len(size) if isinstance(size, Sequence) else 2))))


def disk(radius: float, size: int | None = None) -> np.ndarray:
    """Return a disk, the blur of a lens out of focus; its sum is 1.

    Each pixel has the part of its area that lies in the disk, sampled at 16 x 16 points.

    Args:
        radius: in pixels.
        size: number of pixels along each axis; by default `2 * ceil(r) + 1` with r = radius - 0.5, which holds the
            disk.

    Returns:
        A float64 array (size, size), with its centre at element `(size - 1) / 2`.

    Raises:
        ConvolithError: a radius or a size that is not positive.

    Example:
        >>> import convolith as cl
        >>> cl.kernels.disk(1.0).round(3).tolist()
        [[0.026, 0.145, 0.026], [0.145, 0.315, 0.145], [0.026, 0.145, 0.026]]
    """
    radius = positive("radius", radius)
    rows, columns = sizes_of(size, [radius - 0.5] * 2)
    inside = radii_of((rows * FINER, columns * FINER)) <= radius * FINER
    return summing_to_one(inside.reshape(rows, FINER, columns, FINER).mean((1, 3)))


def motion(length: float, angle: float = 0.0) -> np.ndarray:
    """Return the blur of a straight motion at constant speed; its sum is 1.

    Args:
        length: length of the path in pixels, 1 or more: a length of 1 is no blur.
        angle: direction in degrees from the columns' axis (to the right) towards the rows' (downwards).

    Returns:
        A float64 array (rows, columns) with `2 * ceil(r) + 1` pixels along each axis, where r is half of the distance
        between the centres of the first and the last pixel of the path along it.

    Raises:
        ConvolithError: a length below 1.

    Example:
        >>> import convolith as cl
        >>> cl.kernels.motion(3).tolist()
        [[0.3333333333333333, 0.3333333333333333, 0.3333333333333333]]
    """
    length = positive("length", length)
    if length < 1:
        raise ConvolithError(f"length is {length}; expected 1 pixel or more; pass 1 for no blur")
    turn, half = radians(angle), (length - 1) / 2
    direction = np.array([sin(turn), cos(turn)])
    sizes = [2 * ceil(half * abs(one) - 1e-9) + 1 for one in direction]
    rows, columns = np.meshgrid(*axes_of(sizes), indexing="ij")
    along = np.clip(rows * direction[0] + columns * direction[1], -half, half)
    distance = np.hypot(rows - along * direction[0], columns - along * direction[1])
    return summing_to_one(np.maximum(1 - distance, 0.0))


def moffat(fwhm: float, beta: float = 2.5, size: int | None = None) -> np.ndarray:
    """Return a Moffat profile, the image of a star seen through the atmosphere; its sum is 1.

    `(1 + (r / a)**2) ** -beta`, scaled, with `a = fwhm / (2 sqrt(2**(1 / beta) - 1))`.

    Args:
        fwhm: full width at half maximum, in pixels.
        beta: exponent of the wings, above 1.
        size: number of pixels along each axis; by default `2 * ceil(r) + 1` with r = 4 fwhm.

    Returns:
        A float64 array (size, size), with its centre at element `(size - 1) / 2`.

    Raises:
        ConvolithError: a width or a size that is not positive, an exponent of 1 or less.

    References:
        Moffat, Astron. Astrophys. 3, 1969.

    Example:
        >>> import convolith as cl
        >>> profile = cl.kernels.moffat(4.0, size=21)
        >>> round(float(profile[10, 12] / profile[10, 10]), 12)
        0.5
    """
    fwhm = positive("fwhm", fwhm)
    if positive("beta", beta) <= 1:
        raise ConvolithError(
            f"beta is {beta}; expected more than 1, below which the profile has no finite sum; stars have 2 to 5"
        )
    width = fwhm / (2 * sqrt(2 ** (1 / beta) - 1))
    radii = radii_of(sizes_of(size, [MOFFAT_WIDTHS * fwhm] * 2))
    return summing_to_one((1 + (radii / width) ** 2) ** -beta)


def airy(radius: float, size: int | None = None) -> np.ndarray:
    """Return an Airy pattern, the image of a point through a round aperture; its sum is 1.

    `(2 J1(v) / v)**2`, scaled, with the Bessel function J1 and `v = 3.8317 r / radius`.

    Args:
        radius: radius of the first dark ring, in pixels. For a lens of focal ratio N, it is
            `1.22 * wavelength * N / pixel` with the wavelength and the distance of two pixels in one unit of length;
            for a telescope, `1.22 * wavelength / aperture` radians divided by the angle that a pixel covers.
        size: number of pixels along each axis; by default `2 * ceil(r) + 1` with r = 4 radius.

    Returns:
        A float64 array (size, size), with its centre at element `(size - 1) / 2`.

    Raises:
        ConvolithError: a radius or a size that is not positive.

    References:
        Airy, "On the diffraction of an object-glass with circular aperture", Trans. Cambridge Phil. Soc. 5, 1835.

    Example:
        >>> import convolith as cl
        >>> pattern = cl.kernels.airy(5.0)
        >>> bool(pattern[20, 25] < 1e-12 * pattern[20, 20])
        True
    """
    import torch

    radius = positive("radius", radius)
    radii = torch.from_numpy(radii_of(sizes_of(size, [AIRY_RINGS * radius] * 2)) * (AIRY_ZERO / radius))
    amplitude = torch.where(radii == 0, 1.0, 2 * torch.special.bessel_j1(radii) / radii.clamp_min(1e-300))
    return summing_to_one((amplitude**2).numpy())
