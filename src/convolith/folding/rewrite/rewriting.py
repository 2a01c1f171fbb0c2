"""Folding of a captured model: a copy of its graph in float64, with one module in place of several nodes."""

from __future__ import annotations

import operator
from collections import Counter
from functools import reduce
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from convolith.conv import Conv
from convolith.folding.capture import Captured
from convolith.folding.example_inputs import Inputs
from convolith.folding.graph_copies import own_copy, put, with_own_graph
from convolith.folding.graph_runner import has_effects
from convolith.folding.report import FoldReport, Rewrite, Skipped, ranges
from convolith.folding.rewrite.layers import name_layers
from convolith.folding.rewrite.measurement import Times, measured
from convolith.folding.rewrite.rewrite_check import RewriteCheck
from convolith.folding.search.candidates import (
    FREE,
    JOINS,
    Candidate,
    CandidateCost,
    Candidates,
    Selection,
    choose,
    options,
    readers,
    target_of,
)
from convolith.folding.search.concatenated_norms import norms_left, spread_norms
from convolith.folding.search.in_place import settle
from convolith.folding.search.lowering import aten, called_module, module_path, operator_of
from convolith.folding.search.operators_as_convolutions import CONVOLVE, IDLE, READERS, Values, shape_of
from convolith.folding.search.shape_queries import prepare_shapes

Place = tuple[Node, Node]
"""Source and last node of a candidate."""


def rewrite(captured: Captured, inputs: Inputs, *, measure: bool, force: bool) -> Rewritten:
    """Return the folded copy in float64, its report and its proofs; its errors are not known yet.

    Args:
        inputs: inputs of the model, in its dtype.
        measure: whether each rewrite must also be measured to be faster on this machine.
        force: whether rewrites are made even if they do not save time.
    """
    reference = own_copy(captured.module, torch.float64)
    working = with_own_graph(reference)
    _record_shapes(captured, working)
    values = _constants(working)
    written = settle(working, values)
    prepare_shapes(working, values)
    spread_norms(working, values)
    working.recompile()
    found = options(working.graph, values, written, force=force)
    seconds: dict[Place, Times] = {}
    while True:
        barred = {place for place, (before, after) in seconds.items() if after >= before and not force}
        choice = choose(working.graph, found, barred, force=force)
        taken = _taken(working.graph, choice)
        unknown = [way for way in taken if _place(way) not in seconds] if measure else []
        if not unknown:
            break
        seconds |= {_place(way): times for way, times in measured(working, values, unknown, inputs)}
    item, others = inputs[0].element_size(), _others(working.graph, values)
    before, after = _total(found, []), _total(found, taken)
    skipped = _skipped(found, choice, taken, seconds, captured.kept)
    skipped += norms_left(working.graph, taken, {entry.node for entry in skipped}, written.read, values)
    convolutions, norms = count_layers(working)
    proofs = [RewriteCheck.of(values, way) for way in taken]
    names = _names(working, taken)
    rewrites = tuple(
        _described(found, way, name, seconds.get(_place(way)), item) for way, name in zip(taken, names, strict=True)
    )
    for way, name, proof in reversed(list(zip(taken, names, proofs, strict=True))):
        _replace(working, way, name, proof.after)
    working.graph.eliminate_dead_code(has_effects)
    working.delete_all_unused_submodules()
    for node in working.graph.nodes:
        if node.op == "call_module" and str(node.target).startswith(REPLACED):
            made = called_module(node)
            node.target = str(node.target).removeprefix(REPLACED)
            put(working, node.target, made)
    name_layers(working, values)
    working.delete_all_unused_submodules()
    working.recompile()
    left = count_layers(working)
    report = FoldReport(
        rewrites,
        tuple(dict.fromkeys(skipped)),
        convolutions,
        left[0],
        before.multiplications,
        after.multiplications,
        before.moved * item,
        after.moved * item,
        norms,
        left[1],
        others,
    )
    return Rewritten(reference, working, report, proofs)


class Rewritten(NamedTuple):
    """Graph in float64 before and after folding, the report, and the proof of each rewrite."""

    reference: GraphModule
    graph: GraphModule
    report: FoldReport
    proofs: list[RewriteCheck]


def _others(graph: Graph, values: Values) -> dict[str, int]:
    """Count by name the operators that depend on an input, and neither are convolutions nor join branches."""
    kinds = ("call_function", "call_method", "call_module")
    nodes = [n for n in graph.nodes if n.op in kinds and n not in values and shape_of(n) is not None]
    names = [name_of(n) for n in nodes if target_of(n) not in {*READERS, *JOINS}]
    return dict(Counter(names).most_common())


def name_of(node: Node) -> str:
    """Return the name of the function or of the layer's class that a node calls."""
    if node.op == "call_module":
        return type(called_module(node)).__name__
    return (
        node.target
        if isinstance(node.target, str)
        else getattr(node.target, "__name__", str(node.target)).partition(".")[0]
    )


