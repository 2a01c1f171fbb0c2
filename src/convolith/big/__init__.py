"""Arrays larger than memory: correlations from store to store and fits between them, block by block."""

from convolith.big.fitting import BigFit, FitPlan, fit
from convolith.big.lazy import correlate
from convolith.big.planning import BigPlan, plan
from convolith.big.running import BigReport
from convolith.big.windows import Window, windows

__all__ = ["BigFit", "BigPlan", "BigReport", "FitPlan", "Window", "correlate", "fit", "plan", "windows"]
