"""A folded model held against the one that it came from: each rewrite by itself, then the whole, in two dtypes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode

from convolith.correlation import correlate
from convolith.errors import ConvolithError
from convolith.folding.gate import part
from convolith.folding.modules import module_of
from convolith.folding.pieces import Values, shape_of
from convolith.folding.search import Way
from convolith.folding.sizes import Inputs, outputs
from convolith.report.progress import track

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""Largest error of a folded model, relative to the largest output; half types round every layer on both sides."""
MOST_COMPARED = 3
"""Inputs on which whole models are compared in each dtype, random values each."""
MOST_NUMBERS = 2**22
"""Numbers of a tensor on which one rewrite is compared by itself."""

MOST_BY_TORCH = 2e7
"""Products of a convolution in float64 up to which torch takes no longer than planning one of our engines."""

Pair = tuple[nn.Module, nn.Module]
"""A model and the same folded."""


@dataclass
class Proof:
    """A rewrite by itself, in float64: the nodes that it takes the place of, the new layer, and what they read."""

    name: str
    before: GraphModule
    after: nn.Module
    shape: tuple[int, ...]
    reach: int

    @staticmethod
    def of(values: Values, way: Way) -> Proof:
        """Return the proof of a way, whose nodes still stand in a graph."""
        shape = shape_of(way.source) or ()
        made = module_of(way.affine, flat=len(shape) == 2, by_channel=way.by_channel)
        conv = way.affine.conv
        reach = max(k * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
        return Proof(way.nodes[-1].name, part(values, way), made, shape, reach)

    def inputs(self) -> Iterator[torch.Tensor]:
        """Yield random tensors: with an interior and every border, smaller than the kernel, and of one pixel."""
        generator = torch.Generator().manual_seed(0)
        for size in dict.fromkeys((2 * self.reach + 3, max(self.reach // 2, 1), 1)):
            sizes = [min(size, n) if size > self.reach else size for n in self.shape[2:]]
            shape = (2, self.shape[1], *(n + axis % 2 for axis, n in enumerate(sizes)))
            if prod(shape) <= MOST_NUMBERS:
                yield torch.randn(shape, generator=generator, dtype=torch.float64)
            if len(self.shape) == 2:
                return

    def check(self) -> float:
        """Return the largest error, relative to the largest output.

        Raises:
            ConvolithError: an error that is more than rounding.
        """
        worst, compared = 0.0, 0
        for x in self.inputs():
            try:
                expected = self.before(x.clone())
            except Exception:  # noqa: BLE001, S112 - a size that the nodes do not take
                continue
            worst, compared = max(worst, _difference(expected, self.after(x.clone()))), compared + 1
            if not worst <= TOLERANCE[torch.float64]:
                raise ConvolithError(
                    f"the rewrite at {self.name} is {worst:.1e} off for {tuple(x.shape)}, more than rounding explains; "
                    "please report the model"
                )
        return worst


def verify(proofs: Sequence[Proof], wide: Pair, own: Pair, tried: list[Inputs]) -> tuple[dict[str, float], str | None]:
    """Return the largest error by dtype, relative to each output's largest number; and what float64 lacks.

    Each rewrite is compared by itself in float64 in any case. A model whose own code makes tensors of another dtype
    does not run in float64 as a whole.

    Args:
        proofs: each rewrite by itself.
        wide, own: the model and the folded one, in float64 and in the model's dtype.
        tried: inputs in that dtype, the example first; random values of the same shapes are compared.

    Raises:
        ConvolithError: an error that is more than rounding: more than `TOLERANCE`, and more than four times what the
            model itself is off in its dtype (or a thousand times `TOLERANCE`).
    """
    dtype = tried[0][0].dtype
    errors = {"float64": 0.0} if dtype == torch.float64 else {"float64": 0.0, str(dtype).removeprefix("torch."): 0.0}
    example, *others = tried
    smallest = sorted(others, key=lambda inputs: sum(x.numel() for x in inputs))
    tellers = [inputs for inputs in smallest if min(min(x.shape[2:], default=9) for x in inputs) > 1] or [example]
    compared = [tellers[0], *smallest[:1], *tellers[-1:]]
    with torch.no_grad():
        with _Float64():  # type: ignore[no-untyped-call]  # torch's own is untyped
            for number in track(range(len(proofs)), "proving", len(proofs), shown=len(proofs) > LONG):
                errors["float64"] = max(errors["float64"], proofs[number].check())
        problem = _runs(wide[0], tellers[0])
        for number, inputs in enumerate(_distinct(compared)[:MOST_COMPARED]):
            values = _random(inputs, number)
            exact: Any = None
            if problem is None:
                exact, found = (_exact(model, values) for model in wide)
                _note(errors, "float64", _largest(exact, found), TOLERANCE[torch.float64])
            if dtype != torch.float64:
                _compare_own(errors, own, values, partial(_known, exact), dtype)
        _compare_own(errors, own, example, lambda: None if problem else _exact(wide[0], example), dtype)
    return errors, problem


def _known(exact: Any) -> Any:
    return exact


def _runs(model: nn.Module, inputs: Inputs) -> str | None:
    """Return why a model does not run in float64, or None."""
    try:
        _exact(model, inputs)
    except Exception as problem:  # noqa: BLE001 - whatever the model's own code raises
        return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    return None


LONG = 100
"""Rewrites from which on progress is shown, on a terminal."""


def _compare_own(
    errors: dict[str, float], own: Pair, inputs: Inputs, exact: Callable[[], Any], dtype: torch.dtype
) -> None:
    first, second = (outputs(model, inputs) for model in own)
    worst = _largest(first, second)
    known = None if worst <= TOLERANCE[dtype] else exact()
    allowed = TOLERANCE[dtype] if known is None else _allowed(_largest(known, first), TOLERANCE[dtype])
    _note(errors, str(dtype).removeprefix("torch."), worst, allowed)


def _exact(model: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    with _Float64():  # type: ignore[no-untyped-call]  # torch's own is untyped
        return outputs(model, tuple(x.double() for x in inputs))


def _distinct(tried: list[Inputs]) -> list[Inputs]:
    shapes: dict[Any, Inputs] = {}
    for inputs in tried:
        shapes.setdefault(tuple(x.shape for x in inputs), inputs)
    return list(shapes.values())


def _random(inputs: Inputs, seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(x.shape, generator=generator).to(dtype=x.dtype, device=x.device) for x in inputs)


class _Float64(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """While inside, large convolutions in float64 are computed by this package's engines; torch's are slow."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            x, weight, bias, stride, padding, dilation, transposed, _, groups = args
            products = weight[0].numel() * x.numel() // max(x.shape[1], 1) * weight.shape[0]
            plain = not transposed and x.is_cpu and x.ndim == weight.ndim
            if x.dtype == weight.dtype == torch.float64 and plain and products > MOST_BY_TORCH:
                options: dict[str, Any] = {
                    "stride": tuple(stride),
                    "padding": tuple(padding),
                    "dilation": tuple(dilation),
                }
                return correlate(x, weight, bias, groups=groups, **options)
        return func(*args, **(kwargs or {}))


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
