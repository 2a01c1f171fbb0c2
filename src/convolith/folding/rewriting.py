"""A captured model folded: a copy of its graph in float64, with a module for each convolution that replaces several."""

from __future__ import annotations

import operator
from collections import Counter
from functools import reduce
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Interpreter, Node

from convolith.conv import Conv
from convolith.folding.capture import Captured
from convolith.folding.copies import own_copy
from convolith.folding.gate import Times, measured
from convolith.folding.modules import module_of
from convolith.folding.mutations import settle, write_in_place, written_buffers
from convolith.folding.pieces import READERS, Values, shape_of
from convolith.folding.report import Report, Rewrite, Skipped, ranges
from convolith.folding.search import FREE, JOINS, Choice, Cost, Options, Way, choose, options
from convolith.folding.sizes import Inputs

COUNTED = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
"""Operators that compute a convolution."""
Place = tuple[Node, Node]
"""Where a way begins and ends."""


def rewrite(captured: Captured, inputs: Inputs, *, measure: bool, everything: bool) -> tuple[GraphModule, Report]:
    """The folded copy in float64, and what it came about by; its errors are not known yet.

    Args:
        inputs: of the model, in its dtype.
        measure: whether each rewrite must be faster here as well.
        everything: whether rewrites are made even where they do not pay.
    """
    working = own_copy(captured.module, torch.float64)
    _record_shapes(captured, working)
    values = _constants(working)
    found = options(working.graph, values, settle(working, values), everything=everything)
    seconds: dict[Place, Times] = {}
    while True:
        barred = {place for place, (before, after) in seconds.items() if after >= before and not everything}
        choice = choose(working.graph, found, barred, everything=everything)
        taken = _taken(working.graph, choice)
        unknown = [way for way in taken if _place(way) not in seconds] if measure else []
        if not unknown:
            break
        seconds |= {_place(way): times for way, times in measured(working, values, unknown, inputs)}
    item, others = inputs[0].element_size(), _others(working.graph, values)
    before, after = _total(found, []), _total(found, taken)
    skipped = _skipped(found, choice, taken, seconds, captured.kept)
    rewrites = tuple(_described(found, way, seconds.get(_place(way)), item) for way in taken)
    counted = count_convolutions(working)
    for way in reversed(taken):
        _replace(working, way)
    working.graph.eliminate_dead_code()
    write_in_place(working)
    working.delete_all_unused_submodules()
    working.recompile()
    report = Report(
        rewrites,
        skipped,
        counted,
        count_convolutions(working),
        before.multiplications,
        after.multiplications,
        before.moved * item,
        after.moved * item,
        others,
    )
    return working, report


def _others(graph: Graph, values: Values) -> dict[str, int]:
    """Operators on what moves that are neither convolutions nor join branches, by name."""
    read = {*READERS, *JOINS}
    left = [n for n in graph.nodes if n.op == "call_function" and n not in values and n.target not in read]
    names = [str(n.target).removeprefix("aten.").partition(".")[0] for n in left if shape_of(n) is not None]
    return dict(Counter(names).most_common())


def count_convolutions(model: GraphModule) -> int:
    """How many convolutions one pass computes."""
    operators = sum(str(n.target).split(".")[1:2] == [name] for n in model.graph.nodes for name in COUNTED)
    called = [model.get_submodule(n.target) for n in model.graph.nodes if n.op == "call_module"]
    return operators + sum(isinstance(m, nn.modules.conv._ConvNd) for made in called for m in made.modules())


def _record_shapes(captured: Captured, working: GraphModule) -> None:
    """On each node of the copy, its shape for the example, if it is a real float tensor of as many channels always."""
    runs = [_shapes(captured.module, inputs) for inputs in captured.tried[:USUAL]]
    for old, new in zip(captured.module.graph.nodes, working.graph.nodes, strict=True):
        shapes = [found.get(old.name) for found in runs]
        alike = {shape and (len(shape), *shape[1:2]) for shape in shapes}
        new.meta["example_shape"] = shapes[0] if len(alike) == 1 else None


USUAL = 4
"""Inputs whose shapes are compared: the example, another batch, other rows, other columns."""


def _shapes(captured: GraphModule, inputs: Inputs) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    class Recorder(Interpreter):
        def run_node(self, n: Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor) and result.is_floating_point():
                shapes[n.name] = tuple(result.shape)
            return result

    with torch.no_grad():
        Recorder(captured).run(*(x.clone() for x in inputs))
    return shapes


