"""A model as a graph by `torch.fx`, in the operators that the rest of folding reads: where `torch.export` cannot."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node, Tracer
from torch.nn import functional

from convolith.errors import ConvolithError

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
        except Exception:  # whatever the module's own code raises under tracing goes on as it is
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
        if made is None and _writes(node, traced):
            raise ConvolithError(f"{node.target} writes in place, which torch.fx does not follow")
        if made is not None:
            node.replace_all_uses_with(made)
            made.meta = {**node.meta, **made.meta}
            graph.erase_node(node)
    traced.recompile()
    return traced


def _writes(node: Node, traced: GraphModule) -> bool:
    """Whether a node that is left as it is may write over its tensor."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        return any(getattr(part, "inplace", False) for part in module.modules())
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    named = node.op in ("call_method", "call_function") and name.endswith("_") and not name.endswith("__")
    return named or node.target in IN_PLACE or bool(node.kwargs.get("inplace"))


IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)


def _module(graph: Graph, node: Node, traced: GraphModule, kept: dict[str, str]) -> Node | None:
    name = str(node.target)
    module: Any = traced.get_submodule(name)
    x = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    lower = MODULES.get(type(module))
    if name in kept or lower is None or not isinstance(x, Node):
        return None

    def parameter(which: str) -> Node | None:
        return graph.get_attr(f"{name}.{which}") if getattr(module, which) is not None else None

    found = lower(module, parameter)
    if found is None:
        return None
    target, arguments = found
    return x if target is None else graph.call_function(target, (x, *arguments))


Lowered = tuple[Any, tuple[Any, ...]]
"""An operator and what follows the tensor in its arguments; no operator where the module does nothing."""
Parameter = Callable[[str], Node | None]


def _conv(module: Any, parameter: Parameter) -> Lowered | None:
    if module.padding_mode != "zeros":
        return None
    operators = getattr(aten, f"conv{module.weight.ndim - 2}d")
    overload = operators.padding if isinstance(module.padding, str) else operators.default
    options = (module.stride, module.padding, module.dilation, module.groups)
    return overload, (parameter("weight"), parameter("bias"), *options)


def _transposed(module: Any, parameter: Parameter) -> Lowered | None:
    axes = module.weight.ndim - 2
    overload = getattr(getattr(aten, f"conv_transpose{axes}d"), "default" if axes == 1 else "input")
    options = (module.stride, module.padding, module.output_padding, module.groups, module.dilation)
    return overload, (parameter("weight"), parameter("bias"), *options)


def _norm(module: Any, parameter: Parameter) -> Lowered | None:
    if module.running_mean is None:
        return None
    given = [parameter(name) for name in ("weight", "bias", "running_mean", "running_var")]
    return aten.batch_norm.default, (*given, False, 0.1, module.eps, False)


def _linear(module: Any, parameter: Parameter) -> Lowered | None:  # noqa: ARG001 - all rows are called alike
    return aten.linear.default, (parameter("weight"), parameter("bias"))


def _pooled(module: Any, parameter: Parameter) -> Lowered | None:  # noqa: ARG001 - all rows are called alike
    pairs = [[v, v] if isinstance(v, int) else list(v) for v in (module.kernel_size, module.stride, module.padding)]
    return aten.avg_pool2d.default, (*pairs, module.ceil_mode, module.count_include_pad, module.divisor_override)


def _nothing(module: Any, parameter: Parameter) -> Lowered | None:  # noqa: ARG001 - all rows are called alike
    return None, ()


def _rectified(module: Any, parameter: Parameter) -> Lowered | None:  # noqa: ARG001 - all rows are called alike
    return (aten.relu_.default if module.inplace else aten.relu.default), ()


MODULES: dict[type, Callable[[Any, Parameter], Lowered | None]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _norm),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), _nothing),
    nn.Linear: _linear,
    nn.ReLU: _rectified,
    nn.AvgPool2d: _pooled,
}
"""What torch's own modules come to; a subclass may do anything, and is traced into or left as it is."""


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
        settings: dict[str, Any] = dict(zip(names, (None, None, None, 1, 0, 1, 1), strict=True))
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
