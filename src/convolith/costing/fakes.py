"""Models and inputs without memory: torch's fake tensors in the place of parameters and buffers, for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from convolith.errors import ConvolithError


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


@contextmanager
def stand_ins(model: torch.nn.Module, fake: FakeTensorMode | None) -> Iterator[list[torch.Tensor]]:
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


def as_input(leaf: Any, fake: FakeTensorMode | None, *, requires_grad: bool) -> Any:
    """An argument of a call: a tensor without memory, or the tensor itself; anything else as it is."""
    if isinstance(leaf, Shape):
        return torch.empty(leaf.size, dtype=leaf.dtype, device=leaf.device, requires_grad=requires_grad)
    if not isinstance(leaf, torch.Tensor):
        return leaf
    tensor = leaf.detach() if fake is None else fake.from_tensor(leaf.detach())
    differentiable = requires_grad and (tensor.is_floating_point() or tensor.is_complex())
    return tensor.requires_grad_(differentiable) if differentiable else tensor


def tensors_of(tree: Any) -> list[torch.Tensor]:
    """The tensors in a structure."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


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
    sizes = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in list(tensors)}
    return sum(sizes.values())
