"""Estimation of the kernel that maps x to y, and of the x that a kernel mapped to y."""

from convolith.fitting.deconvolution import deconvolve
from convolith.fitting.descent import Descent, Huber
from convolith.fitting.gram import Gram
from convolith.fitting.kernel_fit import fit
from convolith.fitting.results import Fit
from convolith.fitting.varying_fit import fit_varying
from convolith.fitting.varying_gram import VaryingFit, VaryingGram
from convolith.fitting.varying_kernel import VaryingKernel

__all__ = [
    "Descent",
    "Fit",
    "Gram",
    "Huber",
    "VaryingFit",
    "VaryingGram",
    "VaryingKernel",
    "deconvolve",
    "fit",
    "fit_varying",
]
