"""Which kernel turned X into Y."""

from convolith.fitting.gram import Gram
from convolith.fitting.recover import fit
from convolith.fitting.recover_varying import fit_varying
from convolith.fitting.result import Fit
from convolith.fitting.varying_gram import VaryingFit, VaryingGram
from convolith.fitting.varying_kernel import VaryingKernel

__all__ = ["Fit", "Gram", "VaryingFit", "VaryingGram", "VaryingKernel", "fit", "fit_varying"]
