"""Choice of the nodes of a graph that one convolution replaces: candidates for each node, and the cheapest of them.

A node that is a convolution of another node's tensor, or a sum or chain of such, can be computed unchanged or by one
convolution of an earlier tensor. Candidates are compared by their multiplications and operator calls on the example,
then by the numbers that they move. A node that several others read is computed once, and is a source of new candidates.
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
from convolith.algebra.affine import Affine, affine, join, then
from convolith.algebra.kernels import to_dense
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.folding.search.border_cost import CALL, correction
from convolith.folding.search.in_place import InPlaceWrites
from convolith.folding.search.lowering import Operator, is_size, is_split, operator_of
from convolith.folding.search.operators_as_convolutions import (
    CONVOLVE,
    IDLE,
    SAMPLE,
    ConvNode,
    Values,
    axes_of,
    read_node,
    shape_of,
)

aten = torch.ops.aten
JOINS: dict[Any, Callable[..., Conv]] = {
    aten.add.Tensor: add,
    aten.sub.Tensor: subtract,
    aten.cat.default: concatenate,
}
"""Functions of the algebra by the operator that joins branches."""


class CandidateCost(NamedTuple):
    """Cost of a node on the example; costs are compared field by field, from left to right.

    Attributes:
        weighed: time of multiplications, calls and border corrections, as a number of multiplications.
        moved: number of values read and written.
        multiplications: number of multiplications.
    """

    weighed: float
    moved: float
    multiplications: float

    def plus(self, other: CandidateCost) -> CandidateCost:
        """Return the sum of two costs."""
        return CandidateCost(*(a + b for a, b in zip(self, other, strict=True)))


FREE = CandidateCost(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Candidate:
    """One convolution that computes a node's tensor from an earlier node's tensor.

    Attributes:
        source: node whose tensor the convolution reads.
        affine: the convolution, with its border correction.
        cost: cost on the example.
        nodes: nodes that the convolution replaces, in order.
        by_channel: whether the border is corrected by a channel of ones.
    """

    source: Node
    affine: Affine
    cost: CandidateCost
    nodes: tuple[Node, ...]
    by_channel: bool = False

    @property
    def folded(self) -> bool:
        """Whether the candidate replaces more than one node."""
        return len(self.nodes) > 1

    @property
    def convolves(self) -> bool:
        """Whether a replaced node is a convolution or a linear layer; chains of other nodes are faster unchanged."""
        return any(target_of(node) in CONVOLVE for node in self.nodes)

    @property
    def operators_replaced(self) -> int:
        """Number of replaced nodes, not counting those that return their input unchanged."""
        return sum(target_of(node) not in IDLE for node in self.nodes)


@dataclass
class Candidates:
    """Candidates for each node, its cost and number of weights when not folded, and why chains have no candidate."""

    ways: dict[Node, list[Candidate]] = field(default_factory=dict)
    alone: dict[Node, CandidateCost] = field(default_factory=dict)
    weights: dict[Node, int] = field(default_factory=dict)
    refusals: dict[Node, str] = field(default_factory=dict)
    hopeless: dict[Node, str] = field(default_factory=dict)
    """Reasons why chains were not composed: far more weights than their parts have."""


@dataclass
class Selection:
    """Chosen candidate of each node, its cost with all that only it needs, and why longer candidates do not pay."""

    best: dict[Node, Candidate] = field(default_factory=dict)
    costs: dict[Node, CandidateCost] = field(default_factory=dict)
    declined: dict[Node, str] = field(default_factory=dict)


def target_of(node: Node) -> Any:
    """Return the operator that a node computes, or None if folding does not read it."""
    called = operator_of(node)
    return None if called is None else called.target


def readers(node: Node) -> list[Node]:
    """Return the nodes that read all or some of a node's values; nodes that only read its size are excluded."""
    result: dict[Node, None] = {}
    for user in node.users:
        if is_split(user):
            result |= dict.fromkeys(user.users)
        elif not is_size(user):
            result[user] = None
    return list(result)


def private(node: Node) -> bool:
    """Return whether exactly one other node reads a node's values."""
    return len(readers(node)) == 1