def count_layers(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of convolutions and batch norms in one pass of a graph, or in another module's layers."""
    if not isinstance(model, GraphModule):
        return _kinds([*model.modules()])
    called = [called_module(node) for node in model.graph.nodes if node.op == "call_module"]
    layers = _kinds([layer for module in called for layer in module.modules()])
    targets = [target_of(node) for node in model.graph.nodes if node.op in ("call_function", "call_method")]
    convolutions = sum(t in CONVOLVE and t is not aten.linear.default for t in targets if t is not None)
    return convolutions + layers[0], sum(t is aten.batch_norm.default for t in targets if t is not None) + layers[1]


def _kinds(layers: list[nn.Module]) -> tuple[int, int]:
    convolutions = sum(isinstance(m, nn.modules.conv._ConvNd) for m in layers)
    return convolutions, sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in layers)


def _record_shapes(captured: Captured, working: GraphModule) -> None:
    """Record on each node of the copy its shape on the example; `example_shape` is None if channels vary by input."""
    for old, new in zip(captured.module.graph.nodes, working.graph.nodes, strict=True):
        shapes = [found.get(old.name) for found in captured.shapes]
        channels = {shape and (len(shape), *shape[1:2]) for shape in shapes}
        new.meta["example_shape"] = shapes[0] if len(channels) == 1 else None
        new.meta["shape"] = shapes[0]


def _constants(working: GraphModule) -> Values:
    """Return the values that do not depend on an input, computed in float64."""
    values: Values = {}
    written = {memory for node in working.graph.nodes for memory in node.meta.get("writes", ())}
    for node in working.graph.nodes:
        if not node.meta.get("constant") or node.meta.get("memory") in written:
            continue
        if node.op == "get_attr":
            values[node] = operator.attrgetter(str(node.target))(working).detach()
        elif all(a in values for a in node.all_input_nodes):
            arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                called = getattr(arguments[0], node.target) if node.op == "call_method" else node.target
                values[node] = called(*arguments[node.op == "call_method" :], **keywords)
    return values


def _taken(graph: Graph, choice: Selection) -> list[Candidate]:
    """Return the candidates that the output needs, in the order of their last nodes."""
    needed: set[Node] = set()
    taken = []
    for node in reversed(list(graph.nodes)):
        if node not in needed and (node.users or not (node.is_impure() or node.meta.get("writes"))):
            continue
        way = choice.best.get(node)
        if way is None:
            needed.update(node.all_input_nodes)
        else:
            taken.append(way)
            needed.add(way.source)
    return taken[::-1]


def _names(working: GraphModule, taken: list[Candidate]) -> list[str]:
    """Return a name for each candidate's convolution: that of its only layer, or a new one in the common module."""
    used = {str(n.target) for n in working.graph.nodes if n.op == "call_module"}
    found: list[str] = []
    for way in taken:
        layers = [n for n in way.nodes if target_of(n) in CONVOLVE]
        own = module_path(layers[0]) if len(layers) == 1 else ""
        if own and _is_free(working, way, layers[0], own) and not _transposes(layers[0], way):
            found.append(own)
            continue
        paths = list(dict.fromkeys(module_path(n) for n in sorted(way.nodes) if module_path(n)))
        parent = _common(paths)
        name = base = f"{parent}.folded" if parent else "folded"
        number = 1
        while any(f"{other}.".startswith(f"{name}.") for other in (*used, *found)):
            number += 1
            name = f"{base}_{number}"
        found.append(name)
    return found


def _is_free(working: GraphModule, way: Candidate, layer: Node, name: str) -> bool:
    """Return whether no other node calls a layer, or a convolution in the code of the module of that name."""
    if layer is not way.nodes[-1] and not set(readers(layer)) <= set(way.nodes):
        return False
    calls = [n for n in working.graph.nodes if n.op == "call_module" and f"{n.target}.".startswith(f"{name}.")]
    others = [
        n
        for n in working.graph.nodes
        if n.op == "call_function" and module_path(n) == name and target_of(n) in CONVOLVE
    ]
    return [n for n in (*calls, *others) if n is not layer] == []


def _transposes(layer: Node, way: Candidate) -> bool:
    """Return whether exactly one of a candidate and a layer is a transposed convolution."""
    called = operator_of(layer)
    return called is not None and ("transpose" in str(called.target)) is not way.affine.conv.transposed


def _common(paths: list[str]) -> str:
    """Return the innermost module that contains all paths."""
    steps = [path.split(".")[:-1] if len(paths) == 1 else path.split(".") for path in paths]
    shared = takewhile(lambda level: len(set(level)) == 1, zip(*steps, strict=False))
    return ".".join(level[0] for level in shared)


