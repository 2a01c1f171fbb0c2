"""Conversion of functional convolutions, norms and linear layers of a graph to modules, named after their origin."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from convolith.folding.graph_copies import put
from convolith.folding.graph_runner import has_effects
from convolith.folding.rewrite.modules import PLAIN, TRANSPOSED, unfilled
from convolith.folding.search.lowering import Operator, aten, module_path, operator_of
from convolith.folding.search.operators_as_convolutions import CONVOLVE, Values

NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Classes of batch norms by the number of spatial axes."""


def name_layers(working: GraphModule, values: Values) -> None:
    """Replace function calls with constant weights by layers, in place."""
    graph = working.graph
    made_for: dict[Node, str] = {}
    for node in list(graph.nodes):
        called = operator_of(node) if node.op == "call_function" else None
        if called is None or called.target not in (*CONVOLVE, aten.batch_norm.default):
            continue
        x, *others = called.args
        tensors = [a for a in others if isinstance(a, Node)]
        if not isinstance(x, Node) or x in values or any(a not in values for a in tensors):
            continue
        made = _layer(called, [_parameter(working, a, values) if isinstance(a, Node) else a for a in others], node)
        if made is None:
            continue
        target = f"{NEW}{len(made_for)}"
        put(working, target, made)
        with graph.inserting_before(node):
            call = graph.call_module(target, (x,))
        weight = tensors[0] if tensors else x
        call.meta = {**node.meta, "new": weight.meta.get("dtype")}
        made_for[call] = _name(node, tensors)
        node.replace_all_uses_with(call)
        graph.erase_node(node)
    graph.eliminate_dead_code(has_effects)
    used = {str(n.target) for n in graph.nodes if n.op in ("call_module", "get_attr") and n not in made_for}
    for call, base in made_for.items():
        name, number = base, 1
        while any(f"{other}.".startswith(f"{name}.") for other in used):
            number += 1
            name = f"{base}_{number}"
        used.add(name)
        layer = working.get_submodule(str(call.target))
        call.target = name
        put(working, name, layer)


NEW = "named_by_folding.layer_"
"""Temporary name of new layers, until the functions and weights whose names they take are removed."""


def _name(node: Node, tensors: list[Node]) -> str:
    """Return the name of the module that owns the weight, or of the one whose code makes the call."""
    targets = [str(t.target) for t in tensors if t.op == "get_attr"]
    owners = {target.rpartition(".")[0] for target in targets}
    if (
        len(targets) == len(tensors)
        and len(owners) == 1
        and targets[0].rpartition(".")[2] in ("weight", "running_mean")
    ):
        return owners.pop() or node.name
    return module_path(node) or node.name


def _parameter(working: GraphModule, node: Node, values: Values) -> torch.Tensor:
    """Return a parameter or buffer itself, or the value computed from several, as a parameter."""
    if node.op == "get_attr":
        found: torch.Tensor = operator.attrgetter(str(node.target))(working)
        return found
    waiting, learns = [node], False
    while waiting:
        one = waiting.pop()
        if one.op == "get_attr":
            learns = learns or operator.attrgetter(str(one.target))(working).requires_grad
        waiting += one.all_input_nodes
    return nn.Parameter(values[node].detach().clone(), requires_grad=learns)


def _layer(called: Operator, args: list[Any], node: Node) -> nn.Module | None:
    if called.target is aten.batch_norm.default:
        return _norm(args, node)
    weight, bias, *options = args
    if not isinstance(weight, torch.Tensor):
        return None
    if called.target is aten.linear.default:
        made = unfilled(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    else:
        made = _conv(called, weight, bias, options)
    made.weight = _as_parameter(weight)
    if bias is not None:
        made.bias = _as_parameter(bias)
    layer: nn.Module = made.eval()
    return layer


def _conv(called: Operator, weight: torch.Tensor, bias: Any, options: list[Any]) -> Any:
    axes = weight.ndim - 2
    if "transpose" in str(called.target):
        stride, padding, output_padding, groups, dilation = options + [1, 0, 0, 1, 1][len(options) :]
        sizes = (weight.shape[0], weight.shape[1] * groups, tuple(weight.shape[2:]))
        more = {"output_padding": _each(output_padding, axes)}
        kind: Any = TRANSPOSED[axes - 1]
    else:
        stride, padding, dilation, groups, mode = options + [1, 0, 1, 1, "zeros"][len(options) :]
        sizes = (weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]))
        more = {"padding_mode": mode}
        kind = PLAIN[axes - 1]
    settings = {"stride": _each(stride, axes), "padding": _each(padding, axes), "dilation": _each(dilation, axes)}
    return unfilled(kind, *sizes, bias=bias is not None, groups=groups, **settings, **more)


def _norm(args: list[Any], node: Node) -> nn.Module | None:
    weight, bias, mean, variance, training, momentum, eps, _ = args
    shape = node.meta.get("example_shape")
    if training or mean is None or variance is None or shape is None or (weight is None) is not (bias is None):
        return None
    kind: Any = NORMS[max(len(shape) - 2, 0)]
    norm = unfilled(kind, len(mean), eps=eps, momentum=momentum, affine=weight is not None)
    norm.running_mean, norm.running_var = mean.detach(), variance.detach()
    if weight is not None:
        norm.weight, norm.bias = _as_parameter(weight), _as_parameter(bias)
    layer: nn.Module = norm.eval()
    return layer


def _as_parameter(tensor: torch.Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.detach(), requires_grad=False)


def _each(value: Any, axes: int) -> Any:
    return value if isinstance(value, str) else (value,) * axes if isinstance(value, int) else tuple(value)