def options(graph: Graph, values: Values, written: InPlaceWrites, *, force: bool) -> Candidates:
    """Return the candidates for the nodes of a graph that depend on an input and are not overwritten."""
    result = Candidates()
    for node in graph.nodes:
        if node in values or shape_of(node) is None:
            continue
        conv_node = read_node(node, values)
        ways: Iterator[Candidate] = iter(())
        if isinstance(conv_node, str):
            result.refusals[node] = conv_node
        elif conv_node is not None:
            own = _way(affine(conv_node.conv), conv_node.source, (node,)).cost
            idle = FREE if conv_node.target in IDLE else CandidateCost(CALL, own.moved, 0.0)
            result.alone[node] = own if conv_node.multiplies else idle
            if conv_node.source not in written.read and node not in written.made:
                ways = _rows(node, conv_node, result, force=force)
        else:
            called = operator_of(node)
            branches = _branches(node, called, values) if called is not None and called.target in JOINS else []
            if called is not None and branches:
                result.alone[node] = CandidateCost(CALL, float(sum(map(_elements, (*branches, node)))), 0.0)
                if written.read.isdisjoint(branches) and node not in written.made:
                    ways = _joined(node, called, branches, result)
        result.ways[node] = list(_with_sources(node, list(ways), result, force=force))
    return result


def _with_sources(node: Node, ways: list[Candidate], found: Candidates, *, force: bool) -> Iterator[Candidate]:
    """Yield candidates, and longer ones that also compute a candidate's source, if nothing else reads it."""
    yield from ways
    known = {(way.source, frozenset(way.nodes)) for way in ways}
    for way in ways:
        if not way.folded or way.affine.corrected or not set(readers(way.source)) <= set(way.nodes):
            continue
        for behind in found.ways.get(way.source, []):
            nodes = (*behind.nodes, *way.nodes)
            if (behind.source, frozenset(nodes)) in known:
                continue
            longer = _composed(node, behind, way.affine.conv, nodes, found, force=force)
            if longer is not None:
                yield longer


def choose(graph: Graph, found: Candidates, barred: set[tuple[Node, Node]], *, force: bool) -> Selection:
    """Return the cheapest candidate for every node; with `force`, the one that replaces most nodes at any cost.

    A node's cost includes that of all nodes that only it needs.

    Args:
        barred: (source, node) of candidates that must not be chosen.
    """
    taken = Selection()
    owned: dict[Node, list[Node]] = {}
    for part, owner in owners(graph).items():
        owned.setdefault(owner, []).append(part)
    for node in graph.nodes:
        taken.costs[node] = found.alone.get(node, FREE).plus(_behind((node,), owned, taken))
        open_ways = [way for way in found.ways.get(node, []) if way.folded and way.convolves]
        open_ways = [way for way in open_ways if (way.source, node) not in barred]
        for way in open_ways:
            cost = way.cost.plus(_behind(way.nodes, owned, taken))
            before = taken.best.get(node)
            farther = before is None or len(way.nodes) > len(before.nodes)
            if farther if force else cost < taken.costs[node]:
                taken.best[node], taken.costs[node] = way, cost
        longest = max(open_ways, key=lambda way: len(way.nodes), default=None)
        reached = taken.best.get(node)
        if longest is not None and longest.operators_replaced > (1 if reached is None else reached.operators_replaced):
            own = longest.cost.multiplications
            instead = taken.costs[node].multiplications - _behind(longest.nodes, owned, taken).multiplications
            over = ", and more time for the border correction than it saves"
            taken.declined[node] = (
                f"as one convolution from {longest.source.name} it would take {own:,.0f} "
                f"multiplications instead of {instead:,.0f}" + over * (longest.affine.corrected and own <= instead)
            )
    return taken


def _behind(nodes: Sequence[Node], owned: dict[Node, list[Node]], taken: Selection) -> CandidateCost:
    """Return the cost of all nodes that only the given nodes need, without the given nodes."""
    inside = set(nodes)
    return _total([taken.costs[part] for node in nodes for part in owned.get(node, []) if part not in inside])


def owners(graph: Graph) -> dict[Node, Node]:
    """Return the immediate post-dominator of each node: the first node on all paths from it to the output."""
    dominators: dict[Node, Node | None] = {}
    for node in reversed(list(graph.nodes)):
        after: list[Node | None] = list(readers(node)) or [None]
        meet = after[0]
        for other in after[1:]:
            while meet is not other and meet is not None and other is not None:
                if meet < other:
                    meet = dominators[meet]
                else:
                    other = dominators[other]
            meet = meet if meet is other else None
        dominators[node] = meet
    return {node: owner for node, owner in dominators.items() if owner is not None}


def _rows(node: Node, piece: ConvNode, found: Candidates, *, force: bool) -> Iterator[Candidate]:
    """Yield a node's convolution, and its composition with each candidate for the node that it reads."""
    found.weights[node] = prod(piece.conv.weight.shape)
    yield Candidate(piece.source, affine(piece.conv), found.alone[node], (node,))
    if not private(piece.source):
        return
    for way in found.ways.get(piece.source, []):
        longer = _composed(node, way, piece.conv, (*way.nodes, node), found, force=force)
        if longer is not None:
            yield longer


