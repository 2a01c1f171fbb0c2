"""Whether a module's own Python code can be traced: it reads shapes, but no values, and leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from convolith.folding.capture.model_copies import hooked
from convolith.torch_private import leaves_of

READS_VALUES = (
    *("__array__", "__bool__", "__complex__", "__contains__", "__dlpack__", "__float__", "__index__", "__int__"),
    *("allclose", "data_ptr", "equal", "is_nonzero", "item", "numpy", "tolist", "untyped_storage"),
)
"""Functions of torch and methods of tensors that give Python the values of a tensor."""


class ValuesRead(Exception):  # noqa: N818 - an answer with its reason
    """Name of a function that gave Python the values of a tensor."""


class WithoutValues(TorchFunctionMode):
    """Mode that refuses functions which give Python the values of tensors.

    Args:
        is_constant: whether a tensor depends on no input; the values of such tensors may be read.
    """

    def __init__(self, is_constant: Callable[[torch.Tensor], bool]) -> None:
        super().__init__()
        self.is_constant = is_constant

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in READS_VALUES:
            tensors = [leaf for leaf in leaves_of((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            if not all(map(self.is_constant, tensors)):
                raise ValuesRead(name)
        return func(*args, **kwargs)


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module or one inside it has hooks, whose code may do anything; not those of its own package."""
    return bool(hooked(nn.ModuleList([module])))


def attributes_of(module: nn.Module) -> list[Any]:
    """Return the identities of all attributes of a module and those inside it, and of what their containers hold."""
    return [
        (name, id(value), *map(id, _held(value))) for part in module.modules() for name, value in vars(part).items()
    ]


def tensors_of(module: nn.Module) -> list[torch.Tensor]:
    """Return the tensors among the attributes of a module and those inside it, and in their containers."""
    values = [value for part in module.modules() for value in vars(part).values()]
    everything = [*values, *(one for value in values for one in _held(value))]
    return [value for value in everything if isinstance(value, torch.Tensor)]


def _held(value: Any) -> Any:
    """Return what a container holds; nothing for other values."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()


@contextmanager
def names_of_calls(module: nn.Module, running: list[str]) -> Iterator[None]:
    """Return a context in which a list holds the names of the modules that run in this thread, the innermost last."""
    names = {id(part): name for name, part in module.named_modules() if name}
    thread = threading.get_ident()

    def enter(part: nn.Module, _: Any) -> None:
        if threading.get_ident() == thread and id(part) in names:
            running.append(names[id(part)])

    def leave(part: nn.Module, *_: Any) -> None:
        if threading.get_ident() == thread and id(part) in names and running:
            running.pop()

    first = register_module_forward_pre_hook(enter)
    last = register_module_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        first.remove()
        last.remove()
