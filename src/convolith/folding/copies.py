"""Copies of a captured graph with parameters of their own, in another dtype, and back."""

from __future__ import annotations

import copy
import operator
from typing import Any, cast

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen
from torch.utils._pytree import tree_leaves, tree_map, tree_unflatten


def own_copy(captured: GraphModule, dtype: torch.dtype, like: GraphModule | None = None) -> GraphModule:
    """A captured graph with parameters of its own, in a dtype; those that `like` has too, in that one's."""
    root = nn.Module()
    theirs = {} if like is None else {name: t.dtype for name, t in [*like.named_parameters(), *like.named_buffers()]}
    for node in captured.graph.nodes:
        if node.op == "get_attr":
            value = operator.attrgetter(node.target)(captured)
            if isinstance(value, torch.Tensor):
                kind = theirs.get(node.target, dtype) if value.is_floating_point() else value.dtype
                own = value.detach().to(kind, copy=True)
                learns = value.requires_grad
                value = nn.Parameter(own, requires_grad=learns) if isinstance(value, nn.Parameter) else own
            _put(root, node.target, value)
        elif node.op == "call_module":
            _put(root, node.target, copy.deepcopy(captured.get_submodule(node.target)).to(dtype))
    graph = Graph()
    result = graph.graph_copy(captured.graph, {})
    codegen: CodeGen | None = captured.graph._codegen
    packing = getattr(codegen, "pytree_info", None)
    if packing is not None and packing.out_spec is not None:
        packed = tree_unflatten(list(cast("Any", result)), packing.out_spec)
        if _is_plain(packed):  # then fx packs it without the help of torch.export, and copies and pickles stay simple
            result, codegen = packed, None
    graph.output(result)
    _cast(graph, dtype, back=like is not None)
    if codegen is not None:
        graph.set_codegen(copy.copy(codegen))
    return GraphModule(root, graph).eval()


def _cast(graph: Graph, dtype: torch.dtype, *, back: bool) -> None:
    """Float dtypes that a graph names, such as those it casts to, in another; `back`: as they were."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        named = [a for a in tree_leaves((node.args, node.kwargs)) if isinstance(a, torch.dtype)]
        if not named:
            continue
        own = iter(node.meta.setdefault("own_dtypes", named))
        change = lambda a, own=own: _other(a, next(own), dtype, back=back) if isinstance(a, torch.dtype) else a  # noqa: E731
        node.args, node.kwargs = (tree_map(change, part) for part in (node.args, node.kwargs))


def _other(found: torch.dtype, own: torch.dtype, dtype: torch.dtype, *, back: bool) -> torch.dtype:
    if back:
        return own
    return dtype if found.is_floating_point and dtype == torch.float64 else found


def _is_plain(packed: Any) -> bool:
    """Whether a result consists of tuples, lists, dicts and single values only."""
    if type(packed) in (tuple, list):
        return all(map(_is_plain, packed))
    if type(packed) is dict:
        return all(map(_is_plain, packed.values()))
    return packed is None or isinstance(packed, Node | int | float | str)


def _put(root: nn.Module, target: str, value: Any) -> None:
    *path, name = target.split(".")
    for step in path:
        if not hasattr(root, step):
            root.add_module(step, nn.Module())
        root = getattr(root, step)
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        root.register_buffer(name, value)
    else:
        setattr(root, name, value)
