"""Whole networks: the graph of a model as steps of generated code that threads run without returning to Python."""

from convolith.network.optimization import Optimization, optimize
from convolith.network.report import NetworkReport
from convolith.network.saved import load

__all__ = ["NetworkReport", "Optimization", "load", "optimize"]
