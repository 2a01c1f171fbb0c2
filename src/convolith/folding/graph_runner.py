"""A graph computed node by node: at once, where generating and compiling its code would take longer than running it."""

from __future__ import annotations

import operator
from typing import Any

from torch import nn
from torch.fx import Graph, Node
from torch.fx.node import map_arg


class GraphRunner:
    """Calls what each node of a graph calls.

    Args:
        graph: of layers and functions.
        root: has the layers and tensors that the graph names.
    """

    def __init__(self, graph: Graph, root: nn.Module) -> None:
        self.graph, self.root = graph, root

    def __call__(self, *inputs: Any) -> Any:
        """Return what the graph gives for its inputs."""
        given = iter(inputs)
        found: dict[Node, Any] = {}
        unread = {node: len(node.users) for node in self.graph.nodes}
        for node in self.graph.nodes:
            args, kwargs = map_arg((node.args, node.kwargs), found.__getitem__)
            if node.op == "output":
                return args[0]
            found[node] = next(given) if node.op == "placeholder" else self.called(node, args, kwargs)
            self.note(node, args, found[node])
            for read in node.all_input_nodes:  # what nothing reads any more leaves memory
                unread[read] -= 1
                if not unread[read]:
                    del found[read]
        raise AssertionError("a graph has an output")

    def note(self, node: Node, args: Any, result: Any) -> None:
        """Take note of what a node was given and gave."""

    def called(self, node: Node, args: Any, kwargs: Any) -> Any:
        """Return what one node gives."""
        target: Any = node.target
        if node.op == "get_attr":
            return operator.attrgetter(target)(self.root)
        if node.op == "call_module":
            return self.root.get_submodule(target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)
