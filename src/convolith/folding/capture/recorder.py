"""Recording of a model's call as a graph: torch's layers by name, functions as called, arithmetic with sizes.

A torch function mode intercepts every call, on the example's real tensors. Python code runs as usual; numbers that it
computes from sizes are recorded too. An in-place operator is recorded as its counterpart that does not write, wherever
the rest of the model can use the new result instead.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
import inspect
import operator
import sys
import weakref
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node
from torch.overrides import TorchFunctionMode

from convolith.folding.capture import torch_functions
from convolith.folding.capture.argument_trees import Path as Steps
from convolith.folding.capture.argument_trees import leaves_of, tensors_of, with_sizes, without_history
from convolith.folding.capture.shared_memory import Value, Write, look_alike, overlap, share_memory
from convolith.folding.capture.size_numbers import Size, SizeRatio, number, plain
from convolith.folding.example_inputs import Inputs, same_random_numbers
from convolith.folding.graph_copies import shallow_copy
from convolith.torch_private import version_of


class NotRecorded(Exception):  # noqa: N818 - an answer with its reason, which the caller handles
    """Reason why a call cannot be recorded, with its module and line."""

    def __init__(self, reason: str, module: str, line: str | None) -> None:
        super().__init__(reason)
        self.module, self.line = module, line


class WrittenElsewhere(Exception):  # noqa: N818 - as above
    """In-place write that must stay, since its result is read through a view that cannot be recomputed."""

    def __init__(self, write: int) -> None:
        super().__init__(f"write {write}")
        self.write = write


@dataclasses.dataclass
class SizeCondition:
    """Comparison of sizes in the model's code; the graph is valid where the comparison has the same result."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    result: Any
    module: str
    line: str | None


@dataclasses.dataclass
class Record:
    """Graph of one call, and the modules and tensors that it names.

    Attributes:
        graph: the graph; its nodes have in `meta`: module, line, constant (depends on no input), memory (number of the
            result's storage; views share it), writes (numbers of the storages that the node writes in place),
            was_in_place (recorded as the operator that does not write).
        modules: called modules, by target.
        tensors: parameters, buffers and constants, by target.
        guards: conditions on sizes under which the graph was recorded.
        suspects: descriptions of what a module's own code used that the graph cannot represent, by module.
    """

    graph: Graph
    modules: dict[str, nn.Module] = dataclasses.field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    guards: list[SizeCondition] = dataclasses.field(default_factory=list)
    suspects: dict[str, str] = dataclasses.field(default_factory=dict)


