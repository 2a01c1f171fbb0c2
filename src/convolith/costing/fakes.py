"""Models and inputs without memory: torch's fake tensors in the place of parameters and buffers, for a while."""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass, fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.parameter import is_lazy
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map

from convolith.errors import ConvolithError


@dataclass(frozen=True)
class Shape:
    """An input of which nothing else is known."""

    size: tuple[int, ...]
    dtype: torch.dtype
    device: str = "cpu"


@contextmanager
def aside() -> Iterator[None]:
    """While inside, torch says nothing of how it goes about it, and takes no short cuts that hide operators."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(mode=False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def check_lazy(model: torch.nn.Module) -> None:
    """Refuse parameters whose shapes only a first call decides."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ConvolithError(
                f"model has the lazy parameter {name}, whose shape is not known yet; call the model once with real data"
            )


@contextmanager
def stand_ins(model: nn.Module, fake: FakeTensorMode | None) -> Iterator[list[torch.Tensor]]:
    """While inside, the model's tensors have no memory, or are copies; after it the model is what it was before.

    What is in its lists and dicts is replaced too, and whatever its code sets, adds or appends there is forgotten.

    Yields:
        What stands for its parameters and buffers.
    """
    made: dict[int, torch.Tensor] = {}
    own = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    places = Counter(storage.data_ptr() for tensor in own.values() for storage in storages_of(tensor))

    def stand_in(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = _stand_in(tensor, fake, places)
        return made[id(tensor)]

    before: list[tuple[Any, dict[str, Any]]] = []
    state: dict[int, torch.Tensor] = {}
    copies: dict[int, Any] = {}
    try:
        for module in _modules_of(model):
            attributes = vars(module)
            named: tuple[Any, Any] = (module._parameters, module._buffers)
            before += [(store, dict(store.items())) for store in (attributes, *named, module._modules)]
            for store in named:
                for name, tensor in list(store.items()):
                    if tensor is not None:
                        store[name] = stand_in(tensor)
                        if id(tensor) in own:
                            state[id(tensor)] = store[name]
            for name, value in list(attributes.items()):
                if name not in OF_MODULES:
                    attributes[name] = _replaced(value, stand_in, copies)
        yield list(state.values())
    finally:
        for held, values in reversed(before):
            _restore(held, values)


def _modules_of(model: nn.Module) -> list[nn.Module]:
    """Its modules, and those in its lists and dicts, which it does not know as its own."""
    found: dict[int, nn.Module] = {}
    waiting: list[Any] = [model]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found |= {id(module): module for module in value.modules()}
            waiting += [
                part
                for module in value.modules()
                for name, part in vars(module).items()
                if name not in OF_MODULES and _may_hold(part)
            ]
        elif isinstance(value, Mapping):
            waiting += list(value.values())
        elif isinstance(value, list | tuple | set | deque):
            waiting += list(value)
    return list(found.values())


def _may_hold(value: Any) -> bool:
    return isinstance(value, list | tuple | set | deque | nn.Module | dict)


OF_MODULES = frozenset(vars(nn.Module()))
"""What every module has: its parameters, buffers and modules, hooks and mode."""


def _restore(held: Any, values: dict[str, Any]) -> None:
    """Make a dict (or TorchScript's, which has keys and items alone) what it was."""
    for name in [name for name in held.keys() if name not in values]:  # noqa: SIM118
        del held[name]
    for name, value in values.items():
        if name not in held or held[name] is not value:
            held[name] = value


def _stand_in(tensor: torch.Tensor, fake: FakeTensorMode | None, places: Mapping[int, int]) -> torch.Tensor:
    """A tensor without memory, or a copy; a parameter stays one, without a gradient of its own."""
    if fake is not None:
        made: torch.Tensor = _bare(tensor, fake) if _is_plain(tensor, places) else fake.from_tensor(tensor)
        made.grad = None
        return made
    copied = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, tensor.requires_grad)
    return copied.requires_grad_(tensor.requires_grad)


def _is_plain(tensor: torch.Tensor, places: Mapping[int, int]) -> bool:
    """Whether shape, strides and dtype are all that there is to a tensor; others may share its memory."""
    usual = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.layout is torch.strided and tensor.is_leaf
    if not usual or not tensor.is_cpu or tensor.is_quantized:
        return False
    storage = tensor.untyped_storage()
    return storage.nbytes() == tensor.nbytes and places.get(storage.data_ptr()) == 1


def _bare(tensor: torch.Tensor, fake: FakeTensorMode) -> torch.Tensor:
    """What `from_tensor` gives for a plain tensor, in a fraction of its time."""
    with no_dispatch():
        held = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    made = FakeTensor(fake, held, tensor.device)
    made.requires_grad = tensor.requires_grad
    if isinstance(tensor, nn.Parameter):
        made._is_param = True
    return made


