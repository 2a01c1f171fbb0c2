"""The functional interface: `correlate`, `convolve` and `filter_image`, for NumPy and torch, with gradients."""

from convolith.correlation.caches import clear_caches
from convolith.correlation.functional import convolve, correlate
from convolith.correlation.images import filter_image

__all__ = ["clear_caches", "convolve", "correlate", "filter_image"]
