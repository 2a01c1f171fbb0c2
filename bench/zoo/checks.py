"""What a row of the zoo measures: norms, outputs, converted layers, gradients and seconds; one function for each."""

from __future__ import annotations

import copy
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import convolith as cl

PLAIN = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
"""Torch's own convolution layers."""
PRODUCTS = ("convolution", "correlate", "addmm", "mm", "bmm", "linear")
"""Names of operators that a norm can be folded into."""
OURS = tuple(str(Path(cl.__file__).parent / part) for part in ("nn", "correlation", "planner", "engines"))
"""Where Convolith's own calls of torch's operators stand."""
SMALLEST_GRADIENT = 1e-6
"""Share of the largest gradient below which a parameter's gradient is compared with that share, being rounding only."""


class Watch(TorchDispatchMode):
    """Counts the operators of a call, norms that read the very output of a product, and who calls convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.norms = 0
        self.norms_behind = 0
        self.plain_convolutions = 0
        self._products: dict[tuple[int, int], str] = {}
        self._alive: list[Tensor] = []  # so that no later tensor gets the memory of a recorded one

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As torch's dispatch modes have it."""
        name = func.__name__.split(".")[0]
        inputs = [a for a in args if isinstance(a, Tensor)]
        if self._is_norm(name, inputs):
            self.norms += 1
            self.norms_behind += any(_place(x) in self._products for x in inputs[:2])
        if func._schema.is_mutable and inputs:
            self._products.pop(_place(inputs[0]), None)
        result = func(*args, **(kwargs or {}))
        self.operators[name] += 1
        if name in PRODUCTS:
            self._products[_place(result)] = name
            self._alive.append(result)
            if "convolution" in name and not _is_ours():
                self.plain_convolutions += 1
        return result

    def _is_norm(self, name: str, inputs: list[Tensor]) -> bool:
        if "batch_norm" in name:
            return True
        if name != "mul" or len(inputs) < 2:
            return False
        for x, scale in (inputs, inputs[::-1]):
            by_channel = x.ndim == scale.ndim >= 3 and x.shape[0] > 1 and scale.numel() == x.shape[1] == scale.shape[1]
            if by_channel and self._products.get(_place(x)) in ("convolution", "correlate"):
                return True
        return False


def _place(x: Tensor) -> tuple[int, int]:
    return x.data_ptr(), x.numel()


def _is_ours() -> bool:
    """Whether one of Convolith's layers is on the stack."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(OURS):
            return True
        frame = frame.f_back
    return False


def watched(model: nn.Module, x: Tensor) -> Watch:
    """Count what one call of a model does, at twice the batch, so that constants of a channel are known from gates."""
    with torch.no_grad(), Watch() as watch:
        model(torch.cat([x, x]))
    return watch


def tensors(result: Any) -> list[Tensor]:
    """List the float tensors of a model's result, in order."""
    if not isinstance(result, Tensor | tuple | list | dict) and hasattr(result, "to_tuple"):
        result = result.to_tuple()
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def seconds(call: Callable[[], Any], rounds: int = 3) -> float:
    """Measure the median seconds of a call, after one that is not counted."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with torch.no_grad():
            call()
        times.append(time.perf_counter() - start)
    return median(times[1:])


def difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Compute the largest difference of two results, relative to the largest number of each tensor."""
    if [x.shape for x in first] != [x.shape for x in second]:
        return float("inf")
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        if a.numel() and not torch.equal(a, b):
            worst = max(worst, float((a.double() - b.double()).abs().max() / a.double().abs().max()))
    return worst


def inputs_of(shape: tuple[int, ...], *, sizes: bool) -> dict[str, Tensor]:
    """Make the inputs on which outputs are compared: another batch, and another size where the model takes some."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda batch, rest: torch.randn((batch, *rest), generator=generator)
    smaller = (
        [(n * 3 // 4) // 32 * 32 or n for n in shape[2:]] if len(shape) > 2 else [shape[1] * 3 // 4]
    )
    found = {"batch 3": draw(3, shape[1:])}
    if sizes:
        found["batch 2, other size"] = draw(2, (*shape[1:2], *smaller) if len(shape) > 2 else smaller)
    return found


def output_errors(model: nn.Module, folded: nn.Module, inputs: dict[str, Tensor]) -> dict[str, float]:
    """Compute how far the folded model's outputs are from the model's, in the model's dtype, for each input."""
    errors = {}
    with torch.no_grad():
        for name, x in inputs.items():
            expected = tensors(model(x.clone()))
            errors[name] = difference(expected, tensors(folded(x.clone())))
    return errors


def plain_layers(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Count the convolutions that are not ours in a converted model: modules of torch's own type, and calls."""
    modules = sum(type(module) in PLAIN for module in model.modules())
    return {"modules": modules, "calls": watched(model, x).plain_convolutions}


def gradient_error(model: nn.Module, x: Tensor) -> float:
    """Compute how far the gradients of a converted model in training are from torch's, in float64.

    Relative to the largest gradient of each parameter; gradients that are rounding only (of a bias before a norm) are
    compared with a millionth of the largest of all.
    """
    theirs = _gradients(copy.deepcopy(model).double(), x.double())
    ours = _gradients(cl.nn.convert(copy.deepcopy(model).double()), x.double())
    largest = max((float(g.abs().max()) for g in theirs.values()), default=0.0)
    if theirs.keys() != ours.keys():
        return float("inf")
    worst = 0.0
    for name, expected in theirs.items():
        scale = max(float(expected.abs().max()), SMALLEST_GRADIENT * largest)
        if scale:
            worst = max(worst, float((expected - ours[name]).abs().max()) / scale)
    return worst


def _gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Run one training step and return each parameter's gradient; dropout draws the same numbers each time."""
    model.train()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(2)
    results = tensors(model(x))
    loss = sum((y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).mean() for y in results if y.requires_grad)
    assert isinstance(loss, Tensor)  # noqa: S101 - a model without parameters has no training step
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def named_norms(report: Any) -> int:
    """Count the norms that a report of `fold` names among what stays, with a reason."""
    return sum("norm" in f"{entry.node} {entry.module} {entry.reason}".lower() for entry in report.skipped)
