"""Arrays larger than memory: correlations from store to store, block by block."""

from convolith.big.planning import BigPlan, plan
from convolith.big.running import BigReport
from convolith.big.windows import Window, windows

__all__ = ["BigPlan", "BigReport", "Window", "plan", "windows"]
