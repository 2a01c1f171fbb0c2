"""Copies of models and inputs without memory: their tensors are replaced by torch's fake tensors."""

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
    """Input that is given by its shape, dtype and device, without values."""

    size: tuple[int, ...]
    dtype: torch.dtype
    device: str = "cpu"


def check_lazy(model: torch.nn.Module) -> None:
    """Raise an error if a parameter is lazy, so that only a first call sets its shape."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ConvolithError(
                f"model has the lazy parameter {name}, whose shape is not known yet; call the model once with real data"
            )


def model_copy(model: nn.Module, fake: Any, *, by_name: bool = False) -> tuple[nn.Module, list[torch.Tensor]]:
    """Return a structural copy of a model, whose tensors have no memory, and its parameters and buffers.

    Values of small tensors without gradients are known until something is written into them, so that code can read a
    size that is stored in a buffer.

    Args:
        model: model to copy; it is not modified.
        fake: the mode of the fake tensors, or None for copies with memory, shared as among the model's tensors.
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

    copied = structural_copy(model, tensor_copy, by_name=by_name)
    state = {id(tensor): tensor for tensor in (*copied.parameters(), *copied.buffers())}
    return copied, list(state.values())


KNOWN_ELEMENTS = 64
"""Largest number of elements of a tensor with known values: sizes, strides, flags and counters, but not tables."""


def _unread_counters(model: nn.Module) -> set[int]:
    """Return ids of batch counters that norms with a momentum write but do not read: knowing them slows each write."""
    norms = (module for module in model.modules() if isinstance(module, NormBase) and module.momentum is not None)
    return {id(norm.num_batches_tracked) for norm in norms}


def _faked(tensor: torch.Tensor, fake: Any, places: Mapping[int, int], *, constant: bool) -> torch.Tensor:
    """Return a tensor without memory and without a gradient; a parameter stays a parameter."""
    holders = _times_held(tensor, places)
    if holders in (0, 1) and constant:
        fake_tensor = fake_constant(tensor, fake)
    else:
        fake_tensor = fake_of(tensor, fake) if holders == 1 else fake.from_tensor(tensor)
    fake_tensor.grad = None
    return fake_tensor


def _is_small_constant(tensor: torch.Tensor) -> bool:
    return 0 < tensor.numel() <= KNOWN_ELEMENTS and not isinstance(tensor, nn.Parameter) and not tensor.requires_grad


def _times_held(tensor: torch.Tensor, places: Mapping[int, int]) -> int | None:
    """Return how many parameters and buffers share a tensor's memory; None unless it is plain and fills its storage."""
    usual = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.layout is torch.strided and tensor.is_leaf
    if not usual or tensor.is_meta or tensor.is_quantized:
        return None
    storage = tensor.untyped_storage()
    return places.get(storage.data_ptr(), 0) if storage.nbytes() == tensor.nbytes else None


def _copied(tensor: torch.Tensor, storages: dict[int, torch.UntypedStorage]) -> torch.Tensor:
    """Return a copy without gradient, which shares its memory with the copies of tensors that share the original's."""
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
    """Return the arguments of a call, with shapes and tensors replaced by tensors without memory, or by copies.

    The objects that contain them (dicts, dataclasses, caches) are copied too; the originals are not modified.
    """

    def replacement(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach().clone() if fake is None else fake.from_tensor(tensor.detach())
        differentiable = requires_grad and (tensor.is_floating_point() or tensor.is_complex())
        return tensor.requires_grad_() if differentiable else tensor

    def empty(shape: Shape) -> torch.Tensor:
        wide = requires_grad and (shape.dtype.is_floating_point or shape.dtype.is_complex)
        try:
            return torch.empty(shape.size, dtype=shape.dtype, device=shape.device, requires_grad=wide)
        except RuntimeError as problem:
            raise ConvolithError(
                f"input_shape is {shape.size}, of which there is no tensor ({problem}); pass a smaller one"
            ) from None

    given = mapped_tree(lambda leaf: empty(leaf) if isinstance(leaf, Shape) else leaf, given)
    memo = {id(tensor): replacement(tensor) for tensor in tensors_of(given)}
    try:
        return deepcopy(given, memo)
    except Exception as problem:  # objects may raise any error
        raise ConvolithError(
            f"example_input has something that cannot be copied ({problem}); leave it out, or pass tensors alone"
        ) from problem


def tensors_of(tree: Any) -> list[torch.Tensor]:
    """Return the tensors in a structure of containers, dataclasses and other objects, each once, in order."""
    tensors: dict[int, torch.Tensor] = {}
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            tensors.setdefault(id(value), value)
        elif id(value) not in seen:
            seen.add(id(value))
            waiting += reversed(_parts(value))
    return list(tensors.values())


def _parts(value: Any) -> list[Any]:
    """Return the values that a container or an object holds."""
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
    """Return the tensors among an operator's arguments or results, either single or in lists."""
    if isinstance(values, torch.Tensor):
        return [values]
    tensors: list[torch.Tensor] = []
    for value in values if isinstance(values, list | tuple) else ():
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple):
            tensors += [part for part in value if isinstance(part, torch.Tensor)]
    return tensors


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of the tensors' storages, each counted once."""
    sizes = {storage_identity(storage): storage.nbytes() for tensor in tensors for storage in storages_of(tensor)}
    return sum(sizes.values())


def check_sizes(tensors: Iterable[torch.Tensor], remedy: str) -> None:
    """Raise an error if a tensor is sparse, since its size depends on values."""
    if any(tensor.layout is not torch.strided for tensor in tensors):
        raise ConvolithError(f"the model makes sparse tensors or gradients, as large as their values decide; {remedy}")


def storages_of(tensor: torch.Tensor) -> list[torch.UntypedStorage]:
    """Return the storage of a tensor, or the two storages of a sparse tensor."""
    parts = [tensor] if tensor.layout is torch.strided else sparse_parts(tensor)
    return [part.untyped_storage() for part in parts]
