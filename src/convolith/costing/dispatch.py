"""Runs a model on tensors that have shapes and no memory, and counts every operator as torch dispatches it.

What is counted are operators, not classes: functional calls, subclasses, shared modules and einsum come out right, and
so do gradients, since autograd asks for those alone that are needed (a first layer's input has none, and a frozen
layer's weights). An operator of the backward pass belongs to the module whose forward pass made its node, which both
know by the node's number.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from convolith.costing.formulas import Rule
from convolith.costing.operators import rule_of
from convolith.errors import ConvolithError
from convolith.work import Backward, BackwardMemory, Count, ForwardMemory, Memory

Path = tuple[str, ...]
"""A module's name, taken apart at its dots; () is the model itself."""


@dataclass(frozen=True)
class Shape:
    """An input of which nothing else is known."""

    size: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class Tally:
    """What was counted in one module by itself, without those inside it.

    Attributes:
        forward, backward: of the passes.
        calls: operators that ran and have a row.
        unknown: how often operators ran that have none, by name.
    """

    forward: Count = field(default_factory=Count)
    backward: Backward = field(default_factory=Backward)
    calls: int = 0
    unknown: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a model did, by module, what it holds, and the shapes that came out."""

    tallies: Mapping[Path, Tally]
    memory: Memory
    outputs: tuple[tuple[int, ...], ...]


def run(
    model: torch.nn.Module,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    *,
    convention: str,
    backward: bool,
    input_gradient: bool,
    real: bool,
) -> Run:
    """Count a forward pass, and a backward pass if it is asked for.

    Args:
        model: in the mode, training or evaluation, in which it is to be counted; it is left as it was.
        arguments, keywords: of the call; of tensors shapes and dtypes count.
        convention: "dense" or "effective", of convolutions.
        backward: whether gradients of the parameters that require them are taken.
        input_gradient: whether those of the inputs are too.
        real: whether to compute with the values given, for models whose values decide what runs.

    Raises:
        ConvolithError: what the model itself refuses, with the module that refused; values that decide what runs.
    """
    _check(model)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    counter, saved = _Counter(model, convention), _Saved()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of how a kernel would go about it
        if not real:
            stack.enter_context(fake)
        else:
            stack.enter_context(torch.random.fork_rng(devices=[]))
        state = stack.enter_context(_state(model, None if real else fake))
        saved.leave_out(state)
        wanted = input_gradient and backward
        given = tree_map(lambda leaf: _input(leaf, None if real else fake, requires_grad=wanted), (arguments, keywords))
        stack.enter_context(torch.set_grad_enabled(backward))
        stack.enter_context(_named(counter))
        with counter, saved.hooks():
            result = model(*given[0], **dict(given[1]))
        inputs, outputs = _tensors(given), _tensors(result)
        gradients: list[torch.Tensor] = []
        leaves = [tensor for tensor in (*inputs, *state) if tensor.requires_grad and tensor.is_leaf]
        roots = [tensor for tensor in outputs if tensor.requires_grad]
        if backward and roots and leaves:
            seeds = [torch.empty_like(tensor) for tensor in roots]
            with counter.backwards():
                found = torch.autograd.grad(roots, leaves, seeds, allow_unused=True)
            gradients = [g for g, leaf in zip(found, leaves, strict=True) if g is not None and not _is_in(leaf, inputs)]
    memory = Memory(
        ForwardMemory(_bytes(inputs), _bytes(state), _bytes(outputs)),
        BackwardMemory(
            _bytes(gradients),
            _bytes(tensor for tensor in inputs if tensor.requires_grad),
            _bytes(roots) if backward else 0,
            saved.bytes if backward else 0,
        ),
    )
    return Run(counter.tallies, memory, tuple(tuple(tensor.shape) for tensor in outputs))


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Sees every operator below autograd."""

    def __init__(self, model: torch.nn.Module, convention: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {id(module): tuple(name.split(".")) if name else () for name, module in model.named_modules()}
        self.convention = convention
        self.tallies: dict[Path, Tally] = {(): Tally()}
        self.stack: list[tuple[Path, tuple[Any, ...]]] = []
        self._made: dict[int, Path] = {}
        self._backward = False
        self._rules: dict[Any, Rule | None] = {}

    @contextmanager
    def backwards(self) -> Iterator[None]:
        """What happens inside is of the backward pass."""
        self._backward = True
        try:
            with self:
                yield
        finally:
            self._backward = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace != "prim":
            self._count(func, args, kwargs or {}, out)
        return out

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        tally = self.tallies.setdefault(self._path(), Tally())
        if func not in self._rules:
            self._rules[func] = rule_of(func)
        rule = self._rules[func]
        if rule is None:
            name = func._schema.name.removeprefix("aten::")
            tally.unknown[name] = tally.unknown.get(name, 0) + 1
            return
        tally.calls += 1
        counted = rule(*args, **kwargs, out=out, convention=self.convention)
        if isinstance(counted, Count):
            counted = counted + Count(bytes=0 if func.is_view else _moved(args, kwargs, out))
            if self._backward:
                tally.backward = tally.backward + Backward(rest=counted)
            else:
                tally.forward = tally.forward + counted
        else:
            tally.backward = tally.backward + counted

    def _path(self) -> Path:
        """Of the module that runs; backward, of the one whose forward pass made the node that runs."""
        if self.stack:
            path = self.stack[-1][0]
        elif self._backward:
            node = torch._C._current_autograd_node()
            return self._made.get(node._sequence_nr(), ()) if node is not None else ()
        else:
            path = ()
        self._made.setdefault(torch._C._autograd._get_sequence_nr() - 1, path)
        return path


@contextmanager
def _named(counter: _Counter) -> Iterator[None]:
    """While modules run, the counter knows which; if one refuses, the refusal says so."""

    def enter(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if id(module) in counter.names:
            counter.stack.append((counter.names[id(module)], arguments))

    def leave(module: torch.nn.Module, arguments: tuple[Any, ...], result: Any) -> None:  # noqa: ARG001 - torch's own
        if id(module) in counter.names:
            counter.stack.pop()

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    except ConvolithError:
        raise
    except Exception as problem:  # torch and the model's own code raise what they like
        raise _refusal(counter, problem) from problem
    finally:
        for hook in hooks:
            hook.remove()


def _refusal(counter: _Counter, problem: Exception) -> ConvolithError:
    path, arguments = counter.stack[-1] if counter.stack else ((), ())
    where = f"module {'.'.join(path)}" if path else "the model itself"
    shapes = " and ".join(str(tuple(tensor.shape)) for tensor in _tensors(arguments)) or "no tensor"
    said = str(problem).strip().splitlines() or [type(problem).__name__]
    if "DataDependent" in type(problem).__name__ or "DynamicOutput" in type(problem).__name__:
        return ConvolithError(
            f"{where}, given {shapes}, decides by values what it computes ({said[0]}); shapes alone cannot tell; pass "
            "run=True with an example_input, for which it is counted"
        )
    return ConvolithError(f"{where} refuses {shapes}: {said[0]}; pass shapes that the model takes")


class _Saved:
    """What autograd keeps for the backward pass, once for each storage; parameters are left out."""

    def __init__(self) -> None:
        self._own: set[int] = set()
        self._kept: dict[int, tuple[Any, int]] = {}  # the storage itself, so that no other takes its address

    def leave_out(self, tensors: Iterable[torch.Tensor]) -> None:
        """These are held anyway."""
        self._own |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def hooks(self) -> Any:
        """A context in which what is saved is noted."""
        return torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        """Of all of it."""
        return sum(size for _, size in self._kept.values())

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own:
            self._kept[storage._cdata] = (storage, storage.nbytes())
        return tensor


def _check(model: torch.nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ConvolithError(
                f"model has the lazy parameter {name}, whose shape is not known yet; call the model once with real data"
            )


@contextmanager
def _state(model: torch.nn.Module, fake: FakeTensorMode | None) -> Iterator[list[torch.Tensor]]:
    """While inside, the model's parameters and buffers have no memory; or buffers are copies, which may be changed."""

    def stand_in(tensor: torch.Tensor) -> torch.Tensor:
        if fake is not None:
            return fake.from_tensor(tensor)
        return tensor if isinstance(tensor, torch.nn.Parameter) else tensor.clone()

    made: dict[int, torch.Tensor] = {}
    before: list[tuple[Any, Any, Any]] = []
    try:
        for module in model.modules():
            stores: list[Any] = [module._parameters, module._buffers]
            if isinstance(module, torch.nn.RNNBase):  # which keeps a list of them too
                before.append((vars(module), "_flat_weights", module._flat_weights))
            for store in stores:
                for name, tensor in store.items():
                    if tensor is not None:
                        before.append((store, name, tensor))
                        if id(tensor) not in made:
                            made[id(tensor)] = stand_in(tensor)
                        store[name] = made[id(tensor)]
            if isinstance(module, torch.nn.RNNBase):
                flat = [None if tensor is None else made[id(tensor)] for tensor in module._flat_weights]
                vars(module)["_flat_weights"] = flat
        yield list(made.values())
    finally:
        for store, name, value in reversed(before):
            store[name] = value


def _input(leaf: Any, fake: FakeTensorMode | None, *, requires_grad: bool) -> Any:
    if isinstance(leaf, Shape):
        return torch.empty(leaf.size, dtype=leaf.dtype, requires_grad=requires_grad)
    if not isinstance(leaf, torch.Tensor):
        return leaf
    tensor = leaf.detach() if fake is None else fake.from_tensor(leaf.detach())
    differentiable = requires_grad and (tensor.is_floating_point() or tensor.is_complex())
    return tensor.requires_grad_(differentiable) if differentiable else tensor


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _is_in(tensor: torch.Tensor, tensors: Iterable[torch.Tensor]) -> bool:
    return any(tensor is other for other in tensors)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of their storages, each once."""
    sizes = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in list(tensors)}
    return sum(sizes.values())


def _moved(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Bytes of the tensors that go in and come out."""
    total = 0
    for value in (*args, *kwargs.values(), *(out if isinstance(out, tuple | list) else (out,))):
        if isinstance(value, torch.Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, list | tuple):
            total += sum(part.numel() * part.element_size() for part in value if isinstance(part, torch.Tensor))
    return total
