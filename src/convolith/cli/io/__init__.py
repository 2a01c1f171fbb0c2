"""Files in and out: images, arrays, FITS, kernels."""
