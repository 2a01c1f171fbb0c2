"""Structural copies of models: with modules, containers, hooks and tensors of their own, so that no model is modified.

A copy has its own modules, wherever the model refers to them (submodules, attributes, lists, dicts, closures, bound
methods, weak references), containers, objects of Python classes, and functions that close over any of these; each is
copied exactly once, whoever refers to it. Tensors are replaced by a function of the caller, so that no weight is copied
where fake tensors suffice. Objects that cannot be copied or hold no state of the model are shared with it: classes and
their attributes, globals, compiled code, enumerations, files, locks, threads, loggers, and C++ objects (packed
quantised weights).
"""

from __future__ import annotations

import copy
import dis
import enum
import functools
import random
import sys
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from convolith.torch_private import script_copy, uncompiled

ATOMS = frozenset(
    (
        *(type(None), bool, int, float, complex, str, bytes, range, slice, type, ModuleType, BuiltinFunctionType),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, type(...), type(NotImplemented)),
    )
)
"""Types whose values are immutable or do not belong to a model."""
COPIED_TORCH = ("torch.nn.", "torch.optim.", "torch.distributions.", "torch.ao.", "torch.utils.hooks")
"""Modules of torch whose objects hold a model's tensors or hooks; objects of other torch modules are shared."""
COPIED_LIBRARY = frozenset(("abc", "argparse", "builtins", "collections", "dataclasses", "types", "typing"))
"""Standard library modules whose classes may be bases of copied objects; others define files, locks, threads, ..."""
COMPILED_CALL = "_compiled_call_impl"
"""Attribute in which `Module.compile` stores the compiled call."""
MOST_NAMES = 10_000
"""Largest number of module names for which a module with several names is listed under each."""


def structural_copy(
    model: nn.Module, tensor_copy: Callable[[torch.Tensor], torch.Tensor], *, by_name: bool = False
) -> nn.Module:
    """Return a copy of a model that shares no state with it.

    Args:
        model: model to copy; it is read and never modified, so that other threads may use it meanwhile.
        tensor_copy: function that returns the replacement of a tensor of the model; it is called once for each tensor.
        by_name: whether a module that is registered under several names becomes one object for each name, with shared
            attributes, so that the name by which it is called is known.
    """
    result: nn.Module = _Copier(tensor_copy).copied(model)
    if by_name:
        _separate_names(result)
    return result


def named_places(model: nn.Module) -> list[tuple[tuple[str, ...], nn.Module]]:
    """Return every name (split at its dots) with its module; a module with several names is listed under each of them.

    Names end where a module contains itself. If there would be more than MOST_NAMES names, each module has one name.
    """
    places: list[tuple[tuple[str, ...], nn.Module]] = []
    waiting: list[tuple[tuple[str, ...], nn.Module, frozenset[int]]] = [((), model, frozenset())]
    while waiting:
        path, module, parents = waiting.pop()
        places.append((path, module))
        if len(places) > MOST_NAMES:
            return [(tuple(name.split(".")) if name else (), module) for name, module in model.named_modules()]
        parents |= {id(module)}
        children = [(name, child) for name, child in module._modules.items() if child is not None]
        waiting += [((*path, name), child, parents) for name, child in reversed(children) if id(child) not in parents]
    return places


def _separate_names(model: nn.Module) -> None:
    """Replace a module with several names by one object for each name, which share one dict of attributes."""
    known: set[int] = set()
    waiting = [model]
    while waiting:
        module = waiting.pop()
        for name, child in list(module._modules.items()):
            if child is None or isinstance(child, torch.jit.ScriptModule):
                continue
            if id(vars(child)) not in known:
                known.add(id(vars(child)))
                waiting.append(child)
            else:
                twin = object.__new__(type(child))
                object.__setattr__(twin, "__dict__", vars(child))
                module._modules[name] = twin


