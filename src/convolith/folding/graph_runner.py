"""Interpreter of graphs: runs them node by node, where generating and compiling code would take longer than the run."""

from __future__ import annotations

import operator
from typing import Any

from torch import nn
from torch.fx import Graph, Node
from torch.fx.node import map_arg


def has_effects(node: Node) -> bool:
    """Return whether a node does more than compute its result: it writes to memory, or draws random numbers."""
    return bool(node.meta.get("writes") or node.meta.get("draws")) or node.is_impure()


class GraphRunner:
    """Interpreter that executes a graph node by node.

    Args:
        graph: graph of layers and functions.
        root: module with the layers and tensors that the graph names.
    """

    def __init__(self, graph: Graph, root: nn.Module) -> None:
        self.graph, self.root = graph, root

    def __call__(self, *inputs: Any) -> Any:
        """Return the graph's output for its inputs."""
        arguments = iter(inputs)
        results: dict[Node, Any] = {}
        unread = {node: len(node.users) for node in self.graph.nodes}
        for node in self.graph.nodes:
            args, kwargs = map_arg((node.args, node.kwargs), results.__getitem__)
            if node.op == "output":
                return args[0]
            results[node] = next(arguments) if node.op == "placeholder" else self.called(node, args, kwargs)
            self.note(node, args, results[node])
            for read in node.all_input_nodes:  # free results that no later node reads
                unread[read] -= 1
                if not unread[read]:
                    del results[read]
        raise AssertionError("a graph has an output")

    def note(self, node: Node, args: Any, result: Any) -> None:
        """Observe a node's arguments and result; subclasses override this."""

    def called(self, node: Node, args: Any, kwargs: Any) -> Any:
        """Return the result of one node."""
        target: Any = node.target
        if node.op == "get_attr":
            return operator.attrgetter(target)(self.root)
        if node.op == "call_module":
            return self.root.get_submodule(target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)
