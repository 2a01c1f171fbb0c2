"""Kernels that sum to zero: derivatives and waves."""

from __future__ import annotations

from math import cos, pi, radians, sin

import numpy as np

from convolith.errors import ConvolithError
from convolith.geometry import check_whole
from convolith.kernels.grids import axes_of, positive, radii_of, sizes_of, summing_to_one

NOTHING = 1e-9
"""Sum of magnitudes, relative to that of the Gaussian alone, up to which a wave is rounding."""
TRUNCATE = 4.0
"""Number of standard deviations at which Gaussians are cut off, as in `scipy.ndimage`."""


def sobel(axis: int = 0) -> np.ndarray:
    """Return the 3x3 Sobel kernel of a derivative: a ramp that rises by 1 per pixel along the axis gives 1.

    The kernel is for `correlate` and `filter_image`; `convolve` with it gives the opposite sign.

    Args:
        axis: 0 for the derivative along the rows' numbers (downwards), 1 along the columns' (to the right).

    Returns:
        A float64 array (3, 3), whose sum is 0.

    Raises:
        ConvolithError: another axis.

    References:
        Sobel and Feldman, "A 3x3 isotropic gradient operator for image processing", Stanford, 1968.

    Example:
        >>> import convolith as cl
        >>> (8 * cl.kernels.sobel(1)).tolist()
        [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]
    """
    if check_whole("axis", axis, 0) > 1:
        raise ConvolithError(f"axis is {axis}; expected 0 or 1, the axis of the derivative")
    kernel = np.outer([-1.0, 0.0, 1.0], [1.0, 2.0, 1.0]) / 8
    return kernel if axis == 0 else kernel.T.copy()


def laplacian_of_gaussian(sigma: float, size: int | None = None) -> np.ndarray:
    """Return the Laplacian of a Gaussian; its sum is 0, and `x**2 / 2` gives 1: the Laplacian of the blurred picture.

    Args:
        sigma: standard deviation of the Gaussian, in pixels.
        size: number of pixels along each axis, 3 or more; by default `2 * ceil(r) + 1` with r = 4 sigma, but at least
            1.

    Returns:
        A float64 array (size, size), with its centre at element `(size - 1) / 2`.

    Raises:
        ConvolithError: a standard deviation or a size that is not positive, or fewer than three pixels.

    References:
        Marr and Hildreth, "Theory of edge detection", Proc. R. Soc. Lond. B 207, 1980.

    Example:
        >>> import convolith as cl
        >>> kernel = cl.kernels.laplacian_of_gaussian(1.4)
        >>> kernel.shape, abs(float(kernel.sum())) < 1e-12, float(kernel[6, 6]) < 0
        ((13, 13), True, True)
    """
    sigma = positive("sigma", sigma)
    sizes = sizes_of(size, [max(TRUNCATE * sigma, 1.0)] * 2)
    if min(sizes) < 3:
        raise ConvolithError(f"size is {size}; expected 3 or more, which a second derivative needs; leave size out")
    squares = (radii_of(sizes) / sigma) ** 2
    envelope = summing_to_one(np.exp(-0.5 * squares))
    kernel = envelope * (squares - 2) / sigma**2
    kernel -= envelope * kernel.sum()
    curved = 0.5 * axes_of(sizes)[0][:, None] ** 2
    scaled: np.ndarray = kernel / (kernel * curved).sum()
    return scaled


def gabor(
    wavelength: float,
    angle: float = 0.0,
    sigma: float | None = None,
    *,
    aspect: float = 1.0,
    phase: float = 0.0,
    size: int | None = None,
) -> np.ndarray:
    """Return a Gabor filter: a wave under a Gaussian; its sum is 0, and the sum of its magnitudes 1.

    Args:
        wavelength: in pixels, 2 or more.
        angle: direction in which the wave runs, in degrees from the columns' axis (to the right) towards the rows'
            (downwards); its stripes are perpendicular to it.
        sigma: standard deviation of the Gaussian along the wave, in pixels; by default 0.56 wavelengths, a bandwidth of
            one octave.
        aspect: standard deviation along the stripes, as a multiple of `sigma`.
        phase: phase of the wave at the centre, in degrees: 0 for an even (cosine) and 90 for an odd (sine) filter.
        size: number of pixels along each axis; by default `2 * ceil(r) + 1` with r three times the larger of the two
            standard deviations.

    Returns:
        A float64 array (size, size), with its centre at element `(size - 1) / 2`.

    Raises:
        ConvolithError: a wavelength below 2, another number that is not positive, or a kernel without any weight.

    References:
        Gabor, "Theory of communication", J. IEE 93, 1946; Daugman, J. Opt. Soc. Am. A 2, 1985.

    Example:
        >>> import convolith as cl
        >>> kernel = cl.kernels.gabor(4.0)
        >>> kernel.shape, abs(float(kernel.sum())) < 1e-12
        ((15, 15), True)
    """
    wavelength = positive("wavelength", wavelength)
    if wavelength < 2:
        raise ConvolithError(f"wavelength is {wavelength}; expected 2 pixels or more, which pixels can show")
    along = 0.56 * wavelength if sigma is None else positive("sigma", sigma)
    across = along * positive("aspect", aspect)
    sizes = sizes_of(size, [3 * max(along, across)] * 2)
    rows, columns = (grid.astype(float) for grid in np.meshgrid(*axes_of(sizes), indexing="ij"))
    turn = radians(angle)
    forward = columns * cos(turn) + rows * sin(turn)
    sideways = rows * cos(turn) - columns * sin(turn)
    envelope = summing_to_one(np.exp(-0.5 * ((forward / along) ** 2 + (sideways / across) ** 2)))
    kernel = envelope * np.cos(2 * pi * forward / wavelength + radians(phase))
    kernel -= envelope * kernel.sum()
    size_of_all = float(np.abs(kernel).sum())
    if size_of_all < NOTHING:
        raise ConvolithError(
            f"no pixel of the kernel has any weight (wavelength {wavelength}, phase {phase}); pass a longer one, "
            "another phase or a larger size"
        )
    scaled: np.ndarray = kernel / size_of_all
    return scaled
