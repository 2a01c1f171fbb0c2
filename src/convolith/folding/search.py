"""Which nodes of a graph become one convolution: the cheapest way to compute each, from what others must have anyway.

Every node that is a convolution of another's tensor, or a sum of such, may be computed as it stands or by one
convolution from farther back. Ways are compared by their multiplications on the example. A node that several others
need is computed once and is where ways begin anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod

import torch
from torch.fx import Graph, Node

from convolith.algebra import add, compose, identity, subtract
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.folding.pieces import SAMPLE, Piece, Values, piece_of, shape_of

aten = torch.ops.aten
SUMS = {aten.add.Tensor: add, aten.add_.Tensor: add, aten.sub.Tensor: subtract, aten.sub_.Tensor: subtract}
NEGLIGIBLE = 1e-7
"""A bias that is this small beside the terms that it is left over from is their rounding, and counts as zero."""


@dataclass(frozen=True)
class Way:
    """One convolution that gives a node's tensor from a source's."""

    source: Node
    conv: Conv
    multiplications: float
    nodes: tuple[Node, ...]
    """What it takes the place of, in order."""
    largest: torch.Tensor
    """Of the terms that each number of the bias is the sum of."""

    @property
    def folded(self) -> bool:
        """Whether it takes the place of more than one node."""
        return len(self.nodes) > 1


@dataclass
class Found:
    """The ways to compute the nodes of a graph, and why some rows are none."""

    best: dict[Node, Way] = field(default_factory=dict)
    costs: dict[Node, float] = field(default_factory=dict)
    refusals: dict[Node, str] = field(default_factory=dict)


def search(graph: Graph, values: Values, *, everything: bool) -> Found:
    """The cheapest way for every node; `everything`: the one that goes back farthest, whatever it costs."""
    found = Found()
    ways: dict[Node, list[Way]] = {}
    for node in graph.nodes:
        if node in values or shape_of(node) is None:
            continue
        options = ways[node] = list(_ways(node, values, ways, found))
        kept = sum(found.costs.get(a, 0.0) for a in node.all_input_nodes if a not in values and _private(a))
        found.costs[node] = kept if piece_of(node, values) is None else float("inf")
        for way in options:  # among equals the one that takes the place of most nodes: less is moved
            cost = way.multiplications + found.costs.get(way.source, 0.0) * _private(way.source)
            before = found.best.get(node)
            farther = before is None or len(way.nodes) > len(before.nodes)
            if cost < found.costs[node] or (farther and (everything or cost <= found.costs[node])):
                found.best[node], found.costs[node] = way, cost
    return found


def _private(node: Node) -> bool:
    """Whether only one other node needs it."""
    return len(node.users) == 1


def _ways(node: Node, values: Values, ways: dict[Node, list[Way]], found: Found) -> Iterator[Way]:
    piece = piece_of(node, values)
    if piece is not None:
        yield from _rows(node, piece, ways, found)
    elif node.target in SUMS and not node.kwargs and len(node.all_input_nodes) == 2:
        yield from _sums(node, ways, found)


def _rows(node: Node, piece: Piece, ways: dict[Node, list[Way]], found: Found) -> Iterator[Way]:
    """The piece by itself, and behind each way to compute what it reads."""
    size = _largest(piece.conv)
    yield Way(piece.source, piece.conv, _multiplications(piece.conv, piece.source, node), (node,), size)
    if not _private(piece.source):
        return
    for way in ways.get(piece.source, []):
        try:
            both = compose(way.conv, piece.conv)
        except ConvolithError as refusal:
            found.refusals[node] = str(refusal)
            continue
        carried = compose(_sizes(way.conv, way.largest), _sizes(piece.conv, size)).conv.bias
        largest = torch.zeros(both.conv.out_channels, dtype=torch.float64) if carried is None else carried
        conv = _cleared(both.conv, largest)
        if both.exact != "everywhere":
            found.refusals[node] = both.reason
            continue
        yield Way(way.source, conv, _multiplications(conv, way.source, node), (*way.nodes, node), largest)


def _sums(node: Node, ways: dict[Node, list[Way]], found: Found) -> Iterator[Way]:
    """Two branches that begin at the same node."""
    join, (a, b) = SUMS[node.target], node.args
    for first, second in product(_from(a, ways), _from(b, ways)):
        if first.source is not second.source:
            continue
        try:
            conv = join(first.conv, second.conv)
        except ConvolithError as refusal:
            found.refusals[node] = str(refusal)
            continue
        largest = first.largest + second.largest
        conv = _cleared(conv, largest)
        nodes = (*first.nodes, *second.nodes, node)
        yield Way(first.source, conv, _multiplications(conv, first.source, node), nodes, largest)


def _from(node: Node, ways: dict[Node, list[Way]]) -> Iterator[Way]:
    """The ways to compute a branch, and the branch that is the tensor itself."""
    shape = shape_of(node)
    if shape is None:
        return
    one = identity(shape[1], axes=len(shape) - 2, sample=SAMPLE)
    yield Way(node, one, 0.0, (), torch.zeros(shape[1], dtype=torch.float64))
    if _private(node):
        yield from ways.get(node, [])


def _multiplications(conv: Conv, source: Node, node: Node) -> float:
    """Products on the example."""
    inputs, result = shape_of(source), shape_of(node)
    positions = prod(inputs[2:] if conv.transposed else result[2:]) * result[0]
    return float(positions * prod(conv.weight.shape))


def _largest(conv: Conv) -> torch.Tensor:
    return torch.zeros(conv.out_channels, dtype=torch.float64) if conv.bias is None else conv.bias.abs()


def _sizes(conv: Conv, largest: torch.Tensor) -> Conv:
    """The same with absolute values, and what its bias is the sum of."""
    return Conv(conv.weight.abs(), largest, **conv.options)


def _cleared(conv: Conv, largest: torch.Tensor) -> Conv:
    """The same with zero where the bias is but rounding."""
    if conv.bias is None:
        return conv
    bias = torch.where(conv.bias.abs() <= NEGLIGIBLE * largest, torch.zeros_like(conv.bias), conv.bias)
    return Conv(conv.weight, bias if bias.any() else None, **conv.options)
