"""Which nodes of a graph become one convolution: the cheapest way to compute each, from what others must have anyway.

Every node that is a convolution of another's tensor, or a sum or a row of such, may be computed as it stands or by one
convolution from farther back. Ways are compared by their products on the example and the calls that they take, then by
the numbers that they move. A node that several others need is computed once and is where ways begin anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import product
from math import gcd, prod
from typing import Any, NamedTuple

import torch
from torch.fx import Graph, Node

from convolith.algebra import add, concatenate, identity, subtract
from convolith.algebra.affine import Affine, affine, follow, together
from convolith.algebra.kernels import written_out
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.folding.corrections import CALL, correction
from convolith.folding.pieces import CONVOLVE, IDLE, SAMPLE, Piece, Values, axes_of, piece_of, shape_of

aten = torch.ops.aten
JOINS: dict[Any, Callable[..., Conv]] = {
    aten.add.Tensor: add,
    aten.add_.Tensor: add,
    aten.sub.Tensor: subtract,
    aten.sub_.Tensor: subtract,
    aten.cat.default: concatenate,
}
"""Operators that join branches."""


class Cost(NamedTuple):
    """What a node costs on the example; compared from left to right.

    Attributes:
        weighed: products, and what calls and border corrections take in the time of products.
        moved: numbers read and written.
        multiplications: products.
    """

    weighed: float
    moved: float
    multiplications: float

    def plus(self, other: Cost) -> Cost:
        """Both."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


