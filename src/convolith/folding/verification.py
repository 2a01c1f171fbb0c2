"""A folded model held against the one that it came from: given and random inputs, several sizes, two dtypes."""

from __future__ import annotations

import torch
from torch import nn

from convolith.errors import ConvolithError
from convolith.folding.capture import Inputs, inputs_of_other_sizes, outputs

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""Largest error of a folded model, relative to the largest output; half types round every layer on both sides."""


def verify(
    wide: nn.Module, wide_folded: nn.Module, model: nn.Module, folded: nn.Module, inputs: Inputs
) -> dict[str, float]:
    """The largest error by dtype: of a pair of models in float64, and of a pair in the inputs' dtype.

    Raises:
        ConvolithError: an error that is more than rounding.
    """
    sized = inputs_of_other_sizes(model, inputs)
    generator = torch.Generator().manual_seed(0)
    tried = [
        *sized,
        *(
            tuple(torch.randn(x.shape, generator=generator).to(dtype=x.dtype, device=x.device) for x in inputs)
            for inputs in sized
        ),
    ]
    dtype = inputs[0].dtype
    errors = {"float64": _error(wide, wide_folded, [tuple(x.double() for x in xs) for xs in tried], torch.float64)}
    if dtype != torch.float64:
        errors[str(dtype).removeprefix("torch.")] = _error(model, folded, tried, dtype)
    return errors


def _error(model: nn.Module, folded: nn.Module, tried: list[Inputs], dtype: torch.dtype) -> float:
    """The largest relative error of any output on any input."""
    worst = 0.0
    for inputs in tried:
        with torch.no_grad():
            pairs = list(zip(outputs(model(*inputs)), outputs(folded(*inputs)), strict=True))
        worst = max([worst, *(_difference(a, b) for a, b in pairs)])
    if not worst <= TOLERANCE[dtype]:
        raise ConvolithError(f"the folded model is {worst:.1e} off in {dtype}; please report the model")
    return worst


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference relative to the largest number; infinite where shapes or non-finite numbers differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else float("inf")
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return float("inf")
    first, second = a[finite].double(), b[finite].double()
    if not first.numel():
        return 0.0
    return float((first - second).abs().max() / first.abs().max().clamp_min(torch.finfo(torch.float64).tiny))
