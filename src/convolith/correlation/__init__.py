"""The functional face: `correlate`, `convolve` and `filter_image`, for NumPy and torch, with gradients."""

from convolith.correlation.functional import convolve, correlate, filter_image

__all__ = ["convolve", "correlate", "filter_image"]