FREE = Cost(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Way:
    """One convolution that gives a node's tensor from a source's.

    Attributes:
        source: what it reads.
        affine: what it computes.
        cost: on the example.
        nodes: what it takes the place of, in order.
        by_channel: how its border is corrected, if it is.
    """

    source: Node
    affine: Affine
    cost: Cost
    nodes: tuple[Node, ...]
    by_channel: bool = False

    @property
    def folded(self) -> bool:
        """Whether it takes the place of more than one node."""
        return len(self.nodes) > 1

    @property
    def convolves(self) -> bool:
        """Whether a node among them is a convolution or a linear layer: others are quicker as they stand."""
        return any(node.target in CONVOLVE for node in self.nodes)

    @property
    def busy(self) -> int:
        """How many nodes that do anything it takes the place of."""
        return sum(node.target not in IDLE for node in self.nodes)


@dataclass
class Options:
    """Every way to compute each node, its cost and weights by itself, and why some rows are none."""

    ways: dict[Node, list[Way]] = field(default_factory=dict)
    alone: dict[Node, Cost] = field(default_factory=dict)
    weights: dict[Node, int] = field(default_factory=dict)
    refusals: dict[Node, str] = field(default_factory=dict)
    hopeless: dict[Node, str] = field(default_factory=dict)
    """Rows so much larger than their parts that they were not even composed."""


@dataclass
class Choice:
    """The way taken for each node, its cost with all that only it needs, and the longer ways that did not pay."""

    best: dict[Node, Way] = field(default_factory=dict)
    costs: dict[Node, Cost] = field(default_factory=dict)
    declined: dict[Node, str] = field(default_factory=dict)


def options(graph: Graph, values: Values, untouchable: set[Node], *, everything: bool) -> Options:
    """The ways to compute the nodes of a graph that do not depend on values alone, nor on what is written over."""
    found = Options()
    for node in graph.nodes:
        if node in values or shape_of(node) is None:
            continue
        piece = piece_of(node, values)
        if isinstance(piece, str):
            found.refusals[node] = piece
        elif piece is not None:
            own = _way(affine(piece.conv), piece.source, (node,)).cost
            idle = FREE if node.target in IDLE else Cost(CALL, own.moved, 0.0)
            found.alone[node] = own if piece.multiplies else idle
            if untouchable.isdisjoint((node, piece.source)):
                found.ways[node] = list(_rows(node, piece, found, everything=everything))
        elif node.target in JOINS:
            branches = _branches(node, values)
            if branches:
                found.alone[node] = Cost(CALL, float(sum(map(_elements, (*branches, node)))), 0.0)
            if branches and untouchable.isdisjoint((node, *branches)):
                found.ways[node] = list(_joined(node, branches, found))
    return found


def choose(graph: Graph, found: Options, barred: set[tuple[Node, Node]], *, everything: bool) -> Choice:
    """The cheapest way for every node; `everything`: the one that takes the place of most, whatever it costs.

    Args:
        barred: (source, node) of ways that are not taken.
    """
    taken = Choice()
    for node in graph.nodes:
        inputs = [a for a in node.all_input_nodes if private(a)]
        behind = _total([taken.costs.get(a, FREE) for a in inputs])
        taken.costs[node] = found.alone.get(node, FREE).plus(behind)
        open_ways = [way for way in found.ways.get(node, []) if way.folded and way.convolves]
        open_ways = [way for way in open_ways if (way.source, node) not in barred]
        costs = {id(way): way.cost.plus(_behind(way, taken)) for way in open_ways}
        for way in open_ways:
            before = taken.best.get(node)
            farther = before is None or len(way.nodes) > len(before.nodes)
            if farther if everything else costs[id(way)] < taken.costs[node]:
                taken.best[node], taken.costs[node] = way, costs[id(way)]
        longest = max(open_ways, key=lambda way: len(way.nodes), default=None)
        reached = taken.best.get(node)
        if longest is not None and longest.busy > (1 if reached is None else reached.busy):
            own = longest.cost.multiplications
            instead = taken.costs[node].multiplications - _behind(longest, taken).multiplications
            over = ", and more time for the border correction than it saves"
            taken.declined[node] = (
                f"as one convolution from {longest.source.name} it would take {own:,.0f} "
                f"multiplications instead of {instead:,.0f}" + over * (longest.affine.corrected and own <= instead)
            )
    return taken


def _behind(way: Way, taken: Choice) -> Cost:
    """What a way's source costs, if only the way needs it."""
    return taken.costs.get(way.source, FREE) if private(way.source) else FREE


def private(node: Node) -> bool:
    """Whether only one other node needs it."""
    return len(node.users) == 1


def _rows(node: Node, piece: Piece, found: Options, *, everything: bool) -> Iterator[Way]:
    """The piece by itself, and behind each way to compute what it reads."""
    found.weights[node] = prod(piece.conv.weight.shape)
    yield Way(piece.source, affine(piece.conv), found.alone[node], (node,))
    if not private(piece.source):
        return
    for way in found.ways.get(piece.source, []):
        weights = _weights(way.affine.conv, piece.conv)
        parts = sum(found.weights.get(part, 0) for part in (*way.nodes, node))
        if weights > LARGEST or (not everything and weights > parts * (HOPE if weights < LARGE else HOPE_OF_LARGE)):
            found.hopeless[node] = f"as one convolution from {way.source.name} it would have {weights:,} weights"
            continue
        try:
            both = follow(way.affine, piece.conv)
        except ConvolithError as refusal:
            found.refusals[node] = str(refusal)
            continue
        yield _way(both, way.source, (*way.nodes, node))


HOPE, LARGE, HOPE_OF_LARGE, LARGEST = 64, 500_000, 3, 50_000_000
"""How many times the weights of its parts a row may have to be composed, since what follows may make it pay again; from
how many weights on less, since composing it takes long; and how many it may have at all."""


def _weights(first: Conv, second: Conv) -> int:
    """How many weights the two in a row have as one."""
    count = first.in_channels * second.out_channels // gcd(first.groups, second.groups)
    for k1, d1, s1, k2, d2, s2 in zip(
        first.kernel_size, first.dilation, first.stride, second.kernel_size, second.dilation, second.stride, strict=True
    ):
        near = d1 * (s2 if second.transposed else 1)
        far = d2 * (1 if first.transposed or second.transposed else s1)
        step = reduce(gcd, [near] * (k1 > 1) + [far] * (k2 > 1), 0) or 1
        count *= (near * (k1 - 1) + far * (k2 - 1)) // step + 1
    return count


def _branches(node: Node, values: Values) -> list[Node]:
    """What a node joins, or nothing where it joins in no way that is read."""
    if node.target is aten.cat.default:
        joined, axis = (*node.args, 0)[:2]
        shape = shape_of(node)
        if not isinstance(joined, Sequence) or shape is None or axis not in (1, 1 - len(shape)):
            return []
    else:
        joined = node.args
    branches = [a for a in joined if isinstance(a, Node) and a not in values]
    if node.kwargs or len(branches) != len(joined) or any(shape_of(a) is None for a in branches):
        return []
    alike = {(shape_of(a) or ())[:1] + (shape_of(a) or ())[2:] for a in (*branches, node)}
    channels = {(shape_of(a) or ())[1] for a in (*branches, node)}
    return branches if len(alike) == 1 and (node.target is aten.cat.default or len(channels) == 1) else []


def _joined(node: Node, branches: list[Node], found: Options) -> Iterator[Way]:
    """Branches that begin at the same node."""
    each = [list(_from(a, found)) for a in branches]
    for source in dict.fromkeys(way.source for way in each[0]):
        for ways in product(*([way for way in own if way.source is source] for own in each)):
            try:
                one = together(JOINS[node.target], *(way.affine for way in ways))
            except ConvolithError as refusal:
                found.refusals[node] = str(refusal)
                continue
            nodes = tuple(dict.fromkeys(n for way in ways for n in way.nodes))
            yield _way(one, source, (*nodes, node))


def _from(node: Node, found: Options) -> Iterator[Way]:
    """The ways to compute a branch, and the branch that is the tensor itself."""
    shape = shape_of(node) or ()
    yield Way(node, affine(identity(shape[1], axes=axes_of(shape), sample=SAMPLE)), FREE, ())
    if private(node):
        yield from found.ways.get(node, [])


def _way(one: Affine, source: Node, nodes: tuple[Node, ...]) -> Way:
    """A way with its cost."""
    conv, inputs, result = one.conv, shape_of(source) or (), shape_of(nodes[-1]) or ()
    weight = written_out(conv.weight, conv) if len(inputs) == 2 else conv.weight  # a linear layer has no groups
    positions = prod(inputs[2:] if conv.transposed else result[2:]) * result[0]
    products, moved = float(positions * prod(weight.shape)), float(prod(inputs) + prod(result))
    added = correction(one, inputs, result, products)
    cost = Cost(CALL + products + added.weighed, moved + added.moved, products + added.multiplications)
    return Way(source, one, cost, nodes, added.by_channel)


def _elements(node: Node) -> int:
    return prod(shape_of(node) or ())


def _total(costs: list[Cost]) -> Cost:
    return reduce(Cost.plus, costs, FREE)
