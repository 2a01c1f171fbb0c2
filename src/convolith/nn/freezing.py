"""Freezing: a model's convolutions prepared once, for inference with weights that do not change."""

from __future__ import annotations

import torch

from convolith.errors import ConvolithError
from convolith.nn.conversion import check_model
from convolith.nn.frozen import Frozen
from convolith.nn.layers import SWAPPED, unparametrised

LAYERS = tuple(ours for ours in SWAPPED.values() if not ours.__name__.startswith("Lazy"))


def freeze(model: torch.nn.Module) -> torch.nn.Module:
    """Prepare every convolution of Convolith in a model from a private copy of its weights, in place.

    Without it, each call reads all bytes of the kernel to see whether it is the one that was prepared, since nothing
    less notices every way to write to a tensor (a kernel of 1 MiB and more by a digest, which misses no change of one
    number, and others by chance alone, one in 2^32). A frozen layer does not read its parameters: it is prepared once
    for each input shape, and computes with the weights as they were when `freeze` was called. Parametrised weights are
    computed once.

    What is guaranteed: a change that torch counts (in-place operators, an optimiser's step, `load_state_dict`), a
    parameter that was replaced, and one whose memory was replaced (`.to()`, `.half()`) are refused by the next call. A
    write through `.data` or `.numpy()` that torch does not count is not noticed, and does not reach the layer: it goes
    on computing with the frozen weights. Calls that record gradients, that are compiled or traced, or that run under
    autocast or a transform of torch compute from the parameters, as they do without `freeze`.

    The `state_dict` stays what it is. A copy or a pickle of a frozen model is not frozen.

    Returns:
        The same model.

    Raises:
        ConvolithError: not a torch module, no convolution of Convolith in it, or weights that torch keeps no count of.

    Example:
        >>> import torch
        >>> from convolith import nn
        >>> model = nn.freeze(nn.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)).eval()))
        >>> with torch.no_grad():
        ...     y = model(torch.zeros(1, 3, 8, 8))
        ...     _ = model[0].weight.zero_()
        >>> model(torch.zeros(1, 3, 8, 8))
        Traceback (most recent call last):
        ...
        convolith.errors.ConvolithError: weight of layer '0' was changed after cl.nn.freeze(model); ...
    """
    check_model(model)
    layers = [(name, module) for name, module in model.named_modules() if unparametrised(type(module)) in LAYERS]
    if not layers:
        raise ConvolithError("model has no convolution of convolith.nn; call cl.nn.convert(model) first")
    frozen = [Frozen(name, module) for name, module in layers]
    for (_, module), state in zip(layers, frozen, strict=True):
        module.__dict__["_frozen"] = state
    return model


def unfreeze(model: torch.nn.Module) -> torch.nn.Module:
    """Undo `freeze`, in place: every call reads the parameters again.

    Returns:
        The same model.

    Example:
        >>> import torch
        >>> from convolith import nn
        >>> unfreeze(nn.freeze(torch.nn.Sequential(nn.Conv2d(3, 8, 3))))[0]
        Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), computed by convolith)
    """
    check_model(model)
    for module in model.modules():
        module.__dict__.pop("_frozen", None)
    return model
