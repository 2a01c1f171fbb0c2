"""Operators on numbers of eight bits, whose weights are packed: what they count, and what is packed.

Products are those of the layer in whole numbers; every result is then rescaled, rounded and clamped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from convolith.costing.rules.formulas import Rule, sums_of_products
from convolith.spec import ConvSpec
from convolith.work import Count, layer_work


def rescaled(x: torch.Tensor, *_: Any, out: torch.Tensor, **__: Any) -> Count:
    """Times a scale, rounded, moved by the zero point and clamped."""
    return _rescaled(out.numel())


def _rescaled(n: int) -> Count:
    return Count(n, n, elementwise=n, others=2 * n)


def convolution(*, rectified: bool = False, dynamic: bool = False) -> Rule:
    """A layer whose geometry is packed with its weights; if dynamic, the input is quantised first."""

    def rule(x: torch.Tensor, packed: Any, *_: Any, out: torch.Tensor, convention: str, **__: Any) -> Count:
        weights, bias = packed.unpack()
        axes = weights.ndim - 2
        size = x.shape[2:] if x.ndim == weights.ndim else (1, *x.shape[2:])  # a signal is packed as a row
        transposed, groups = bool(packed.transpose()), packed.groups()
        outs, ins = weights.shape[:2]
        if transposed:
            ins, outs = outs, ins * groups
        names = ("stride", "padding", "dilation", *(("output_padding",) if transposed else ()))
        geometry: dict[str, Any] = {name: _last(getattr(packed, name)(), axes) for name in names}
        spec = ConvSpec(
            batch=x.shape[0],
            in_channels=x.shape[1],
            out_channels=outs,
            size=tuple(size),
            kernel_size=tuple(weights.shape[2:]),
            groups=groups,
            transposed=transposed,
            bias=bias is not None,
            **geometry,
        )
        return layer_work(spec, convention).forward + _around(x, out, rectified=rectified, dynamic=dynamic)

    return rule


def _last(values: list[int], axes: int) -> tuple[int, ...]:
    return tuple(values[-axes:])


def linear(*, rectified: bool = False, dynamic: bool = False) -> Rule:
    """A matrix product."""

    def rule(x: torch.Tensor, packed: Any, *_: Any, out: torch.Tensor, **__: Any) -> Count:
        _, bias = packed.unpack()
        n = out.numel()
        products = sums_of_products(n * x.shape[-1], n, biased=n * (bias is not None))
        return products + _around(x, out, rectified=rectified, dynamic=dynamic)

    return rule


def _around(x: torch.Tensor, out: torch.Tensor, *, rectified: bool, dynamic: bool) -> Count:
    """What is done to the numbers that go in and come out."""
    found = Count(others=out.numel() * rectified)
    if not dynamic:
        return found + _rescaled(out.numel())
    return found + _rescaled(x.numel()) + Count(out.numel(), elementwise=out.numel())


def packed_tensors(module: nn.Module) -> list[torch.Tensor]:
    """The weights and biases that a module has packed, which are not among its parameters."""
    packed: Any = vars(module).get("_packed_params")
    if not isinstance(packed, torch.ScriptObject):
        return []
    held: Any = packed  # whose methods types do not know
    return [tensor for tensor in held.unpack() if isinstance(tensor, torch.Tensor)]
