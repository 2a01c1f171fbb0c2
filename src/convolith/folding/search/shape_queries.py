"""Size queries moved from a layer's output to its input, so that they do not prevent the layer from being folded."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from convolith.conv import Conv
from convolith.folding.search.candidates import JOINS
from convolith.folding.search.lowering import FUNCTIONS, aten, called_module, is_size, operator_of
from convolith.folding.search.operators_as_convolutions import Values, read_node, shape_of

ELEMENTWISE = (
    *(
        nn.ReLU,
        nn.ReLU6,
        nn.SiLU,
        nn.GELU,
        nn.ELU,
        nn.CELU,
        nn.SELU,
        nn.LeakyReLU,
        nn.PReLU,
        nn.Sigmoid,
        nn.Tanh,
        nn.Mish,
    ),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.LayerNorm, nn.GroupNorm, nn.Softmax),
    *(
        nn.InstanceNorm1d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
        nn.Dropout,
        nn.Dropout2d,
        nn.modules.batchnorm._BatchNorm,
    ),
)
"""Layers whose output has the shape of their input."""


def prepare_shapes(working: GraphModule, values: Values) -> None:
    """Rewrite size queries and flattened tokens, so that they do not prevent layers from being folded."""
    _reshape_by_sizes(working.graph, values)
    _flatten_before(working)
    _ask_sources(working, values)


def _ask_sources(working: GraphModule, values: Values) -> None:
    """Replace size queries of a convolution's output, or a tensor of its shape, by a size computed from its input."""
    graph = working.graph
    known: Sizes = {}
    for node in list(graph.nodes):
        if is_size(node) and node.target == "size" and len(node.args) == 2 and isinstance(node.args[1], int):
            with graph.inserting_before(node):
                size = _size(graph, node.args[0], node.args[1], values, known)
            if size is not None:
                _put_number(node, size)
                graph.erase_node(node)


Sizes = dict[tuple[Node, int], Any]
"""Node (or number) that gives a size, by tensor and axis; None if no earlier tensor determines it."""


def _size(graph: Graph, tensor: Any, axis: int, values: Values, known: Sizes) -> Any:
    """Return a node (or a number) that computes a size from an earlier tensor's, or None if none determines it."""
    if (tensor, axis) not in known:
        known[tensor, axis] = _new_size(graph, tensor, axis, values, known)
    return known[tensor, axis]


def _new_size(graph: Graph, tensor: Any, axis: int, values: Values, known: Sizes) -> Any:
    shape = shape_of(tensor)
    source = _as_large(tensor)
    if source is not None:
        return _size(graph, source, axis, values, known) or graph.call_method("size", (source, axis))
    piece = read_node(tensor, values)
    if shape is None or piece is None or isinstance(piece, str):
        return None
    if axis == 1:
        return shape[1]
    if shape_of(piece.source) is None or len(shape_of(piece.source) or ()) != len(shape):
        return None
    before = _size(graph, piece.source, axis, values, known) or graph.call_method("size", (piece.source, axis))
    return before if axis == 0 or len(shape) == 2 else _convolved(graph, before, piece.conv, axis - 2)


def _convolved(graph: Graph, size: Any, conv: Conv, axis: int) -> Any:
    """Return a node (or a number) that computes the output's size along an axis."""
    reach = (conv.kernel_size[axis] - 1) * conv.dilation[axis]
    stride, padding = conv.stride[axis], sum(conv.padding[axis])

    def plus(number: Any, more: int) -> Any:
        return number if not more else graph.call_function(operator.add, (number, more))

    if conv.transposed:
        grown = graph.call_function(operator.mul, (plus(size, -1), stride)) if stride > 1 else plus(size, -1)
        return plus(grown, reach + 1 - padding + conv.output_padding[axis])
    if stride == 1:
        return plus(size, padding - reach)
    return plus(graph.call_function(operator.floordiv, (plus(size, padding - reach - 1), stride)), 1)


