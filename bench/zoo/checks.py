"""What a row of the zoo measures: norms, outputs, converted layers, gradients and seconds; one function for each."""

from __future__ import annotations

import copy
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy
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
CONVOLUTIONS = ("convolution", "correlate")
PRODUCTS = (*CONVOLUTIONS, "addmm", "mm", "bmm", "linear")
"""Names of operators that a norm can be folded into; a concatenation of such is one as well."""
OURS = tuple(str(Path(cl.__file__).parent / part) for part in ("nn", "correlation", "planner", "engines"))
"""Where Convolith's own calls of torch's operators stand."""
TINY = torch.finfo(torch.float64).tiny
STEP = 32
"""Images of other sizes stay multiples of this, as many networks need."""
SMALLEST_GRADIENT = 1e-4
"""Share of the largest gradient below which a parameter's gradient is compared with that share, being rounding only."""


class Watch(TorchDispatchMode):
    """Counts the operators of a call, norms that read the very output of a product, and convolutions that are not ours.

    Attributes:
        operators: how often each was called, by name.
        norms: batch norms, and frozen ones behind a convolution.
        behind: the modules, "" if called as a function, of the norms whose input is the output of a convolution or
            linear layer that nothing has written on.
        plain_convolutions: calls of torch's convolution that none of Convolith's layers made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.norms = 0
        self.behind: list[str] = []
        self.module = ""
        self.plain_convolutions = 0
        self._products: dict[tuple[int, int] | None, str] = {}
        self._scaled: dict[tuple[int, int] | None, str] = {}
        self._alive: list[Tensor] = []  # so that no later tensor gets the memory of a recorded one

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator, counted."""
        name = func.__name__.split(".")[0]
        inputs = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        scaled = self._by_channel(inputs) if name in ("mul", "add") else None
        if "batch_norm" in name or (name == "add" and scaled in self._scaled):
            self.norms += 1
            if any(_place(x) in self._products | self._scaled for x in inputs[:2]):
                self.behind.append(self.module)
        is_joined = name == "cat" and all(_place(x) in self._products for x in inputs)
        if func._schema.is_mutable and inputs:
            self._products.pop(_place(inputs[0]), None)
        result = func(*args, **(kwargs or {}))
        self.operators[name] += 1
        if name == "mul" and self._products.get(scaled) in CONVOLUTIONS:
            self._scaled[_place(result)] = name
            self._alive.append(result)
        if name in PRODUCTS or is_joined:
            self._products[_place(result)] = name
            self._alive.append(result)
        if name in CONVOLUTIONS and not _is_ours():
            self.plain_convolutions += 1
        return result

    @staticmethod
    def _by_channel(inputs: list[Tensor]) -> tuple[int, int] | None:
        """Return the place of the tensor that a constant of each channel scales or shifts, as a frozen norm does."""
        for x, constant in (inputs[:2], inputs[1::-1]) if len(inputs) > 1 else ():
            if x.ndim == constant.ndim >= 3 and x.shape[0] > 1 and constant.numel() == constant.shape[1] == x.shape[1]:
                return _place(x)
        return None


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
    watch = Watch()
    handles = []
    for name, module in model.named_modules():
        if is_norm(module):
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: setattr(watch, "module", name)))
            handles.append(module.register_forward_hook(lambda *_: setattr(watch, "module", "")))
    try:
        with torch.no_grad(), watch:
            model(torch.cat([x, x]))
    finally:
        for handle in handles:
            handle.remove()
    return watch


def is_norm(module: nn.Module) -> bool:
    """Whether a module scales channels by running statistics, whoever wrote it."""
    return hasattr(module, "running_var")


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
    """Compute the largest difference of two results, relative to the largest number of each tensor of the first.

    It is infinite where the shapes are not the same, or other numbers are not finite.
    """
    if [x.shape for x in first] != [x.shape for x in second]:
        return float("inf")
    return max((_relative(a, b) for a, b in zip(first, second, strict=True)), default=0.0)


def _relative(expected: Tensor, x: Tensor, least: float = 0.0) -> float:
    """Compute the largest difference of two tensors, relative to the largest number of the first or the least given."""
    finite = expected.isfinite()
    if not torch.equal(finite, x.isfinite()):
        return float("inf")
    a, b = expected[finite].double(), x[finite].double()
    if torch.equal(a, b):
        return 0.0
    return float((a - b).abs().max() / a.abs().max().clamp_min(max(least, TINY)))


