"""Folding of a model as one graph, or submodule by submodule where its own code cannot be recorded as a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from convolith.folding.capture import Captured, NoGraph, capture, hooks_of, structural_copy, without_hooks
from convolith.folding.example_inputs import Inputs, Reference, outputs, unchanged
from convolith.folding.graph_copies import own_copy, own_module
from convolith.folding.pairs import pairs_of
from convolith.folding.quick_convolutions import QuickConvolutions
from convolith.folding.report import FoldReport, Rewrite, Skipped
from convolith.folding.rewrite.rewrite_check import RewriteCheck
from convolith.folding.rewrite.rewriting import count_layers, rewrite
from convolith.folding.search.in_place import write_in_place
from convolith.folding.search.lowering import called_module


@dataclass
class UnprovedFold:
    """Folded model that has not been verified yet.

    Attributes:
        reference, wide: the model and the folded model, in float64.
        folded: the folded model in the model's own dtypes.
        report: report of the fold, without the errors.
        proofs: proof of each rewrite, to be checked.
        tried: inputs that the model accepts, the example first.
    """

    reference: nn.Module
    wide: nn.Module
    folded: nn.Module
    report: FoldReport
    proofs: list[RewriteCheck]
    tried: list[Inputs]


def fold_graph(
    model: nn.Module, inputs: Inputs, *, measure: bool, force: bool, known: Reference | None = None
) -> UnprovedFold | NoGraph:
    """Fold a model as one graph, and the inside of modules that are kept in it; or return why it cannot be a graph.

    Args:
        known: the model's outputs for the inputs, if known; not used if the model has hooks, which ran in that call.
    """
    try:
        with QuickConvolutions():
            captured = capture(without_hooks(model), inputs, None if hooks_of(model) else known)
    except NoGraph as refusal:
        return refusal
    done = _folded(captured, inputs, measure=measure, force=force)
    inserted: list[str] = []
    for name, arguments in sorted(captured.calls.items(), key=lambda call: call[0].count(".")):
        part = model.get_submodule(name)
        if isinstance(part, torch.jit.ScriptModule) or any(name.startswith(f"{outer}.") for outer in inserted):
            continue  # the inside of a kept module is folded with it
        if name not in dict(done.folded.named_modules(remove_duplicate=False)):
            continue  # nothing reads its result: the graph does not call it
        why = NoGraph(captured.kept[name])
        try:
            inner = fold_submodules(part, arguments, why, measure=measure, force=force)
        except NoGraph:
            continue
        done = _with_part(done, name, inner)
        inserted.append(name)
    named = {entry.module for entry in done.report.skipped if entry.kind == "norm"}
    norms = [entry for entry in _norms_inside(done.folded, captured.kept) if entry.module not in named]
    return replace(done, report=replace(done.report, skipped=(*done.report.skipped, *norms)))


def _norms_inside(folded: nn.Module, kept: dict[str, str]) -> list[Skipped]:
    """Return a report entry for each norm in a kept module that is not part of a folded graph inside that module."""
    entries = []
    present = dict(folded.named_modules(remove_duplicate=False))
    for name, reason in kept.items():
        if name not in present:  # an enclosing module is kept, in which it has another name
            continue
        module, inside = present[name], f"it is in {name or 'the model'}, whose code is kept: {reason}"
        graphs = {id(part) for graph in module.modules() if isinstance(graph, GraphModule) for part in graph.modules()}
        for path, part in module.named_modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and id(part) not in graphs:
                entries.append(Skipped("-", f"{name}.{path}".strip("."), inside, "norm"))
    return entries


def _folded(captured: Captured, inputs: Inputs, *, measure: bool, force: bool) -> UnprovedFold:
    done = rewrite(captured, inputs, measure=measure, force=force)
    folded = own_copy(done.graph, inputs[0].dtype, like=captured.module)
    write_in_place(folded)
    return UnprovedFold(done.reference, done.graph, folded, done.report, done.proofs, captured.tried)


def _with_part(done: UnprovedFold, name: str, inner: UnprovedFold) -> UnprovedFold:
    """Return a folded graph in which the module of that name is replaced by its folded version."""
    for whole, part in ((done.wide, inner.wide), (done.folded, inner.folded)):
        before = whole.get_submodule(name)
        for hooks in (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_forward_hooks_with_kwargs",
            "_forward_pre_hooks_with_kwargs",
        ):
            getattr(part, hooks).update(getattr(before, hooks))
        whole.set_submodule(name, part)
    own = count_layers(inner.reference)  # counted in the graph's report already
    others = replace(
        done.report,
        convolutions_before=done.report.convolutions_before - own[0],
        convolutions_after=done.report.convolutions_after - own[0],
        norms_before=done.report.norms_before - own[1],
        norms_after=done.report.norms_after - own[1],
    )
    skipped = tuple(s for s in inner.report.skipped if s.module != "the model")
    report = _added(others, {name: replace(inner.report, skipped=skipped)}, others.skipped)
    return replace(done, report=report, proofs=[*done.proofs, *inner.proofs])


def fold_submodules(model: nn.Module, inputs: Inputs, refusal: NoGraph, *, measure: bool, force: bool) -> UnprovedFold:
    """Fold the largest submodules that can be recorded as graphs, in a copy that runs the model's own code.

    Args:
        refusal: reason why the whole model cannot be a graph.

    Raises:
        NoGraph: the refusal, if no submodule has anything to fold.
    """
    if not any(list(child.children()) for child in model.children()) and not pairs_of(model):
        raise refusal
    options: dict[str, Any] = {"measure": measure, "force": force}
    with QuickConvolutions():
        calls = _calls(model, inputs)
    copies: list[nn.Module] = []  # in float64 and in the model's dtypes, made for the first folded part
    reports: dict[str, FoldReport] = {}
    proofs: list[RewriteCheck] = []

    def take(name: str, done: UnprovedFold) -> bool:
        """Insert a folded part if it has rewrites and the model runs with it; return whether it was inserted."""
        if not done.report.rewrites:
            return False
        copies[:] = copies or [own_module(model).double(), own_module(model)]
        if not _replaced(copies[1], name, done.folded, inputs):
            return False
        copies[0].set_submodule(name, done.wide)
        reports[name] = done.report
        proofs.extend(done.proofs)
        return True

    waiting = [name for name, _ in model.named_children()]
    _fold_pairs(model, "", calls, options, take, copies)
    while waiting:
        name = waiting.pop(0)
        if name in reports:
            continue
        part, arguments = model.get_submodule(name), calls.get(name)
        if (
            arguments is not None and list(part.children()) and not hooks_of(part)
        ):  # replacing the part would remove its hooks
            done = fold_graph(part, arguments, **options)
            if isinstance(done, UnprovedFold):
                take(name, done)
                continue
        _fold_pairs(model, name, calls, options, take, copies)
        waiting += [f"{name}.{child}" for child, _ in part.named_children()]
    if not reports:
        raise refusal
    wide, result = copies
    whole = Skipped("-", "the model", f"{refusal.reason}; its submodules are folded separately", "kept")
    report = _added(FoldReport((), (), 0, 0, 0.0, 0.0, 0.0, 0.0, 0, 0), reports, (whole,))
    (convolutions, norms), (fewer, less) = count_layers(model), count_layers(result)
    report = replace(
        report, convolutions_before=convolutions, convolutions_after=fewer, norms_before=norms, norms_after=less
    )
    inside = [replace(e, module=e.module.lstrip(".")) for e in _norms_inside(result, {"": refusal.reason})]
    report = replace(report, skipped=(*report.skipped, *inside))
    return UnprovedFold(own_module(model).double(), wide, result, report, proofs, [inputs])


def _fold_pairs(
    model: nn.Module,
    name: str,
    calls: dict[str, Inputs],
    options: dict[str, Any],
    take: Callable[[str, UnprovedFold], bool],
    copies: list[nn.Module],
) -> None:
    """Fold each convolution with the norm that a module's own code always calls on its output."""
    module = model.get_submodule(name)
    for first, second in pairs_of(module):
        path, other = (".".join(filter(None, (name, each))) for each in (first, second))
        chain, arguments = nn.Sequential(getattr(module, first), getattr(module, second)).eval(), calls.get(path)
        if arguments is None or any(map(hooks_of, chain)):
            continue
        done = fold_graph(chain, arguments, **options)
        if isinstance(done, NoGraph) or not done.report.rewrites:
            continue
        done = replace(done, wide=_only_layer(done.wide), folded=_only_layer(done.folded), report=_of_pair(done.report))
        if take(path, done):
            for copied in copies:
                copied.set_submodule(other, nn.Identity())


