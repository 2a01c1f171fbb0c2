"""In-place writes in a recorded graph: removed if they only set a border, not folded elsewhere, restored at the end.

A folded convolution reads its source later than the replaced nodes do: nothing may overwrite the source in between.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.fx import GraphModule, Node

from convolith.folding.search.lowering import aten, called_module, is_size, operator_of
from convolith.folding.search.operators_as_convolutions import CONVOLVE, Values, shape_of


class InPlaceWrites(NamedTuple):
    """Nodes whose tensors are written in place: folds must not read those in `read`, nor produce those in `made`."""

    read: set[Node]
    made: set[Node]


def settle(working: GraphModule, values: Values) -> InPlaceWrites:
    """Replace writes to the border of a padded tensor; return the nodes protected because of all other writes.

    A fold may produce a tensor that is overwritten later, if it allocates the memory and does not return a view.
    """
    for node in list(working.graph.nodes):
        called = operator_of(node)
        if called is not None and called.target is aten.pad.default:
            _set_border(working, node, values)
    written = {memory for node in working.graph.nodes for memory in node.meta.get("writes", ())}
    read = {node for node in working.graph.nodes if node.meta.get("memory") in written}
    first: dict[Any, Node] = {}
    for node in working.graph.nodes:
        first.setdefault(node.meta.get("memory"), node)
    return InPlaceWrites(read, {node for node in read if first[node.meta["memory"]] is not node})


def _set_border(working: GraphModule, padded: Node, values: Values) -> None:
    """Rewrite a padded tensor whose border is set to a constant for each channel as `pad(x - constant) + constant`."""
    called = operator_of(padded)
    writers = [user for user in padded.users if user.target is operator.setitem and user.args[0] is padded]
    others = [user for user in padded.users if user not in writers and not is_size(user)]
    shape = shape_of(padded)
    if not writers or called is None or shape is None or any(other < max(writers) for other in others):
        return
    _, amounts, mode, value = called.args
    constants = [_by_channel(writer.args[2], values, shape[1]) for writer in writers]
    first = constants[0]
    if mode != "constant" or value or any(isinstance(a, Node) for a in amounts) or first is None:
        return
    if any(c is None or not torch.equal(c, first) for c in constants):
        return
    if not _covers_border(amounts, [writer.args[1] for writer in writers], len(shape)):
        return
    graph, name = working.graph, f"border_{padded.name}"
    working.register_buffer(name, first.reshape(1, -1, *(1,) * (len(shape) - 2)).clone())
    source: Any = called.args[0]
    with graph.inserting_before(padded):
        border = graph.get_attr(name)
        inner = graph.call_function(operator.sub, (source, border))
        zeros = graph.call_function(torch.nn.functional.pad, (inner, amounts))
        shifted = graph.call_function(operator.add, (zeros, border))
    values[border] = getattr(working, name)
    for node in (inner, zeros, shifted):
        node.meta = {**padded.meta, "memory": None}
    inner.meta["example_shape"] = source.meta["example_shape"]
    border.meta = {"constant": True, "module": padded.meta.get("module", "")}
    for writer in reversed(writers):
        graph.erase_node(writer)
    padded.replace_all_uses_with(shifted)
    graph.erase_node(padded)


def _by_channel(value: Any, values: Values, channels: int) -> torch.Tensor | None:
    """Return a constant that is broadcast over a border as one number for each channel, or None."""
    if isinstance(value, int | float):
        return torch.full((channels,), float(value), dtype=torch.float64, device="cpu")
    constant = values.get(value) if isinstance(value, Node) else None
    if not isinstance(constant, torch.Tensor) or constant.numel() not in (1, channels):
        return None
    aligned = constant.ndim >= 3 and constant.shape[-3] == constant.numel()  # (C, 1, 1) or (1, C, 1, 1)
    return constant.flatten().expand(channels).clone() if aligned or constant.numel() == 1 else None


def _covers_border(amounts: Any, slices: list[Any], ndim: int) -> bool:
    """Return whether the slices cover exactly the border, tested on two small tensors."""
    for size in (5, 8):
        inside = torch.zeros((1, 1, *range(size, size + ndim - 2)), device="cpu")
        expected = torch.nn.functional.pad(inside, amounts, value=1.0)
        actual = torch.nn.functional.pad(inside, amounts)
        for index in slices:
            try:
                actual[index] = 1.0
            except (IndexError, TypeError):  # a slice that depends on sizes, or an axis that does not exist here
                return False
        if not torch.equal(actual, expected):
            return False
    return True


FRESH = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)
"""Layers whose gradient does not need their output, and whose output is no view, so that it may be overwritten."""
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.LeakyReLU, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.ELU, nn.Mish)


def write_in_place(model: GraphModule) -> None:
    """Run activations, and operators that ran in place originally, in place on a layer's output that only they read."""
    calls: dict[str, list[bool]] = {}
    for node in list(model.graph.nodes):
        first = node.args[0] if node.args else None
        free = isinstance(first, Node) and len(first.users) == 1 and _is_fresh(first)
        free = free and isinstance(first, Node) and shape_of(first) == shape_of(node) is not None
        if node.op == "call_module" and isinstance(called_module(node), ACTIVATIONS):
            calls.setdefault(str(node.target), []).append(free)
        elif free and node.meta.get("was_in_place"):
            _write_again(node)
    for target, each in calls.items():
        module: Any = model.get_submodule(target)
        module.inplace = all(each)
    model.recompile()


def _is_fresh(node: Node) -> bool:
    if node.op == "call_module":
        module = called_module(node)
        return isinstance(module, FRESH) or (isinstance(module, GraphModule) and "folded" in str(node.target))
    called = operator_of(node)
    return called is not None and (called.target in CONVOLVE or called.target is aten.batch_norm.default)


def _write_again(node: Node) -> None:
    names: dict[Any, str] = {operator.add: "add_", operator.sub: "sub_", operator.mul: "mul_", operator.truediv: "div_"}
    name = names.get(node.target) or (f"{node.target}_" if node.op == "call_method" else "")
    if name and hasattr(torch.Tensor, name) and isinstance(node.args[0], Node):
        node.op, node.target = "call_method", name
