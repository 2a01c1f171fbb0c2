"""Comparison of a folded model with the original: each rewrite separately, then the whole model, in two dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from convolith.errors import ConvolithError
from convolith.folding.example_inputs import Inputs, Reference, compares_draws, outputs, unchanged
from convolith.folding.rewrite.rewrite_check import TOLERANCE, RewriteCheck, difference
from convolith.report.progress import track

MOST_COMPARED = 2
"""Number of random inputs on which whole models are compared in their own dtype; the first is used in float64 too."""
Pair = tuple[nn.Module, nn.Module]
"""A model and its folded version."""


def verify(
    proofs: Sequence[RewriteCheck], wide: Pair, own: Pair, tried: list[Inputs], known: Reference
) -> tuple[dict[str, float], str | None]:
    """Return the largest error by dtype, relative to each output's largest number, and why float64 failed, if it did.

    Each rewrite is compared in float64 in any case. A model whose own code makes tensors of another dtype does not run
    in float64 as a whole.

    Args:
        proofs: proof of each rewrite.
        wide, own: the model and the folded model, in float64 and in the model's dtype.
        tried: inputs in the model's dtype, the example first; random values of the same shapes are compared.
        known: the model's outputs for the example.

    Raises:
        ConvolithError: if an error exceeds both `TOLERANCE` and four times the model's own sensitivity (its rounding
            error in its dtype, or its change when the last bits of the input change; the limit is at most a thousand
            times `TOLERANCE`).
    """
    dtype = tried[0][0].dtype
    exact_model = None if compares_draws() else wide[0]  # numbers that are drawn in float64 are others
    errors = {"float64": 0.0} if dtype == torch.float64 else {"float64": 0.0, str(dtype).removeprefix("torch."): 0.0}
    example = tried[0]
    smallest = sorted(tried, key=lambda inputs: sum(x.numel() for x in inputs))
    larger = [inputs for inputs in smallest if min(min(x.shape[2:], default=9) for x in inputs) > 1] or [example]
    problem = None
    with torch.no_grad():
        for number in track(range(len(proofs)), "proving", len(proofs), shown=len(proofs) > LONG):
            errors["float64"] = max(errors["float64"], proofs[number].check())
        for number, inputs in enumerate(_distinct([*larger[:1], *smallest[:1], *larger[1:2]])[:MOST_COMPARED]):
            values = _random(inputs, number)
            if number == 0 or (problem is None and dtype == torch.float64):
                exact, problem = _tried(wide[0], values)
                if exact is not None:
                    _note(errors, "float64", _largest(exact, _exact(wide[1], values)), TOLERANCE[torch.float64])
            if dtype != torch.float64:
                _compare_own(errors, own, None if problem else exact_model, values, _outputs(own[0], values))
        _compare_own(errors, own, None if problem else exact_model, example, known.outputs)
    return errors, problem


def _tried(model: nn.Module, inputs: Inputs) -> tuple[list[torch.Tensor] | None, str | None]:
    """Return a model's outputs in float64 and None, or None and the reason why it does not run in float64."""
    try:
        return _exact(model, inputs), None
    except Exception as problem:  # noqa: BLE001 - whatever the model's own code raises
        return None, (str(problem).strip().splitlines() or [type(problem).__name__])[0]


LONG = 100
"""Number of rewrites above which progress is shown, on a terminal."""


def _compare_own(
    errors: dict[str, float], own: Pair, exact: nn.Module | None, inputs: Inputs, expected: list[torch.Tensor]
) -> None:
    """Record the folded model's error in its own dtype; `exact` is the model in float64, or None if it fails."""
    dtype = inputs[0].dtype
    least = torch.finfo(dtype).tiny / torch.finfo(dtype).eps  # below it, numbers have fewer digits
    worst = _largest(expected, _outputs(own[1], inputs), least)
    allowed = TOLERANCE[dtype]
    if worst > allowed:
        off = [0.0 if exact is None else _largest(_exact(exact, inputs), expected, least)]
        off += [_largest(expected, _outputs(own[0], _nudged(inputs, seed)), least) for seed in range(NUDGES)]
        allowed = _allowed(max(off), allowed)
    _note(errors, str(dtype).removeprefix("torch."), worst, allowed)


NUDGES = 4
"""Number of inputs with changed last bits, which show how much the model itself amplifies rounding."""


def _nudged(inputs: Inputs, seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    signs = [torch.randint(-1, 2, x.shape, generator=generator, device="cpu").to(x.device) for x in inputs]
    return tuple(x + x * sign * torch.finfo(x.dtype).eps for x, sign in zip(inputs, signs, strict=True))


def _outputs(model: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    """Return a model's outputs, and restore its buffers, so that every call starts from the same state."""
    with unchanged(model):
        return [x.clone() for x in outputs(model, inputs)]


def _exact(model: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    return _outputs(model, tuple(x.double() for x in inputs))


def _distinct(tried: list[Inputs]) -> list[Inputs]:
    shapes: dict[Any, Inputs] = {}
    for inputs in tried:
        shapes.setdefault(tuple(x.shape for x in inputs), inputs)
    return list(shapes.values())


def _random(inputs: Inputs, seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(x.shape, generator=generator, device="cpu") for x in inputs)
    return tuple(values.to(dtype=x.dtype, device=x.device) for values, x in zip(drawn, inputs, strict=True))


def _allowed(off: float, tolerance: float) -> float:
    """Return four times the model's own error, from 1 to 1000 tolerances, or infinity if its own error is infinite."""
    return off if off == float("inf") else max(tolerance, min(4 * off, 1e3 * tolerance))


def _note(errors: dict[str, float], name: str, error: float, limit: float) -> None:
    errors[name] = max(errors[name], error)
    if not error <= limit:
        raise ConvolithError(
            f"the folded model's error in {name} is {error:.1e}, more than rounding explains; please report the model"
        )


def _largest(first: list[torch.Tensor], second: list[torch.Tensor], least: float = 0.0) -> float:
    """Return the largest difference of two results, relative to the largest number of each tensor, or to `least`."""
    return max((_difference(a, b, least) for a, b in zip(first, second, strict=True)), default=0.0)


def _difference(a: torch.Tensor, b: torch.Tensor, least: float) -> float:
    found = difference(a, b)
    if not (found > 0 and least and a.is_floating_point()):
        return found
    largest = float(a.abs().max())
    return found * largest / least if largest < least else found
