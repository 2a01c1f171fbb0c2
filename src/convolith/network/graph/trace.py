"""Trace of a model's call at one size: torch's operators in order, with the shapes of all tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.immutable_collections import immutable_dict, immutable_list

from convolith.errors import ConvolithError
from convolith.folding.example_inputs import unchanged
from convolith.folding.graph_runner import GraphRunner
from convolith.network.graph import own_code
from convolith.network.graph.written_views import BY_SHAPE, View, short_name
from convolith.torch_private import (
    TorchDispatchMode,
    depends_on_values,
    draws,
    flattened,
    is_alias,
    is_overload,
    leaves_of,
    mapped_tree,
    not_writing,
    version_of,
    view_of,
    writes,
)


class NotTraced(ConvolithError):  # noqa: N818 - an answer with its reason, which the caller reports
    """Reason why a model's call cannot be a list of operators."""


class Ref(NamedTuple):
    """Tensor of a trace, by its number."""

    number: int


@dataclass
class Value:
    """Tensor of a trace."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    planes: bool
    """Whether every image, along the first axis, is contiguous."""
    strides: tuple[int, ...] = ()
    offset: int = 0
    """First element in its memory."""
    memory: int = 0
    """Identity of its memory, which views share."""
    constant: torch.Tensor | None = None
    """The tensor itself, if it depends on no input."""
    contiguous: bool = False
    """Whether torch's own tensor is contiguous, which code of torch may rely on."""

    @classmethod
    def of(cls, tensor: torch.Tensor, *, constant: bool) -> Value:
        """Describe a tensor."""
        return cls(
            tuple(tensor.shape),
            tensor.dtype,
            has_planes(tensor),
            tensor.stride(),
            int(tensor.storage_offset()),
            _memory(tensor),
            tensor.detach() if constant else None,
            tensor.is_contiguous(),
        )


@dataclass
class Op:
    """One call of an operator, or of a module that is called as a whole.

    Attributes:
        name: name of the operator, such as "aten.relu.default", or of the module.
        call: the operator or the module.
        args, kwargs: its arguments; `Ref` for tensors.
        result: its result; `Ref` for tensors.
        where: name of the node of the folded graph that called it.
    """

    name: str
    call: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    where: str

    @property
    def inputs(self) -> list[int]:
        """Numbers of the tensors that it reads."""
        return [leaf.number for leaf in leaves_with_refs((self.args, self.kwargs))]

    @property
    def outputs(self) -> list[int]:
        """Numbers of the tensors that it makes."""
        return [leaf.number for leaf in leaves_with_refs(self.result)]


@dataclass
class Trace:
    """Operators of one call, its tensors, and the numbers of its inputs.

    Attributes:
        result: leaves of the call's result; `Ref` for tensors.
        structure: structure of the containers around them.
    """

    ops: list[Op] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    result: list[Any] = field(default_factory=list)
    structure: Any = None
    kept: dict[str, str] = field(default_factory=dict)
    """Modules that are called as a whole, by the node that calls them, and why."""
    has_code: bool = False
    """Whether code of the model's own was traced, which may do what no operator shows."""


def leaves_with_refs(tree: Any) -> list[Ref]:
    """Return the tensors that nested arguments name, in order."""
    found: list[Ref] = []
    if isinstance(tree, Ref):
        return [tree]
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, list | tuple):
        for part in tree:
            found += leaves_with_refs(part)
    return found