def _composed(
    node: Node, way: Candidate, conv: Conv, nodes: tuple[Node, ...], found: Candidates, *, force: bool
) -> Candidate | None:
    """Return a candidate composed with a convolution; if impossible or too large, record the reason and return None."""
    if not way.operators_replaced:
        return _way(affine(conv), way.source, nodes)
    weights = _weights(way.affine.conv, conv)
    parts = sum(found.weights.get(part, 0) for part in nodes)
    if weights > LARGEST or (
        not force and weights > parts * (MAX_WEIGHT_GROWTH if weights < LARGE else MAX_WEIGHT_GROWTH_OF_LARGE)
    ):
        found.hopeless[node] = f"as one convolution from {way.source.name} it would have {weights:,} weights"
        return None
    try:
        both = then(way.affine, conv)
    except ConvolithError as refusal:
        found.refusals[node] = str(refusal)
        return None
    return _way(both, way.source, nodes)


MAX_WEIGHT_GROWTH, LARGE, MAX_WEIGHT_GROWTH_OF_LARGE, LARGEST = 64, 500_000, 3, 50_000_000
"""Limits for composing a chain: ratio of its weights to those of its parts (later nodes may make it pay again); number
of weights from which a smaller ratio holds, since composing takes long; that ratio; and maximum number of weights."""


def _weights(first: Conv, second: Conv) -> int:
    """Return the number of weights of two convolutions composed."""
    count = first.in_channels * second.out_channels // gcd(first.groups, second.groups)
    for k1, d1, s1, k2, d2, s2 in zip(
        first.kernel_size, first.dilation, first.stride, second.kernel_size, second.dilation, second.stride, strict=True
    ):
        near = d1 * (s2 if second.transposed else 1)
        far = d2 * (1 if first.transposed or second.transposed else s1)
        step = reduce(gcd, [near] * (k1 > 1) + [far] * (k2 > 1), 0) or 1
        count *= (near * (k1 - 1) + far * (k2 - 1)) // step + 1
    return count


def _branches(node: Node, called: Operator, values: Values) -> list[Node]:
    """Return the branches that a node joins, or an empty list if folding does not read the join."""
    if called.target is aten.cat.default:
        joined, axis = called.args
        shape = shape_of(node)
        if not isinstance(joined, Sequence) or shape is None or axis not in (1, 1 - len(shape)):
            return []
    else:
        joined = called.args
    branches = [a for a in joined if isinstance(a, Node) and a not in values]
    if len(branches) != len(joined) or any(shape_of(a) is None for a in branches):
        return []
    shapes = {(shape_of(a) or ())[:1] + (shape_of(a) or ())[2:] for a in (*branches, node)}
    channels = {(shape_of(a) or ())[1] for a in (*branches, node)}
    return branches if len(shapes) == 1 and (called.target is aten.cat.default or len(channels) == 1) else []


def _joined(node: Node, called: Operator, branches: list[Node], found: Candidates) -> Iterator[Candidate]:
    """Yield candidates that join branches from the same source."""
    each = [list(_from(a, found)) for a in branches]
    for source in dict.fromkeys(way.source for way in each[0]):
        for ways in product(*([way for way in own if way.source is source] for own in each)):
            try:
                one = join(JOINS[called.target], *(way.affine for way in ways))
            except ConvolithError as refusal:
                found.refusals[node] = str(refusal)
                continue
            nodes = tuple(dict.fromkeys(n for way in ways for n in way.nodes))
            yield _way(one, source, (*nodes, node))


def _from(node: Node, found: Candidates) -> Iterator[Candidate]:
    """Yield the candidates for a branch, after the identity, for a branch that is the source itself."""
    shape = shape_of(node) or ()
    yield Candidate(node, affine(identity(shape[1], axes=axes_of(shape), sample=SAMPLE)), FREE, ())
    if private(node) or len(set(readers(node))) == 1:
        yield from found.ways.get(node, [])


def _way(one: Affine, source: Node, nodes: tuple[Node, ...]) -> Candidate:
    """Return a candidate with its cost."""
    conv, inputs, result = one.conv, shape_of(source) or (), shape_of(nodes[-1]) or ()
    weight = to_dense(conv.weight, conv) if len(inputs) == 2 else conv.weight  # a linear layer has no groups
    positions = prod(inputs[2:] if conv.transposed else result[2:]) * result[0]
    products, moved = float(positions * prod(weight.shape)), float(prod(inputs) + prod(result))
    added = correction(one, inputs, result, products)
    cost = CandidateCost(CALL + products + added.weighed, moved + added.moved, products + added.multiplications)
    return Candidate(source, one, cost, nodes, added.by_channel)


def _elements(node: Node) -> int:
    return prod(shape_of(node) or ())


def _total(costs: list[CandidateCost]) -> CandidateCost:
    return reduce(CandidateCost.plus, costs, FREE)
