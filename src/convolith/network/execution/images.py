"""The first nodes of a network image by image: what lies between them is then one image large and stays in a cache.

With several images, the tensors between early layers outgrow the caches, while their weights are small. The nodes of
this first part run for one image after the other, and only what later nodes read is kept for all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from math import prod
from typing import TypeVar

from convolith.network.execution.placement import ARENA, Placement
from convolith.network.graph.nodes import Alias, Convolve, Copy, Island, Node
from convolith.network.graph.trace import Value

LARGE = 1 << 21
"""Bytes of a node's inputs and outputs, of all images, from which they do not stay in a second-level cache."""
SHAPES = ("shape", "out_shape")
Kind = TypeVar("Kind", bound=Node)


def longest(nodes: Sequence[Node], values: Sequence[Value]) -> int:
    """Return how many of the first nodes can be computed image by image: those of one batch size."""
    batches: set[tuple[int, ...]] = set()
    for number, node in enumerate(nodes):
        batches |= {values[n].shape[:1] for n in (*node.inputs, *node.outputs) if values[n].constant is None}
        mixes = isinstance(node, Copy) and node.mixes
        if mixes or isinstance(node, Island) or len(batches) != 1 or min(batches) in ((), (1,)):
            return number
    return len(nodes)


def worthwhile(nodes: Sequence[Node], values: Sequence[Value]) -> int:
    """Return how many of the first nodes are computed image by image: up to the last whose tensors are large.

    From a node on whose weights are larger than its tensors of all images, images are better taken together.
    """
    found = 0
    for number, node in enumerate(nodes[: longest(nodes, values)]):
        moved = sum(prod(values[n].shape) * values[n].dtype.itemsize for n in (*node.inputs, *node.outputs))
        weights = node.weight.numel() * node.weight.itemsize if isinstance(node, Convolve) else 0
        if moved >= max(LARGE, weights) and not isinstance(node, Alias):
            found = number + 1
    return found


def one_image(node: Kind) -> Kind:
    """Return a node for a batch of one."""
    named = {field.name for field in fields(node)}
    changes = {name: (1, *getattr(node, name)[1:]) for name in SHAPES if name in named}
    if "shapes" in named:
        changes["shapes"] = tuple((1, *shape[1:]) for shape in node.shapes)  # type: ignore[attr-defined]  # a join
    return replace(node, **changes)  # type: ignore[arg-type]  # shapes


def narrowed(placement: Placement, images: int, nodes: int) -> None:
    """Shrink the buffers that only the first nodes use to one image, and keep the others while these nodes run."""
    inner = set()
    for number, buffer in enumerate(placement.buffers):
        if buffer.first >= nodes or buffer.first < 0:
            continue
        if buffer.kind == ARENA and buffer.last < nodes:
            inner.add(number)
            buffer.elements //= images
        else:
            buffer.first = 0
    for value, place in placement.places.items():
        if place.buffer in inner:
            placement.places[value] = place._replace(image=0)
