"""Places of a network's tensors: which share memory, where in one arena they lie, and what is joined without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch

from convolith.network.graph.nodes import (
    Alias,
    Convolve,
    Copy,
    Island,
    Join,
    Map,
    Mean,
    Node,
    Norm,
    Pool,
    Product,
    Resize,
    Scatter,
    Softmax,
)
from convolith.network.graph.trace import NotTraced, Trace, Value

LINE = 64
"""Alignment of tensors in the arena, in bytes."""
PAGE = 4096
PLACED = Convolve | Copy | Map | Norm | Pool | Product | Resize | Scatter | Softmax | Join
"""Nodes whose result may lie anywhere, images apart from each other."""
GIVEN, MADE, RETURNED, ARENA, CONSTANT = "given", "made by an island", "returned", "arena", "constant"
"""Kinds of memory: an input of the network, a result of torch, an output of the network, a part of the arena, a
constant that is as large as an image."""


@dataclass
class Buffer:
    """Memory of one or several values.

    Attributes:
        kind: kind of memory.
        elements: number of elements.
        dtype: dtype of the elements.
        first, last: numbers of the nodes that make it and that read it last.
        offset: place in the arena, in bytes.
    """

    kind: str
    elements: int
    dtype: torch.dtype
    first: int = -1
    last: int = -1
    offset: int = 0

    @property
    def bytes(self) -> int:
        """Size in bytes, in whole cache lines."""
        return -(-self.elements * self.dtype.itemsize // LINE) * LINE


class Place(NamedTuple):
    """Place of a value: its buffer, its first element there, and the distance of its images, in elements."""

    buffer: int
    offset: int
    image: int

    def of_image(self, number: int) -> Place:
        """Return the place of an image of the batch."""
        return self._replace(offset=self.offset + number * self.image)


@dataclass
class Placement:
    """Buffers, the place of every value, values that a join copies, and the bytes of the arena."""

    buffers: list[Buffer]
    places: dict[int, Place]
    arena_bytes: int = 0

    def strides(self, number: int, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the strides of a value."""
        dense = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
        return (self.places[number].image, *dense[1:]) if len(shape) > 0 else ()


def place(nodes: Sequence[Node], trace: Trace, results: Sequence[int]) -> Placement:  # noqa: C901 - one branch a kind
    """Return the place of every value that the nodes read or make, before `arrange`."""
    values, found = trace.values, Placement([], {})
    inside = _joined(nodes, values, results)
    for number in trace.inputs:
        _new(found, GIVEN, number, values[number], -1)
    for at, node in enumerate(nodes):
        for number in node.inputs:
            if values[number].constant is not None and number not in found.places and not isinstance(node, Island):
                _new(found, CONSTANT, number, values[number], -1)
                found.places[number] = found.places[number]._replace(image=0)
            _touch(found, number, at)
        if isinstance(node, Alias):
            for number, offset in zip(node.outputs, node.offsets, strict=True):
                found.places[number] = _alias(found, node, number, offset, values)
            continue
        if isinstance(node, Scatter) and _overwrites(found, nodes, at, results):
            found.places[node.outputs[0]] = found.places[node.inputs[0]]
        for number in node.outputs:
            _make(found, node, number, inside, values, at)
        if isinstance(node, Island) and node.view:
            for number in node.outputs:
                _lengthen(found, nodes, node.inputs, number, at, returned=number in results)
    for number in results:
        if number in found.places:
            buffer = found.buffers[found.places[number].buffer]
            buffer.last = len(nodes)
            buffer.kind = RETURNED if buffer.kind == ARENA else buffer.kind
    return found


def _overwrites(found: Placement, nodes: Sequence[Node], at: int, results: Sequence[int]) -> bool:
    """Return whether a node may replace a part of its first input in place: nothing reads that memory later."""
    number, output = nodes[at].inputs[0], nodes[at].outputs[0]
    place = found.places[number]
    buffer = found.buffers[place.buffer]
    if buffer.kind != ARENA or buffer.last > at or output in found.places:
        return False
    later = {n for node in nodes[at + 1 :] for n in node.inputs} | {*results, *nodes[at].inputs[1:]}
    inside = {n for n, other in found.places.items() if other.buffer == place.buffer}
    shape = nodes[at].shape  # type: ignore[attr-defined]  # a scatter's
    return not later & inside and place.image == _image(shape)


def _new(found: Placement, kind: str, number: int, value: Value, at: int) -> None:
    """Give a value a buffer of its own."""
    found.buffers.append(Buffer(kind, prod(value.shape), value.dtype, at, at))
    found.places[number] = Place(len(found.buffers) - 1, 0, _image(value.shape))


