"""`fold`: replace every chain and set of branches of a model that equals one convolution, and verify the result."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import GraphModule

from convolith.errors import ConvolithError, renamed
from convolith.folding.capture import HOOKS, NoGraph, bookkeeping
from convolith.folding.example_inputs import (
    Inputs,
    Reference,
    draws_random_numbers,
    equal_draws,
    reference_of,
    taken,
    unchanged,
)
from convolith.folding.graph_copies import own_module
from convolith.folding.other_devices import cpu_by_default, device_of, moved
from convolith.folding.quick_convolutions import QuickConvolutions
from convolith.folding.report import FoldReport, Skipped
from convolith.folding.submodules import fold_graph, fold_submodules
from convolith.folding.verification import verify
from convolith.nn import revert
from convolith.torch_private import safe_in_forks


@dataclass(frozen=True)
class Folded:
    """A folded model, which is an ordinary torch module, and the report of what was changed; `fold` returns it.

    Attributes:
        model: the folded model; a copy, with its own parameters.
        report: a `FoldReport`: every rewrite, what stayed and why; print it.
    """

    model: torch.nn.Module
    report: FoldReport

    def __repr__(self) -> str:
        r = self.report
        convolutions = f"convolutions {r.convolutions_before} -> {r.convolutions_after}"
        return f"Folded({convolutions}, norms {r.norms_before} -> {r.norms_after}; see .model and .report)"


@safe_in_forks
def fold(
    model: torch.nn.Module,
    example_input: torch.Tensor | Sequence[torch.Tensor],
    *,
    measure: bool = False,
    force: bool = False,
    everything: bool | None = None,
) -> Folded:
    """Return a copy of a model in which chains and branches that equal one convolution are replaced by it.

    The model is recorded as a graph of layers and functions. Convolutions, norms, poolings, scales, shifts, padding,
    slices, upsampling by whole factors and linear layers all count as convolutions: chains of them are composed (see
    `compose`), and sums, differences and concatenations of branches that read the same tensor are merged. RepVGG,
    Diverse Branch Block, MobileOne and similar forms are instances.

    Each rewrite gives the same result at every batch and image size, borders included, up to rounding; where zero
    padding follows a bias, a correction of the borders is added. It is kept if the time that is estimated for its
    multiplications and calls is shorter than before. Each rewrite is compared in float64 with the nodes that it
    replaces, and the folded model with the original, on the example and on random inputs of other sizes; the model's
    hooks run in these calls too.

    Args:
        model: a module in evaluation mode. One on another device than the CPU is folded as a copy on the CPU; the
            result is moved to that device, and compared with the model there.
        example_input: a tensor (N, channels, *size) that the model accepts, or a sequence of them for several inputs.
        measure: keep a rewrite only if it is also measured to be faster on this machine, on the example's shape.
        force: make every rewrite, even if it does not save time.
        everything: former name of `force`.

    Returns:
        A `Folded`. Its `model` is a `torch.fx.GraphModule` of torch's own layers under their original names, with its
        own parameters, which can be saved, exported, compiled, converted and trained. If the model's code depends on
        values, or on sizes in a way that a graph cannot represent, it is a copy of the model with folded submodules.
        Its `report` is a `FoldReport`; print it.

    Raises:
        ConvolithError: if the model is in training mode, has quantised modules, was compiled or exported by another
            tool, rejects the example, or if no part of it can be captured (with the line of its code); `measure` with a
            model on another device than the CPU.

    References:
        Ding et al., "RepVGG", CVPR 2021; Ding et al., "Diverse Branch Block", CVPR 2021; Vasu et al., "MobileOne", CVPR
        2023.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()
        >>> folded = cl.fold(model, torch.zeros(1, 3, 16, 16))
        >>> [rewrite.nodes for rewrite in folded.report.rewrites]
        [('_0', '_1')]
    """
    if everything is not None:
        renamed("everything=", "force=")
        force = everything
    options = {"measure": measure, "force": force}
    device = device_of(model, example_input)
    if device is not None:
        return _fold_elsewhere(model, example_input, options, device)
    with cpu_by_default():
        return _fold_on_cpu(model, example_input, options)


def _fold_elsewhere(model: torch.nn.Module, example: Any, options: dict[str, bool], device: torch.device) -> Folded:
    """Fold a copy of a model on the CPU, and move the result to the device of the model."""
    if options["measure"]:
        raise ConvolithError(
            f"measure is True, but the model is on {device}, and fold measures on the CPU; leave it out there"
        )
    _check_plain(model)
    inputs = tuple(example) if isinstance(example, Sequence) else (example,)
    on_cpu = tuple(x.cpu() if isinstance(x, torch.Tensor) else x for x in inputs)
    try:
        with cpu_by_default():
            folded = _fold_on_cpu(own_module(model).to("cpu"), on_cpu, options)
    except ConvolithError as problem:
        raise ConvolithError(f"model is on {device}, and its copy on the CPU cannot be folded: {problem}") from problem
    return Folded(moved(folded.model, model, inputs, device), folded.report)


def _fold_on_cpu(model: Any, example_input: Any, options: dict[str, bool]) -> Folded:
    state = torch.get_rng_state()
    with QuickConvolutions():
        inputs, known = _checked(model, example_input)
    if torch.equal(state, torch.get_rng_state()) or not draws_random_numbers(model, inputs):
        return _fold(model, inputs, known, options)
    with equal_draws(state):
        with unchanged(model), QuickConvolutions():
            known = reference_of(model, inputs)
        return _fold(model, inputs, known, options)


def _fold(model: torch.nn.Module, inputs: Inputs, known: Reference, options: dict[str, bool]) -> Folded:
    if any(type(module).__module__.startswith("convolith.nn") for module in model.modules()):
        model = revert(own_module(model))  # the result has torch's own layers, which can be converted again
        with unchanged(model), QuickConvolutions():
            known = reference_of(model, inputs)
    with unchanged(model):
        done = fold_graph(model, inputs, **options, known=known)
        if isinstance(done, NoGraph):
            done = fold_submodules(model, inputs, done, **options)
            with QuickConvolutions():
                done.tried += taken(model, inputs)
    for name in HOOKS:
        getattr(done.folded, name).update(getattr(model, name))
    with QuickConvolutions():
        errors, problem = verify(done.proofs, (done.reference, done.wide), (model, done.folded), done.tried, known)
    reason = f"its code does not run in float64 ({problem}); it is compared in its own dtype, each rewrite in float64"
    alone = [Skipped("-", "the model", reason, "settled")] if problem else []
    skipped = (*done.report.skipped, *alone, *_set_aside(model), *_settled_arguments(model, inputs))
    return Folded(done.folded, replace(done.report, skipped=skipped, error=errors))


def _set_aside(model: torch.nn.Module) -> list[Skipped]:
    """Return a report entry for the hooks that a package registers on its own models, which are not carried over."""
    names = bookkeeping(model)
    package = type(model).__module__.partition(".")[0]
    reason = f"hooks that {package} registers on its own models are not carried over; they do not change the outputs"
    return [Skipped("-", ", ".join(names[:3]) + ", ..." * (len(names) > 3), reason, "settled")] if names else []


def _settled_arguments(model: torch.nn.Module, inputs: Inputs) -> list[Skipped]:
    """Return a report entry for the arguments of `forward` that the example omits and the folded model lacks."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    omitted = [p.name for p in parameters[len(inputs) :] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    reason = f"the example omits {', '.join(omitted)}; the folded model uses the default and takes no such argument"
    return [Skipped("-", "the model", reason, "settled")] if omitted else []