def replace_refs(tree: Any, tensor: Any) -> Any:
    """Return nested arguments in which every `Ref` is replaced by `tensor(number)`."""
    if isinstance(tree, Ref):
        return tensor(tree.number)
    if isinstance(tree, dict):
        return {key: replace_refs(part, tensor) for key, part in tree.items()}
    if isinstance(tree, list):
        return [replace_refs(part, tensor) for part in tree]
    if isinstance(tree, tuple):
        parts = [replace_refs(part, tensor) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree


def trace(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[Trace, Any]:
    """Call a folded model, and return the trace of the call and its result.

    Code that reads no values, only shapes, is traced; a module of a graph with other code is called as a whole.

    Raises:
        NotTraced: if memory is read that was written to in a way that no operator shows, the shape of a result depends
            on values, or a model that is no graph reads values or changes itself.
    """
    recorder = _Recorder(model)
    with torch.no_grad():
        inputs = tuple(x.detach().contiguous().detach() for x in inputs)  # of one tensor that is given twice, two
        for x in inputs:
            recorder.trace.inputs.append(recorder.number(x, constant=False))
        if isinstance(model, GraphModule):
            flat = model.graph.process_inputs(*inputs)  # an exported graph has its own form of arguments and results
            result = model.graph.process_outputs(_mutable(_Runner(model, recorder)(*flat)))
        else:
            recorder.where = "model"
            result = recorder.inside(model, inputs, {})
    leaves, recorder.trace.structure = flattened(result)
    for leaf in leaves:
        if not isinstance(leaf, PLAIN):
            raise NotTraced(f"its result has a {type(leaf).__name__}")
    recorder.trace.result = list(map(recorder.named, leaves))
    return recorder.trace, result


def _mutable(tree: Any) -> Any:
    """Return containers of a graph as Python's own."""
    if isinstance(tree, immutable_list):
        return [_mutable(part) for part in tree]
    if isinstance(tree, immutable_dict):
        return {key: _mutable(part) for key, part in tree.items()}
    if type(tree) is tuple or hasattr(tree, "_fields"):
        parts = map(_mutable, tree)
        return tuple(parts) if type(tree) is tuple else type(tree)(*parts)
    return tree


PLAIN = (torch.Tensor, int, float, complex, str, type(None), torch.dtype, torch.device)
"""Types of the leaves of a result that a program can return."""


class ValuesNeeded(NotTraced):
    """Reason why a call cannot be an operator either: the shape of its result depends on values."""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Mode that records the operators that are called while it is active."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.trace = Trace()
        self._constants = {id(t): t for t in own_code.tensors_of(model)}
        self._stored = set(map(_memory, self._constants.values()))
        self._stale: set[int] = set()
        """Tensors, by identity, whose memory another one has written to since."""
        self._views: dict[int, View] = {}
        """How tensors were made as views, by identity."""
        self.where = ""
        self.by_setitem = False
        """Whether the node sets a part of a tensor, perhaps to a number, which torch makes a tensor of."""
        self._running: list[str] = []
        """Names of the modules with code of their own whose calls are recorded, the outermost first."""
        self._numbers: dict[int, int] = {}
        self._alive: list[torch.Tensor] = []  # so that no two tensors have one id

    def number(self, tensor: torch.Tensor, *, constant: bool) -> int:
        """Return the number of a tensor, a new one if it was not seen."""
        if id(tensor) in self._stale:
            self._view_anew(tensor)
        known = self._numbers.get(id(tensor))
        number_of_code = (
            self.trace.has_code or self.by_setitem
        ) and not tensor.ndim  # made of a Python number, which torch does not show
        if known is None and constant and id(tensor) not in self._constants and not number_of_code:
            raise NotTraced(f"{self.place} reads a tensor that no operator of the model made")
        if known is None:
            known = self._numbers[id(tensor)] = len(self.trace.values)
            self._alive.append(tensor)
            self.trace.values.append(Value.of(tensor, constant=constant))
        return known

    def named(self, tree: Any, *, constant: bool = True) -> Any:
        """Return nested arguments with `Ref` for tensors; those that no operator made are constants."""
        return mapped_tree(
            lambda leaf: Ref(self.number(leaf, constant=constant)) if isinstance(leaf, torch.Tensor) else leaf, tree
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record an operator and call it."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in leaves_of((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if depends_on_values(func) and not all(map(self._is_constant, tensors)):
            raise ValuesNeeded(f"{func} at {self.place} depends on values")
        return self._written(func, args, kwargs) if writes(func) else self._called(func, args, kwargs)

    def _called(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator that writes nothing, and record it."""
        if (
            short_name(str(func)) == "lift_fresh"
        ):  # a tensor of Python numbers, which code cannot have read from tensors
            self._constants[id(args[0])] = args[0]
        if func is torch.ops.aten.as_strided.default and not (len(args) < 4 and args[0].is_contiguous()):
            raise NotTraced(f"{func} at {self.place} depends on where its input lies in memory")
        own_args, own_kwargs = self.named(args), self.named(kwargs)
        result = func(*args, **kwargs)
        leaves = leaves_of(result)
        if short_name(str(func)) in UNSET:  # the numbers that are there by chance must not be NaN
            leaves[0].zero_()
        self.record(str(func), func, own_args, own_kwargs, result)
        if is_alias(func) and args and isinstance(args[0], torch.Tensor):
            for number, leaf in enumerate(leaves):
                if leaf is not args[0] and id(leaf) not in self._views:
                    self._views[id(leaf)] = View(args[0], func, tuple(args), dict(kwargs), number)
        return result

    def _written(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator that writes to its first argument, and record it as one that makes a new tensor.

        Tensors that the argument is a view of are recorded anew, with the view replaced; other views of these are
        recorded anew when they are read.

        Raises:
            NotTraced: if there is no such operator.
        """
        if torch.Tag.inplace_view in func.tags:
            return self._viewed_in_place(func, args, kwargs)
        call, target = self._without_writing(func, args), args[0]
        given, named_kwargs = self.named(args), self.named(kwargs)
        if call is torch.ops.aten.copy.default:
            if _same_place(args[1], target):  # as after x[...] *= 2
                return func(*args, **kwargs)
            call, given = (
                torch.ops.aten.clone.default,
                (Ref(self.number(self._spread(args[1], target), constant=True)),),
            )
        for value in self.trace.values:
            if value.constant is not None and _memory(value.constant) == _memory(target):
                value.constant = value.constant.clone()
        result = func(*args, **kwargs)
        self._record_anew(target, call, given, named_kwargs)
        fresh, part = {id(target)}, target
        while id(part) in self._views:
            view = self._views[id(part)]
            found = view.replaced(part)
            if found is None:
                raise NotTraced(f"{func} at {self.place} writes through {view.call}")
            self._record_anew(view.parent, found[0], self.named(found[1]), {})
            part = view.parent
            fresh.add(id(part))
        self._stale |= {id(t) for t in self._alive if id(t) not in fresh and _memory(t) == _memory(target)}
        return result

    def _viewed_in_place(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator that gives a tensor other axes, such as `transpose_`, and record it as one that makes views.

        Raises:
            NotTraced: if other tensors share the memory.
        """
        target, call = args[0], view_of(func)
        others = {id(t) for t in self._alive if id(t) != id(target) and _memory(t) == _memory(target)}
        if call is None or others or id(target) not in self._numbers:
            raise NotTraced(f"{func} at {self.place} changes the shape of memory that others share")
        given, named_kwargs = self.named(args), self.named(kwargs)
        result = func(*args, **kwargs)
        del self._numbers[id(target)]
        self.record(str(call), call, given, named_kwargs, target)
        return result

    def _record_anew(self, tensor: torch.Tensor, call: Any, args: Any, kwargs: Any) -> None:
        """Record an operator whose result a tensor is from here on; it lies dense, wherever the tensor lies."""
        del self._numbers[id(tensor)]
        self.record(str(call), call, args, kwargs, tensor)
        value = self.trace.values[self._numbers[id(tensor)]]
        value.planes, value.strides = True, ()

    def _view_anew(self, tensor: torch.Tensor) -> None:
        """Record a view of memory that was written to since.

        Raises:
            NotTraced: if the tensor was not recorded as a view.
        """
        view = self._views.get(id(tensor))
        if view is None:
            raise NotTraced(f"{self.place} reads memory that was written to through another tensor")
        args, kwargs = self.named(view.args), self.named(view.kwargs)
        self._stale.discard(id(tensor))
        self._numbers.pop(id(tensor), None)
        self.record(str(view.call), view.call, args, kwargs, view.again(tensor))

    def _spread(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return a tensor in the dtype and the shape of another one."""
        if x.dtype != like.dtype:
            x = self._called(torch.ops.aten._to_copy.default, (x,), {"dtype": like.dtype})
        return x if x.shape == like.shape else self._called(torch.ops.aten.expand.default, (x, list(like.shape)), {})

    def _without_writing(self, func: Any, args: Any) -> Any:
        """Return the operator that gives as a new tensor what another one writes to its first argument.

        Raises:
            NotTraced: if there is none, or if what is written is read by others than the model.
        """
        other = not_writing(func)
        if other is None or not args or not isinstance(args[0], torch.Tensor):
            raise NotTraced(f"{func} at {self.place} writes in place")
        theirs = self._stored | {_memory(t) for t in self._alive if self._numbers.get(id(t)) in self.trace.inputs}
        if id(args[0]) not in self._numbers or _memory(args[0]) in theirs:
            raise NotTraced(f"{func} at {self.place} writes to memory that is read elsewhere")
        dtypes = {leaf.dtype for leaf in leaves_of(args) if isinstance(leaf, torch.Tensor) and leaf.ndim}
        if args[0].is_floating_point():  # indices and masks do not change the dtype of a sum or a product
            dtypes = {dtype for dtype in dtypes if dtype.is_floating_point or dtype.is_complex}
        if len(dtypes) > 1 and other is not torch.ops.aten.copy.default:
            raise NotTraced(f"{func} at {self.place} writes numbers of another dtype")
        return other

    def inside(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module with code of its own, and record the operators that it calls.

        Raises:
            NotTraced: if its code reads values, or changes the module; or it has hooks.
        """
        if own_code.has_hooks(module):
            raise NotTraced(f"{self.where} has hooks")
        self.trace.has_code = True
        before = own_code.attributes_of(module)
        try:
            with own_code.names_of_calls(module, self._running), own_code.WithoutValues(self._is_constant), self:
                result = module(*args, **kwargs)
        except own_code.ValuesRead as problem:
            raise NotTraced(f"its code reads values ({problem} in {self.place})") from None
        except ConvolithError:
            raise
        except Exception as problem:  # code that does not run while it is recorded, such as TorchScript
            first = (str(problem).strip() or type(problem).__name__).splitlines()[0]
            raise NotTraced(f"its code cannot be recorded ({first} in {self.place})") from problem
        finally:
            self._running.clear()
        if own_code.attributes_of(module) != before:
            raise NotTraced(f"the code of {self.where} changes its attributes")
        return result

    @property
    def place(self) -> str:
        """Name of the node, and of the module inside it, whose code runs."""
        return ".".join([self.where, *self._running[-1:]])

    def _is_constant(self, tensor: torch.Tensor) -> bool:
        number = self._numbers.get(id(tensor))
        return id(tensor) in self._constants if number is None else self.trace.values[number].constant is not None

    def attempt(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module with code of its own and record what it calls, or else the module as a whole."""
        kept = self._so_far()
        own_args, own_kwargs = self.named(args), self.named(kwargs)
        copies = mapped_tree(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, (args, kwargs))
        try:
            with unchanged(module):  # what a call leaves behind, only the call as a whole may
                return self.inside(module, args, kwargs)
        except NotTraced as problem:
            self._forget(kept, problem)
        return self._whole(module, own_args, own_kwargs, module(*copies[0], **copies[1]))

    def layer(self, run: Callable[[], Any], call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function or a layer of torch and record its operators, or else the function as a whole.

        Args:
            run: calls it.
            call: function that takes its arguments.
            args, kwargs: its arguments.
        """
        kept = self._so_far()
        given = [leaf for leaf in leaves_of((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        versions = [version_of(tensor) for tensor in given]
        copies = [
            (tensor, tensor.clone()) for tensor in given if tensor.is_inference()
        ]  # whose writes torch does not count
        try:
            with self:
                return run()
        except ValuesNeeded:
            raise
        except NotTraced as problem:
            self._forget(kept, problem)
            own_args, own_kwargs = self.named(args), self.named(kwargs)
            result = run()
            written = [version_of(tensor) for tensor in given] != versions
            if written or not all(torch.equal(tensor, copy) for tensor, copy in copies):
                raise
        return self._whole(call, own_args, own_kwargs, result)

    def _so_far(self) -> tuple[Any, ...]:
        return len(self.trace.ops), dict(self._numbers), self.trace.has_code, set(self._stale)

    def _forget(self, kept: tuple[Any, ...], problem: NotTraced) -> None:
        """Forget what was recorded since, and note why the present node is called as a whole."""
        self.trace.kept[self.where] = str(problem)
        del self.trace.ops[kept[0] :]
        self._numbers, self.trace.has_code, self._stale = kept[1:]

    def _whole(self, call: Any, args: Any, kwargs: Any, result: Any) -> Any:
        """Record a call as a whole."""
        result = mapped_tree(_other, result)
        if not all(isinstance(leaf, PLAIN) for leaf in leaves_of(result)):
            raise NotTraced(f"{self.where} returns a {type(result).__name__}")
        self.record(self.where, call, args, kwargs, result)
        return result

    def record(self, name: str, call: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Add an operator; one that depends on constants alone, and draws nothing, makes constants."""
        read = [self.trace.values[ref.number] for ref in leaves_with_refs((args, kwargs))]
        values_read = read[1:] if short_name(name) in BY_SHAPE else read
        fixed = all(value.constant is not None for value in values_read) and is_overload(call) and not draws(call)
        mine = [leaf for leaf in leaves_of(result) if isinstance(leaf, torch.Tensor)]
        if any(id(leaf) in self._numbers for leaf in mine):  # the operator gave back what it got
            fixed = False
        for leaf in mine:
            if fixed:
                self._constants[id(leaf)] = leaf
        own = self.named(result, constant=fixed)
        if not fixed:
            self.trace.ops.append(Op(name, call, tuple(args), dict(kwargs), own, self.place))


def has_planes(tensor: torch.Tensor) -> bool:
    """Return whether every image of a tensor, along its first axis, is contiguous."""
    return tensor.is_contiguous() or (tensor.ndim > 1 and len(tensor) > 0 and tensor[0].is_contiguous())


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _same_place(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


class _Runner(GraphRunner):
    """Interpreter of a folded graph that records what its nodes do."""

    def __init__(self, model: GraphModule, recorder: _Recorder) -> None:
        super().__init__(model.graph, model)
        self.recorder = recorder

    def called(self, node: Node, args: Any, kwargs: Any) -> Any:
        """Return the result of one node."""
        self.recorder.where, self.recorder.by_setitem = node.name, node.target is operator.setitem
        if node.op == "get_attr":
            found = super().called(node, args, kwargs)
            if isinstance(found, torch.Tensor):
                self.recorder._constants[id(found)] = found
            return found
        module = self.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module is not None and has_own_code(module):
            return self.recorder.attempt(module, args, kwargs)
        target: Any = module if module is not None else node.target
        if node.op == "call_method":
            target = partial(_method, str(node.target))
        return self.recorder.layer(lambda: super(_Runner, self).called(node, args, kwargs), target, args, kwargs)


def _method(name: str, tensor: Any, *args: Any, **kwargs: Any) -> Any:
    return getattr(tensor, name)(*args, **kwargs)


UNSET = ("empty", "empty_like", "new_empty")
"""Operators whose result is not set."""
TRACED = ("torch.nn.", "torch.ao.nn.", "torch.fx.")
"""Packages of modules whose code depends on sizes at most, and which are traced inside: layers and graphs."""


def _other(leaf: Any) -> Any:
    """Return another object for a tensor: a module may return what it was given."""
    return leaf.detach() if isinstance(leaf, torch.Tensor) else leaf


def has_own_code(module: torch.nn.Module) -> bool:
    """Return whether a module's code, or that of its hooks, is not torch's own, and may depend on sizes or values."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return bool(hooks) or not type(module).__module__.startswith(TRACED)
