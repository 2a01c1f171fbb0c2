"""Conversion of a model's convolutions from torch to Convolith and back, with a record of every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.nn.parameter import UninitializedParameter

from convolith.errors import ConvolithError
from convolith.nn.layers import SWAPPED, swap, to_torch, unparametrised
from convolith.planner.choose import check_choice
from convolith.report.table import Table

OURS = frozenset(SWAPPED.values())
Model = TypeVar("Model", bound=torch.nn.Module)


@dataclass(frozen=True)
class Layer:
    """One convolution of a model.

    Attributes:
        name: name of the module in the model; empty if the model itself is the convolution.
        kind: name of the module's class.
        converted: whether Convolith computes it.
        reason: why torch computes it, or remarks on a converted layer (lazy, parametrised, frozen, another device or
            accuracy); empty for one without remarks.
    """

    name: str
    kind: str
    converted: bool
    reason: str


@dataclass(frozen=True)
class Conversion:
    """Record of which library computes each convolution of a model; `report` returns it, and it can be printed.

    Attributes:
        layers: every convolution of the model, in the order of its modules.
    """

    layers: tuple[Layer, ...]

    @property
    def converted(self) -> tuple[Layer, ...]:
        """The layers that Convolith computes."""
        return tuple(layer for layer in self.layers if layer.converted)

    @property
    def skipped(self) -> tuple[Layer, ...]:
        """The layers that Convolith does not compute, each with its reason."""
        return tuple(layer for layer in self.layers if not layer.converted)

    def table(self) -> Table:
        """Return a table with one row per layer."""
        rows: list[dict[str, Any]] = [
            {
                "layer": layer.name or "(the model)",
                "class": layer.kind,
                "computed by": "convolith" if layer.converted else "torch",
                "reason": layer.reason,
            }
            for layer in self.layers
        ]
        return Table(f"{len(self.converted)} of {len(self.layers)} convolutions computed by Convolith", rows)

    def __str__(self) -> str:
        return self.table().text()


def convert(model: Model, *, accuracy: str = "default") -> Model:
    """Replace a model's convolutions by Convolith's, in place; parameters, hooks and state_dict do not change.

    Plain and transposed modules of torch's own classes are changed, parametrised ones included, and lazy ones once they
    have shapes. Subclasses stay unchanged, since they may compute something else. `report` lists the result.

    Args:
        model: the model.
        accuracy: accuracy of all its layers, those that were converted before included; see `plan`.

    Returns:
        `model` itself.

    Raises:
        ConvolithError: not a torch module, or one that was compiled to TorchScript; an unknown accuracy.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> type(cl.nn.convert(model)[0]).__module__
        'convolith.nn'
    """
    check_model(model)
    check_choice(accuracy, "auto")
    for module in model.modules():
        swap(module, SWAPPED)
        if unparametrised(type(module)) in OURS:
            module.__dict__["accuracy"] = accuracy
    return model


def revert(model: Model) -> Model:
    """Undo `convert` and `freeze`, in place: Convolith's modules become torch's own again.

    Parametrisations that were added or removed in the meantime stay unchanged.

    Args:
        model: the model, or any part of it.

    Returns:
        `model` itself.

    Raises:
        ConvolithError: not a torch module, or one that was compiled to TorchScript.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
        >>> type(cl.nn.revert(cl.nn.convert(model))[0]) is torch.nn.Conv2d
        True
    """
    check_model(model)
    for module in model.modules():
        if unparametrised(type(module)) in OURS:
            to_torch(module)
    return model


def report(model: torch.nn.Module) -> Conversion:
    """Report which library computes each convolution of a model, and why, without changing the model.

    Args:
        model: the model.

    Returns:
        A `Conversion`: its `layers`, those `converted` and those `skipped`; print it for a table.

    Raises:
        ConvolithError: not a torch module, or one that was compiled to TorchScript.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> class Doubled(torch.nn.Conv2d):
        ...     def forward(self, x):
        ...         return 2 * super().forward(x)
        >>> found = cl.nn.report(cl.nn.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), Doubled(8, 8, 3))))
        >>> [layer.name for layer in found.converted]
        ['0']
        >>> found.skipped[0].reason
        'a subclass of Conv2d, which may compute something else'
    """
    check_model(model)
    layers = (_layer(name, module) for name, module in model.named_modules())
    return Conversion(tuple(layer for layer in layers if layer is not None))


def check_model(model: Any) -> None:
    """Refuse objects that are not modules, and compiled modules."""
    if not isinstance(model, torch.nn.Module):
        raise ConvolithError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ConvolithError("model is compiled to TorchScript; convert it before torch.jit.script or torch.jit.trace")


def _layer(name: str, module: torch.nn.Module) -> Layer | None:
    """Return the record of a module, or None if it is not a convolution."""
    kind, plain = type(module), unparametrised(type(module))
    if plain in OURS:
        return Layer(name, kind.__name__, converted=True, reason=_remark(module))
    if isinstance(module, torch.jit.ScriptModule):
        original = str(getattr(module, "original_name", ""))
        if not original.startswith("Conv"):
            return None
        return Layer(name, original, converted=False, reason="compiled to TorchScript; convert the model before that")
    if kind.__module__.startswith(("torch.ao.nn", "torch.nn.quantized", "torch.nn.qat")):
        if "Conv" not in kind.__name__:
            return None
        return Layer(name, kind.__name__, converted=False, reason="quantised or prepared for it by torch")
    base = next((cls for cls in kind.__mro__ if cls in SWAPPED), None)
    if base is None:
        return None
    if plain is base:
        return Layer(name, kind.__name__, converted=False, reason="not converted; call cl.nn.convert(model)")
    reason = f"a subclass of {base.__name__}, which may compute something else"
    return Layer(name, kind.__name__, converted=False, reason=reason)


def _remark(module: torch.nn.Module) -> str:
    """Return the remarks on a converted layer: lazy, parametrised, on another device, frozen."""
    weight: torch.Tensor | None = next(iter(module.parameters()), None)
    remarks = []
    if isinstance(weight, UninitializedParameter):
        return "lazy: converted with its first input"
    if hasattr(module, "parametrizations"):
        parametrised: Any = module.parametrizations
        remarks.append("parametrised: " + ", ".join(parametrised))
    if weight is not None and weight.device.type != "cpu":
        remarks.append(f"on {weight.device}, where torch computes it")
    if getattr(module, "accuracy", "default") != "default":
        remarks.append(f"accuracy {module.accuracy!r}")
    if "_frozen" in vars(module):
        remarks.append("frozen")
    return "; ".join(remarks)
