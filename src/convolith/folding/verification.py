"""A folded model held against the one that it came from: given and random inputs, several sizes, two dtypes."""

from __future__ import annotations

import torch
from torch import nn

from convolith.errors import ConvolithError
from convolith.folding.sizes import Inputs, outputs

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""Largest error of a folded model, relative to the largest output; half types round every layer on both sides."""


Pair = tuple[nn.Module, nn.Module]
"""A model and the same folded."""


def verify(wide: Pair, own: Pair, tried: list[Inputs]) -> dict[str, float]:
    """The largest error by dtype, relative to each output's largest number.

    Args:
        wide, own: the model and the folded one, in float64 and in the model's dtype.
        tried: inputs in that dtype; random ones of the same shapes are tried too.

    Raises:
        ConvolithError: an error that is more than rounding: more than `TOLERANCE`, and more than four times what the
            model itself is off in its dtype (or a thousand times `TOLERANCE`).
    """
    generator = torch.Generator().manual_seed(0)
    random = [
        tuple(torch.randn(x.shape, generator=generator).to(dtype=x.dtype, device=x.device) for x in inputs)
        for inputs in tried
    ]
    dtype = tried[0][0].dtype
    errors = {"float64": 0.0} if dtype == torch.float64 else {"float64": 0.0, str(dtype).removeprefix("torch."): 0.0}
    for inputs in (*tried, *random):
        with torch.no_grad():
            exact, folded = (outputs(model, tuple(x.double() for x in inputs)) for model in wide)
            _note(errors, "float64", _largest(exact, folded), TOLERANCE[torch.float64])
            if dtype == torch.float64:
                continue
            first, second = (outputs(model, inputs) for model in own)
            off = _largest(exact, first)
            _note(
                errors,
                str(dtype).removeprefix("torch."),
                _largest(first, second),
                _allowed(off, TOLERANCE[dtype]),
            )
    return errors


def _allowed(off: float, tolerance: float) -> float:
    """Four times what the model itself is off, within reason; anything for whole numbers that differ by themselves."""
    return off if off == float("inf") else max(tolerance, min(4 * off, 1e3 * tolerance))


def _note(errors: dict[str, float], name: str, error: float, limit: float) -> None:
    errors[name] = max(errors[name], error)
    if not error <= limit:
        raise ConvolithError(
            f"the folded model is {error:.1e} off in {name}, more than rounding explains; please report the model"
        )


def _largest(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    return max((_difference(a, b) for a, b in zip(first, second, strict=True)), default=0.0)


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference relative to the largest number; infinite where shapes or non-finite numbers differ."""
    if a.shape != b.shape or a.is_floating_point() != b.is_floating_point():
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
