"""Drop-in convolution modules: torch's own `Conv1d`, `Conv2d` and `Conv3d`, computed by `correlate`."""

from __future__ import annotations

from typing import Any

import torch

from convolith.correlation import correlate
from convolith.correlation.operator import call_traced, takes_traced
from convolith.errors import ConvolithError


def _planned(module: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    options: dict[str, Any] = {
        "stride": module.stride,
        "padding": module.padding,
        "dilation": module.dilation,
        "groups": module.groups,
        "padding_mode": module.padding_mode,
    }
    if torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu") and takes_traced(x, weight, bias, options):
        return call_traced(x, weight, bias, "default", "auto", **options)
    y: torch.Tensor = correlate(x, weight, bias, **options)
    return y


class Conv1d(torch.nn.Conv1d):
    """`torch.nn.Conv1d` with the same arguments and state_dict, computed by Convolith.

    Example:
        >>> import torch
        >>> Conv1d(2, 4, 3)(torch.zeros(1, 2, 16)).shape
        torch.Size([1, 4, 14])
    """

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return _planned(self, input, weight, bias)


class Conv2d(torch.nn.Conv2d):
    """`torch.nn.Conv2d` with the same arguments and state_dict, computed by Convolith.

    Example:
        >>> import torch
        >>> theirs = torch.nn.Conv2d(3, 8, 5, padding="same")
        >>> ours = Conv2d(3, 8, 5, padding="same")
        >>> ours.load_state_dict(theirs.state_dict())
        <All keys matched successfully>
        >>> x = torch.rand(1, 3, 16, 16)
        >>> torch.allclose(ours(x), theirs(x), atol=1e-5)
        True
    """

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return _planned(self, input, weight, bias)


class Conv3d(torch.nn.Conv3d):
    """`torch.nn.Conv3d` with the same arguments and state_dict, computed by Convolith.

    Example:
        >>> import torch
        >>> Conv3d(1, 2, 3)(torch.zeros(1, 1, 5, 5, 5)).shape
        torch.Size([1, 2, 3, 3, 3])
    """

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return _planned(self, input, weight, bias)


SWAPPED: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Conv1d: Conv1d,
    torch.nn.Conv2d: Conv2d,
    torch.nn.Conv3d: Conv3d,
}


def convert(model: torch.nn.Module) -> torch.nn.Module:
    """Let Convolith compute a model's convolutions, in place: the parameters, hooks and state_dict stay what they are.

    Only modules of torch's own classes are changed; a subclass may compute something else, and stays as it is.

    Returns:
        The same model.

    Raises:
        ConvolithError: not a torch module, or one that was compiled to TorchScript.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> type(convert(model)[0]).__module__
        'convolith.nn'
    """
    return _swap(model, SWAPPED)


def revert(model: torch.nn.Module) -> torch.nn.Module:
    """Undo `convert`, in place: every one of Convolith's modules is torch's own again.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
        >>> type(revert(convert(model))[0]) is torch.nn.Conv2d
        True
    """
    return _swap(model, {ours: theirs for theirs, ours in SWAPPED.items()})


def _swap(model: torch.nn.Module, classes: dict[type[torch.nn.Module], type[torch.nn.Module]]) -> torch.nn.Module:
    if not isinstance(model, torch.nn.Module):
        raise ConvolithError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ConvolithError("model is compiled to TorchScript; convert it before torch.jit.script or torch.jit.trace")
    for module in model.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
    return model
