"""Who runs: a dispatch mode that sees every operator below autograd, and knows the module that it belongs to.

An operator of the backward pass belongs to the module whose forward pass made its node, which both know by the node's
number.
"""

from __future__ import annotations

import logging
import sys
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convolith.costing.fakes import tensors_of
from convolith.errors import ConvolithError

DEVICE = torch.ops.prim.device.default
Path = tuple[str, ...]
"""A module's name, taken apart at its dots; () is the model itself."""


class Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Calls `seen` after every operator."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own is untyped
        self.names = {id(module): tuple(name.split(".")) if name else () for name, module in model.named_modules()}
        self.stack: list[tuple[Path, Any]] = []
        self.backward = False
        self._model = model
        self._made: dict[int, Path] = {}
        self._refused: tuple[int, Path, str] = (0, (), "")

    @abstractmethod
    def seen(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """An operator ran."""

    @contextmanager
    def backwards(self) -> Iterator[None]:
        """What happens inside is of the backward pass."""
        self.backward = True
        try:
            yield
        finally:
            self.backward = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is DEVICE:  # which is asked for most often, and is no operator
            return func(*args)
        if torch.is_inference_mode_enabled():  # below autograd, which takes composed operators apart elsewhere
            with self:
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        out = func(*args, **(kwargs or {}))
        if func.namespace != "prim":
            self.seen(func, args, {name: value for name, value in (kwargs or {}).items() if name != "out"}, out)
        return out

    def path(self) -> Path:
        """Of the module that runs; backward, of the one whose forward pass made the node that runs."""
        if self.stack:
            path = self.stack[-1][0]
        elif self.backward:
            node = torch._C._current_autograd_node()
            return self._made.get(node._sequence_nr(), ()) if node is not None else ()
        else:
            path = ()
        self._made.setdefault(torch._C._autograd._get_sequence_nr() - 1, path)
        return path

    @contextmanager
    def named(self) -> Iterator[None]:
        """While inside, the modules that run are known; if one refuses, the refusal says which.

        Raises:
            ConvolithError: whatever the model raises.
        """

        def enter(module: torch.nn.Module, arguments: Any, keywords: Any) -> None:
            self.stack.append((self.names[id(module)], (arguments, keywords)))

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
        logger = logging.getLogger("torch._subclasses.fake_tensor")  # which would log every refusal at length
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        hooks: list[Any] = []
        try:
            for module in self._model.modules():
                if isinstance(module, torch.jit.ScriptModule):  # takes no hooks; the module around it is known
                    continue
                hooks.append(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
                hooks.append(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
            yield
        except ConvolithError:
            raise
        except Exception as problem:  # torch and the model's own code raise what they like
            raise self._refusal(problem) from problem
        finally:
            logger.setLevel(level)
            for hook in hooks:
                hook.remove()

    def _refusal(self, problem: Exception) -> ConvolithError:
        _, path, shapes = self._refused if self._refused[0] == id(problem) else (0, (), "")
        where, shapes = f"module {'.'.join(path)}" if path else "the model itself", shapes or "what it is given"
        said = (str(problem).strip().splitlines() or [""])[0] or type(problem).__name__
        if "DataDependent" in type(problem).__name__ or "DynamicOutput" in type(problem).__name__:
            return ConvolithError(
                f"{where}, given {shapes}, decides by values what it computes ({said}); shapes alone cannot tell; "
                "pass run=True with an example_input, for which it is counted"
            )
        if not isinstance(problem, RuntimeError | ValueError):
            said = f"{type(problem).__name__}: {said}"
        return ConvolithError(
            f"{where} refuses {shapes}: {said}; pass inputs of the shapes and dtypes that the model takes"
        )
