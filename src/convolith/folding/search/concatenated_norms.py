"""Norms of concatenated or split channels, moved to the convolutions before them, and a list of the norms that stay.

A norm right behind a convolution needs nothing here: `operators_as_convolutions` reads it as a 1x1 convolution, which
`candidates` composes with the one before.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from convolith.folding.graph_runner import has_effects
from convolith.folding.report import Skipped
from convolith.folding.search.candidates import Candidate, readers, target_of
from convolith.folding.search.lowering import aten, called_module, is_split, module_path, operator_of
from convolith.folding.search.operators_as_convolutions import CONVOLVE, IDLE, ConvNode, Values, read_node, shape_of

OTHER_NORMS = (
    nn.GroupNorm,
    nn.LayerNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LocalResponseNorm,
)


def norms_left(
    graph: Graph, taken: Sequence[Candidate], told: set[str], untouchable: set[Node], values: Values
) -> list[Skipped]:
    """Return a report entry for each norm that reads a convolution's output and is in no rewrite.

    Args:
        told: names of nodes that have an entry in the report already.
    """
    inside = {node for way in taken for node in way.nodes}
    entries = []
    for node in graph.nodes:
        layer = called_module(node) if node.op == "call_module" else None
        batch = target_of(node) is aten.batch_norm.default or _is_written_out(node, values)
        if (
            node in inside
            or node.name in told
            or not (batch or isinstance(layer, (*OTHER_NORMS, nn.modules.batchnorm._BatchNorm)))
        ):
            continue
        source = _behind(node)
        if source is None:
            continue
        reason = (
            _reason(node, source, untouchable)
            if batch
            else f"{type(layer).__name__} computes its statistics from its input"
        )
        entries.append(Skipped(node.name, module_path(node) or "the model", reason, "norm", node.meta.get("line")))
    return entries


def spread_norms(working: GraphModule, values: Values) -> None:
    """Move norms of concatenated convolutions into the branches, and norms of some channels before the split.

    A norm of concatenated channels equals a norm of each branch. A norm of some of a convolution's channels equals a
    norm of all of them, with factors of one for the others. A factor and a shift for each channel replace the norm, and
    are folded into the convolutions.
    """
    for node in list(working.graph.nodes):
        if target_of(node) is not aten.batch_norm.default:
            continue
        piece = read_node(node, values)
        if not isinstance(piece, ConvNode) or piece.conv.kernel_size != (1,) * len(piece.conv.kernel_size):
            continue
        factors, shifts = piece.conv.weight.flatten(), piece.conv.bias
        shifts = torch.zeros_like(factors) if shifts is None else shifts
        if not _over_branches(working, values, node, factors, shifts):
            _over_parts(working, values, node, factors, shifts)
    working.graph.eliminate_dead_code(has_effects)


def _over_branches(working: GraphModule, values: Values, norm: Node, factors: Tensor, shifts: Tensor) -> bool:
    """Move a norm of concatenated convolutions into each of them; return whether that was possible."""
    joined = _input(norm)
    branches = _branches(joined, norm) if joined is not None and target_of(joined) is aten.cat.default else None
    if joined is None or not branches or len(set(branches)) < len(branches):
        return False
    counts = [(shape_of(branch) or ())[1] for _, branch in branches]
    each = zip(branches, torch.split(factors, counts), torch.split(shifts, counts), strict=True)
    for (cat, branch), factor, shift in each:
        cat.replace_input_with(branch, _scaled(working, values, branch, factor, shift, cat, norm))
    norm.replace_all_uses_with(joined)
    working.graph.erase_node(norm)
    return True


def _branches(node: Node, reader: Node) -> list[tuple[Node, Node]] | None:
    """Return the convolutions that a node concatenates, each with the `cat` that reads it.

    The result is None for any other node, or if a convolution or concatenation has a second reader.
    """
    called, shape = operator_of(node), shape_of(node)
    if called is None or shape is None or readers(node) != [reader]:
        return None
    if called.target in CONVOLVE:
        return [(reader, node)]
    if called.target is not aten.cat.default or called.args[1] not in (1, 1 - len(shape)):
        return None
    pairs = [_branches(branch, node) for branch in called.args[0]] if isinstance(called.args[0], Sequence) else [None]
    return None if any(f is None for f in pairs) else [pair for f in pairs for pair in f or ()]


def _over_parts(working: GraphModule, values: Values, norm: Node, factors: Tensor, shifts: Tensor) -> bool:
    """Move a norm of one part of a convolution's channels before the split; return whether that was possible."""
    part = _input(norm)
    while part is not None and target_of(part) in IDLE and len(readers(part)) == 1:
        part = _input(part)
    split = part.args[0] if part is not None and part.args else None
    if part is None or not isinstance(split, Node) or not is_split(split) or len(readers(part)) != 1:
        return False
    called, source = operator_of(part), split.args[0]
    if called is None or not isinstance(source, Node) or len(source.users) != 1 or target_of(source) not in CONVOLVE:
        return False
    shape = shape_of(source)
    if shape is None:
        return False
    whole, moved = (make(shape[1], dtype=torch.float64, device="cpu") for make in (torch.ones, torch.zeros))
    whole[called.args[2] : called.args[3]], moved[called.args[2] : called.args[3]] = factors, shifts
    scaled = _scaled(working, values, source, whole, moved, split, norm)
    split.args = (scaled, *split.args[1:])
    before = _input(norm)
    if before is not None:
        norm.replace_all_uses_with(before)
        working.graph.erase_node(norm)
    return True


