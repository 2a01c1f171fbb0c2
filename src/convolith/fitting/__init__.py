"""Which kernel turned X into Y."""

from convolith.fitting.recover import Fit, fit

__all__ = ["Fit", "fit"]
