"""Fusion of elementwise nodes: into each other, and into the last step of the convolution that they follow."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from convolith.engines.elementwise import MOST_CONSTANTS, Expression, Tail, replaced
from convolith.layer_steps.maps import MOST_CHANNELS, MOST_IMAGES, MOST_PLANES
from convolith.network.graph.nodes import Alias, Convolve, Copy, Island, Map, Node, Operand
from convolith.network.graph.trace import Value
from convolith.torch_private import draws, is_overload

LIMITS = {"x": MOST_IMAGES, "plane": MOST_PLANES, "channel": MOST_CHANNELS}
"""Upper bounds on the operands of a map, by kind."""


def fuse(nodes: Sequence[Node], results: Sequence[int], values: list[Value]) -> list[Node]:
    """Return the nodes without those that nothing reads, and with elementwise work where it costs least.

    Args:
        nodes: the nodes, in order.
        results: values that the network returns.
        values: all values; those that nodes have among themselves are added.
    """
    merged = _with_merged_maps(_used(nodes, results), results)
    return _with_tails(_before_copies(merged, results, values), results, values)


def _used(nodes: Sequence[Node], results: Sequence[int]) -> list[Node]:
    """Return the nodes without those whose results nothing reads; those that draw random numbers stay."""
    read, kept = set(results), []
    for node in reversed(nodes):
        if set(node.outputs) & read or _has_effects(node):
            read.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _has_effects(node: Node) -> bool:
    """Return whether a node does more than compute its results."""
    return isinstance(node, Island) and (not is_overload(node.op.call) or draws(node.op.call))


def _readers(nodes: Sequence[Node], results: Sequence[int]) -> dict[int, int]:
    """Return the number of nodes that read each value; the caller of the network counts as one."""
    found: dict[int, int] = dict.fromkeys(results, 1)
    for node in nodes:
        for number in set(node.inputs):
            found[number] = found.get(number, 0) + 1
    return found


def _with_merged_maps(nodes: list[Node], results: Sequence[int]) -> list[Node]:
    """Return the nodes with every map inside the only one that reads it."""
    readers, makers = _readers(nodes, results), {n: node for node in nodes for n in node.outputs}
    gone: set[int] = set()
    for node in nodes:
        while isinstance(node, Map):
            inner = next(
                (
                    maker
                    for number in node.inputs
                    if isinstance(maker := makers.get(number), Map)
                    and readers[number] == 1
                    and maker.shape == node.shape
                    and _fits(_merged(node, maker))
                ),
                None,
            )
            if inner is None:
                break
            made = _merged(node, inner)
            node.expression, node.operands = made.expression, made.operands
            node.inputs = _values(node.operands)
            gone.add(id(inner))
    return [node for node in nodes if id(node) not in gone]


def _before_copies(nodes: list[Node], results: Sequence[int], values: list[Value]) -> list[Node]:
    """Return the nodes with a map of one operand before the copy that it reads, where a convolution can do its work."""
    readers, makers = _readers(nodes, results), {n: node for node in nodes for n in node.outputs}
    found, at = list(nodes), {id(node): number for number, node in enumerate(nodes)}
    for node in nodes:
        if not isinstance(node, Map) or [operand.kind for operand in node.operands] != ["x"]:
            continue
        copy = makers.get(node.inputs[0])
        if not isinstance(copy, Copy) or readers[copy.outputs[0]] > 1 or copy.shape != node.shape:
            continue
        source = copy.inputs[0]
        if not isinstance(makers.get(source), Convolve) or readers[source] > 1:
            continue
        if any(piece.constant is not None for piece in copy.pieces):
            continue
        shape, dtype = values[source].shape, values[source].dtype
        values.append(Value(shape, dtype, planes=True))
        made = len(values) - 1
        first = Map(node.where, [source], [made], node.expression, [Operand("x", source)], shape)
        copy.inputs, copy.outputs = [made], node.outputs
        found[at[id(copy)]], found[at[id(node)]] = first, copy
        makers |= {made: first, node.outputs[0]: copy}
        readers[made] = 1
    return found


def _fits(node: Map) -> bool:
    return all(len(node.of_kind(kind)) <= most for kind, most in LIMITS.items())


def _values(operands: Sequence[Operand]) -> list[int]:
    return [operand.value for operand in operands if operand.value is not None]


def _merged(outer: Map, inner: Map) -> Map:
    """Return a map that computes another one's operand itself."""
    operands: list[Operand] = []

    def added(operand: Operand) -> Expression:
        same = [o for o in operands if o.kind == operand.kind]
        for number, other in enumerate(same):
            if operand is other or (operand.value is not None and operand.value == other.value):
                return operand.kind, number
        operands.append(operand)
        return operand.kind, len(same)

    inside = replaced(inner.expression, lambda kind, n: added(inner.of_kind(kind)[n]))

    def leaf(kind: str, n: int) -> Expression:
        operand = outer.of_kind(kind)[n]
        return inside if operand.value == inner.outputs[0] and operand.kind == "x" else added(operand)

    expression = replaced(outer.expression, leaf)
    return Map(outer.where, _values(operands), outer.outputs, expression, operands, outer.shape)


