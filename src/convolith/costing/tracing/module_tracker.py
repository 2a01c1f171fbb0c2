"""Who runs: a dispatch mode that sees every operator below autograd, and knows the module that it belongs to.

An operator of the backward pass belongs to the module whose forward pass made its node, which both know by the node's
number.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from convolith.costing.tracing.fake_models import tensors_of
from convolith.costing.tracing.model_copies import named_places
from convolith.errors import ConvolithError
from convolith.torch_private import (
    TorchDispatchMode,
    dispatch_mode,
    draws,
    is_unknown_value,
    last_node,
    running_node,
    wants_memory,
    with_generator,
    without_log,
)

DEVICE = torch.ops.prim.device.default
Path = tuple[str, ...]
"""A module's name, taken apart at its dots; () is the model itself."""


REMEDY = "pass inputs of the shapes and dtypes that the model takes"
"""What a refusal of the forward pass says to do, where nothing else is known to help."""


class ModuleTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Calls `seen` after every operator."""

    without_backward = "pass backward=False to count the forward pass alone"
    """What a refusal of the backward pass says to do."""

    def __init__(self, model: nn.Module, generator: torch.Generator | None = None) -> None:
        """Watch a model, which must be a copy, since hooks are registered in it; random numbers are the generator's."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own is untyped
        self.names: dict[int, list[Path]] = {}
        for path, module in named_places(model):
            self.names.setdefault(id(module), []).append(path)
        self.stack: list[tuple[Path, Any]] = []
        self.backward = False
        self._model, self._generator = model, generator
        self._made: dict[int, Path] = {}
        self._refused: tuple[int, Path, str] = (0, (), "")

    @abstractmethod
    def seen(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """An operator ran."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While inside, `seen` is called after every operator of this thread."""
        with dispatch_mode(self):
            yield

    @contextmanager
    def backwards(self) -> Iterator[None]:
        """What happens inside is of the backward pass."""
        self.backward = True
        yield  # after a refusal it stays so, since the refusal says where it was
        self.backward = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is DEVICE:  # which is asked for most often, and is no operator
            return func(*args)
        if torch.is_inference_mode_enabled():  # below autograd, which takes composed operators apart elsewhere
            with dispatch_mode(self):
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        if self._generator is not None and draws(func):
            out = with_generator(func, args, kwargs or {}, self._generator)
        else:
            out = func(*args, **(kwargs or {}))
        if func.namespace != "prim":
            self.seen(func, args, {name: value for name, value in (kwargs or {}).items() if name != "out"}, out)
        return out

    def path(self) -> Path:
        """Of the module that runs; backward, of the one whose forward pass made the node that runs."""
        if self.stack:
            path = self.stack[-1][0]
        elif self.backward:
            node = running_node()
            return () if node is None else self._made.get(node, ())
        else:
            path = ()
        self._made.setdefault(last_node(), path)
        return path

    @contextmanager
    def named(self) -> Iterator[None]:
        """While inside, the modules that run are known; if one refuses, the refusal says which.

        Raises:
            ConvolithError: whatever the model raises.
        """

        def enter(module: torch.nn.Module, arguments: Any, keywords: Any) -> None:
            self.stack.append((self._name(module), (arguments, keywords)))

        def leave(*_: Any) -> None:
            """Called after a refusal too, the innermost module first."""
            problem, (path, arguments) = id(sys.exc_info()[1]), self.stack.pop()
            if problem != self._refused[0]:  # told by its number, since it would keep all that it met alive
                self._refused = (
                    problem,
                    path,
                    " and ".join(str(tuple(tensor.shape)) for tensor in tensors_of(arguments)),
                )

        self._refused = id(sys.exc_info()[1]), (), ""
        with ExitStack() as stack:
            stack.enter_context(without_log())
            if any(isinstance(module, SHORT_CUTS) for module in self._model.modules()):
                stack.enter_context(_WithoutShortCuts())
            self._register(enter, leave)
            try:
                yield
            except ConvolithError:
                raise
            except (Exception, SystemExit) as problem:  # torch and the model's own code raise what they like
                raise self._refusal(problem) from problem

    def _register(self, enter: Any, leave: Any) -> None:
        """Register hooks in every module, which stay there: it is a copy."""
        known: set[int] = set()
        for module in self._model.modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks; the module around it is known
                continue
            if id(module._forward_hooks) in known:  # another name of the same module
                continue
            known.add(id(module._forward_hooks))
            module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
            module.register_forward_hook(leave, with_kwargs=True, always_call=True)

    def _name(self, module: nn.Module) -> Path:
        """Of a module that has several names the one that has most in common with that of the module around it."""
        names = self.names[id(module)]
        if len(names) == 1 or not self.stack:
            return names[0]
        around = self.stack[-1][0]
        return max(names, key=lambda name: _common(name, around))  # the first of several

    def _refusal(self, problem: BaseException) -> ConvolithError:
        _, path, shapes = self._refused if self._refused[0] == id(problem) else (0, (), "")
        where, shapes = f"module {'.'.join(path)}" if path else "the model itself", shapes or "what it is given"
        said = (str(problem).strip().splitlines() or [""])[0] or type(problem).__name__
        if is_unknown_value(problem):
            return ConvolithError(
                f"{where}, given {shapes}, decides by values what it computes ({said}); shapes alone cannot tell; "
                "pass run=True with an example_input, for which it is counted"
            )
        if isinstance(problem, SystemExit):
            return ConvolithError(f"{where} calls sys.exit({problem.code!r}); take the call out, so that it returns")
        if not isinstance(problem, RuntimeError | ValueError):
            said = f"{type(problem).__name__}: {said}"
        said = said.replace("FakeTensor", "Tensor")
        if self.backward:
            return ConvolithError(f"the backward pass of the model refuses: {said}; {self.without_backward}")
        if self._generator is None and wants_memory(problem):
            return ConvolithError(
                f"{where}, given {shapes}, needs values in memory, not shapes alone: {said}; pass run=True with an "
                "example_input, for which it is counted"
            )
        return ConvolithError(f"{where} refuses {shapes}: {said}; {REMEDY}")


class Unwatched(ModuleTracker):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Knows the modules that run, for refusals alone."""

    def seen(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Nothing is counted."""


SHORT_CUTS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
"""Modules that evaluate one fused operator instead of their parts where torch's functions are not overridden."""


class _WithoutShortCuts(TorchFunctionMode):
    """Changes no function: while functions are overridden in this thread, SHORT_CUTS evaluate their parts."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def _common(name: Path, other: Path) -> int:
    """How many parts two names begin with together."""
    together = 0
    for one, two in zip(name, other, strict=False):
        if one != two:
            break
        together += 1
    return together
