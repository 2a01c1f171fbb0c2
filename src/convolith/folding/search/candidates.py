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
from convolith.algebra.affine import Affine, affine, join, then
from convolith.algebra.kernels import to_dense
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.folding.search.border_cost import CALL, correction
from convolith.folding.search.in_place import InPlaceWrites
from convolith.folding.search.lowering import Operator, is_size, is_split, operator_of
from convolith.folding.search.readers import CONVOLVE, IDLE, SAMPLE, ConvNode, Values, axes_of, read_node, shape_of

aten = torch.ops.aten
JOINS: dict[Any, Callable[..., Conv]] = {
    aten.add.Tensor: add,
    aten.sub.Tensor: subtract,
    aten.cat.default: concatenate,
}
"""Operators that join branches."""


class CandidateCost(NamedTuple):
    """What a node costs on the example; compared from left to right.

    Attributes:
        weighed: products, and what calls and border corrections take in the time of products.
        moved: numbers read and written.
        multiplications: products.
    """

    weighed: float
    moved: float
    multiplications: float

    def plus(self, other: CandidateCost) -> CandidateCost:
        """Both."""
        return CandidateCost(*(a + b for a, b in zip(self, other, strict=True)))


FREE = CandidateCost(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Candidate:
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
    cost: CandidateCost
    nodes: tuple[Node, ...]
    by_channel: bool = False

    @property
    def folded(self) -> bool:
        """Whether it takes the place of more than one node."""
        return len(self.nodes) > 1

    @property
    def convolves(self) -> bool:
        """Whether a node among them is a convolution or a linear layer: others are quicker as they stand."""
        return any(target_of(node) in CONVOLVE for node in self.nodes)

    @property
    def operators_replaced(self) -> int:
        """How many nodes that do anything it takes the place of."""
        return sum(target_of(node) not in IDLE for node in self.nodes)


@dataclass
class Candidates:
    """Every way to compute each node, its cost and weights by itself, and why some rows are none."""

    ways: dict[Node, list[Candidate]] = field(default_factory=dict)
    alone: dict[Node, CandidateCost] = field(default_factory=dict)
    weights: dict[Node, int] = field(default_factory=dict)
    refusals: dict[Node, str] = field(default_factory=dict)
    hopeless: dict[Node, str] = field(default_factory=dict)
    """Rows so much larger than their parts that they were not even composed."""


@dataclass
class Selection:
    """The way taken for each node, its cost with all that only it needs, and the longer ways that did not pay."""

    best: dict[Node, Candidate] = field(default_factory=dict)
    costs: dict[Node, CandidateCost] = field(default_factory=dict)
    declined: dict[Node, str] = field(default_factory=dict)


def target_of(node: Node) -> Any:
    """Return the operator that a node comes to, or None."""
    called = operator_of(node)
    return None if called is None else called.target


def readers(node: Node) -> list[Node]:
    """Return the nodes that read a node's values, in whole or in parts; a question for its size is none."""
    found: dict[Node, None] = {}
    for user in node.users:
        if is_split(user):
            found |= dict.fromkeys(user.users)
        elif not is_size(user):
            found[user] = None
    return list(found)


def private(node: Node) -> bool:
    """Return whether only one other node needs it."""
    return len(readers(node)) == 1


def options(graph: Graph, values: Values, written: InPlaceWrites, *, force: bool) -> Candidates:
    """Return the ways to compute the nodes of a graph that depend on an input, and are not written over."""
    found = Candidates()
    for node in graph.nodes:
        if node in values or shape_of(node) is None:
            continue
        piece = read_node(node, values)
        ways: Iterator[Candidate] = iter(())
        if isinstance(piece, str):
            found.refusals[node] = piece
        elif piece is not None:
            own = _way(affine(piece.conv), piece.source, (node,)).cost
            idle = FREE if piece.target in IDLE else CandidateCost(CALL, own.moved, 0.0)
            found.alone[node] = own if piece.multiplies else idle
            if piece.source not in written.read and node not in written.made:
                ways = _rows(node, piece, found, force=force)
        else:
            called = operator_of(node)
            branches = _branches(node, called, values) if called is not None and called.target in JOINS else []
            if called is not None and branches:
                found.alone[node] = CandidateCost(CALL, float(sum(map(_elements, (*branches, node)))), 0.0)
                if written.read.isdisjoint(branches) and node not in written.made:
                    ways = _joined(node, called, branches, found)
        found.ways[node] = list(_with_sources(node, list(ways), found, force=force))
    return found


def _with_sources(node: Node, ways: list[Candidate], found: Candidates, *, force: bool) -> Iterator[Candidate]:
    """Yield ways, and those that compute their source as well, where nothing else reads it."""
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
    """Return the cheapest way for every node; `force`: the one that takes the place of most, whatever it costs.

    A node's cost is that of all that only it needs.

    Args:
        barred: (source, node) of ways that are not taken.
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
    """Return the cost of all that only these nodes need, and that is none of them."""
    inside = set(nodes)
    return _total([taken.costs[part] for node in nodes for part in owned.get(node, []) if part not in inside])


def owners(graph: Graph) -> dict[Node, Node]:
    """Return, for each node, the first one that everything computed from it goes through (its post-dominator)."""
    found: dict[Node, Node | None] = {}
    for node in reversed(list(graph.nodes)):
        after: list[Node | None] = list(readers(node)) or [None]
        meet = after[0]
        for other in after[1:]:
            while meet is not other and meet is not None and other is not None:
                if meet < other:
                    meet = found[meet]
                else:
                    other = found[other]
            meet = meet if meet is other else None
        found[node] = meet
    return {node: owner for node, owner in found.items() if owner is not None}


def _rows(node: Node, piece: ConvNode, found: Candidates, *, force: bool) -> Iterator[Candidate]:
    """Yield the piece by itself, and behind each way to compute what it reads."""
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
    """Return a way followed by a convolution as one; None where that is none or much too large, which is noted."""
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


def _branches(node: Node, called: Operator, values: Values) -> list[Node]:
    """Return what a node joins, or nothing where it joins in no way that is read."""
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
    alike = {(shape_of(a) or ())[:1] + (shape_of(a) or ())[2:] for a in (*branches, node)}
    channels = {(shape_of(a) or ())[1] for a in (*branches, node)}
    return branches if len(alike) == 1 and (called.target is aten.cat.default or len(channels) == 1) else []


def _joined(node: Node, called: Operator, branches: list[Node], found: Candidates) -> Iterator[Candidate]:
    """Branches that begin at the same node."""
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
    """The ways to compute a branch, and the branch that is the tensor itself."""
    shape = shape_of(node) or ()
    yield Candidate(node, affine(identity(shape[1], axes=axes_of(shape), sample=SAMPLE)), FREE, ())
    if private(node) or len(set(readers(node))) == 1:
        yield from found.ways.get(node, [])


def _way(one: Affine, source: Node, nodes: tuple[Node, ...]) -> Candidate:
    """A way with its cost."""
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
