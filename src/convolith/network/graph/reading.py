"""Reading of a trace as nodes of a network; what has no reader is an island, which torch computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch

from convolith.layer_steps.copies import Axis
from convolith.network.graph.channels_last import channels_last
from convolith.network.graph.nodes import Computed, Copy, Island, Node, Shape
from convolith.network.graph.readers.arguments import FLOATS, fits, new_value
from convolith.network.graph.readers.attention import ATTENTIONS, attention
from convolith.network.graph.readers.layers import convolution
from convolith.network.graph.readers.moves import pairs_of, separate
from convolith.network.graph.readers.table import READERS
from convolith.network.graph.trace import Op, Ref, Trace, has_planes, leaves_with_refs, replace_refs
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
    """Return an operator as an island; a view of other strides than torch's may have to copy."""
    view = is_overload(op.call) and is_alias(op.call)
    if op.name in ("aten.view.default", "aten._unsafe_view.default"):
        op = replace(op, call=torch.ops.aten.reshape.default)
    return Island(op.where, op.inputs, op.outputs, op, view)


class Reading:
    """Nodes that were read so far, and values that exist in another form than torch's.

    Attributes:
        nodes: the nodes, in order.
        planes: values whose last axis are channels, such as (N, height, width, channels) or (positions, channels), but
            which lie in memory as planes; the shape of the planes, (N, channels, *size).
        pending: views and padding by zeros that no node has made yet, by the value that they are.
    """

    def __init__(self, trace: Trace) -> None:
        self.values = trace.values
        self.nodes: list[Node] = []
        self.planes: dict[int, Shape] = {}
        self.pending: dict[int, Op] = {}
        self._views: dict[int, Op] = {}
        self._made: dict[int, int] = {}
        self._read = {n for op in trace.ops for n in op.inputs}
        self._read |= {ref.number for ref in leaves_with_refs(trace.result)}

    def take(self, op: Op) -> None:
        """Read one operator."""
        op = self._with_dense_view(op)
        parts = separate(op, self.values)
        if op.name in ATTENTIONS and not set(op.outputs[1:]) & self._read:
            parts = attention(op, self.values)
        if parts and not self._nodes(op):
            for part in parts:
                self.take(part)
            return
        if self._with_channels_last(op) or self._as_view(op) or self._as_padding(op) or self._padded(op):
            return
        if op.name in READERS:
            for number in set(op.inputs) & set(self._views):
                self._lay_dense(number)
        op = replace(op, args=replace_refs(op.args, self._ref), kwargs=replace_refs(op.kwargs, self._ref))
        nodes = self._nodes(op)
        for node in nodes:
            if isinstance(node, Computed):
                self._lies_dense(node.outputs)
        self.nodes += nodes or [island(op)]
        if not nodes and is_overload(op.call) and not is_alias(op.call):
            self._lies_dense(op.outputs)

    def _lies_dense(self, numbers: Sequence[int]) -> None:
        """Note that values are contiguous, which torch's need not be."""
        for number in numbers:
            if not self.values[number].planes and self.values[number].constant is None:
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
        if number in self._made:
            return self._made[number]
        if number in self.pending:
            op = self.pending.pop(number)
            op = replace(op, args=replace_refs(op.args, self._ref))
            self.nodes += self._nodes(op) or [island(op)]
            self._lies_dense([n for node in self.nodes[-1:] if isinstance(node, Computed) for n in node.outputs])
            return number
        if number not in self.planes:
            return number
        shape, value = self.planes[number], self.values[number]
        self._made[number] = new_value(self.values, value.shape, value.dtype)
        positions = prod(shape[2:])
        axes = (Axis(positions, 1, shape[1]), Axis(shape[1], positions, 1))
        whole = (shape[0], positions * shape[1])
        self.nodes.append(Copy.of("channels_last", number, self._made[number], axes, whole))
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
        if own is None or not is_overload(op.call):
            return False
        if own in self.planes:
            if not is_alias(op.call) or len(op.outputs) != 1:
                return False
            own = self.made(own)
            op = replace(op, args=(Ref(own), *op.args[1:]))
        if op.name == "aten.clone.default" and own in self.pending:
            copied = self._copy(op.where, op.outputs[0], own)
            if copied is not None:
                self.nodes.append(copied)
                return True
        if not is_alias(op.call) or len(op.outputs) != 1 or self.values[own].constant is not None or self._nodes(op):
            return False
        self.pending[op.outputs[0]] = self._views[op.outputs[0]] = op
        found, value = self._layout(op.outputs[0]), self.values[op.outputs[0]]
        if found is not None and not has_planes(found[1]):  # unlike in torch
            value.planes, value.strides = False, found[1].stride()
        return True

    def _lay_dense(self, view: int) -> None:
        """Copy a view to memory of its own, if it is one that a copy can make, for nodes with generated code."""
        value = self.values[view]
        if view in self._made or value.planes:
            return
        made = new_value(self.values, value.shape, value.dtype)
        copied = self._copy("view", made, view)
        if copied is not None:
            self.nodes.append(copied)
            self._made[view] = made

    def _as_padding(self, op: Op) -> bool:
        """Take padding by zeros as something that a convolution does itself, if all that read it are such."""
        own = op.inputs[0] if op.inputs else -1
        if op.name != "aten.constant_pad_nd.default" or self._nodes(op) == [] or own in self.planes:
            return False
        pairs = pairs_of(op, len(self.values[own].shape))
        zero = len(op.args) < 3 or op.args[2] == 0
        if pairs is None or not zero or any(pairs[0]) or min(map(min, pairs)) < 0:
            return False
        self.pending[op.outputs[0]] = op
        return True

    def _padded(self, op: Op) -> bool:
        """Read a convolution of an image that was padded by zeros."""
        pad = self.pending.get(op.inputs[0]) if op.name == "aten.convolution.default" else None
        if pad is None or pad.name != "aten.constant_pad_nd.default":
            return False
        x = self.made(pad.inputs[0])
        pairs = pairs_of(pad, len(self.values[x].shape))
        if pairs is None or not fits(self.values[x]):
            return False
        node = convolution(replace(op, args=(Ref(x), *op.args[1:])), self.values, pairs[1:])
        if not isinstance(node, Computed):
            return False
        self.nodes.append(node)
        self._lies_dense(node.outputs)
        return True

    def _with_dense_view(self, op: Op) -> Op:
        """Return an operator on a view; one that gives it a shape that only a copy can have, on such a copy."""
        own = op.inputs[0] if op.inputs else -1
        if own not in self._views or op.name not in SHAPED or self._layout(own) is None or self._layout(own, op):
            return op
        self._lay_dense(own)
        if own not in self._made:
            return op
        self._lies_dense(op.outputs)
        return replace(op, args=replace_refs(op.args, self._ref))

    def _copy(self, where: str, copied: int, view: int) -> Copy | None:
        """Return the copy of a view as a copy of what it is a view of, or None if there is none."""
        found, result = self._layout(view), self.values[copied]
        if found is None or not result.planes:
            return None
        base, seen = found
        source, sizes, strides, offset = self.values[base], seen.shape, seen.stride(), int(seen.storage_offset())
        if prod(result.shape) != prod(sizes) or not sizes or source.constant is not None:
            return None
        image, reach = prod(source.shape[1:]), prod(source.shape[1:])
        last = offset + sum((n - 1) * s for n, s in zip(sizes[1:], strides[1:], strict=True))
        mixes = not sizes[0] == source.shape[0] == result.shape[0] or len(sizes) < 2 or last >= reach
        mixes = mixes or (sizes[0] > 1 and strides[0] != image)
        first = 0 if mixes else 1
        goals = [prod(sizes[axis + 1 :]) for axis in range(first, len(sizes))]
        axes = tuple(Axis(*axis) for axis in zip(sizes[first:], strides[first:], goals, strict=True))
        shape = (1, *result.shape) if mixes else result.shape
        return replace(Copy.of(where, base, copied, axes, shape, offset), mixes=mixes)

    def _layout(self, view: int, *more: Op) -> tuple[int, torch.Tensor] | None:
        """Return what a view is one of, and its layout if that lies dense; None if it has no strides.

        Args:
            view: the view.
            more: further views of it.
        """
        chain, base = [], view
        while base in self._views:
            chain.append(self._views[base])
            base = chain[-1].inputs[0]
        base = self._made.get(base, base)
        source = self.values[base]
        if base in self.planes or base in self.pending or source.dtype not in FLOATS or not source.planes:
            return None
        seen = torch.empty(source.shape, dtype=source.dtype, device="meta")
        try:
            for op in (*reversed(chain), *more):
                seen = op.call(seen, *op.args[1:], **op.kwargs)
        except RuntimeError:  # a view that these strides do not have
            return None
        return base, seen


SHAPED = ("aten.view.default", "aten._unsafe_view.default", "aten._reshape_alias.default")
"""Operators that view elements in another shape, if they lie so."""