def other_inputs(model: nn.Module, shape: tuple[int, ...], *, sizes: bool) -> dict[str, Tensor]:
    """Make the inputs on which outputs are compared: another batch, and another size where the model takes it."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"batch 3": (3, *shape[1:])}
    if sizes:
        kept = shape[:2] if len(shape) > 2 else shape[:1]  # audio has its length on axis 1
        rest = shape[len(kept) :]
        shapes["batch 2, other size"] = (2, *kept[1:], *((n * 3 // 4) // STEP * STEP or n for n in rest))
    found = {name: torch.randn(wanted, generator=generator) for name, wanted in shapes.items()}
    return {name: x for name, x in found.items() if _is_taken(model, x)}


def _is_taken(model: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            model(x.clone())
    except Exception:  # noqa: BLE001 - whatever the model's own code raises
        return False
    return True


def output_errors(model: nn.Module, folded: nn.Module, inputs: dict[str, Tensor]) -> dict[str, float]:
    """Compute how far the folded model's outputs are from the model's, in the model's dtype, for each input."""
    errors = {}
    with torch.no_grad():
        for name, x in inputs.items():
            expected = tensors(model(x.clone()))
            errors[name] = difference(expected, tensors(folded(x.clone())))
    return errors


def rounding_error(model: nn.Module, inputs: dict[str, Tensor]) -> float:
    """Compute how far a model's own outputs are from those in float64: the largest of the inputs."""
    wide = copy.deepcopy(model).double()
    with torch.no_grad():
        return max(difference(tensors(wide(x.double())), tensors(model(x.clone()))) for x in inputs.values())


def plain_layers(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Count the convolutions that are not ours in a converted model: modules of torch's own type, and calls."""
    modules = sum(type(module) in PLAIN for module in model.modules())
    return {"modules": modules, "calls": watched(model, x).plain_convolutions}


def gradient_error(model: nn.Module, x: Tensor) -> float:
    """Compute how far the gradients of a converted model in training are from torch's, in float64.

    Relative to the largest gradient of each parameter; gradients that are rounding only (of a bias before a norm) are
    compared with that share of the largest of all.
    """
    theirs = _gradients(copy.deepcopy(model).double(), x.double())
    return _apart(theirs, _gradients(cl.nn.convert(copy.deepcopy(model).double()), x.double()))


def gradient_rounding(model: nn.Module, x: Tensor) -> float:
    """Compute how far torch's own gradients move where the last bits of the input do: the model's condition.

    A norm of few values, as of 1x1 images at batch 2, multiplies rounding by a million, whoever computes it.
    """
    signs = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64).sign()
    moved = x.double() * (1 + signs * torch.finfo(torch.float64).eps)
    return _apart(*(_gradients(copy.deepcopy(model).double(), given) for given in (x.double(), moved)))


def _apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    if first.keys() != second.keys():
        return float("inf")
    least = SMALLEST_GRADIENT * max((float(g.abs().max()) for g in first.values()), default=0.0)
    return max((_relative(expected, second[name], least) for name, expected in first.items()), default=0.0)


def _gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Run one training step and return each parameter's gradient; whatever is drawn at random is the same each time."""
    model.train()
    torch.manual_seed(0)
    random.seed(0)
    numpy.random.seed(0)  # noqa: NPY002 - models of audio draw their masks from the global generator
    generator = torch.Generator().manual_seed(2)
    results = tensors(model(x))
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    losses = [(y * draw(y.shape)).mean() for y in results if y.requires_grad]
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]  # torch's own
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def norms_left(before: Watch, after: Watch) -> list[str]:
    """List the norms that were behind convolutions in a model and still are in the folded one, by module.

    Folding may put a convolution before a norm that had none, such as one behind a pooling; that is no miss.
    """
    return list((Counter(before.behind) & Counter(after.behind)).elements())


def unnamed_norms(left: Sequence[str], report: Any) -> list[str]:
    """List those of the norms that are left that the report of `fold` does not name.

    A norm that is called as a function has no name; for such, entries about other norms than modules count.
    """
    modules = {entry.module for entry in report.skipped}
    nodes = [entry.node for entry in report.skipped]
    about_norms = [entry for entry in report.skipped if entry.kind == "norm" or "norm" in entry.node]
    entries = sum(entry.module not in left for entry in about_norms)
    unnamed = [name for name in left if name and name not in modules and name.replace(".", "_") not in nodes]
    return unnamed + [""] * max(left.count("") - entries, 0)
