"""Freezing: one-time preparation of a model's convolutions, for inference with constant weights."""

from __future__ import annotations

from convolith.errors import ConvolithError
from convolith.nn.conversion import Model, check_model
from convolith.nn.frozen import Frozen
from convolith.nn.layers import SWAPPED, unparametrised
from convolith.torch_private import safe_in_forks

LAYERS = tuple(ours for ours in SWAPPED.values() if not ours.__name__.startswith("Lazy"))


@safe_in_forks
def freeze(model: Model) -> Model:
    """Prepare every Convolith convolution of a model from a private copy of its weights, in place.

    A frozen layer does not read its parameters: it is prepared once per input shape, and computes with the weights that
    it had when `freeze` was called. Parametrised weights are computed once. A layer that is not frozen compares its
    kernel with the prepared one in each call, byte by byte, which detects every way to write to a tensor. (Kernels of
    1 MiB and more are compared by a digest: it detects every change of one number, and misses another change with a
    probability of 1 in 2^32.)

    Guarantees: the next call raises an error after a change that torch counts (in-place operators, an optimiser's step,
    `load_state_dict`), a replaced parameter, or a parameter with replaced memory (`.to()`, `.half()`). A write through
    `.data` or `.numpy()`, which torch does not count, is not detected and has no effect: the layer continues with the
    frozen weights. Calls that record gradients, that are compiled or traced, or that run under autocast or a transform
    of torch compute from the parameters, as they do without `freeze`.

    The `state_dict` does not change. A copy or a pickle of a frozen model is not frozen.

    Args:
        model: a model with layers of `cl.nn`, such as `convert` gives.

    Returns:
        `model` itself.

    Raises:
        ConvolithError: not a torch module, no Convolith convolution in it, or weights whose changes torch cannot count.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> model = cl.nn.freeze(cl.nn.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)).eval()))
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


def unfreeze(model: Model) -> Model:
    """Undo `freeze`, in place: every call reads the parameters again.

    Args:
        model: a model, frozen or not.

    Returns:
        `model` itself.

    Raises:
        ConvolithError: not a torch module, or one that was compiled to TorchScript.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> cl.nn.unfreeze(cl.nn.freeze(torch.nn.Sequential(cl.nn.Conv2d(3, 8, 3))))[0]
        Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), computed by convolith)
    """
    check_model(model)
    for module in model.modules():
        module.__dict__.pop("_frozen", None)
    return model
