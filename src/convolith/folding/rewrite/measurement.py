"""Measurement of rewrites on this machine: the nodes and the one convolution, timed alternately on the example."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from convolith.folding.graph_copies import put
from convolith.folding.graph_runner import GraphRunner
from convolith.folding.rewrite.modules import module_of
from convolith.folding.search.candidates import Candidate
from convolith.folding.search.lowering import called_module
from convolith.folding.search.operators_as_convolutions import Values

ROUNDS = 9
"""Minimum number of calls of each; the median of an odd number of times is one of them."""
SECONDS = 0.1
"""Minimum duration of the calls of a pair, in seconds."""

Times = tuple[float, float]
"""Median seconds of a call before and after a rewrite."""


def measured(
    captured: GraphModule, values: Values, ways: list[Candidate], inputs: Any
) -> Iterator[tuple[Candidate, Times]]:
    """Yield each candidate with the median seconds of a call, of its nodes and its convolution, in the inputs' dtype.

    Args:
        captured: graph in float64.
        values: constants of the graph.
    """
    sources = _Sources(captured, {way.source for way in ways})
    with torch.no_grad():
        given = [x.double().clone() for x in inputs]
        sources(*given)
        for way in ways:
            x = sources.found[way.source].to(inputs[0].dtype)
            nodes = part(values, way)
            old = GraphModule(copy.deepcopy(nodes.root).to(x.dtype), nodes.graph)  # compiled code, as in the model
            new = module_of(way.affine, flat=x.ndim == 2, by_channel=way.by_channel).to(x.dtype)
            yield way, _times(old, new, x)


def part(values: Values, way: Candidate) -> GraphRunner:
    """Return the nodes that a candidate replaces, as a separate graph."""
    graph = Graph()
    env: dict[Node, Node] = {way.source: graph.placeholder("x")}
    holder = nn.Module()

    def argument(node: Node) -> Node:
        if node not in env:
            if node in values:
                holder.register_buffer(node.name, values[node])
                env[node] = graph.get_attr(node.name)
            else:  # a split tensor, of which the candidate reads some parts
                env[node] = graph.node_copy(node, argument)
        return env[node]

    for node in sorted(way.nodes):
        if node.op == "call_module":
            put(holder, str(node.target), called_module(node))
        env[node] = graph.node_copy(node, argument)
    graph.output(env[way.nodes[-1]])
    return GraphRunner(graph, holder)


class _Sources(GraphRunner):
    """Interpreter that stores the results of some nodes."""

    def __init__(self, captured: GraphModule, wanted: set[Node]) -> None:
        super().__init__(captured.graph, captured)
        self.wanted = wanted
        self.found: dict[Node, torch.Tensor] = {}

    def note(self, node: Node, args: Any, result: Any) -> None:  # noqa: ARG002 - as its base has it
        """Store a copy of the result of a wanted node."""
        if node in self.wanted:
            self.found[node] = result.clone()  # a later node may overwrite it


def _times(old: nn.Module, new: nn.Module, x: torch.Tensor) -> Times:
    pair: tuple[list[float], list[float]] = ([], [])
    old(x), new(x)
    start = perf_counter()
    while len(pair[0]) < ROUNDS or perf_counter() - start < SECONDS:
        turns = [(old, pair[0]), (new, pair[1])]
        for module, times in turns if len(pair[0]) % 2 else turns[::-1]:
            before = perf_counter()
            module(x)
            times.append(perf_counter() - before)
    return median(pair[0]), median(pair[1])
