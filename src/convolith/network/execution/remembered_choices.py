"""Choices of engines for the layers of a network, remembered by what the layers are, here and on disk."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from convolith.engines import BY_NAME, TABLE
from convolith.engines.base import NEEDS_KERNEL
from convolith.network.graph.nodes import Convolve, Map, Node
from convolith.planner import store

KIND = "networks"
Choice = list[str]
"""Name of the engine of each convolution of a network, in order."""


def key_of(nodes: Sequence[Node], by_image: int, accuracy: str) -> str:
    """Return the key of a network: everything that the times of its layers depend on."""
    parts: list[Any] = [accuracy, by_image]
    for node in nodes:
        extra: tuple[Any, ...] = ()
        if isinstance(node, Convolve):
            extra = node.spec(), node.tail, *_of_values(node)
        elif isinstance(node, Map):
            extra = node.expression, node.shape
        parts.append((node.kind, extra))
    return sha256(repr(parts).encode()).hexdigest()[:32]


def _of_values(node: Convolve) -> list[str | None]:
    """Return all that engines find out about the values of a layer's kernel, such as its rank."""
    spec = node.spec()
    engines = [engine for engine in TABLE if engine.refuse(spec) == NEEDS_KERNEL]
    engines = [engine.for_kernel(spec, node.weight) for engine in engines]
    return [engine.refuse(spec, node.weight) or engine.note(spec) for engine in engines]


def recall(key: str) -> Choice | None:
    """Return the engines that were chosen for a network, or None."""
    return store.read(KIND, _good).get(key)


def remember(key: str, choice: Choice) -> None:
    """Store the engines that were chosen for a network."""
    store.add(KIND, {key: choice}, _good)


def _good(entries: dict[str, Any]) -> bool:
    """Return whether every entry is a list of engines' names."""
    return all(isinstance(names, list) and all(name in BY_NAME for name in names) for names in entries.values())
