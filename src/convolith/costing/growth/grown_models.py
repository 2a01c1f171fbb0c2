"""Models with more channels or larger kernels: copies whose parameters are replaced by parameters of other shapes.

The channels of the model's input and output do not change: layers that read the input (the stem) grow only in their
outputs, and layers that make the output (the head) only in their inputs. All others grow on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from convolith.costing.growth.scaling import times
from convolith.costing.tracing.fake_models import tensors_of
from convolith.errors import ConvolithError
from convolith.torch_private import ConvolutionBase, NormBase, TransposedBase

NORMS = (NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)
"""Modules whose parameters have one number for each channel."""


@dataclass(frozen=True)
class Ends:
    """Names of layers that read the model's input (stem), and of layers from the last weights to the output (head)."""

    stem: frozenset[str]
    head: frozenset[str]


def ends_of(model: nn.Module, call: Callable[[], Any]) -> Ends:
    """Return the stem and head of a model.

    Args:
        model: copy in which hooks are registered; all its parameters require gradients, and its inputs do not.
        call: function that runs the model.
    """
    names = {id(module): name for name, module in model.named_modules()}
    stem: set[str] = set()
    maker_of: dict[Any, nn.Module] = {}

    def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not any(tensor.requires_grad for tensor in tensors_of(arguments)):
            stem.add(names[id(module)])

    def leave(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:  # noqa: ARG001 - torch's signature
        for tensor in tensors_of(result):
            if tensor.grad_fn is not None:
                maker_of[tensor.grad_fn] = module

    for module in model.modules():
        scripted = isinstance(module, torch.jit.ScriptModule)  # takes no hooks
        if not scripted and any(p is not None for p in module._parameters.values()):
            module.register_forward_pre_hook(enter)
            module.register_forward_hook(leave)
    outputs = tensors_of(call())
    head: set[str] = set()
    waiting = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        maker = maker_of.get(node)
        if maker is not None:
            head.add(names[id(maker)])
            if isinstance(maker, ConvolutionBase | nn.Linear) and not _is_depthwise(maker):
                continue
        fresh = [before for before, _ in node.next_functions if before is not None and before not in seen]
        seen.update(fresh)
        waiting += fresh
    return Ends(frozenset(stem), frozenset(head))


def widen(model: nn.Module, ends: Ends, channels: Fraction, kernel_size: Fraction) -> None:
    """Multiply a model's channels, and the taps of kernels that have more than one, by factors.

    Args:
        model: copy to change; modules with several names may be one object for each name.
        ends: stem and head of the model.
        channels, kernel_size: factors.

    Raises:
        ConvolithError: products that are not whole numbers, kernels that cannot grow evenly, modules of unknown growth.
    """
    known: set[int] = set()
    for name, module in model.named_modules():
        if id(module._parameters) in known:  # another name of the same module
            continue
        known.add(id(module._parameters))
        for store, key, value in list(_changes(name, module, ends, channels, kernel_size)):
            store[key] = value


def _changes(
    name: str, module: nn.Module, ends: Ends, channels: Fraction, kernel_size: Fraction
) -> Iterator[tuple[Any, str, Any]]:
    """Yield the changes of a module: the dict that stores a value, its key, and the new value."""
    own: dict[str, torch.Tensor] = {key: p for key, p in module._parameters.items() if p is not None}
    own |= {key: b for key, b in module._buffers.items() if b is not None and b.ndim}
    if isinstance(module, ConvolutionBase | nn.Linear) and "weight" not in module._parameters:
        raise ConvolithError(
            f"module {name}, a {type(module).__name__}, computes its weight from other parameters, which are not known "
            "to grow; remove the parametrization first"
        )
    if not own:
        return
    fixed = name in ends.stem or (name in ends.head and _is_depthwise(module))
    inputs = Fraction(1) if fixed else channels
    outputs = Fraction(1) if name in ends.head else channels
    if isinstance(module, ConvolutionBase):
        yield from _of_convolution(name, module, inputs, outputs, kernel_size)
    elif isinstance(module, nn.Linear):
        yield module._parameters, "weight", _empty(name, module.weight, (outputs, inputs))
        if module.bias is not None:
            yield module._parameters, "bias", _empty(name, module.bias, (outputs,))
    elif isinstance(module, nn.Embedding):
        yield module._parameters, "weight", _empty(name, module.weight, (Fraction(1), outputs))
    elif isinstance(module, NORMS) or all(p.ndim == 1 for p in own.values()):
        yield from _of_norm(name, module, own, Fraction(1) if name in ends.stem | ends.head else channels)
    elif channels != 1 or (kernel_size != 1 and any(p.ndim > 2 for p in own.values())):
        kinds = ", ".join(f"{key} {tuple(p.shape)}" for key, p in own.items())
        what = "channels" if channels != 1 else "kernel_size"
        raise ConvolithError(
            f"module {name or '(the model)'}, a {type(module).__name__}, has {kinds}; how they grow with {what} is not "
            f"known; count a model that is built with other {what} instead"
        )


def _of_norm(
    name: str, module: nn.Module, own: dict[str, torch.Tensor], share: Fraction
) -> Iterator[tuple[Any, str, Any]]:
    """Yield the changes of a module that has one number for each channel."""
    single = isinstance(module, nn.PReLU) and module.num_parameters == 1
    for key, tensor in own.items():
        store: Any = module._parameters if key in module._parameters else module._buffers
        yield store, key, _empty(name, tensor, (Fraction(1) if single else share,))
    if isinstance(module, NormBase):
        yield vars(module), "num_features", _whole(name, module.num_features, share)
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        sizes = tuple(module.normalized_shape)
        if len(sizes) > 1 and share != 1:
            raise ConvolithError(
                f"module {name} normalises {sizes} together; which of them are channels is not known; count a model "
                "that is built with other channels instead"
            )
        yield vars(module), "normalized_shape", tuple(_whole(name, n, share) for n in sizes)


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, ConvolutionBase) and 1 < module.groups == module.in_channels


