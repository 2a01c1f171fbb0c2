"""Copies of models and inputs without memory: torch's fake tensors take the place of theirs."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from convolith.costing.tracing.model_copies import structural_copy
from convolith.errors import ConvolithError
from convolith.torch_private import NormBase, fake_constant, fake_of, mapped_tree, sparse_parts, storage_identity


@dataclass(frozen=True)
class Shape:
    """An input of which nothing else is known."""

    size: tuple[int, ...]
    dtype: torch.dtype
    device: str = "cpu"


def check_lazy(model: torch.nn.Module) -> None:
    """Refuse parameters whose shapes only a first call decides."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ConvolithError(
                f"model has the lazy parameter {name}, whose shape is not known yet; call the model once with real data"
            )


def model_copy(model: nn.Module, fake: Any, *, by_name: bool = False) -> tuple[nn.Module, list[torch.Tensor]]:
    """Return a structural copy of a model (`copies`), whose tensors have no memory, and its parameters and buffers.

    Values of small tensors that have no gradient are known as long as nothing is written into them, so that code may
    read a size that is kept in a buffer.

    Args:
        model: is not written to.
        fake: the mode of the fake tensors, or None for copies with memory; they share memory as the model's tensors do.
        by_name: whether a module with several names becomes one object for each (`structural_copy`).
    """
    own = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    places = Counter(storage.data_ptr() for tensor in own.values() for storage in storages_of(tensor))
    storages: dict[int, torch.UntypedStorage] = {}
    unread = _unread_counters(model)

    def tensor_copy(tensor: torch.Tensor) -> torch.Tensor:
        if fake is None:
            return _copied(tensor, storages)
        return _faked(tensor, fake, places, constant=_is_small_constant(tensor) and id(tensor) not in unread)

    made = structural_copy(model, tensor_copy, by_name=by_name)
    state = {id(tensor): tensor for tensor in (*made.parameters(), *made.buffers())}
    return made, list(state.values())


KNOWN_ELEMENTS = 64
"""Elements up to which values are known: sizes, strides, flags and counters, not tables of numbers."""


def _unread_counters(model: nn.Module) -> set[int]:
    """Counters of batches that norms with a momentum write and do not read; to know them takes time at each write."""
    norms = (module for module in model.modules() if isinstance(module, NormBase) and module.momentum is not None)
    return {id(norm.num_batches_tracked) for norm in norms}


def _faked(tensor: torch.Tensor, fake: Any, places: Mapping[int, int], *, constant: bool) -> torch.Tensor:
    """A tensor without memory; a parameter stays one, without a gradient of its own."""
    held = _times_held(tensor, places)
    if held in (0, 1) and constant:
        made = fake_constant(tensor, fake)
    else:
        made = fake_of(tensor, fake) if held == 1 else fake.from_tensor(tensor)
    made.grad = None
    return made


def _is_small_constant(tensor: torch.Tensor) -> bool:
    return 0 < tensor.numel() <= KNOWN_ELEMENTS and not isinstance(tensor, nn.Parameter) and not tensor.requires_grad


def _times_held(tensor: torch.Tensor, places: Mapping[int, int]) -> int | None:
    """How many parameters and buffers lie in its memory; None where shape, strides and dtype do not tell all of it."""
    usual = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.layout is torch.strided and tensor.is_leaf
    if not usual or not tensor.is_cpu or tensor.is_quantized:
        return None
    storage = tensor.untyped_storage()
    return places.get(storage.data_ptr(), 0) if storage.nbytes() == tensor.nbytes else None


def _copied(tensor: torch.Tensor, storages: dict[int, torch.UntypedStorage]) -> torch.Tensor:
    """A copy with memory, which it shares with copies of tensors that share theirs; without a gradient of its own."""
    if type(tensor) in (torch.Tensor, nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized:
        storage = tensor.untyped_storage()
        place = storage_identity(storage)
        if place not in storages:
            storages[place] = storage.clone()  # type: ignore[no-untyped-call]  # torch's own is untyped
        copied = tensor.detach().new_empty(0)
        copied.set_(storages[place], tensor.storage_offset(), tensor.size(), tensor.stride())
    else:
        copied = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, tensor.requires_grad)
    return copied.requires_grad_(tensor.requires_grad)


def as_inputs(given: Any, fake: Any, *, requires_grad: bool) -> Any:
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

    given = mapped_tree(lambda leaf: empty(leaf) if isinstance(leaf, Shape) else leaf, given)
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
    sizes = {storage_identity(storage): storage.nbytes() for tensor in tensors for storage in storages_of(tensor)}
    return sum(sizes.values())


def check_sizes(tensors: Iterable[torch.Tensor], remedy: str) -> None:
    """Refuse sparse tensors, whose sizes are those of their values."""
    if any(tensor.layout is not torch.strided for tensor in tensors):
        raise ConvolithError(f"the model makes sparse tensors or gradients, as large as their values decide; {remedy}")


def storages_of(tensor: torch.Tensor) -> list[torch.UntypedStorage]:
    """Its storage; a sparse tensor has two."""
    parts = [tensor] if tensor.layout is torch.strided else sparse_parts(tensor)
    return [part.untyped_storage() for part in parts]
