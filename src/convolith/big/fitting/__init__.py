"""Fits of kernels between stores that are larger than memory: one pass over the data, block by block."""

from convolith.big.fitting.api import fit
from convolith.big.fitting.plan import FitPlan
from convolith.big.fitting.result import BigFit

__all__ = ["BigFit", "FitPlan", "fit"]