def _of_convolution(
    name: str, module: ConvolutionBase, inputs: Fraction, outputs: Fraction, kernel_size: Fraction
) -> Iterator[tuple[Any, str, Any]]:
    groups = module.groups
    if _is_depthwise(module):  # stays depthwise
        groups = _whole(name, groups, inputs)
        shares = (inputs, Fraction(1)) if isinstance(module, TransposedBase) else (outputs, Fraction(1))
    else:
        shares = (inputs, outputs) if isinstance(module, TransposedBase) else (outputs, inputs)
    taps = [k if k == 1 else _whole(name, k, kernel_size) for k in module.kernel_size]
    shape = (*(_whole(name, n, share) for n, share in zip(module.weight.shape[:2], shares, strict=True)), *taps)
    yield module._parameters, "weight", module.weight.new_empty(shape).requires_grad_(module.weight.requires_grad)
    if module.bias is not None:
        yield module._parameters, "bias", _empty(name, module.bias, (outputs,))
    yield vars(module), "groups", groups
    if isinstance(module.padding, str):
        return
    more = [(n - k) * d for n, k, d in zip(taps, module.kernel_size, module.dilation, strict=True)]
    if any(n % 2 for n in more):
        raise ConvolithError(
            f"module {name} has kernel_size {module.kernel_size}, which cannot grow evenly to {taps}; pass a factor "
            "that adds as many taps before as after"
        )
    padding = tuple(p + n // 2 for p, n in zip(module.padding, more, strict=True))
    yield vars(module), "padding", padding
    if module.padding_mode != "zeros":
        twice = [p for p in reversed(padding) for _ in range(2)]
        yield vars(module), "_reversed_padding_repeated_twice", twice


def _empty(name: str, tensor: torch.Tensor, shares: tuple[Fraction, ...]) -> torch.Tensor:
    shape = [_whole(name, n, share) for n, share in zip(tensor.shape, shares, strict=False)]
    empty = tensor.new_empty([*shape, *tensor.shape[len(shape) :]])
    return empty.requires_grad_(tensor.requires_grad)


def _whole(name: str, number: int, share: Fraction) -> int:
    return times(f"a size of module {name}", number, share)