class Recorder(TorchFunctionMode):
    """Function mode that records one call of a structural copy of a model.

    Args:
        model: a structural copy; its modules' `forward` is replaced while `record` runs.
        kept: names of modules that are recorded as one call, with the reason.
        in_place: numbers of the writes that stay in place.
        guess: whether a plain number is taken for the size that was converted to the same number, if there is one.
    """

    def __init__(self, model: nn.Module, kept: Collection[str], in_place: Collection[int], *, guess: bool) -> None:
        super().__init__()
        self.model, self.kept, self.in_place, self.guess = model, kept, in_place, guess
        self.record_ = Record(Graph())
        self.graph = self.record_.graph
        self.failed: str | None = None
        self._values: dict[int, Value] = {}
        self._memories: dict[int, tuple[int, list[Value]]] = {}
        self._next_memory = 0
        self._writes = 0
        self._stack: list[str] = []
        self._paused = 0
        self._first: Node | None = None
        self._first_dtype: torch.dtype | None = None
        self._lost: dict[int, Any] = {}
        self._sizes: dict[tuple[Node, int], Node] = {}
        self._state = {id(t): name for name, t in [*model.named_buffers(), *model.named_parameters()]}
        self._writers: set[str] = set()
        self._drew = False

    # Interface.

    def record(self, inputs: Inputs) -> Record:
        """Call the model and return what was recorded.

        Raises:
            NotRecorded: if the code reads values, returns a result that a graph cannot return, and the like.
            WrittenElsewhere: if an in-place write has to be recorded as one.
        """
        arguments = [x.clone(memory_format=torch.preserve_format) for x in inputs]
        for x, name in zip(arguments, self._argument_names(len(inputs)), strict=True):
            node = self.graph.placeholder(name)
            node.meta["constant"] = False
            self._first = self._first or node
            self._first_dtype = self._first_dtype or x.dtype
            self._note(x, node)
        with _watched_forwards(self.model, self._called), torch.no_grad(), same_random_numbers(), self:
            result = self.model(*arguments)
            packed = self._packed(result)
        self.graph.output(packed)
        for name in self._writers:
            other = shallow_copy(self.record_.modules[name])
            other.inplace = False
            self.record_.modules[name] = other
        return self.record_

    def _argument_names(self, count: int) -> list[str]:
        """Return the names of forward's positional arguments, and `input_n` for further inputs."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        own = [p.name for p in inspect.signature(self.model.forward).parameters.values() if p.kind in kinds]
        return [*own, *(f"input_{n}" for n in range(len(own), count))][:count]

    # Sizes: the methods of `SizeRecorder`.

    def apply(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Node:
        """Add a call to the graph."""
        own = (a.node() if isinstance(a, Size | SizeRatio) else a for a in args)  # constants stay constants
        return self._call_function(function, tuple(own), {})

    def compared(self, function: Callable[..., Any], args: tuple[Any, ...], *, result: bool) -> None:
        """Record that the model's code evaluated a comparison of sizes."""
        if not self._paused:
            self.record_.guards.append(SizeCondition(function, args, result, self._module(), line_of_caller()))

    def converted(self, number: Any, value: float) -> None:
        """Record that a size was converted to a plain number."""
        if self._paused:
            return
        self._lost[int(value)] = number
        self.record_.guards.append(
            SizeCondition(operator.eq, (number, value), result=True, module=self._module(), line=line_of_caller())
        )

    # Calls of modules.

    def _called(self, name: str, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._paused:
            return forward(*args, **kwargs)
        self._stack.append(name)
        try:
            if not (name in self.kept or (name and is_leaf(module))):
                return forward(*args, **kwargs)
            return self._as_one(name, module, forward, args, kwargs)
        except Exception:  # from the model's own code or from the recorder
            self.failed = name if self.failed is None else self.failed  # the innermost module
            raise
        finally:
            self._stack.pop()

    def _as_one(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        own_args, own_kwargs = self._argument(args), self._argument(dict(kwargs))
        given = list(tensors_of((args, kwargs)))
        versions = [version_of(t) for t in given]
        with self._pause():
            result = forward(*without_history(args), **without_history(kwargs))
        written = [t for t, version in zip(given, versions, strict=True) if version_of(t) != version]
        if isinstance(module, nn.Identity):
            return result
        self.record_.modules[name] = module
        node = self._add("call_module", name, own_args, own_kwargs)
        if written:
            write = self._writes = self._writes + 1
            first = len(written) == 1 and written[0] is given[0] and not self._is_state(written[0])
            if first and hasattr(module, "inplace") and write not in self.in_place:
                self._writers.add(name)
                node.meta["was_in_place"] = True
                self._replaces(given[0], node)
            else:
                for tensor in written:
                    self._stays_written(tensor, node)
        result = with_sizes(result, lambda path, found: number(found, self, lambda: self._part(node, path)))
        return self._results(result, node, given)

    # Calls of functions and methods.

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._paused:
            return func(*args, **(kwargs or {}))
        return self._function(func, args, kwargs or {})

    def _function(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = torch_functions.name_of(func)
        if torch_functions.is_assignment(func):
            return self._assigned(func, name, args)
        if name in torch_functions.SIZES:
            return self._size(name, func, args, kwargs)
        if name in torch_functions.QUERIES:
            return func(*without_history(args), **without_history(kwargs))
        given = list(tensors_of((args, kwargs)))
        if name in torch_functions.VALUES:
            self._reads_values(name, given)
            with self._pause():
                return func(*without_history(args), **without_history(kwargs))
        own_args, own_kwargs = self._argument(args), self._argument(kwargs)
        versions = [version_of(t) for t in given]
        random = torch.get_rng_state()
        with self._pause():
            result = func(*without_history(args), **without_history(kwargs))
        self._drew = not torch.equal(random, torch.get_rng_state())
        written = [t for t, version in zip(given, versions, strict=True) if version_of(t) != version]
        if written:
            return self._wrote(func, name, own_args, own_kwargs, given, written, result)
        if not any(True for _ in tensors_of(result)):
            return result
        if isinstance(result, torch.Tensor) and name in torch_functions.CASTS and result is args[0]:
            return result
        node = self._node_of(func, name, own_args, own_kwargs)
        if isinstance(result, torch.Tensor) and result.dtype == self._first_dtype and result.is_floating_point():
            if not given and node.meta["constant"]:
                node = self._constant(result)
            elif not given or (name in torch_functions.CASTS and args[0].dtype != result.dtype):
                node = self._add("call_method", "type_as", (node if not given else own_args[0], self._first), {})
        return self._results(result, node, given)

    def _assigned(self, func: Any, name: str, args: Any) -> None:
        """Assign a constant to a parameter that was not read yet, as code does that computes weights in each call."""
        target, value = args
        constant = isinstance(value, torch.Tensor) and self._tensor_node(value).meta.get("constant")
        if name != "data" or id(target) not in self._state or self._find(target) is not None or not constant:
            raise NotRecorded(f"its code assigns to the attribute {name} of a tensor", self._module(), line_of_caller())
        with self._pause():
            func(target, value)

    def _node_of(self, func: Any, name: str, args: Any, kwargs: Any) -> Node:
        """Add a call in the form of torch.fx: as an operator, attribute, method or function."""
        if name in torch_functions.OPERATORS and not kwargs:
            function, reflected = torch_functions.OPERATORS[name]
            return self._call_function(function, args[::-1] if reflected else args, {})
        if torch_functions.is_attribute(func):
            return self._call_function(getattr, (args[0], name), {})
        if torch_functions.is_method(func):
            return self._add("call_method", name, args, kwargs)
        return self._call_function(func, args, kwargs)

    def _wrote(
        self,
        func: Any,
        name: str,
        args: Any,
        kwargs: Any,
        given: list[torch.Tensor],
        written: list[torch.Tensor],
        result: Any,
    ) -> Any:
        """Record an in-place operator, as its counterpart that does not write if both are known to be equivalent."""
        target = written[0]
        write = self._writes = self._writes + 1
        other = torch_functions.without_writing(func, name, args, kwargs)
        same_dtype = all(t.dtype == target.dtype or not t.ndim for t in given)
        free = same_dtype and len(written) == 1 and target is given[0] and not self._is_state(target)
        if other is None or not free or write in self.in_place:
            node = self._node_of(func, name, args, kwargs)
            for tensor in written:
                self._stays_written(tensor, node)
            if isinstance(result, torch.Tensor) and result is not target:
                self._results(result, node, given)
            return result
        node = self._node_of(*other)
        node.meta["was_in_place"] = True
        self._replaces(target, node)
        return result

    def _is_state(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor is a parameter, buffer or constant, or a view of one."""
        value = self._find(tensor)
        while value is not None and value.view_of is not None:
            value = value.view_of
        return value is not None and value.node.op == "get_attr"

    def _stays_written(self, tensor: torch.Tensor, node: Node) -> None:
        node.meta["constant"] = False
        node.meta["writes"] = (*node.meta.get("writes", ()), self._value(tensor).memory)

    def _replaces(self, tensor: torch.Tensor, node: Node) -> None:
        """Register a node as the new value of a tensor that was written to; its views are recomputed when read."""
        old = self._value(tensor)
        _, values = self._memories.pop(tensor.untyped_storage().data_ptr(), (0, []))
        fresh = old.successor = self._note(tensor, node)
        with self._pause():
            self._outdate(values, old, fresh, tensor, node)

    def _outdate(self, values: list[Value], old: Value, fresh: Value, tensor: torch.Tensor, node: Node) -> None:
        for value in values:
            other = value.tensor()
            if value is old or other is None or other is tensor:
                continue
            if look_alike(other, tensor):
                self._note(other, node, fresh)
            elif value.outdated is None and overlap(other, tensor):
                value.outdated = Write(self._writes, old, fresh)

    def _recomputed(self, value: Value) -> Node:
        """Return the node of a value; a view whose memory was written to is recomputed from the written tensor.

        Raises:
            WrittenElsewhere: if the value is not a view of the tensor that was written to.
        """
        write, parent = value.outdated, value.view_of
        if write is None:
            return value.node
        if parent is None or (parent is not write.before and parent.outdated is None):
            raise WrittenElsewhere(write.number)
        source = write.latest.node if parent is write.before else self._recomputed(parent)
        made = self._again(value.node, parent.node if parent is write.before else source, source)
        if made is value.node:
            raise WrittenElsewhere(write.number)
        value.node, value.outdated = made, None
        return made

    def _again(self, node: Node, old: Node, new: Node) -> Node:
        """Return a copy of a node with one input replaced, also through a list of results; or the node if unchanged."""
        if node is old:
            return new
        inputs = {
            n: self._again(n, old, new) if n.target in LISTS else (new if n is old else n) for n in node.all_input_nodes
        }
        if all(before is after for before, after in inputs.items()):
            return node
        copied = self.graph.node_copy(node, inputs.__getitem__)
        copied.meta = dict(node.meta)
        return copied

    # Tensors and their nodes.

    def _note(self, tensor: torch.Tensor, node: Node, view_of: Value | None = None) -> Value:
        """Register the node that computes a tensor."""
        place = tensor.untyped_storage().data_ptr()
        memory, values = self._memories.get(place, (0, []))
        values = [v for v in values if v.tensor() is not None]
        if not values or not place:
            self._next_memory += 1
            memory, values = self._next_memory, []
        value = Value(weakref.ref(tensor), node, memory, view_of)
        values.append(value)
        self._memories[place] = (memory, values)
        self._values[id(tensor)] = value
        node.meta |= {"memory": memory, "dtype": tensor.dtype}
        return value

    def _find(self, tensor: torch.Tensor) -> Value | None:
        value = self._values.get(id(tensor))
        return value if value is not None and value.tensor() is tensor else None

    def _value(self, tensor: torch.Tensor) -> Value:
        found = self._find(tensor)
        if found is not None:
            return found
        name = self._state.get(id(tensor))
        if name is None:
            self.record_.suspects.setdefault(self._module(), "it uses a tensor whose origin is not known")
            return self._note(tensor, self._constant(tensor))
        self.record_.tensors[name] = tensor
        node = self.graph.get_attr(name)
        node.meta |= {"constant": True, "module": self._module()}
        return self._note(tensor, node)

    def _constant(self, tensor: torch.Tensor) -> Node:
        """Add a tensor that does not depend on the inputs, as far as is known."""
        name = f"constant_{sum(key.startswith('constant_') for key in self.record_.tensors)}"
        self.record_.tensors[name] = tensor.detach()
        node = self.graph.get_attr(name)
        node.meta |= {"constant": True, "module": self._module()}
        return node

    def _tensor_node(self, tensor: torch.Tensor) -> Node:
        value = self._value(tensor)
        return self._recomputed(value)

    def _results(self, result: Any, node: Node, given: list[torch.Tensor]) -> Any:
        """Register the nodes of all tensors of a result."""
        for path, tensor in leaves_of(result):
            made = self._part(node, path)
            sources = [t for t in given if share_memory(t, tensor)]
            parent = self._find(sources[0]) if sources else None
            self._note(tensor, made, parent)
        return result

    def _part(self, node: Node, path: Steps) -> Node:
        """Return the node of a part of a result."""
        for function, step in path:
            node = self._call_function(function, (node, step), {})
        return node

    def _size(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        x = args[0]
        found = func(*without_history(args), **without_history(kwargs))
        value = self._value(x)
        if value.node.op == "get_attr":
            return found
        if isinstance(found, torch.Size):
            return torch.Size([self._axis(value.node, n, size) for n, size in enumerate(found)])
        if name == "numel" or name == "nelement":
            return number(found, self, lambda: self._add("call_method", "numel", (value.node,), {}))
        if name == "__len__":  # Python converts the return value to a plain number
            self.converted(self._axis(value.node, 0, found), found)
            return found
        return self._axis(value.node, plain((*args[1:], *kwargs.values())[0]) % x.ndim, found)

    def _axis(self, node: Node, axis: int, size: int) -> Any:
        def make() -> Node:
            if (node, axis) not in self._sizes:
                self._sizes[node, axis] = self._add("call_method", "size", (node, axis), {})
            return self._sizes[node, axis]

        return number(size, self, make)

    def _reads_values(self, name: str, given: list[torch.Tensor]) -> None:
        for tensor in given:
            if not self._tensor_node(tensor).meta.get("constant"):
                raise NotRecorded(
                    f"its code reads the values of a tensor ({name.strip('_')})", self._module(), line_of_caller()
                )

    # Nodes.

    def _argument(self, value: Any) -> Any:
        """Return an argument in which tensors and sizes are replaced by their nodes."""
        if isinstance(value, torch.Tensor):
            return self._tensor_node(value)
        if isinstance(value, Size | SizeRatio):
            return value.node()
        if isinstance(value, slice):
            return slice(*(self._argument(part) for part in (value.start, value.stop, value.step)))
        if isinstance(value, tuple | list):
            parts = [self._argument(part) for part in value]
            return parts if isinstance(value, list) else tuple(parts)
        if isinstance(value, Mapping):
            return {key: self._argument(part) for key, part in value.items()}
        if self.guess and type(value) is int and value in self._lost:
            return self._lost[value].node()
        known = builtins.str | int | float | complex | torch.dtype | torch.device | torch.memory_format | torch.layout
        if value is None or value is Ellipsis or isinstance(value, known):
            return value
        raise NotRecorded(
            f"a {type(value).__name__} is an argument of a torch function", self._module(), line_of_caller()
        )

    def _call_function(self, function: Any, args: Any, kwargs: Any) -> Node:
        return self._add("call_function", function, args, kwargs)

    def _add(self, kind: str, target: Any, args: Any, kwargs: Any) -> Node:
        node = self.graph.create_node(kind, target, tuple(args), dict(kwargs))
        node.meta["module"] = self._module()
        node.meta["line"] = line_of_caller()
        constant = all(n.meta["constant"] for n in node.all_input_nodes) and kind != "call_module"
        node.meta |= {"constant": constant and not self._drew, "draws": self._drew}
        return node

    def _module(self) -> str:
        return self._stack[-1] if self._stack else ""

    def _packed(self, result: Any) -> Any:
        """Return the model's result in the form of a graph's output."""
        if isinstance(result, torch.Tensor | Size | SizeRatio):
            return self._argument(result)
        if dataclasses.is_dataclass(result) and not isinstance(result, type):
            fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
            present = {name: self._packed(part) for name, part in fields.items() if part is not None}
            return self._call_function(type(result), (), present)
        if isinstance(result, tuple) and hasattr(result, "_fields"):
            return self._call_function(type(result), tuple(map(self._packed, result)), {})
        if type(result) in (tuple, list):
            return type(result)(map(self._packed, result))
        if isinstance(result, Mapping):
            packed = {key: self._packed(part) for key, part in result.items()}
            return packed if type(result) is dict else self._call_function(type(result), (packed,), {})
        if result is None or isinstance(result, bool | int | float | str):
            return result
        raise NotRecorded(f"the model returns a {type(result).__name__}", self._module(), None)

    def _pause(self) -> _Pause:
        return _Pause(self)


class _Pause:
    """Context in which calls are executed but not recorded."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __enter__(self) -> None:
        self.recorder._paused += 1

    def __exit__(self, *_: object) -> None:
        self.recorder._paused -= 1


class Opaque(nn.Module):
    """Wrapper that is recorded as one call, hooks included, and has the attributes of the wrapped module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped module."""
        return self.inner(*args, **kwargs)


def is_leaf(module: nn.Module) -> bool:
    """Return whether a module is recorded as one call: a layer of torch's own, or an opaque module."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    own = type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))
    return isinstance(module, Opaque) or (own and not isinstance(module, containers))


class _watched_forwards:  # noqa: N801 - a context, named for what holds inside
    """Context in which calls of a structural copy's modules go through a given function."""

    def __init__(self, model: nn.Module, called: Callable[..., Any]) -> None:
        self.model, self.called = model, called
        self.before: list[tuple[nn.Module, Any]] = []

    def __enter__(self) -> None:
        for name, module in list(self.model.named_modules()):
            if isinstance(module, torch.jit.ScriptModule):
                continue
            self.before.append((module, vars(module).get("forward")))
            vars(module)["forward"] = functools.partial(self.called, name, module, module.forward)

    def __exit__(self, *_: object) -> None:
        for module, own in self.before:
            if own is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = own


LISTS = {"chunk", "split", "unbind", "tensor_split", "split_with_sizes", torch.chunk, torch.split, torch.unbind}
LISTS |= {torch.tensor_split, torch.split_with_sizes, torch.functional.split}
"""Functions and methods that return several views at once."""
OWN = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def line_of_caller() -> str | None:
    """Return file and line of the innermost code outside of torch and of folding."""
    frame = sys._getframe(1)
    while frame is not None and (frame.f_code.co_filename.startswith((*OWN, "<"))):
        frame = frame.f_back  # type: ignore[assignment]  # checked above
    return None if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
