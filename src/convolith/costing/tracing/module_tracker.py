"""A dispatch mode that sees every operator below autograd, and knows the module to which the operator belongs.

An operator of the backward pass belongs to the module whose forward pass created its autograd node; the sequence number
of the node links the two.
"""

from __future__ import annotations

import os
import pathlib
import sys
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from traceback import extract_tb
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from convolith.costing.tracing.fake_models import tensors_in, tensors_of
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
"""Name of a module, split at its dots; () is the model itself."""


REMEDY = "pass inputs of the shapes and dtypes that the model takes"
"""Default remedy in error messages of the forward pass."""


class ModuleTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Dispatch mode that calls `seen` after every operator, and tracks the module that runs."""

    without_backward = "pass backward=False to count the forward pass alone"
    """Remedy in error messages of the backward pass."""

    def __init__(self, model: nn.Module, generator: torch.Generator | None = None) -> None:
        """Track a model, which must be a copy, since hooks are registered in it; `generator` draws random numbers."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own is untyped
        self.names: dict[int, list[Path]] = {}
        for path, module in named_places(model):
            self.names.setdefault(id(module), []).append(path)
        self.stack: list[tuple[Path, Any]] = []
        self.backward = False
        self._model, self._generator = model, generator
        self._generators = {} if generator is None else {generator.device: generator}
        self._made: dict[int, Path] = {}
        self._refused: tuple[int, Path, str] = (0, (), "")

    @abstractmethod
    def seen(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Process an operator that has run."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Call `seen` after every operator of this thread inside the context."""
        with dispatch_mode(self):
            yield

    @contextmanager
    def backwards(self) -> Iterator[None]:
        """Treat operators inside the context as operators of the backward pass."""
        self.backward = True
        yield  # stays set after an error, whose message names the pass
        self.backward = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is DEVICE:  # the most frequent call, which is not an operator
            return func(*args)
        if torch.is_inference_mode_enabled():  # without autograd, which otherwise decomposes operators
            with dispatch_mode(self):
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        if self._generator is not None and draws(func):
            out = with_generator(func, args, kwargs or {}, self._generator_for(args, kwargs or {}))
        else:
            out = func(*args, **(kwargs or {}))
        if func.namespace != "prim":
            self.seen(func, args, {name: value for name, value in (kwargs or {}).items() if name != "out"}, out)
        return out

    def _generator_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Generator:
        """Return the generator of the device on which an operator draws its numbers."""
        tensors = tensors_in(args)
        device = torch.device(kwargs.get("device") or (tensors[0].device if tensors else "cpu"))
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(0)
        return self._generators[device]

    def path(self) -> Path:
        """Return the path of the running module; in the backward pass, of the one that created the running node."""
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
        """Track the modules that run inside the context, so that an error names the module that raised it.

        Raises:
            ConvolithError: any error that the model raises.
        """

        def enter(module: torch.nn.Module, arguments: Any, keywords: Any) -> None:
            self.stack.append((self._name(module), (arguments, keywords)))

        def leave(*_: Any) -> None:
            """Remove a module from the stack; after an error too, the innermost module first."""
            problem, (path, arguments) = id(sys.exc_info()[1]), self.stack.pop()
            if problem != self._refused[0]:  # compared by id: the error would keep tensors alive
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
            except (Exception, SystemExit) as problem:  # torch and the model may raise any error
                raise self._refusal(problem) from problem

    def _register(self, enter: Any, leave: Any) -> None:
        """Register hooks in every module; they are not removed, since the model is a copy."""
        known: set[int] = set()
        for module in self._model.modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks; its parent is tracked
                continue
            if id(module._forward_hooks) in known:  # another name of the same module
                continue
            known.add(id(module._forward_hooks))
            module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
            module.register_forward_hook(leave, with_kwargs=True, always_call=True)

    def _name(self, module: nn.Module) -> Path:
        """Return a module's name; of several, the one that shares most leading parts with the running parent's."""
        names = self.names[id(module)]
        if len(names) == 1 or not self.stack:
            return names[0]
        around = self.stack[-1][0]
        return max(names, key=lambda name: _common(name, around))  # the first of equals

    def _refusal(self, problem: BaseException) -> ConvolithError:
        _, path, shapes = self._refused if self._refused[0] == id(problem) else (0, (), "")
        where, shapes = f"module {'.'.join(path)}" if path else "the model itself", shapes or "its inputs"
        said = (str(problem).strip().splitlines() or [""])[0] or type(problem).__name__
        if is_unknown_value(problem):
            return ConvolithError(
                f"{where}, given {shapes}, decides by values what it computes: {_reading(problem)}; shapes alone "
                "cannot tell; pass run=True with an example_input, for which it is counted"
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
    """Tracker that names the running module in error messages, and counts nothing."""

    def seen(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Ignore an operator that has run."""


SHORT_CUTS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
"""Modules that call one fused operator instead of their submodules unless torch's functions are overridden."""


class _WithoutShortCuts(TorchFunctionMode):
    """Mode that overrides functions without changing them, so that SHORT_CUTS call their submodules in this thread."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def _reading(problem: BaseException) -> str:
    """Describe in a user's words the code that needs the values of a tensor that has none."""
    if "DynamicOutput" in type(problem).__name__:
        said = "the size of a result depends on values, as in x[x > 0], nonzero() and unique()"
    else:
        said = "a number is read from a tensor, as by x.item(), int(x.sum()) and `if x.sum() > 0`"
    ours = tuple(
        f"{folder}{os.sep}" for folder in (pathlib.Path(torch.__file__).parent, pathlib.Path(__file__).parents[2])
    )
    frames = [frame for frame in extract_tb(problem.__traceback__) if not frame.filename.startswith(ours)]
    if not frames:
        return said
    last = frames[-1]
    line = f": `{last.line}`" if last.line else ""
    return f"{said} ({pathlib.Path(last.filename).name}, line {last.lineno}{line})"


def _common(name: Path, other: Path) -> int:
    """Return the number of leading parts that two names share."""
    shared = 0
    for one, two in zip(name, other, strict=False):
        if one != two:
            break
        shared += 1
    return shared