def _replaced(value: Any, stand_in: Callable[[torch.Tensor], torch.Tensor], copies: dict[int, Any]) -> Any:
    """An attribute with its tensors replaced; what holds them are copies, one of each, whoever refers to it."""
    if isinstance(value, torch.Tensor):
        return stand_in(value)
    if id(value) in copies:
        return copies[id(value)]
    if not _holds(value):
        copies[id(value)] = value  # found out once; the module keeps it alive
        return value
    if isinstance(value, tuple):
        parts = [_replaced(part, stand_in, copies) for part in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    made = copies[id(value)] = copy(value)
    copies[id(made)] = made
    if isinstance(value, MutableMapping):
        for key in list(value):
            made[key] = _replaced(value[key], stand_in, copies)
    elif isinstance(value, list | deque):
        for place, part in enumerate(value):
            made[place] = _replaced(part, stand_in, copies)
    elif hasattr(made, "__dict__"):
        for name, part in vars(value).items():
            vars(made)[name] = _replaced(part, stand_in, copies)
    return made


def _holds(value: Any) -> bool:
    """Whether it is a container, or an object with tensors."""
    if isinstance(value, MutableMapping | list | tuple | set | deque | SimpleNamespace):
        return True
    plain = isinstance(value, str | bytes | int | float | type | nn.Module | torch.dtype | torch.device)
    return not plain and value is not None and not callable(value) and bool(tensors_of(value))


def as_inputs(given: Any, fake: FakeTensorMode | None, *, requires_grad: bool) -> Any:
    """The arguments of a call, with tensors without memory, or copies, in the place of shapes and tensors.

    Whatever holds them (dicts, dataclasses, caches) is copied too, and stays as it is.
    """

    def made(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach().clone() if fake is None else fake.from_tensor(tensor.detach())
        differentiable = requires_grad and (tensor.is_floating_point() or tensor.is_complex())
        return tensor.requires_grad_() if differentiable else tensor

    def empty(shape: Shape) -> torch.Tensor:
        wide = requires_grad and (shape.dtype.is_floating_point or shape.dtype.is_complex)
        try:
            return torch.empty(shape.size, dtype=shape.dtype, device=shape.device, requires_grad=wide)
        except RuntimeError as problem:
            raise ConvolithError(f"input_shape is {shape.size}, of which there is no tensor ({problem})") from None

    given = tree_map(lambda leaf: empty(leaf) if isinstance(leaf, Shape) else leaf, given)
    held = {id(tensor): made(tensor) for tensor in tensors_of(given)}
    try:
        return deepcopy(given, held)
    except Exception as problem:  # objects refuse as they like
        raise ConvolithError(
            f"example_input has something that cannot be copied ({problem}); leave it out, or pass tensors alone"
        ) from problem


def tensors_of(tree: Any) -> list[torch.Tensor]:
    """The tensors in a structure, each once, in order: in containers, dataclasses and other objects."""
    found: dict[int, torch.Tensor] = {}
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            found.setdefault(id(value), value)
        elif id(value) not in seen:
            seen.add(id(value))
            waiting += reversed(_parts(value))
    return list(found.values())


def _parts(value: Any) -> list[Any]:
    """What a structure holds."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset | deque):
        return list(value)
    if isinstance(value, type | nn.Module) or callable(value):
        return []
    if is_dataclass(value):
        return [getattr(value, field.name, None) for field in fields(value)]
    return list(vars(value).values()) if hasattr(value, "__dict__") else []


def tensors_in(values: Any) -> list[torch.Tensor]:
    """The tensors among an operator's arguments or results: by themselves, or in a list of them."""
    if isinstance(values, torch.Tensor):
        return [values]
    found: list[torch.Tensor] = []
    for value in values if isinstance(values, list | tuple) else ():
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [part for part in value if isinstance(part, torch.Tensor)]
    return found


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of their storages, each once."""
    sizes = {storage._cdata: storage.nbytes() for tensor in tensors for storage in storages_of(tensor)}
    return sum(sizes.values())


def check_sizes(tensors: Iterable[torch.Tensor], remedy: str) -> None:
    """Refuse sparse tensors, whose sizes are those of their values."""
    if any(tensor.layout is not torch.strided for tensor in tensors):
        raise ConvolithError(f"the model makes sparse tensors or gradients, as large as their values decide; {remedy}")


def storages_of(tensor: torch.Tensor) -> list[torch.UntypedStorage]:
    """Its storage; a sparse tensor has two."""
    parts = [tensor] if tensor.layout is torch.strided else [tensor._indices(), tensor._values()]
    return [part.untyped_storage() for part in parts]
