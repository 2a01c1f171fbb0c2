"""Computes and merges convolutions on CPUs, finds kernels from data, and counts what models cost.

The public names are imported when they are first used (PEP 562), so that `import convolith` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convolith.version import __version__ as __version__

if TYPE_CHECKING:
    from convolith import big, d2l, kernels, network, nn, widget
    from convolith.algebra import Composition, Decomposition, compose, decompose
    from convolith.conv import Conv
    from convolith.correlation import clear_caches, convolve, correlate, filter_image
    from convolith.costing import Law, LayerCost, ModelCost, Peak, Scaling, cost
    from convolith.errors import ConvolithError
    from convolith.fitting import (
        Descent,
        Fit,
        Gram,
        Huber,
        VaryingFit,
        VaryingGram,
        VaryingKernel,
        deconvolve,
        fit,
        fit_varying,
    )
    from convolith.folding import Folded, FoldReport, fold
    from convolith.folding.expand.forms import expand
    from convolith.network import NetworkReport, Optimization, optimize
    from convolith.planner import BoundPlan, Plan
    from convolith.planner.choose import plan
    from convolith.spec import ConvSpec
    from convolith.work import Count

_HOMES = {
    "BoundPlan": "planner",
    "Composition": "algebra",
    "Conv": "conv",
    "ConvSpec": "spec",
    "ConvolithError": "errors",
    "Count": "work",
    "Decomposition": "algebra",
    "Descent": "fitting",
    "Fit": "fitting",
    "FoldReport": "folding",
    "Folded": "folding",
    "Gram": "fitting",
    "Huber": "fitting",
    "Law": "costing",
    "LayerCost": "costing",
    "ModelCost": "costing",
    "NetworkReport": "network",
    "Optimization": "network",
    "Peak": "costing",
    "Plan": "planner",
    "Scaling": "costing",
    "VaryingFit": "fitting",
    "VaryingGram": "fitting",
    "VaryingKernel": "fitting",
    "clear_caches": "correlation",
    "compose": "algebra",
    "convolve": "correlation",
    "correlate": "correlation",
    "cost": "costing",
    "decompose": "algebra",
    "deconvolve": "fitting",
    "expand": "folding",
    "filter_image": "correlation",
    "fit": "fitting",
    "fit_varying": "fitting",
    "fold": "folding",
    "optimize": "network",
    "plan": "planner",
}
_ROOMS = ("big", "d2l", "kernels", "network", "nn", "widget")

__all__ = [
    "BoundPlan",
    "Composition",
    "Conv",
    "ConvSpec",
    "ConvolithError",
    "Count",
    "Decomposition",
    "Descent",
    "Fit",
    "FoldReport",
    "Folded",
    "Gram",
    "Huber",
    "Law",
    "LayerCost",
    "ModelCost",
    "NetworkReport",
    "Optimization",
    "Peak",
    "Plan",
    "Scaling",
    "VaryingFit",
    "VaryingGram",
    "VaryingKernel",
    "big",
    "clear_caches",
    "compose",
    "convolve",
    "correlate",
    "cost",
    "d2l",
    "decompose",
    "deconvolve",
    "expand",
    "filter_image",
    "fit",
    "fit_varying",
    "fold",
    "kernels",
    "network",
    "nn",
    "optimize",
    "plan",
    "widget",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"convolith.{name}")
    if name in _HOMES:
        value = getattr(import_module(f"convolith.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'convolith' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
