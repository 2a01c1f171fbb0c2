"""A graph of torch operators as JSON and a list of tensors: no pickled code, and read without torch's exporter.

`torch.export` records a model as such a graph, for all sizes. Its own files hold an expression for every size of every
intermediate result, which takes longer to read than all weights; operators compute these sizes anyway.

A file may come from anyone, so that a graph calls only what computes: operators, and arithmetic on sizes. Torch makes
Python code of a graph, from its names too; these are checked.
"""

from __future__ import annotations

import importlib
import keyword
import re
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx

from convolith.errors import ConvolithError
from convolith.torch_private import exported_trees, imports, is_overload, opens_files, take_trees

FUNCTIONS = {
    "_operator": r"abs|add|and_|eq|floordiv|ge|getitem|gt|index|invert|le|lshift|lt|mod|mul|ne|neg|not_|or_|pos|pow|"
    r"rshift|sub|truediv|truth|xor",
    "math": r"[a-z]\w*",
    "torch": r"sym_\w+",
}
"""Modules of Python, and the names of their functions that a graph may call, on sizes."""
OPERATIONS = ("placeholder", "get_attr", "call_function", "output")
"""Kinds of nodes that a graph may have."""
NAMED: dict[type, Callable[[str], Any]] = {
    torch.dtype: lambda name: getattr(torch, name),
    torch.memory_format: lambda name: getattr(torch, name),
    torch.layout: lambda name: getattr(torch, name),
    torch.device: torch.device,
}
"""Types of arguments that are written as their names, and what makes them of a name."""


class NotWritten(Exception):  # noqa: N818 - says what a graph is, not that something failed
    """A graph holds something that these files cannot."""


def written(graph_module: fx.GraphModule) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Return a graph as JSON, and its tensors.

    Raises:
        NotWritten: a part of the graph is neither an operator nor a tensor.
    """
    tensors: dict[int, torch.Tensor] = {}
    constants: dict[str, list[Any]] = {}
    parameters, buffers = (
        dict(graph_module.named_parameters(remove_duplicate=False)),
        dict(graph_module.named_buffers(remove_duplicate=False)),
    )
    kept = graph_module.state_dict()
    nodes = []
    for node in graph_module.graph.nodes:
        target = str(node.target) if node.op != "call_function" else _function_written(node.target)
        unsafe = _unsafe(node.op, node.name, target, node.kwargs)
        if unsafe:
            raise NotWritten(unsafe)
        nodes.append([node.op, node.name, target, _argument_written(list(node.args)), _argument_written(node.kwargs)])
        if node.op == "get_attr" and target not in {**parameters, **buffers}:
            constants[target] = ["constant", attribute(graph_module, target)]
    places = {name: ["parameter", tensor] for name, tensor in parameters.items()}
    places |= {name: ["buffer" if name in kept else "constant", tensor] for name, tensor in buffers.items()}
    places |= constants
    for _, tensor in places.values():
        if not isinstance(tensor, torch.Tensor):
            raise NotWritten(type(tensor).__name__)
        tensors[id(tensor)] = tensor
    numbers = {number: place for place, number in enumerate(tensors)}
    try:
        trees = exported_trees(graph_module)
    except (AttributeError, RuntimeError) as problem:
        raise NotWritten(str(problem)) from problem
    if any(map(imports, trees)):
        raise NotWritten("a container that names a module")
    graph = {
        "nodes": nodes,
        "tensors": {name: [kind, numbers[id(tensor)]] for name, (kind, tensor) in places.items()},
        "trees": trees,
    }
    return graph, [tensor.detach() for tensor in tensors.values()]


def read(graph: dict[str, Any], tensors: list[torch.Tensor]) -> fx.GraphModule:
    """Return the module of a graph that `written` gave.

    Raises:
        ConvolithError: an operator that this version of torch does not have, or something that no saved graph has.
    """
    root = torch.nn.Module()
    parameters = [torch.nn.Parameter(tensor, requires_grad=False) for tensor in tensors]
    for name, (kind, number) in graph["tensors"].items():
        *outer, last = name.split(".")
        owner = root
        for part in outer:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        if kind == "parameter":
            owner.register_parameter(last, parameters[number])
        else:
            owner.register_buffer(last, tensors[number], persistent=kind == "buffer")
    made, nodes = fx.Graph(), dict[str, fx.Node]()
    for op, name, target, args, keywords in graph["nodes"]:
        unsafe = _unsafe(op, name, target, keywords["dict"])
        if unsafe or (op == "get_attr" and target not in graph["tensors"]):
            raise ConvolithError(f"the model has {unsafe or target!r}, which no saved model has")
        function = _function_read(target) if op == "call_function" else target
        given = _argument_read(args, nodes), _argument_read(keywords, nodes)
        nodes[name] = made.create_node(op, function, tuple(given[0]), given[1], name)
    if any(map(imports, graph["trees"])):
        raise ConvolithError("the model has a container that names a module, which no saved model has")
    take_trees(made, [name for op, name, *_ in graph["nodes"] if op == "placeholder"], tuple(graph["trees"]))
    return fx.GraphModule(root, made)


def attribute(module: torch.nn.Module, name: str) -> Any:
    """Return an attribute of a module or of a module within it, by its name with dots."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _unsafe(op: str, name: str, target: str, keywords: Collection[str]) -> str:
    """Return the part of a node that torch would take for Python code, or that is no kind of node; "" for none."""
    if op not in OPERATIONS:
        return repr(op)
    names = [name, *keywords, *([target] if op == "placeholder" else [])]
    if op == "get_attr" and not re.fullmatch(r"[\w.-]+", target):
        names.append(target)
    return next((repr(one) for one in names if not one.isidentifier() or keyword.iskeyword(one)), "")


def _function_written(function: Any) -> str:
    if is_overload(function):
        if opens_files(function):
            raise NotWritten(str(function))
        return str(function.name())
    module, name = getattr(function, "__module__", ""), getattr(function, "__name__", "")
    if not re.fullmatch(FUNCTIONS.get(module, "(?!)"), name):
        raise NotWritten(f"{module}.{name}")
    return f"{module}:{name}"


def _function_read(target: str) -> Any:
    try:
        if "::" in target:
            namespace, name = target.split("::")
            name, _, overload = name.partition(".")
            found = getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")
            if is_overload(found) and not opens_files(found):
                return found
        else:
            module, _, name = target.partition(":")
            if re.fullmatch(FUNCTIONS.get(module, "(?!)"), name):
                return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ConvolithError(f"the model calls {target}, which torch {torch.__version__} does not have") from None
    raise ConvolithError(f"the model calls {target}, which no saved model calls")


def _argument_written(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {"tuple": [_argument_written(one) for one in value]}
    if isinstance(value, list):
        return [_argument_written(one) for one in value]
    if isinstance(value, dict):
        return {"dict": {name: _argument_written(one) for name, one in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_argument_written(one) for one in (value.start, value.stop, value.step)]}
    if type(value) in NAMED:
        return {type(value).__name__: str(value).removeprefix("torch.")}
    raise NotWritten(type(value).__name__)


def _argument_read(value: Any, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_argument_read(one, nodes) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "tuple":
        return tuple(_argument_read(one, nodes) for one in content)
    if kind == "dict":
        return {name: _argument_read(one, nodes) for name, one in content.items()}
    if kind == "slice":
        return slice(*(_argument_read(one, nodes) for one in content))
    type_, make = next(pair for pair in NAMED.items() if pair[0].__name__ == kind)
    found = make(content)
    if type(found) is not type_:
        raise ConvolithError(f"the model has {content!r} as a {kind}, which no saved model has")
    return found
