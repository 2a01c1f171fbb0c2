"""Rules for operators on 8-bit numbers, whose weights are packed, and access to the packed tensors.

The products of a layer are formed in whole numbers; every result is then rescaled, rounded and clamped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from convolith.costing.rules.elementwise import Rule, sums_of_products
from convolith.spec import ConvSpec
from convolith.work import Count, layer_work


def rescaled(x: torch.Tensor, *_: Any, out: torch.Tensor, **__: Any) -> Count:
    """Count a quantisation: each number is multiplied by a scale, rounded, shifted by the zero point and clamped."""
    return _rescaled(out.numel())


def _rescaled(n: int) -> Count:
    return Count(n, n, elementwise=n, others=2 * n)


def convolution(*, rectified: bool = False, dynamic: bool = False) -> Rule:
    """Return the rule of a convolution with packed geometry and weights; if dynamic, the input is quantised first."""

    def rule(x: torch.Tensor, packed: Any, *_: Any, out: torch.Tensor, convention: str, **__: Any) -> Count:
        weights, bias = packed.unpack()
        axes = weights.ndim - 2
        size = x.shape[2:] if x.ndim == weights.ndim else (1, *x.shape[2:])  # a 1-d layer is packed as a 2-d one
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
    """Return the rule of a linear layer; if dynamic, the input is quantised first."""

    def rule(x: torch.Tensor, packed: Any, *_: Any, out: torch.Tensor, **__: Any) -> Count:
        _, bias = packed.unpack()
        n = out.numel()
        products = sums_of_products(n * x.shape[-1], n, biased=n * (bias is not None))
        return products + _around(x, out, rectified=rectified, dynamic=dynamic)

    return rule


def _around(x: torch.Tensor, out: torch.Tensor, *, rectified: bool, dynamic: bool) -> Count:
    """Count the ReLU of the results, and the quantisation of inputs and results."""
    relu = Count(others=out.numel() * rectified)
    if not dynamic:
        return relu + _rescaled(out.numel())
    return relu + _rescaled(x.numel()) + Count(out.numel(), elementwise=out.numel())


def packed_tensors(module: nn.Module) -> list[torch.Tensor]:
    """Return the packed weights and biases of a module, which are not among its parameters."""
    packed: Any = vars(module).get("_packed_params")
    if not isinstance(packed, torch.ScriptObject):
        return []
    held: Any = packed  # its methods have no type hints
    return [tensor for tensor in held.unpack() if isinstance(tensor, torch.Tensor)]
