"""A network at one input size: its nodes, the chosen way to compute each, and instances that calls lease."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from convolith.jit import thread_count
from convolith.network.execution import images, remembered_choices
from convolith.network.execution.placement import CONSTANT, Place, Placement, arrange, place
from convolith.network.execution.runtime import Instance
from convolith.network.execution.schedule import Prepared, Scheduler, Way
from convolith.network.graph.nodes import Alias, Computed, Convolve, Island, Node
from convolith.network.graph.reading import read
from convolith.network.graph.tails import fuse
from convolith.network.graph.trace import Trace, leaves_with_refs, trace
from convolith.report.progress import track
from convolith.torch_private import draws, is_overload

LONG = 20
"""Number of nodes above which progress is shown, on a terminal."""
KEPT_INSTANCES = 2
"""Number of instances that stay for later calls."""


class Compiled:
    """A network at one input size.

    Args:
        graph, inputs: the model and inputs of the size.
        accuracy: as in `plan`.
        choice: engines of its layers, or None to choose.
        avoided: nodes, and engines that they are not computed by.
        known: what was prepared from the weights for other sizes.
        tried: largest number of engines that are prepared for a layer, to be timed.

    Attributes:
        nodes: its nodes, in order.
        ways: for each node, the ways to compute it.
        chosen: for each node, the number of the way that is used.
        by_image: number of first nodes that are computed image by image.
        seconds: for each node, the time of the chosen way in the network, if it was measured.
    """

    def __init__(
        self,
        graph: torch.nn.Module,
        inputs: tuple[torch.Tensor, ...],
        accuracy: str,
        choice: remembered_choices.Choice | None = None,
        avoided: Iterable[tuple[str, str]] = (),
        known: Mapping[tuple[Any, ...], Prepared] | None = None,
        *,
        tried: int = 1,
    ) -> None:
        self.trace: Trace
        self.trace, self.first_result = trace(graph, inputs)
        nodes = read(self.trace)
        self.results = [ref.number for ref in leaves_with_refs(self.trace.result)]
        self.nodes: list[Node] = fuse(nodes, self.results, self.trace.values)
        self.by_image = images.worthwhile(self.nodes, self.trace.values)
        self.key = remembered_choices.key_of(self.nodes, self.by_image, accuracy)
        self.choice = choice or remembered_choices.recall(self.key)
        """Engines that were chosen before, or None."""
        self.accuracy = accuracy
        self.avoided = set(avoided)
        """Nodes, by their names in the folded graph, and engines that they are not computed by."""
        self._known, self._tried = known or {}, tried
        self.placement, self.ways = self._scheduled()
        self.chosen = [0] * len(self.nodes)
        self.seconds: list[float | None] = [None] * len(self.nodes)
        self.threads = thread_count()
        self._free: list[Instance] = []
        self._lock = threading.Lock()

    def avoid(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Compute some nodes in another way than by an engine, at last by torch."""
        self.avoided |= set(pairs)
        chosen = self.engines_of_all()
        self.placement, self.ways = self._scheduled()
        self.chosen = [
            next((n for n, way in enumerate(ways) if way.engine == engine), 0)
            for ways, engine in zip(self.ways, chosen, strict=True)
        ]
        self._keep_chosen()

    def engines_of_all(self) -> list[str]:
        """Return the name of the engine or pass of each node."""
        return [self.way(n).engine for n in range(len(self.nodes))]

    def _scheduled(self) -> tuple[Placement, list[list[Way]]]:
        """Return the places of all values and the ways to compute each node."""
        while True:
            placement = place(self.nodes, self.trace, self.results)
            if self.by_image:
                images.narrowed(placement, self.images, self.by_image)
            arrange(placement)
            wanted = iter(self.choice or ())
            scheduler = Scheduler(self.trace, placement, self.accuracy, self._known, self._tried)
            count = len(self.nodes)
            found: list[list[Way]] = []
            for number in track(range(count), "preparing", count, shown=count > LONG):
                node = self.nodes[number]
                engine = next(wanted, None) if isinstance(node, Convolve) else None
                avoided = {engine for where, engine in self.avoided if where == node.where}
                ways = scheduler.ways(images.one_image(node) if number < self.by_image else node, engine, avoided)
                ways = [way for way in ways if way.engine not in avoided]
                if not ways and isinstance(node, Computed):
                    ways = [Way("torch", call=node.reference)]
                if number < self.by_image:
                    ways = [way for way in ways if way.call is None]
                if not ways:  # only torch computes it, which takes all images together
                    break
                found.append(ways)
            if len(found) == count:
                return placement, found
            self.by_image = len(found)

    @property
    def draws(self) -> bool:
        """Whether the network draws random numbers."""
        return any(is_overload(op.call) and draws(op.call) for op in self.trace.ops)

    @property
    def images(self) -> int:
        """Number of images of the nodes that are computed image by image."""
        return self.trace.values[self.nodes[0].outputs[0]].shape[0] if self.by_image else 1

    def instance(self, chosen: Sequence[int] | None = None) -> Instance:
        """Return memory and programs for the chosen ways, or for others."""
        numbers = self.chosen if chosen is None else chosen
        ways = [ways[n] for ways, n in zip(self.ways, numbers, strict=True)]
        repeats = (self.by_image, self.images)
        with torch.inference_mode(mode=False):  # its memory serves calls in any mode
            return Instance(self.nodes, ways, self.placement, self.trace, repeats)

    def choose(self, numbers: Sequence[int], seconds: Sequence[float | None]) -> None:
        """Take a way for each node, with its time in the network."""
        self.chosen, self.seconds = list(numbers), list(seconds)
        self._keep_chosen()

    def _keep_chosen(self) -> None:
        """Forget the other ways, and the weights that were prepared for them."""
        self.ways, self.chosen = [[self.way(n)] for n in range(len(self.nodes))], [0] * len(self.nodes)
        self._free = []

    def prepared(self) -> dict[tuple[Any, ...], Prepared]:
        """Return what was prepared from weights for the chosen ways, by its key."""
        found = (self.way(n).prepared for n in range(len(self.nodes)))
        return {one.key: one for one in found if one is not None}

    def __call__(self, inputs: Sequence[torch.Tensor]) -> Any:
        """Return the network's result, computed by an instance that no other call uses meanwhile."""
        with self._lock:
            free = self._free.pop() if self._free else None
        free = free or self.instance()
        try:
            return free(inputs)
        finally:
            with self._lock:
                if len(self._free) < KEPT_INSTANCES:
                    self._free.append(free)

    def drop_weights(self) -> None:
        """Forget the weights that the chosen ways were prepared from."""
        for ways in self.ways:
            for way in ways:
                way.prepared = None
        self._known = {}
        needed = {n for node in self.islands for n in node.inputs} | {*self.results}
        needed |= {number for number, place in self.placement.places.items() if self._is_constant(place)}
        for number, value in enumerate(self.trace.values):
            if value.constant is not None and number not in needed:
                value.constant = value.constant.to("meta")
        for layer in self.layers:
            if all(layer is not node for node in self.islands):
                layer.weight = layer.weight.to("meta")

    def _is_constant(self, place: Place) -> bool:
        return self.placement.buffers[place.buffer].kind == CONSTANT

    def remember(self) -> None:
        """Keep the chosen engines for the next time."""
        remembered_choices.remember(self.key, self.engines())

    def engines(self) -> remembered_choices.Choice:
        """Return the names of the engines of all layers, in order."""
        return [self.way(n).engine for n, node in enumerate(self.nodes) if isinstance(node, Convolve)]

    def way(self, number: int) -> Way:
        """Return the chosen way of a node."""
        return self.ways[number][self.chosen[number]]

    @property
    def islands(self) -> list[Node]:
        """Nodes that torch computes."""
        return [node for n, node in enumerate(self.nodes) if isinstance(node, Island) or self.way(n).call is not None]

    @property
    def steps(self) -> list[int]:
        """Numbers of the nodes that take time: not those that only name memory."""
        return [n for n, node in enumerate(self.nodes) if not isinstance(node, Alias) and self.way(n).engine]

    @property
    def layers(self) -> list[Convolve]:
        """Convolutions and linear layers."""
        return [node for node in self.nodes if isinstance(node, Convolve)]