def _make(
    found: Placement, node: Node, number: int, inside: dict[int, tuple[int, int]], values: Sequence[Value], at: int
) -> None:
    """Place the output of a node: in the memory of a join, or in a buffer of its own."""
    if number in found.places:  # a join whose parts came first, what an island gave back, or what is written in place
        _touch(found, number, at)
    elif number in inside:
        _open(found, number, inside, values, at)
    else:
        _new(found, MADE if isinstance(node, Island) else ARENA, number, values[number], at)


def _image(shape: Sequence[int]) -> int:
    return prod(shape[1:])


def _touch(found: Placement, number: int, at: int) -> None:
    """Note that a node reads or writes a value."""
    if number in found.places:
        buffer = found.buffers[found.places[number].buffer]
        buffer.last = max(buffer.last, at)


def _alias(found: Placement, node: Alias, number: int, offset: int, values: Sequence[Value]) -> Place:
    """Return the place of a value that is a part of another's memory, or all of it in another shape."""
    source = found.places[node.inputs[0]]
    same_batch = values[number].shape[:1] == values[node.inputs[0]].shape[:1]
    if not same_batch and source.image != _image(values[node.inputs[0]].shape) and values[node.inputs[0]].shape[0] > 1:
        raise NotTraced(f"{node.where} joins images that lie apart")
    image = source.image if same_batch else _image(values[number].shape)
    return Place(source.buffer, source.offset + offset, image)


def _lengthen(
    found: Placement, nodes: Sequence[Node], inputs: Sequence[int], number: int, at: int, *, returned: bool
) -> None:
    """Keep the memory that an island's view of it shares until the last node that reads the view."""
    readers = [n for n, node in enumerate(nodes) if number in node.inputs]
    following = [n for n in range(at + 1, len(nodes)) if isinstance(nodes[n], Island | Alias)]
    last = (
        len(nodes) if following or returned else max(readers, default=at)
    )  # a view of the view may be read later still
    for source in inputs:
        _touch(found, source, max([last, *readers]))


def _joined(nodes: Sequence[Node], values: Sequence[Value], results: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return the join, and the first element in it, of every value that is made inside a join's memory.

    The last join comes first: an earlier one whose inputs are among its inputs, in order, lies inside it.
    """
    makers = {n: node for node in nodes for n in node.outputs}
    readers: dict[int, list[Node]] = {}
    for node in nodes:
        for number in node.inputs:
            readers.setdefault(number, []).append(node)
    inside: dict[int, tuple[int, int]] = {}
    for node in reversed(nodes):
        if not isinstance(node, Join):
            continue
        outer, start = inside.get(node.outputs[0], (node.outputs[0], 0))
        for number in dict.fromkeys(node.inputs):
            offset = start + sum(_image(s) for s in node.shapes[: node.inputs.index(number)])
            maker = makers.get(number)
            if (
                number in inside
                or number in results
                or not isinstance(maker, Convolve | Copy | Map | Norm | Pool | Join)
            ):
                continue
            if values[number].shape[0] > 1 and not _keeps_images(number, maker, readers.get(number, [])):
                continue
            inside[number] = (outer, offset)
    return inside


def _keeps_images(number: int, maker: Node, readers: Sequence[Node]) -> bool:
    """Return whether images of a value may lie apart from each other: no reader needs them together."""
    if isinstance(maker, Convolve) and maker.residual is not None:
        return False
    if any(isinstance(node, Copy) and node.mixes for node in (maker, *readers)):
        return False
    for node in readers:
        if isinstance(node, Convolve) and node.residual == number:
            return False
        if isinstance(node, Map) and any(o.value == number and o.kind == "plane" for o in node.operands):
            return False
        if not isinstance(node, PLACED | Mean | Island):
            return False
    return True


def _open(found: Placement, number: int, inside: dict[int, tuple[int, int]], values: Sequence[Value], at: int) -> None:
    """Place a value inside the memory of a join, which begins with its first part."""
    outer, offset = inside[number]
    if outer not in found.places:
        _new(found, ARENA, outer, values[outer], at)
    source = found.places[outer]
    found.places[number] = Place(source.buffer, source.offset + offset, source.image)
    _touch(found, number, at)


def arrange(placement: Placement) -> None:
    """Give every buffer a place in the arena, the largest first.

    Pisarchyk and Lee, "Efficient memory management for deep neural net inference" (2020), greedy by size: a buffer goes
    to the lowest place that is free while it is needed.
    """
    placed: list[Buffer] = []
    buffers = [buffer for buffer in placement.buffers if buffer.kind == ARENA]
    for buffer in sorted(buffers, key=lambda b: -b.bytes):
        at = 0
        for other in sorted(placed, key=lambda b: b.offset):
            if other.last < buffer.first or other.first > buffer.last:
                continue
            if at + buffer.bytes <= other.offset:
                break
            at = max(at, other.offset + other.bytes)
        buffer.offset = at
        placed.append(buffer)
    placement.arena_bytes = -(-max((b.offset + b.bytes for b in placed), default=0) // PAGE) * PAGE
