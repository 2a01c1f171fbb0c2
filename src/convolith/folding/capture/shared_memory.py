"""Tensors that a recorder has seen, the memory that they share, and the effect of in-place writes on them."""

from __future__ import annotations

import dataclasses
import weakref

import torch
from torch.fx import Node


@dataclasses.dataclass(eq=False)
class Value:
    """Recorded tensor, and the node that computes it."""

    tensor: weakref.ref[torch.Tensor]
    node: Node
    memory: int
    """Number of the tensor's storage; views of one tensor share it."""
    view_of: Value | None = None
    outdated: Write | None = None
    """In-place write that has changed the tensor's memory since the node computed it, or None."""
    successor: Value | None = None
    """Value that replaced this one when the tensor was written to, or None."""


@dataclasses.dataclass(eq=False)
class Write:
    """In-place write recorded as an operator that does not write: its number, and the tensor before and after."""

    number: int
    before: Value
    after: Value

    @property
    def latest(self) -> Value:
        """Present value of the tensor, which may have been written to again."""
        value = self.after
        while value.successor is not None:
            value = value.successor
        return value


def share_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two tensors share a storage."""
    if a.layout is not torch.strided or b.layout is not torch.strided:
        return False
    place = a.untyped_storage().data_ptr()
    return place != 0 and place == b.untyped_storage().data_ptr()


def overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two tensors of one storage have an element in common."""
    if a.dtype != b.dtype:
        return True
    first = min(a.storage_offset(), b.storage_offset())
    ends = [
        t.storage_offset() - first + sum((n - 1) * step for n, step in zip(t.shape, t.stride(), strict=True)) + 1
        for t in (a, b)
    ]
    touched = torch.zeros(max(ends), dtype=torch.bool, device="cpu")
    touched.as_strided(a.shape, a.stride(), a.storage_offset() - first).fill_(value=1)
    return bool(touched.as_strided(b.shape, b.stride(), b.storage_offset() - first).any())


def look_alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two tensors of one storage consist of the same elements in the same order."""
    return (a.shape, a.stride(), a.storage_offset(), a.dtype) == (b.shape, b.stride(), b.storage_offset(), b.dtype)
