"""Kernels that are often typed by hand: blurs, derivatives, filters and point-spread functions.

Each function returns a float64 array, (rows, columns), or of one to three axes where that is said, with its centre in
the middle: element `(size - 1) / 2` along each axis, between two elements for an even size. Kernels that are not equal
to their mirror image (`sobel`) are those of a correlation, as `filter_image` applies them.
"""

from convolith.kernels.blurs import airy, box, disk, gaussian, moffat, motion
from convolith.kernels.derivatives import gabor, laplacian_of_gaussian, sobel

__all__ = ["airy", "box", "disk", "gabor", "gaussian", "laplacian_of_gaussian", "moffat", "motion", "sobel"]
