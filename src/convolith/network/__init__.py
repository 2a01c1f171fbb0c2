"""Whole networks: the graph of a model as steps of generated code that threads run without returning to Python."""

from convolith.network.optimization import Optimization, optimize
from convolith.network.report import NetworkReport

__all__ = ["NetworkReport", "Optimization", "optimize"]
