"""Which kernel turned X into Y."""

from convolith.fitting.gram import Gram
from convolith.fitting.recover import fit
from convolith.fitting.result import Fit

__all__ = ["Fit", "Gram", "fit"]
