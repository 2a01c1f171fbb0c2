"""`fold`: replace every chain and every set of branches of a model that equals one convolution, and prove it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import GraphModule

from convolith.errors import ConvolithError, renamed
from convolith.folding.capture import HOOKS, NoGraph, bookkeeping
from convolith.folding.example_inputs import Inputs, Reference, reference_of, taken, unchanged
from convolith.folding.graph_copies import own_module
from convolith.folding.quick_convolutions import QuickConvolutions
from convolith.folding.report import FoldReport, Skipped
from convolith.folding.submodules import fold_graph, fold_submodules
from convolith.folding.verification import verify
from convolith.nn import revert


@dataclass(frozen=True)
class Folded:
    """A folded model, a plain torch module, and the report of how it came about."""

    model: torch.nn.Module
    report: FoldReport


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
    slices, enlargement by whole factors and linear layers are all convolutions: chains of them are composed, and sums,
    differences and concatenations of those that begin at the same tensor are joined. Each rewrite is exact at every
    batch and image size, borders included (with a border correction where a bias meets zero padding), and kept where
    its products and calls take less time than before. Each is compared with what it replaces in float64, and the folded
    model with the model on the example and on random inputs of other sizes. Hooks of the model run in this too.

    Rules: see `compose`, `convolith.algebra`; RepVGG (Ding et al. 2021), Diverse Branch Block (Ding et al. 2021),
    MobileOne (Vasu et al. 2023) and their kin are instances.

    Args:
        model: in evaluation mode.
        example_input: (N, channels, *size), as the model takes it; several in a row if it takes several.
        measure: keep a rewrite only if it is measured faster on this machine, on the example's shape, as well.
        force: make every rewrite, even where it does not save time.
        everything: the former name of `force`.

    Returns:
        `model`: a `torch.fx.GraphModule` of torch's own layers under the names that they had, with parameters of its
        own. It can be saved, exported, compiled, converted and trained. A model whose own code depends on values, or on
        sizes in a way that no graph follows, comes back as a copy with its parts folded. `report`: a `FoldReport`;
        print it.

    Raises:
        ConvolithError: a model in training mode, with quantised modules, compiled or exported by another tool, or of
            which nothing can be captured (with the line of its code); an example that it does not take.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()
        >>> folded = fold(model, torch.zeros(1, 3, 16, 16))
        >>> [rewrite.nodes for rewrite in folded.report.rewrites]
        [('_0', '_1')]
    """
    if everything is not None:
        renamed("everything", "force")
        force = everything
    with QuickConvolutions():
        inputs, known = _checked(model, example_input)
    if any(type(module).__module__.startswith("convolith.nn") for module in model.modules()):
        model = revert(own_module(model))  # torch's own layers are what comes out; they can be converted again
        with unchanged(model), QuickConvolutions():
            known = reference_of(model, inputs)
    options = {"measure": measure, "force": force}
    with unchanged(model):
        done = fold_graph(model, inputs, **options, known=known)
        if isinstance(done, NoGraph):
            done = fold_submodules(model, inputs, done, **options)
            with QuickConvolutions():
                done.tried += taken(model, inputs)
    for name in HOOKS:
        getattr(done.folded, name).update(getattr(model, name))
    with unchanged(model), unchanged(done.folded), QuickConvolutions():
        errors, problem = verify(done.proofs, (done.reference, done.wide), (model, done.folded), done.tried, known)
    reason = f"its code does not run in float64 ({problem}): it is compared in its own dtype, each rewrite in float64"
    alone = [Skipped("-", "the model", reason, "settled")] if problem else []
    skipped = (*done.report.skipped, *alone, *_set_aside(model), *_settled_arguments(model, inputs))
    return Folded(done.folded, replace(done.report, skipped=skipped, error=errors))


def _set_aside(model: torch.nn.Module) -> list[Skipped]:
    """Return the hooks that a package keeps on its own models, which are not carried over."""
    names = bookkeeping(model)
    package = type(model).__module__.partition(".")[0]
    reason = f"hooks that {package} registers on its own models are not carried over; they change nothing here"
    return [Skipped("-", ", ".join(names[:3]) + ", ..." * (len(names) > 3), reason, "settled")] if names else []


def _settled_arguments(model: torch.nn.Module, inputs: Inputs) -> list[Skipped]:
    """The arguments of `forward` that the example leaves at their defaults, and that the folded model has not."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    left = [p.name for p in parameters[len(inputs) :] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    reason = f"the example leaves {', '.join(left)} at the default, and so the folded model takes no such argument"
    return [Skipped("-", "the model", reason, "settled")] if left else []


def _checked(model: Any, example: Any) -> tuple[Inputs, Reference]:
    """Return the inputs and what the model gives for them.

    Raises:
        ConvolithError: what is no model in evaluation, or no input that it takes.
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
            f"example_input is {came}; expected a float tensor of (N, channels, *size), not empty, as the model takes "
            "it, or several in a row"
        )
    try:
        with unchanged(model):
            return tuple(inputs), reference_of(model, tuple(inputs))
    except Exception as problem:
        shapes = [tuple(x.shape) for x in inputs]
        raise ConvolithError(
            f"model does not take example_input of shape {shapes[0] if len(shapes) == 1 else shapes}: {problem}"
        ) from problem


def _check_plain(model: torch.nn.Module) -> None:
    """Refuse what another tool has compiled or exported, with the way out."""
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