def _checked(model: Any, example: Any) -> tuple[Inputs, Reference]:
    """Validate the arguments; return the inputs and the model's outputs for them.

    Raises:
        ConvolithError: if `model` is not a module in evaluation mode, or rejects the inputs.
    """
    if not isinstance(model, torch.nn.Module):
        raise ConvolithError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    _check_plain(model)
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise ConvolithError(
            f"model is in training mode ({training[0]}), where batch norms depend on the batch; call model.eval() first"
        )
    for name, module in model.named_modules():
        if ".quantized" in type(module).__module__ or "quantized" in type(module).__module__.split(".")[-1]:
            raise ConvolithError(
                f"model has a quantised module ({name or 'itself'}, {type(module).__name__}), whose integer weights "
                "cannot be composed exactly; fold the float model, then quantise it"
            )
    inputs = (example,) if isinstance(example, torch.Tensor) else example
    if not isinstance(inputs, Sequence) or not inputs or not all(map(_is_input, inputs)):
        came = (
            f"of {tuple(example.shape)}, {example.dtype}" if isinstance(example, torch.Tensor) else repr(example)[:60]
        )
        raise ConvolithError(
            f"example_input is {came}; expected a float tensor of shape (N, channels, *size), not empty, or a "
            "sequence of such tensors"
        )
    try:
        with unchanged(model):
            return tuple(inputs), reference_of(model, tuple(inputs))
    except Exception as problem:
        shapes = [tuple(x.shape) for x in inputs]
        raise ConvolithError(
            f"model does not take example_input of shape {shapes[0] if len(shapes) == 1 else shapes}; pass inputs of a "
            f"shape and a dtype that it takes: {problem}"
        ) from problem


def _check_plain(model: torch.nn.Module) -> None:
    """Raise an error with a remedy if another tool has compiled or exported the model."""
    kind, remedy = "", "fold the model before"
    if isinstance(model, torch.jit.ScriptModule):
        kind = "compiled or traced to TorchScript"
        remedy = "fold the torch module, then call torch.jit.script or torch.jit.trace on folded.model"
    elif type(model).__name__ == "OptimizedModule" and hasattr(model, "_orig_mod"):
        kind, remedy = "compiled by torch.compile", "fold model._orig_mod, then compile folded.model"
    elif isinstance(model, GraphModule) and "eval" in vars(model):
        kind, remedy = "the module of a torch.export program", "fold the torch module, then export folded.model"
    if kind:
        raise ConvolithError(f"model is {kind}; {remedy}")


def _is_input(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and 2 <= value.ndim <= 5 and value.is_floating_point() and value.numel() > 0
