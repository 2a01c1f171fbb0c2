"""A network that can be called: its arena, its programs and its islands, for one call at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from convolith.engines.buffers import empty
from convolith.engines.steps import OUTPUT, Step
from convolith.jit import thread_count
from convolith.jit.program import Program
from convolith.network.execution.placement import ARENA, CONSTANT, GIVEN, MADE, RETURNED, Place, Placement
from convolith.network.execution.schedule import Part, Way
from convolith.network.graph.nodes import Island, Node
from convolith.network.graph.trace import Trace, replace_refs
from convolith.torch_private import is_overload, storage_identity, unflattened


class Unlike(Exception):  # noqa: N818 - an answer, which the caller handles
    """Result of a module whose shape or dtype is another one than when the network was recorded."""


class Patch(NamedTuple):
    """Slot of a program that holds an address which differs from call to call, or the distance of two addresses."""

    slot: int
    buffer: int
    offset: int
    from_buffer: int | None = None
    from_offset: int = 0


class Segment(NamedTuple):
    """Steps that run without returning to Python, or a node that torch computes."""

    program: Program | None
    patches: tuple[Patch, ...]
    nodes: tuple[int, ...]
    """Number of the node of each step, or of the only node."""


class Instance:
    """Memory and programs of a network for one call at a time.

    Args:
        nodes: the nodes, in order.
        ways: the way to compute each node.
        placement: places of all values.
        trace: the trace that the nodes come from.
        repeats: number of first nodes that run image by image, and of images.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        ways: Sequence[Way],
        placement: Placement,
        trace: Trace,
        repeats: tuple[int, int] = (0, 1),
    ) -> None:
        self.by_image, self.images = repeats
        self.nodes, self.ways, self.placement, self.trace = nodes, ways, placement, trace
        self.arena = empty((max(placement.arena_bytes, 64) + 64,), torch.uint8)
        shared = [part.steps.scratch_bytes for way in ways for part in way.parts]
        self.scratch = empty((max(shared, default=0) + 4096 + 64,), torch.uint8)
        self._start = self.arena.data_ptr() + -self.arena.data_ptr() % 64
        self._room = self.scratch.data_ptr() + -self.scratch.data_ptr() % 4096
        self._bases: list[torch.Tensor | None] = [None] * len(placement.buffers)
        self._views: dict[int, torch.Tensor] = {}
        for number, place in placement.places.items():
            if placement.buffers[place.buffer].kind == CONSTANT:
                self._bases[place.buffer] = self._constant(number)
        for number, buffer in enumerate(placement.buffers):
            if buffer.kind == ARENA:
                first = self._start - self.arena.data_ptr() + buffer.offset
                whole = self.arena[first : first + buffer.elements * buffer.dtype.itemsize]
                self._bases[number] = whole.view(buffer.dtype)
        self._strided = {
            n
            for node in nodes
            if isinstance(node, Island)
            for n in node.outputs
            if n in placement.places and not trace.values[n].planes
        }
        self._returned = [n for n, buffer in enumerate(placement.buffers) if buffer.kind == RETURNED]
        self.segments = self._segments()

    def _segments(self) -> list[Segment]:
        """Return the runs of steps, with an island between two of them."""
        found: list[Segment] = []
        waiting = self._image_by_image(range(self.images))
        for number, way in enumerate(self.ways):
            if number < self.by_image:
                continue
            if way.call is None:
                waiting += [(number, part, step) for part in way.parts for step in part.steps.steps]
                continue
            if waiting:
                found.append(self._program(waiting))
                waiting = []
            found.append(Segment(None, (), (number,)))
        if waiting:
            found.append(self._program(waiting))
        return found

    def _image_by_image(self, images: Sequence[int], only: int | None = None) -> list[tuple[int, Part, Step]]:
        """Return the steps of the first nodes, or of one of them, for some images."""
        return [
            (number, part.of_image(image), step)
            for image in images
            for number, way in enumerate(self.ways[: self.by_image])
            if only is None or number == only
            for part in way.parts
            for step in part.steps.steps
        ]

    def _program(self, steps: Sequence[tuple[int, Part, Step]]) -> Segment:
        calls, slots = [], []
        for _, part, step in steps:
            places = {**dict(enumerate(part.operands)), OUTPUT: part.output}
            calls.append(step.call({n: self._address(place) for n, place in places.items()}, self._room))
            moving: list[tuple[int, Place, Place | None]] = [
                (step.block.at[name], places[n], None) for name, n in step.operands.items()
            ]
            if step.residual is not None:
                moving.append((step.block.at["residual_shift"], places[step.residual], places[OUTPUT]))
            slots.append(moving)
        program = Program(calls, thread_count())
        patches = []
        for start, moving in zip(program.places, slots, strict=False):
            for slot, place, other in moving:
                pair = [p for p in (place, other) if p is not None]
                if any(self.placement.buffers[p.buffer].kind not in (ARENA, CONSTANT) for p in pair):
                    shift = (None, 0) if other is None else (other.buffer, self._bytes(other))
                    patches.append(Patch(start + slot, place.buffer, self._bytes(place), *shift))
        return Segment(program, tuple(patches), tuple(number for number, _, _ in steps))

    def _constant(self, number: int) -> torch.Tensor:
        constant: torch.Tensor = self.trace.values[number].constant  # type: ignore[assignment]  # of a constant
        return constant.detach().contiguous().reshape(-1)

    def _bytes(self, place: Place) -> int:
        return place.offset * self.placement.buffers[place.buffer].dtype.itemsize

    def _address(self, place: Place) -> int:
        """Return the address of a place in the arena or in a constant; other places are only known in a call."""
        buffer = self.placement.buffers[place.buffer]
        if buffer.kind == CONSTANT:
            base: torch.Tensor = self._bases[place.buffer]  # type: ignore[assignment]  # made before
            return base.data_ptr() + self._bytes(place)
        return self._start + buffer.offset + self._bytes(place) if buffer.kind == ARENA else 0

    # Calls.

    def __call__(self, inputs: Sequence[torch.Tensor]) -> Any:
        """Return the network's result."""
        self._begin(inputs)
        for segment in self.segments:
            self._run(segment)
        return self._result()

    def timed(self, inputs: Sequence[torch.Tensor]) -> list[float]:
        """Call the network; return the seconds that each node took."""
        self._begin(inputs)
        seconds = [0.0] * len(self.nodes)
        for segment in self.segments:
            start = time.perf_counter()
            if segment.program is None:
                self._run(segment)
                seconds[segment.nodes[0]] += time.perf_counter() - start
                continue
            self._patch(segment)
            ticks = segment.program.timed()
            whole, total = time.perf_counter() - start, float(ticks.sum())
            for number, part in zip(segment.nodes, ticks, strict=True):
                seconds[number] += whole * float(part) / total
        self._result()
        return seconds

    def run_by_node(self, inputs: Sequence[torch.Tensor]) -> Iterator[tuple[int, Node]]:
        """Run node by node; yield each after it was computed, while its inputs are still there.

        Of the nodes that run image by image, only the first image is there.
        """
        self._begin(inputs)
        for number, node in enumerate(self.nodes):
            way = self.ways[number]
            steps = [(number, part, step) for part in way.parts for step in part.steps.steps]
            if number < self.by_image:
                steps = self._image_by_image([0], number)
            if number == self.by_image > 0:
                self._run(self._program(self._image_by_image(range(self.images))))
            if way.call is not None:
                self._run(Segment(None, (), (number,)))
            elif steps:
                self._run(self._program(steps))
            yield number, node

    def _begin(self, inputs: Sequence[torch.Tensor]) -> None:
        for number, x in zip(self.trace.inputs, inputs, strict=True):
            self._bases[self.placement.places[number].buffer] = x.detach().contiguous()
        for number in self._returned:
            buffer = self.placement.buffers[number]
            self._bases[number] = empty((buffer.elements,), buffer.dtype)

    def _run(self, segment: Segment) -> None:
        if segment.program is not None:
            self._patch(segment)
            segment.program.run()
            return
        number = segment.nodes[0]
        node = self.nodes[number]
        strict = isinstance(node, Island) and (not node.view or node.kind == "as_strided.default")
        fetch = self._fetch_contiguous if strict else self.fetch
        result = self.ways[number].call(fetch)  # type: ignore[misc]  # a way without steps
        self._keep(self.nodes[number], result)

    def _patch(self, segment: Segment) -> None:
        memory, bases = segment.program.memory, self._pointers(segment)  # type: ignore[union-attr]  # a program's
        for slot, buffer, offset, other, other_offset in segment.patches:
            base = 0 if other is None else bases[other] + other_offset
            memory[slot] = bases[buffer] + offset - base

    def _pointers(self, segment: Segment) -> dict[int, int]:
        used = {b for p in segment.patches for b in (p.buffer, p.from_buffer) if b is not None}
        return {b: self._bases[b].data_ptr() for b in used}  # type: ignore[union-attr]  # made before

    def _keep(self, node: Node, result: Any) -> None:
        """Store what torch computed: in its place, or as memory of its own."""
        if not isinstance(node, Island):
            place = self.placement.places[node.outputs[0]]
            if self.placement.buffers[place.buffer].kind == MADE:
                self._bases[place.buffer] = result.contiguous()
            else:
                self.fetch(node.outputs[0]).copy_(result.reshape(self.trace.values[node.outputs[0]].shape))
            return
        for number, tensor in _pairs(node.op.result, result):
            place, value = self.placement.places[number], self.trace.values[number]
            if tuple(tensor.shape) != value.shape or tensor.dtype != value.dtype:
                raise Unlike(f"{node.where} gives a tensor of {tuple(tensor.shape)}, not of {value.shape} as before")
            if not is_overload(node.op.call) and self._is_ours(tensor):  # a module may return what it was given
                tensor = tensor.clone()
            if self.placement.buffers[place.buffer].kind == MADE:
                self._bases[place.buffer] = tensor.contiguous() if value.planes else tensor

    def _is_ours(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor lies in memory of this call."""
        mine = {storage_identity(base.untyped_storage()) for base in self._bases if base is not None}
        return storage_identity(tensor.untyped_storage()) in mine

    def fetch(self, number: int) -> torch.Tensor:
        """Return a value as a tensor."""
        value = self.trace.values[number]
        if value.constant is not None:
            return value.constant
        place = self.placement.places[number]
        buffer = self.placement.buffers[place.buffer]
        base: torch.Tensor = self._bases[place.buffer]  # type: ignore[assignment]  # made before
        if buffer.kind == MADE and number in self._strided:
            return base
        if buffer.kind == ARENA:
            known = self._views.get(number)
            if known is None:
                known = self._views[number] = self._view(base, number, place)
            return known
        return self._view(base, number, place)

    def _fetch_contiguous(self, number: int) -> torch.Tensor:
        """Return a value as a tensor that is contiguous if torch's own is, which some of torch's code relies on."""
        found = self.fetch(number)
        return found.contiguous() if self.trace.values[number].contiguous else found

    def _view(self, base: torch.Tensor, number: int, place: Place) -> torch.Tensor:
        shape = self.trace.values[number].shape
        return base.as_strided(shape, self.placement.strides(number, shape), base.storage_offset() + place.offset)

    def _result(self) -> Any:
        def tensor(number: int) -> torch.Tensor:
            found = self.fetch(number)
            value = self.trace.values[number]
            if value.constant is not None:
                return found.clone()
            kind = self.placement.buffers[self.placement.places[number].buffer].kind
            return found.clone() if kind in (GIVEN, MADE) else found

        result = unflattened(replace_refs(self.trace.result, tensor), self.trace.structure)
        for n, buffer in enumerate(self.placement.buffers):
            if buffer.kind not in (ARENA, CONSTANT):
                self._bases[n] = None
        return result


def _pairs(tree: Any, result: Any) -> list[tuple[int, torch.Tensor]]:
    """Return the number and the tensor of each result of an operator."""
    found: list[tuple[int, torch.Tensor]] = []

    def visit(part: Any, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.append((part.number, value))
        elif isinstance(value, list | tuple):
            for inner, own in zip(part, value, strict=True):
                visit(inner, own)
        elif isinstance(value, dict):
            for key, own in value.items():
                visit(part[key], own)

    visit(tree, result)
    return found
