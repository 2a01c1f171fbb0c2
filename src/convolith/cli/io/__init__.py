"""Reading and writing of files: images, arrays, FITS, kernels."""