def _input(node: Node) -> Node | None:
    called = operator_of(node)
    first = called.args[0] if called is not None and called.args else None
    return first if isinstance(first, Node) else None


def _scaled(
    working: GraphModule, values: Values, x: Node, factors: Tensor, shifts: Tensor, before: Node, norm: Node
) -> Node:
    """Insert a factor and a shift for each channel after a node, with the norm's module and line."""
    shape = shape_of(x) or ()
    graph, scaled = working.graph, x
    for name, function, value in (("scale", operator.mul, factors), ("shift", operator.add, shifts)):
        target = f"{name}_of_{norm.name}_{x.name}"
        working.register_buffer(target, value.reshape(1, -1, *(1,) * (len(shape) - 2)).clone())
        with graph.inserting_before(before):
            constant = graph.get_attr(target)
            scaled = graph.call_function(function, (scaled, constant))
        constant.meta = {"constant": True, "module": norm.meta.get("module", "")}
        values[constant] = getattr(working, target)
        scaled.meta = {**x.meta, "memory": None, "module": module_path(norm), "line": norm.meta.get("line")}
    return scaled


def _behind(node: Node) -> Node | None:
    """Return the convolution, or concatenation of convolutions, whose output a node reads, or None."""
    called = operator_of(node)
    before = called.args[0] if called is not None else (node.args[0] if node.args else None)
    return _source(before)


def _source(node: object) -> Node | None:
    """Return the convolution or concatenation of convolutions that a node computes, skipping nodes that do nothing."""
    while isinstance(node, Node) and target_of(node) in IDLE:
        node = node.args[0]
    if not isinstance(node, Node):
        return None
    called = operator_of(node)
    if called is not None and called.target is aten.cat.default and isinstance(called.args[0], Sequence):
        return node if all(map(_source, called.args[0])) else None
    return node if target_of(node) in CONVOLVE else None


def _is_written_out(node: Node, values: Values) -> bool:
    """Return whether a node multiplies by a constant for each channel, as norms written as arithmetic do."""
    called = operator_of(node)
    if called is None or called.target is not aten.mul.Tensor:
        return False
    constants = [values[a] for a in called.args if isinstance(a, Node) and a in values]
    shape = shape_of(node)
    return shape is not None and len(constants) == 1 and constants[0].numel() == shape[1] > 1


def _reason(norm: Node, source: Node, untouchable: set[Node]) -> str:
    if norm in untouchable or source in untouchable:
        return "its tensor is written in place through a view, which is read elsewhere"
    if any(a in untouchable for a in source.all_input_nodes):
        return "its convolution reads a tensor that is written in place through a view"
    others = [user for user in readers(source) if user is not norm]
    if others:
        name = "convolution's output" if target_of(source) in CONVOLVE else "concatenation of convolutions"
        return f"the {name} is also read by {', '.join(other.name for other in others)}"
    if target_of(source) not in CONVOLVE:
        return "a convolution in its concatenation is also read elsewhere, or is not concatenated along the channels"
    if shape_of(norm) is None or shape_of(source) is None:
        return "the number of channels is not the same at all sizes that were tried"
    return "it also reads tensors other than its convolution's output and constants"