class _Copier:
    """Copier that copies each value once; contents are copied later, from a queue, so that nesting may be deep."""

    def __init__(self, tensor_copy: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._tensor_copy = tensor_copy
        self._copies: dict[int, Any] = {}
        self._kept: list[Any] = []  # originals, so that no id is reused
        self._waiting: deque[Callable[[], None]] = deque()

    def copied(self, value: Any) -> Any:
        """Return the copy of a value with all its contents."""
        result = self.copy(value)
        while self._waiting:
            self._waiting.popleft()()
        return result

    def copy(self, value: Any) -> Any:
        """Return the copy of a value, whose contents are filled in later."""
        if type(value) in ATOMS:
            return value
        if id(value) in self._copies:
            return self._copies[id(value)]
        result = self._made(value)
        self._copies[id(value)] = result
        self._kept.append(value)
        return result

    def _made(self, value: Any) -> Any:
        kind = type(value)
        if kind in EMPTY and not value:  # as most containers of a module; ten times faster
            return kind()
        if isinstance(value, torch.Tensor):
            return self._tensor_copy(value)
        if isinstance(value, torch.jit.ScriptModule):
            return script_copy(value, self.copy)
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, tuple):
            return self._tuple(value)
        if isinstance(value, frozenset):
            return kind(self.copy(part) for part in value)
        if isinstance(value, dict | list | set | deque):
            return self._container(value)
        if kind in BY_KIND:
            return BY_KIND[kind](self, value)
        if isinstance(value, np.ndarray | bytearray | random.Random):
            return copy.copy(value)
        return self._object(value) if _is_copied(value) else value

    def _module(self, module: nn.Module) -> nn.Module:
        made: nn.Module = object.__new__(type(module))

        def fill() -> None:
            attributes = vars(made)
            for name, value in list(vars(module).items()):
                attributes[name] = None if name == COMPILED_CALL else self.copy(value)
            self._fill_slots(module, made)

        self._waiting.append(fill)
        return made

    def _tuple(self, value: tuple[Any, ...]) -> Any:
        parts = [self.copy(part) for part in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        kind = type(value)
        if hasattr(kind, "_make"):
            return kind._make(parts)
        return kind(parts) if kind is not tuple else tuple(parts)

    def _container(self, value: Any) -> Any:
        """Return the copy of a dict, list, set or deque; methods that a subclass overrides are not called."""
        base = next(base for base in CONTAINERS if isinstance(value, base))
        made = base.__new__(type(value))
        if base is deque:
            deque.__init__(made, (), value.maxlen)
        if base is defaultdict:
            made.default_factory = self.copy(value.default_factory)

        def fill() -> None:
            if isinstance(value, dict):
                for key, part in list(base.items(value)):
                    base.__setitem__(made, self._key(key), self.copy(part))
            elif base is set:
                set.update(made, [self._key(part) for part in set.copy(value)])
            else:
                base.extend(made, [self.copy(part) for part in list(base.__iter__(value))])
            self._fill(value, made)

        self._waiting.append(fill)
        return made

    def _key(self, key: Any) -> Any:
        """Return the copy of a key of a dict or a set: a module, a tensor, a tuple, or the `id` of a copied one."""
        if isinstance(key, torch.Tensor | nn.Module | tuple):
            return self.copy(key)
        if type(key) is int and key in self._copies and isinstance(self._copies[key], torch.Tensor | nn.Module):
            return id(self._copies[key])  # the model uses id(module) as a key
        return key

    def _object(self, value: Any) -> Any:
        """Return the copy of an object of a Python class, or the object itself if its class cannot be instantiated."""
        if hasattr(type(value), "__deepcopy__"):
            return self._by_itself(value)
        try:
            made: Any = SimpleNamespace() if type(value) is SimpleNamespace else object.__new__(type(value))
        except TypeError:  # its state is in C
            return value
        self._waiting.append(functools.partial(self._fill, value, made))
        return made

    def _by_itself(self, value: Any) -> Any:
        """Return the copy that an object's own `__deepcopy__` makes, with the tensors that it holds replaced."""
        try:
            memo = {id(part): self.copy(part) for part in vars(value).values() if isinstance(part, torch.Tensor)}
            return copy.deepcopy(value, memo)
        except Exception:  # noqa: BLE001 - objects may raise any error
            return value

    def _fill(self, value: Any, made: Any) -> None:
        """Copy the attributes of an object."""
        if hasattr(made, "__dict__"):
            for name, part in list(vars(value).items()):
                vars(made)[name] = self.copy(part)
        self._fill_slots(value, made)

    def _fill_slots(self, value: Any, made: Any) -> None:
        for kind in type(value).__mro__:
            slots = vars(kind).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                place: Any = vars(kind).get(name) or vars(kind).get(f"_{kind.__name__.lstrip('_')}{name}")
                if hasattr(place, "__set__") and name != "__dict__" and name != "__weakref__":
                    try:
                        place.__set__(made, self.copy(place.__get__(value, type(value))))
                    except AttributeError:  # the slot has no value
                        continue

    def _function(self, function: FunctionType) -> Any:
        """Return a copy of a function that closes over copied values or assigns to a closure; others are shared."""
        original = uncompiled(function)
        if original is not function:
            return self.copy(original)
        cells = function.__closure__ or ()
        if not (any(map(_is_own, cells)) or _rebinds(function)):
            return function
        closure = tuple(self.copy(cell) for cell in cells)
        made = FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, closure or None
        )
        made.__kwdefaults__ = function.__kwdefaults__
        made.__qualname__, made.__module__ = function.__qualname__, function.__module__
        vars(made).update(vars(function))
        return made

    def _cell(self, cell: CellType) -> CellType:
        made = CellType()

        def fill() -> None:
            try:
                made.cell_contents = self.copy(cell.cell_contents)
            except ValueError:  # the cell is empty
                return

        self._waiting.append(fill)
        return made

    def _method(self, method: MethodType) -> MethodType:
        return MethodType(self.copy(method.__func__), self.copy(method.__self__))

    def _partial(self, part: functools.partial[Any]) -> functools.partial[Any]:
        keywords = {name: self.copy(value) for name, value in part.keywords.items()}
        return functools.partial(self.copy(part.func), *map(self.copy, part.args), **keywords)

    def _weak(self, reference: weakref.ref[Any]) -> weakref.ref[Any]:
        value = reference()
        copied = None if value is None else self.copy(value)
        return reference if copied is value else weakref.ref(copied)

    def _weak_container(self, value: Any) -> Any:
        made = type(value)()

        def fill() -> None:
            if isinstance(value, weakref.WeakSet):
                made.update([self._key(part) for part in value])
            else:
                made.update({self._key(key): self.copy(part) for key, part in list(value.items())})

        self._waiting.append(fill)
        return made

    def _generator(self, generator: torch.Generator) -> torch.Generator:
        if generator is torch.default_generator:
            return generator
        made = torch.Generator(device=generator.device)
        made.set_state(generator.get_state())
        return made