def _as_large(node: Node) -> Node | None:
    """Return an input of a node that has the shape of its output at every size, or None."""
    if node.op == "call_module" and isinstance(called_module(node), ELEMENTWISE) and len(node.args) == 1:
        return node.args[0] if isinstance(node.args[0], Node) else None
    called = operator_of(node)
    if called is not None and called.target in JOINS and called.target is not aten.cat.default:
        same = [a for a in called.args if isinstance(a, Node) and shape_of(a) == shape_of(node) is not None]
        return same[0] if len(same) == 2 else None
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.op in ("call_function", "call_method") and name in UNARY and node.args and isinstance(node.args[0], Node):
        return node.args[0]
    return None


UNARY = {
    *(
        "relu",
        "relu6",
        "silu",
        "gelu",
        "elu",
        "celu",
        "selu",
        "leaky_relu",
        "sigmoid",
        "tanh",
        "mish",
        "hardswish",
        "hardsigmoid",
    ),
    *(
        "hardtanh",
        "softplus",
        "clamp",
        "abs",
        "sqrt",
        "exp",
        "softmax",
        "log_softmax",
        "contiguous",
        "clone",
        "detach",
        "neg",
    ),
}
"""Functions and methods whose result has the shape of their first argument."""


def _put_number(node: Node, number: Any) -> None:
    """Replace a node by another node or a number in all nodes that read it."""
    for user in list(node.users):
        args, kwargs = torch.fx.node.map_arg((user.args, user.kwargs), lambda n: number if n is node else n)
        user.args, user.kwargs = args, kwargs


def _reshape_by_sizes(graph: Graph, values: Values) -> None:
    """Replace `reshape_as` and `view_as` by calls that read the sizes of the second argument, not the tensor."""
    for node in list(graph.nodes):
        if node.op == "call_method" and node.target in ("reshape_as", "view_as") and node not in values:
            x, other = node.args
            shape = other.meta.get("shape") if isinstance(other, Node) else None
            if shape is None:
                continue
            with graph.inserting_before(node):
                sizes = [graph.call_method("size", (other, axis)) for axis in range(len(shape))]
                reshaped = graph.call_method(node.target.removesuffix("_as"), (x, *sizes))
            reshaped.meta = dict(node.meta)
            node.replace_all_uses_with(reshaped)
            graph.erase_node(node)


def _flatten_before(working: GraphModule) -> None:
    """Flatten tokens to (tokens, channels) before a linear layer whose output is flattened, instead of after it.

    A norm after the layer then reads (N, channels), as it does after a linear layer on vectors.
    """
    graph = working.graph
    for node in list(graph.nodes):
        called, shape = operator_of(node), node.meta.get("shape")
        if called is None or called.target is not aten.linear.default or shape is None or len(shape) != 3:
            continue
        users = [user for user in node.users if not is_size(user)]
        if len(users) != 1 or not _is_flattened(users[0]) or not isinstance(called.args[0], Node):
            continue
        flat = users[0]
        source: Node = called.args[0]
        rows = shape[0] * shape[1]
        for user in [user for user in node.users if is_size(user)]:
            if user.args[1] in (2, -1):
                _put_number(user, shape[2])
            else:
                user.replace_input_with(node, source)
        with graph.inserting_before(node):
            before = graph.call_method("flatten", (source, 0, 1))
        before.meta = {**source.meta, "example_shape": (rows, *source.meta["shape"][2:])}
        node.replace_input_with(source, before)
        node.meta["example_shape"] = (rows, shape[2])
        flat.replace_all_uses_with(node)
        graph.erase_node(flat)


def _is_flattened(node: Node) -> bool:
    """Return whether a node flattens the first two of three axes."""
    name = (
        str(node.target)
        if node.op == "call_method"
        else FUNCTIONS.get(node.target, getattr(node.target, "__name__", ""))
    )
    shape = node.meta.get("shape")
    return name == "flatten" and tuple(node.args[1:]) == (0, 1) and shape is not None and len(shape) == 2