def _constants(captured: GraphModule) -> Values:
    """What does not depend on the input, computed in float64."""
    values: Values = {}
    written = written_buffers(captured.graph)
    for node in captured.graph.nodes:
        if node.op == "get_attr" and node.target not in written:
            found = operator.attrgetter(node.target)(captured)
            if isinstance(found, torch.Tensor):
                values[node] = found.detach()
        elif node.op == "call_function" and node.all_input_nodes and all(a in values for a in node.all_input_nodes):
            arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
            values[node] = node.target(*arguments, **keywords)
    return values


def _taken(graph: Graph, choice: Choice) -> list[Way]:
    """The ways that the output needs, in the order of the nodes that they end in."""
    needed: set[Node] = set()
    taken = []
    for node in reversed(list(graph.nodes)):
        if node not in needed and (node.users or not node.is_impure()):
            continue
        way = choice.best.get(node)
        if way is None:
            needed.update(node.all_input_nodes)
        else:
            taken.append(way)
            needed.add(way.source)
    return taken[::-1]


def _replace(working: GraphModule, way: Way) -> None:
    graph, node = working.graph, way.nodes[-1]
    name = f"folded_{node.name}"
    made = module_of(way.affine, flat=len(shape_of(way.source) or ()) == 2, by_channel=way.by_channel)
    working.add_module(name, made.requires_grad_(_learns(working, way)))
    with graph.inserting_before(node):
        call = graph.call_module(name, (way.source,))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    for old in sorted(way.nodes, reverse=True):  # those that write in place are no dead code to fx
        if not old.users:
            graph.erase_node(old)


def _learns(working: GraphModule, way: Way) -> bool:
    """Whether any parameter that a way takes the place of does; without one there is nothing to freeze."""
    waiting = [a for node in way.nodes for a in node.all_input_nodes if a is not way.source]
    seen: set[Node] = {*way.nodes}
    found = []
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "get_attr":
            found.append(operator.attrgetter(str(node.target))(working).requires_grad)
        waiting += node.all_input_nodes
    return any(found) or not found


def _place(way: Way) -> Place:
    return way.source, way.nodes[-1]


def _total(found: Options, taken: list[Way]) -> Cost:
    """Of all nodes that folding reads, some of them replaced."""
    gone = {node for way in taken for node in way.nodes}
    costs = [cost for node, cost in found.alone.items() if node not in gone] + [way.cost for way in taken]
    return reduce(Cost.plus, costs, FREE)


def _described(found: Options, way: Way, times: Times | None, item: int) -> Rewrite:
    conv = way.affine.conv
    before = [found.alone.get(node, FREE) for node in way.nodes]
    if conv.transposed:
        by_channel = conv.weight.unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)
    else:
        by_channel = conv.weight.flatten(1)
    least, largest, warning = ranges(by_channel)
    return Rewrite(
        name=f"folded_{way.nodes[-1].name}",
        modules=tuple(dict.fromkeys(filter(None, map(module_path, sorted(way.nodes))))),
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
    """A convolution in a few words: 16 -> 32, 3x3, stride 2, padding 1, bias."""
    axes = len(conv.kernel_size)
    usual = Conv(torch.ones((1, 1) + (1,) * axes)).options
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
    found: Options, choice: Choice, taken: list[Way], seconds: dict[Place, Times], kept: dict[str, str]
) -> tuple[Skipped, ...]:
    """What looked as if it might be folded and is none of the rewrites' own nodes."""
    inside = {node for way in taken for node in way.nodes[:-1]}
    skipped = [Skipped("-", name, reason, "kept") for name, reason in kept.items()]
    for node, reason in found.refusals.items():
        if node not in inside and not any(way.nodes[-1] is node for way in taken):
            skipped.append(Skipped(node.name, module_path(node), reason, "refused"))
    for node, reason in (choice.declined | found.hopeless).items():
        if node not in inside:
            skipped.append(Skipped(node.name, module_path(node), reason, "does not pay"))
    for (source, node), (before, after) in seconds.items():
        if after >= before and not any(_place(way) == (source, node) for way in taken):
            reason = f"as one convolution from {source.name} it takes {after:.3g} s instead of {before:.3g} s here"
            skipped.append(Skipped(node.name, module_path(node), reason, "does not pay"))
    return tuple(skipped)


def module_path(node: Node) -> str:
    """Where a node stands in the model, or nothing."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    return path.removeprefix("L['self'].").removeprefix("L['self']") or "the model"