def _only_layer(graph: nn.Module) -> nn.Module:
    """Return a graph's only layer, whose attributes the calling code may read; or the graph if it calls several."""
    called = [n for n in graph.graph.nodes if n.op == "call_module"]  # type: ignore[union-attr]  # a GraphModule
    return called_module(called[0]) if len(called) == 1 else graph


def _of_pair(report: FoldReport) -> FoldReport:
    """Return the report of a pair, with its rewrites attributed to the pair as a whole."""
    rewrites = tuple(replace(r, name="", modules=("the model",)) for r in report.rewrites)
    return replace(report, rewrites=rewrites)


def _added(report: FoldReport, parts: dict[str, FoldReport], skipped: tuple[Skipped, ...]) -> FoldReport:
    """Return a report merged with those of parts, where each part's name precedes the names in its report."""
    rewrites = [*report.rewrites, *(_renamed(r, name) for name, part in parts.items() for r in part.rewrites)]
    more = [replace(s, module=f"{name}.{s.module}") for name, part in parts.items() for s in part.skipped]
    reports = [report, *parts.values()]
    names = [name for name in FoldReport.__dataclass_fields__ if name.endswith(("_before", "_after"))]
    sums: dict[str, Any] = {name: sum(getattr(one, name) for one in reports) for name in names}
    others = dict(sum((Counter(one.others) for one in reports), Counter()))
    return FoldReport(tuple(rewrites), (*skipped, *more), others=others, **sums)