def _with_tails(nodes: list[Node], results: Sequence[int], values: Sequence[Value]) -> list[Node]:
    """Return the nodes with every map that a convolution can do on its sums inside that convolution."""
    readers = _readers(nodes, results)
    makers = {number: (at, node) for at, node in enumerate(nodes) for number in node.outputs}
    gone: set[int] = set()
    for node in nodes:
        if not isinstance(node, Map):
            continue
        before = [(makers[n], n) for n in node.inputs if n in makers and readers[n] == 1]
        for (at, maker), number in sorted(before, key=lambda pair: -pair[0][0]):
            if not isinstance(maker, Convolve) or maker.shape != node.shape:
                continue
            tail = _absorbed(maker, node, number)
            residual = None if tail is None else tail[1]
            if tail is None or (residual in makers and makers[residual][0] >= at):
                continue
            if node.shape[0] > 1 and _is_apart(residual, makers):
                continue  # its images lie apart from each other, unlike those of the result
            if residual is not None and values[residual].constant is not None and node.shape[0] > 1:
                continue  # the same for all images: its images do not lie apart as those of the result do
            maker.tail, maker.residual, maker.constants = tail
            maker.inputs = [maker.inputs[0]] + ([] if maker.residual is None else [maker.residual])
            maker.outputs = node.outputs
            makers[node.outputs[0]] = (at, maker)
            gone.add(id(node))
            break
    return [node for node in nodes if id(node) not in gone]


def _is_apart(number: int | None, makers: dict[int, tuple[int, Node]]) -> bool:
    """Return whether a value is some channels of another one, or the memory of such a value."""
    while number in makers and isinstance(maker := makers[number][1], Alias):
        if not maker.whole:
            return True
        number = maker.inputs[0]
    return False


def _absorbed(layer: Convolve, node: Map, number: int) -> tuple[Tail, int | None, tuple[torch.Tensor, ...]] | None:
    """Return the tail, the residual and the constants of a layer that does a map's work, or None if it cannot."""
    if any(operand.kind == "plane" for operand in node.operands):
        return None
    residual = layer.residual
    constants = list(layer.constants)
    others = {o.value for o in node.operands if o.kind == "x" and o.value != number}
    if len(others | ({residual} if residual is not None else set())) > 1:
        return None
    residual = next(iter(others), residual)
    first = len(constants)
    constants += [o.constant for o in node.of_kind("channel") if o.constant is not None]

    def leaf(kind: str, n: int) -> Expression:
        if kind == "channel":
            return "channel", first + n
        return layer.tail.expression if node.of_kind(kind)[n].value == number else ("x", 1)

    tail = Tail(replaced(node.expression, leaf))
    return None if len(constants) > MOST_CONSTANTS else (tail, residual, tuple(constants))
