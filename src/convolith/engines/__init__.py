"""Convolution engines, one algorithm per module or folder; `table` lists them."""

from convolith.engines.base import Engine
from convolith.engines.machine_limits import MachineLimits
from convolith.engines.table import BY_NAME, TABLE

__all__ = ["BY_NAME", "TABLE", "Engine", "MachineLimits"]