def _replace(working: GraphModule, way: Candidate, name: str, made: nn.Module) -> None:
    graph, node = working.graph, way.nodes[-1]
    learns = _learns(working, way)
    put(working, f"{REPLACED}{name}", made.requires_grad_(learns))
    with graph.inserting_before(node):
        label = f"folded_{name.replace('.', '_')}"
        call = graph.create_node("call_module", f"{REPLACED}{name}", (way.source,), name=label)
    call.meta = {**node.meta, "constant": False, "new": way.source.meta.get("dtype")}
    node.replace_all_uses_with(call)
    for old in sorted(way.nodes, reverse=True):
        if not old.users:
            graph.erase_node(old)


REPLACED = "replaced_by_folding."
"""Temporary prefix of the names of new layers, until the old layers with these names are removed."""


def _learns(working: GraphModule, way: Candidate) -> bool:
    """Return whether any parameter that a candidate replaces is trainable; True if it replaces no parameter."""
    waiting = [a for node in way.nodes for a in node.all_input_nodes if a is not way.source]
    seen: set[Node] = {*way.nodes}
    found = [p.requires_grad for n in way.nodes if n.op == "call_module" for p in called_module(n).parameters()]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "get_attr":
            found.append(operator.attrgetter(str(node.target))(working).requires_grad)
        waiting += node.all_input_nodes
    return any(found) or not found


def _place(way: Candidate) -> Place:
    return way.source, way.nodes[-1]


def _total(found: Candidates, taken: list[Candidate]) -> CandidateCost:
    """Return the cost of all nodes that folding reads, with candidates in place of the nodes that they replace."""
    gone = {node for way in taken for node in way.nodes}
    costs = [cost for node, cost in found.alone.items() if node not in gone] + [way.cost for way in taken]
    return reduce(CandidateCost.plus, costs, FREE)


def _described(found: Candidates, way: Candidate, name: str, times: Times | None, item: int) -> Rewrite:
    conv = way.affine.conv
    before = [found.alone.get(node, FREE) for node in way.nodes]
    if conv.transposed:
        by_channel = conv.weight.unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)
    else:
        by_channel = conv.weight.flatten(1)
    least, largest, warning = ranges(by_channel)
    return Rewrite(
        name=name,
        modules=tuple(dict.fromkeys(module_path(n) or "the model" for n in sorted(way.nodes))),
        nodes=tuple(node.name for node in way.nodes),
        conv=_words(conv),
        kind="exact with border correction" if way.affine.corrected else "exact",
        multiplications_before=sum(c.multiplications for c in before),
        multiplications_after=way.cost.multiplications,
        bytes_before=sum(c.moved for c in before) * item,
        bytes_after=way.cost.moved * item,
        least_range=least,
        largest_range=largest,
        warning=warning,
        seconds_before=None if times is None else times[0],
        seconds_after=None if times is None else times[1],
    )


def _words(conv: Conv) -> str:
    """Describe a convolution in a few words: 16 -> 32, 3x3, stride 2, padding 1, bias."""
    axes = len(conv.kernel_size)
    usual = Conv(torch.ones((1, 1) + (1,) * axes, device="cpu")).options
    words = [f"{conv.in_channels} -> {conv.out_channels}", "x".join(map(str, conv.kernel_size))]
    for name, value in conv.options.items():
        if value == usual[name]:
            continue
        if isinstance(value, tuple):
            entries = {entry for pair in value for entry in (pair if isinstance(pair, tuple) else (pair,))}
            value = entries.pop() if len(entries) == 1 else value
        words.append("transposed" if name == "transposed" else f"{name.replace('_', ' ')} {value}")
    return ", ".join([*words, *["bias"] * (conv.bias is not None)])


def _skipped(
    found: Candidates, choice: Selection, taken: list[Candidate], seconds: dict[Place, Times], kept: dict[str, str]
) -> list[Skipped]:
    """Return a report entry for each candidate that was not folded and is not part of a rewrite."""
    inside = {node for way in taken for node in way.nodes[:-1]}
    skipped = [Skipped("-", name, reason, "kept") for name, reason in kept.items()]
    for node, reason in found.refusals.items():
        if node not in inside and not any(way.nodes[-1] is node for way in taken):
            skipped.append(_entry(node, reason, "refused"))
    for node, reason in (choice.declined | found.hopeless).items():
        if node not in inside and target_of(node) not in IDLE:
            skipped.append(_entry(node, reason, "does not pay"))
    for (source, node), (before, after) in seconds.items():
        if after >= before and not any(_place(way) == (source, node) for way in taken):
            reason = f"as one convolution from {source.name} it takes {after:.3g} s, not {before:.3g} s"
            skipped.append(_entry(node, reason, "does not pay"))
    return skipped


def _entry(node: Node, reason: str, kind: str) -> Skipped:
    return Skipped(node.name, module_path(node) or "the model", reason, kind, node.meta.get("line"))