def _calls(model: nn.Module, inputs: Inputs) -> dict[str, Inputs]:
    """Return the arguments of each module's first call with float tensors only."""
    first_calls: dict[str, Inputs] = {}
    watched = structural_copy(model)

    def keep(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            plain = args and not kwargs and all(isinstance(a, torch.Tensor) and a.is_floating_point() for a in args)
            if plain and name not in first_calls:
                first_calls[name] = tuple(a.detach().clone() for a in args)

        return hook

    for name, module in watched.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_pre_hook(keep(name), with_kwargs=True)
    with torch.no_grad(), unchanged(model):
        outputs(watched, inputs)
    return first_calls


def _replaced(result: nn.Module, name: str, folded: nn.Module, inputs: Inputs) -> bool:
    """Insert a folded part and return whether the model still runs; if not, restore the original part."""
    before = result.get_submodule(name)
    result.set_submodule(name, folded)
    try:
        with torch.no_grad(), unchanged(result), QuickConvolutions():
            outputs(result, inputs)
    except Exception:  # noqa: BLE001 - whatever the model's own code raises
        result.set_submodule(name, before)
        return False
    return True


def _renamed(rewrite: Rewrite, name: str) -> Rewrite:
    modules = tuple(name if module == "the model" else f"{name}.{module}" for module in rewrite.modules)
    return replace(rewrite, name=f"{name}.{rewrite.name}".strip("."), modules=modules)
