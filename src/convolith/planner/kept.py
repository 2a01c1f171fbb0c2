"""Prepared kernels kept from call to call, and used again only after the kernel was found to be the same.

A tensor's version says nothing of writes through `.data` or `.numpy()`, so its values are compared with a copy.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Any, NamedTuple

import torch

from convolith.planner.plan import Plan

KEPT_BYTES = 1 << 28
"""Of the copies of kernels; the longest unused go first."""
MOST_KEPT = 1024


class _Kept(NamedTuple):
    plan: Plan  # keeps the plan alive, whose identity is part of the key
    kernel: torch.Tensor
    state: Any


_kept: OrderedDict[tuple[int, int], _Kept] = OrderedDict()
_lock = Lock()


def prepared(plan: Plan, kernel: torch.Tensor) -> Any:
    """The state of a plan's engine for a kernel (a plain tensor of the right dtype)."""
    key = (id(plan), kernel.data_ptr())
    found = _kept.get(key)
    if found is not None and torch.equal(found.kernel, kernel):
        return found.state
    copy = kernel.clone()
    fresh = _Kept(plan, copy, plan.prepared(copy))
    with _lock:
        _kept[key] = fresh
        _kept.move_to_end(key)
        total = sum(entry.kernel.nbytes for entry in _kept.values()) if len(_kept) > 1 else 0
        while len(_kept) > MOST_KEPT or (total > KEPT_BYTES and len(_kept) > 1):
            total -= _kept.popitem(last=False)[1].kernel.nbytes
    return fresh.state