EMPTY = frozenset((dict, OrderedDict, list, set))
CONTAINERS: tuple[Any, ...] = (OrderedDict, defaultdict, dict, list, set, deque)
BY_KIND: dict[type, Callable[[_Copier, Any], Any]] = {
    FunctionType: _Copier._function,
    CellType: _Copier._cell,
    MethodType: _Copier._method,
    functools.partial: _Copier._partial,
    weakref.ref: _Copier._weak,
    weakref.WeakSet: _Copier._weak_container,
    weakref.WeakKeyDictionary: _Copier._weak_container,
    weakref.WeakValueDictionary: _Copier._weak_container,
    torch.Generator: _Copier._generator,
}
"""Copy function of each type that needs its own."""


def _is_copied(value: Any) -> bool:
    """Return whether an object is of a Python class and has attributes that may belong to a model."""
    kind: Any = type(value)
    if isinstance(value, type | enum.Enum) or not (hasattr(value, "__dict__") or hasattr(kind, "__slots__")):
        return False
    copied: bool = _is_copied_kind(kind)
    return copied


@functools.cache
def _is_copied_kind(kind: Any) -> bool:
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        if package in sys.stdlib_module_names and package not in COPIED_LIBRARY:
            return False
        if package == "torch" and not base.__module__.startswith(COPIED_TORCH):
            return False
    return True


def _is_own(cell: CellType) -> bool:
    """Return whether the content of a function's closure cell is copied."""
    try:
        value = cell.cell_contents
    except ValueError:  # the cell is empty, as in a function that is still being defined
        return False
    if isinstance(value, FunctionType):
        return value.__closure__ is not None
    return type(value) not in ATOMS and not isinstance(value, type)


def _rebinds(function: FunctionType) -> bool:
    """Return whether a function assigns to a variable of its enclosing function."""
    names = function.__code__.co_freevars
    return bool(names) and any(
        step.opname == "STORE_DEREF" and step.argval in names for step in dis.get_instructions(function)
    )
