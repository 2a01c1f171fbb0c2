"""Reading of a trace as nodes of a network; what has no reader is an island, which torch computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from convolith.layer_steps.copies import Axis
from convolith.network.graph.channels_last import channels_last
from convolith.network.graph.nodes import Computed, Copy, Island, Node, Shape
from convolith.network.graph.readers.arguments import FLOATS, fits, new_value
from convolith.network.graph.readers.table import READERS
from convolith.network.graph.trace import Op, Ref, Trace, leaves_with_refs, replace_refs
from convolith.torch_private import draws, is_alias, is_overload


def read(trace: Trace) -> list[Node]:
    """Return the nodes of a trace, in order; the trace gets the values that nodes have among themselves."""
    trace.ops = _alive(trace)
    state = Reading(trace)
    for op in trace.ops:
        state.take(op)
    trace.result = replace_refs(trace.result, lambda number: Ref(state.made(number)))
    for number, shape in state.planes.items():
        trace.values[number].shape = shape
    return state.nodes


def _alive(trace: Trace) -> list[Op]:
    """Return the operators whose results are read, and those that do more than compute them."""
    read, kept = {ref.number for ref in leaves_with_refs(trace.result)}, []
    for op in reversed(trace.ops):
        if set(op.outputs) & read or not is_overload(op.call) or draws(op.call):
            read.update(op.inputs)
            kept.append(op)
    return kept[::-1]


def island(op: Op) -> Island:
    """Return an operator as an island."""
    view = is_overload(op.call) and is_alias(op.call)
    return Island(op.where, op.inputs, op.outputs, op, view)


class Reading:
    """Nodes that were read so far, and values that exist in another form than torch's.

    Attributes:
        nodes: the nodes, in order.
        planes: values whose last axis are channels, such as (N, height, width, channels) or (positions, channels), but
            which lie in memory as planes; the shape of the planes, (N, channels, *size).
        pending: views that no node has made yet, by the value that they are.
    """

    def __init__(self, trace: Trace) -> None:
        self.values = trace.values
        self.nodes: list[Node] = []
        self.planes: dict[int, Shape] = {}
        self.pending: dict[int, Op] = {}
        self._made: dict[int, int] = {}
        self._read = {n for op in trace.ops for n in op.inputs}
        self._read |= {ref.number for ref in leaves_with_refs(trace.result)}

    def take(self, op: Op) -> None:
        """Read one operator."""
        if self._with_channels_last(op) or self._as_view(op):
            return
        op = replace(op, args=replace_refs(op.args, self._ref), kwargs=replace_refs(op.kwargs, self._ref))
        nodes = self._nodes(op)
        for node in nodes:
            if isinstance(node, Computed):
                self._lies_dense(node.outputs)
        self.nodes += nodes or [island(op)]

    def _lies_dense(self, numbers: Sequence[int]) -> None:
        """Note that values are contiguous, which torch's need not be."""
        for number in numbers:
            if not self.values[number].planes:
                self.values[number].planes, self.values[number].strides = True, ()

    def _nodes(self, op: Op) -> list[Node]:
        """Return the nodes of an operator, or none if only torch computes it."""
        reader = READERS.get(op.name)
        if reader is None or not all(fits(self.values[n]) for n in op.inputs):
            return []
        found = reader(op, self.values)
        nodes = [] if found is None else found if isinstance(found, list) else [found]
        made = {n for node in nodes for n in node.outputs}
        return [] if set(op.outputs) & self._read - made else nodes  # another result may be read too

    def _ref(self, number: int) -> Ref:
        return Ref(self.made(number))

    def made(self, number: int) -> int:
        """Return a value in torch's own form, after adding the nodes that make it."""
        if number in self.pending:
            op = self.pending.pop(number)
            self.nodes.append(island(replace(op, args=replace_refs(op.args, self._ref))))
            return number
        if number not in self.planes:
            return number
        if number not in self._made:
            shape, value = self.planes[number], self.values[number]
            self._made[number] = new_value(self.values, value.shape, value.dtype)
            positions = prod(shape[2:])
            axes = (Axis(positions, 1, shape[1]), Axis(shape[1], positions, 1))
            whole = (shape[0], positions * shape[1])
            self.nodes.append(Copy("channels_last", [number], [self._made[number]], axes, 0, whole))
        return self._made[number]

    def _with_channels_last(self, op: Op) -> bool:
        """Read an operator that begins, continues or ends a row of them with channels last."""
        if any(number in self.pending for number in op.inputs):
            return False
        found = channels_last(op, self.values, self.planes, READERS.get(op.name))
        if found is None or set(op.outputs) & self._read - set(found[0].outputs):
            return False
        node, planes = found
        self.nodes.append(node)
        if planes is not None:
            self.planes[node.outputs[0]] = planes
        else:
            self._lies_dense(node.outputs)
        return True

    def _as_view(self, op: Op) -> bool:
        """Read a view that no node has to make, and the copy of one."""
        own = op.inputs[0] if op.inputs else None
        if own is None or own in self.planes or not is_overload(op.call):
            return False
        if op.name == "aten.clone.default" and own in self.pending:
            copied = self._copy(op, own)
            if copied is not None:
                self.nodes.append(copied)
                return True
        if not is_alias(op.call) or len(op.outputs) != 1 or self.values[own].constant is not None or self._nodes(op):
            return False
        self.pending[op.outputs[0]] = op
        return True

    def _copy(self, op: Op, view: int) -> Copy | None:
        """Return the copy of a view as a copy of what it is a view of, or None if it mixes images."""
        base = view
        while base in self.pending:
            base = self.pending[base].inputs[0]
        source, seen, result = self.values[base], self.values[view], self.values[op.outputs[0]]
        if base in self.planes or not source.strides or source.dtype not in FLOATS or not source.planes:
            return None
        offset, sizes = seen.offset - source.offset, seen.shape
        if not result.planes or len(sizes) < 2 or not sizes[0] == source.shape[0] == result.shape[0]:
            return None
        if sizes[0] > 1 and seen.strides[0] != source.strides[0]:
            return None
        reach = offset + sum((n - 1) * s for n, s in zip(sizes[1:], seen.strides[1:], strict=True))
        if offset < 0 or reach >= prod(source.shape[1:]) or prod(result.shape) != prod(sizes):
            return None
        goals = [prod(sizes[axis + 1 :]) for axis in range(1, len(sizes))]
        axes = tuple(Axis(*axis) for axis in zip(sizes[1:], seen.strides[1:], goals, strict=True))
        return Copy(op.where, [base], [op.outputs[0]], axes, offset, result.shape)
