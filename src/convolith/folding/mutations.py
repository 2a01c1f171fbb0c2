"""Operators that write in place: made functional where others read the tensor, undone where they only pad, or avoided.

A fold reads a tensor later than its parts did. That is right only if nothing was written over it in between.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from convolith.folding.pieces import Values, aten, shape_of

FUNCTIONAL = {
    aten.add_.Tensor: aten.add.Tensor,
    aten.sub_.Tensor: aten.sub.Tensor,
    aten.mul_.Tensor: aten.mul.Tensor,
    aten.div_.Tensor: aten.div.Tensor,
    aten.relu_.default: aten.relu.default,
    aten.hardtanh_.default: aten.hardtanh.default,
    aten.silu_.default: aten.silu.default,
    aten.leaky_relu_.default: aten.leaky_relu.default,
}
"""What computes the same as an operator that writes in place, without writing."""
SHARES = {
    aten.dropout.default,
    aten.contiguous.default,
    aten.flatten.using_ints,
    aten.reshape.default,
    aten.to.dtype,
    operator.getitem,
}
"""Operators that may return their argument's own memory without saying so."""


def written_buffers(graph: Graph) -> set[str]:
    """The buffers that a graph writes: they are no constants."""
    memory = _memory(graph)
    owners = [memory[node.args[0]] for node in graph.nodes if _writes(node) and isinstance(node.args[0], Node)]
    return {str(owner.target) for owner in owners if owner.op == "get_attr"}


def settle(captured: GraphModule, values: Values) -> set[Node]:
    """Undo in-place writing where that is known to be the same, and the nodes that no fold may touch for the rest."""
    graph = captured.graph
    for node in list(graph.nodes):
        if node.target is aten.pad.default:
            _unassign(captured, node, values)
    memory = _memory(graph)
    untouchable: set[Node] = set()
    for node in list(graph.nodes):
        if not _writes(node):
            continue
        written: Any = node.args[0]
        sharing = [n for n, owner in memory.items() if owner is memory[written] and n is not node]
        if sharing == [written] and written.op == "call_function":
            if len(written.users) > 1 and node.target in FUNCTIONAL:
                node.target = FUNCTIONAL[node.target]
                written.replace_all_uses_with(node, delete_user_cb=lambda user, made=node: _comes_after(user, made))
                continue
            if len(written.users) == 1:
                continue
        untouchable.update(n for n, owner in memory.items() if owner is memory[written])
    return untouchable


def write_in_place(model: GraphModule) -> None:
    """Let activations of a folded graph overwrite a convolution's output that nothing else reads.

    A convolution keeps its output for no gradient, so that training stays right.
    """
    back = {plain: own for own, plain in FUNCTIONAL.items() if plain in OVERWRITE}
    for node in model.graph.nodes:
        first = node.args[0] if node.args else None
        if node.target not in back or not isinstance(first, Node) or len(first.users) > 1 or node.kwargs:
            continue
        if shape_of(first) == shape_of(node) and _is_convolution(first):
            node.target = back[node.target]


OVERWRITE = (aten.relu.default, aten.hardtanh.default)


def _is_convolution(node: Node) -> bool:
    if node.op == "call_module":
        return str(node.target).startswith("folded_")
    return str(node.target).startswith(("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.conv_transpose"))


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(node.op == "call_function" and schema is not None and schema.is_mutable and node.all_input_nodes)


def _memory(graph: Graph) -> dict[Node, Node]:
    """Whose memory each node's tensor may be."""
    owner: dict[Node, Node] = {}
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        shares = node.target in SHARES or (schema is not None and any(r.alias_info for r in schema.returns))
        first = node.args[0] if node.args else None
        owner[node] = node
        if node.op == "call_function" and shares and isinstance(first, Node):
            owner[node] = owner[first]
    return owner


def _comes_after(user: Node, node: Node) -> bool:
    return user is not node and node < user


def _unassign(captured: GraphModule, padded: Node, values: Values) -> None:
    """A padded tensor whose border is then set to a constant of each channel: the same less it, padded, plus it."""
    chains = _assignments(padded)
    shape = shape_of(padded)
    if not chains or shape is None or padded.kwargs or len(padded.args) != 2:
        return
    constants = [_base(copied.args[1], values) for _, copied in chains]
    first = constants[0]
    if first is None or any(c is None or not torch.equal(c.flatten(), first.flatten()) for c in constants):
        return
    if first.numel() != shape[1] or not _covers_border(padded, chains, len(shape)):
        return
    graph = captured.graph
    name = f"border_{padded.name}"
    captured.register_buffer(name, first.reshape(1, -1, *(1,) * (len(shape) - 2)).clone())
    source: Any = padded.args[0]
    with graph.inserting_before(padded):
        border = graph.get_attr(name)
        inner = graph.call_function(aten.sub.Tensor, (source, border))
        zeros = graph.call_function(aten.pad.default, (inner, padded.args[1]))
        made = graph.call_function(aten.add.Tensor, (zeros, border))
    values[border] = getattr(captured, name)
    inner.meta = {**padded.meta, "example_shape": source.meta["example_shape"]}
    zeros.meta, made.meta = dict(padded.meta), dict(padded.meta)
    for slices, copied in chains:
        graph.erase_node(copied)
        for view in reversed(slices):
            if not view.users:
                graph.erase_node(view)
    padded.replace_all_uses_with(made)
    graph.erase_node(padded)


def _assignments(padded: Node) -> list[tuple[list[Node], Node]]:
    """Rows of slices of a tensor and the copies that end them; none if anything else reads it before the last one."""
    found, others = [], []
    waiting: list[tuple[list[Node], Node]] = [([], user) for user in padded.users]
    while waiting:
        slices, node = waiting.pop()
        if node.target is aten.slice.Tensor and all(not isinstance(a, Node) for a in node.args[1:]):
            waiting += [([*slices, node], user) for user in node.users]
        elif node.target is aten.copy_.default and slices and node.args[0] is slices[-1] and not node.users:
            found.append((slices, node))
        else:
            others.append(node)
    last = max((copied for _, copied in found), default=padded)
    return found if all(last < other for other in others) else []


def _base(node: Any, values: Values) -> torch.Tensor | None:
    """The constant that a node gives, through the views that only spread it."""
    while isinstance(node, Node) and node not in values and node.target in (aten.expand.default, aten.view.default):
        node = node.args[0]
    found = values.get(node) if isinstance(node, Node) else None
    return found if isinstance(found, torch.Tensor) else None


def _covers_border(padded: Node, chains: list[tuple[list[Node], Node]], ndim: int) -> bool:
    """Whether the slices are all of the border and nothing but it, tried on two small tensors."""
    amounts: Any = padded.args[1]
    for size in (5, 8):
        inside = torch.zeros((1, 1, *range(size, size + ndim - 2)))
        wanted = torch.nn.functional.pad(inside, amounts, value=1.0)
        tried = torch.nn.functional.pad(inside, amounts)
        for slices, _ in chains:
            part = tried
            for view in slices:
                part = aten.slice.Tensor(part, *view.args[1:])
            part.fill_(1.0)
        if not torch.equal(tried, wanted):
            return False
    return True
