"""A model as a graph by `torch.fx`, in the operators that the rest of folding reads: where `torch.export` cannot."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node, Tracer
from torch.nn import functional

aten = torch.ops.aten


class _Tracer(Tracer):
    """Records torch's own modules and some others as they are, and where it failed."""

    def __init__(self, kept: dict[str, str]) -> None:
        super().__init__()
        self.kept = kept
        self.failed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """As fx has it, and whatever is to be kept."""
        return module_qualified_name in self.kept or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """As fx has it; the innermost module that cannot be traced is remembered."""
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def symbolic(model: nn.Module, kept: dict[str, str]) -> tuple[GraphModule, dict[str, str]]:
    """The graph of a model, and the modules that stand in it as they are, with the reason.

    A module that cannot be traced is kept, and what lies around it is traced.
    """
    kept = dict(kept)
    while True:
        tracer = _Tracer(kept)
        try:
            graph = tracer.trace(model)
        except Exception as problem:
            if tracer.failed is None or tracer.failed in kept:
                raise
            kept[tracer.failed] = f"it cannot be captured: {str(problem).strip().splitlines()[0]}"
        else:
            return _lowered(GraphModule(model, graph), kept), kept


def _lowered(traced: GraphModule, kept: dict[str, str]) -> GraphModule:
    """Modules and functions that folding knows as the operators that they come to."""
    graph = traced.graph
    for node in list(graph.nodes):
        with graph.inserting_before(node):
            made = _module(graph, node, traced, kept) if node.op == "call_module" else _function(graph, node)
        if made is not None:
            node.replace_all_uses_with(made)
            made.meta = {**node.meta, **made.meta}
            graph.erase_node(node)
    traced.recompile()
    return traced


def _module(graph: Graph, node: Node, traced: GraphModule, kept: dict[str, str]) -> Node | None:
    module, x = traced.get_submodule(node.target), node.args[0] if len(node.args) == 1 and not node.kwargs else None
    if node.target in kept or not isinstance(x, Node):
        return None
    attribute = lambda name: (  # noqa: E731 - a node for each parameter that is there
        graph.get_attr(f"{node.target}.{name}") if getattr(module, name, None) is not None else None
    )
    kind = type(module)
    if kind in (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout3d):
        return x
    if kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and module.padding_mode == "zeros":
        axes = module.weight.ndim - 2
        named = isinstance(module.padding, str)
        overload = getattr(getattr(aten, f"conv{axes}d"), "padding" if named else "default")
        options = (module.stride, module.padding, module.dilation, module.groups)
        return graph.call_function(overload, (x, attribute("weight"), attribute("bias"), *options))
    if kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
        axes = module.weight.ndim - 2
        overload = getattr(getattr(aten, f"conv_transpose{axes}d"), "default" if axes == 1 else "input")
        options = (module.stride, module.padding, module.output_padding, module.groups, module.dilation)
        return graph.call_function(overload, (x, attribute("weight"), attribute("bias"), *options))
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) and module.running_mean is not None:
        given = [attribute(name) for name in ("weight", "bias", "running_mean", "running_var")]
        return graph.call_function(aten.batch_norm.default, (x, *given, False, 0.1, module.eps, False))
    if kind is nn.Linear:
        return graph.call_function(aten.linear.default, (x, attribute("weight"), attribute("bias")))
    if kind is nn.AvgPool2d:
        names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
        size, stride, padding, *rest = (getattr(module, name) for name in names)
        pairs = [[v, v] if isinstance(v, int) else list(v) for v in (size, stride, padding)]
        return graph.call_function(aten.avg_pool2d.default, (x, *pairs, *rest))
    return None


def _function(graph: Graph, node: Node) -> Node | None:
    if node.op != "call_function":
        return None
    if node.target in BINARY and len(node.args) == 2 and not node.kwargs:
        tensors = any(isinstance(a, Node) and not _is_number(a) for a in node.args)
        return graph.call_function(BINARY[node.target], node.args) if tensors else None
    if node.target in (torch.cat, torch.concat) and not set(node.kwargs) - {"dim"}:
        joined, axis = (*node.args, node.kwargs.get("dim", 0))[:2]
        return graph.call_function(aten.cat.default, (joined, axis))
    named = {functional.conv1d: "conv1d", functional.conv2d: "conv2d", functional.conv3d: "conv3d"}
    if node.target in named:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        settings = dict(zip(names, (None, None, None, 1, 0, 1, 1), strict=True))
        settings |= dict(zip(names, node.args, strict=False)) | node.kwargs
        overload = "padding" if isinstance(settings["padding"], str) else "default"
        axes = int(named[node.target][4])
        for name in ("stride", "padding", "dilation"):
            settings[name] = [settings[name]] * axes if isinstance(settings[name], int) else settings[name]
        return graph.call_function(
            getattr(getattr(aten, named[node.target]), overload), tuple(settings[name] for name in names)
        )
    return None


BINARY = {
    operator.add: aten.add.Tensor,
    torch.add: aten.add.Tensor,
    operator.sub: aten.sub.Tensor,
    torch.sub: aten.sub.Tensor,
    operator.mul: aten.mul.Tensor,
    torch.mul: aten.mul.Tensor,
}


def _is_number(node: Node) -> bool:
    """Whether a node may give a number instead of a tensor: arithmetic of sizes is left as it is."""
    if node.target in (*BINARY, operator.floordiv, operator.mod):
        return all(_is_number(a) for a in node.all_input_nodes)
    return node.target in (operator.getitem, getattr) or (node.op == "call_method" and node.target in NUMBERS)


NUMBERS = ("size", "item", "dim", "numel")
