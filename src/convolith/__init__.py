"""Convolutions, computed at the hardware's limit, folded into one, recovered from data, and costed before they run.

The public names are imported when they are first used (PEP 562), so that `import convolith` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convolith.version import __version__ as __version__

if TYPE_CHECKING:
    from convolith import d2l, nn
    from convolith.algebra import Composition, Decomposition, compose, decompose
    from convolith.conv import Conv
    from convolith.correlation import convolve, correlate, filter_image
    from convolith.costing import cost
    from convolith.errors import ConvolithError
    from convolith.fitting import Fit, Gram, VaryingFit, VaryingGram, VaryingKernel, fit, fit_varying
    from convolith.folding import Folded, expand, fold
    from convolith.planner import Plan, plan
    from convolith.spec import ConvSpec

_HOMES = {
    "Composition": "algebra",
    "Conv": "conv",
    "ConvSpec": "spec",
    "ConvolithError": "errors",
    "Decomposition": "algebra",
    "Fit": "fitting",
    "Gram": "fitting",
    "Folded": "folding",
    "Plan": "planner",
    "VaryingFit": "fitting",
    "VaryingGram": "fitting",
    "VaryingKernel": "fitting",
    "compose": "algebra",
    "convolve": "correlation",
    "correlate": "correlation",
    "cost": "costing",
    "decompose": "algebra",
    "expand": "folding",
    "filter_image": "correlation",
    "fit": "fitting",
    "fit_varying": "fitting",
    "fold": "folding",
    "plan": "planner",
}
_ROOMS = ("d2l", "nn")

__all__ = [
    "Composition",
    "Conv",
    "ConvSpec",
    "ConvolithError",
    "Decomposition",
    "Fit",
    "Folded",
    "Gram",
    "Plan",
    "VaryingFit",
    "VaryingGram",
    "VaryingKernel",
    "compose",
    "convolve",
    "correlate",
    "cost",
    "d2l",
    "decompose",
    "expand",
    "filter_image",
    "fit",
    "fit_varying",
    "fold",
    "nn",
    "plan",
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
