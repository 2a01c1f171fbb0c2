"""Every norm right behind a convolution that a folded model still computes, with the reason."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.fx import Graph, Node

from convolith.folding.lowering import aten, called_module, module_path, operator_of
from convolith.folding.pieces import CONVOLVE, IDLE, shape_of
from convolith.folding.report import Skipped
from convolith.folding.search import Way, readers, target_of

OTHER_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LocalResponseNorm)


def norms_left(graph: Graph, taken: Sequence[Way], told: set[str], untouchable: set[Node]) -> list[Skipped]:
    """Return an entry for each norm whose input is a convolution's output and that no rewrite takes in.

    Args:
        told: names of nodes of which the report has an entry already.
    """
    inside = {node for way in taken for node in way.nodes}
    found = []
    for node in graph.nodes:
        layer = called_module(node) if node.op == "call_module" else None
        batch = target_of(node) is aten.batch_norm.default
        if node in inside or node.name in told or not (batch or isinstance(layer, (*OTHER_NORMS, nn.modules.batchnorm._BatchNorm))):
            continue
        source = _behind(node)
        if source is None:
            continue
        reason = _reason(node, source, untouchable) if batch else f"{type(layer).__name__} takes its statistics from its input"
        found.append(Skipped(node.name, module_path(node) or "the model", reason, "norm", node.meta.get("line")))
    return found


def _behind(node: Node) -> Node | None:
    """Return the convolution that a node follows, perhaps after what does nothing."""
    called = operator_of(node)
    before = called.args[0] if called is not None else (node.args[0] if node.args else None)
    while isinstance(before, Node) and target_of(before) in IDLE:
        before = before.args[0]
    return before if isinstance(before, Node) and target_of(before) in CONVOLVE else None


def _reason(norm: Node, source: Node, untouchable: set[Node]) -> str:
    if norm in untouchable or source in untouchable:
        return "its tensor is written in place through a view, which is read elsewhere"
    others = [user for user in readers(source) if user is not norm]
    if others:
        return f"the convolution's output is also read by {', '.join(other.name for other in others)}"
    if shape_of(norm) is None or shape_of(source) is None:
        return "the number of channels is not the same at all sizes that were tried"
    return "it is computed from other tensors than its convolution and constants"
