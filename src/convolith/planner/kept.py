"""Prepared kernels kept from call to call, and used again only after the kernel was found to be the same.

A tensor's version says nothing of writes through `.data` or `.numpy()`, so its bytes are compared with a copy.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from functools import cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.engines.protocol import NEEDS_KERNEL
from convolith.planner.choose import plan
from convolith.planner.plan import Plan

KEPT_BYTES = 1 << 28
"""Of the copies of kernels; the longest unused go first."""
MOST_KEPT = 1024


def _bytes(kernel: torch.Tensor) -> np.ndarray:
    """The bytes of a kernel, for NumPy: torch's threads do not survive a fork."""
    return kernel.contiguous().flatten().view(torch.uint8).numpy()


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of bytes are equal, at the speed of memory."""
    compare = _memcmp()
    if compare is None:
        return np.array_equal(a, b)
    return a.size == b.size and compare(a.ctypes.data, b.ctypes.data, a.size) == 0


@cache
def _memcmp() -> Any:
    """The system's comparison, which needs no room for an answer per byte; None where it is not found."""
    try:
        found = ctypes.CDLL(None).memcmp
    except (OSError, AttributeError, TypeError):
        return None
    found.argtypes, found.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t], ctypes.c_int
    return found


class Kept(NamedTuple):
    """A plan, the copy of a kernel, and the engine's state for it."""

    asked: Plan  # kept alive, since its identity is part of the key
    plan: Plan
    kernel: torch.Tensor
    state: Any


_kept: OrderedDict[tuple[int, int, bool], Kept] = OrderedDict()
_lock = Lock()


def forget() -> None:
    """Give back all that is kept."""
    with _lock:
        _kept.clear()


def prepared(asked: Plan, kernel: torch.Tensor, *, by_kernel: bool) -> Kept:
    """A plan and its state for a kernel (a plain tensor of the right dtype).

    Args:
        asked: the plan for the spec alone.
        by_kernel: whether engines that depend on the kernel's values may be chosen instead.
    """
    key = (id(asked), kernel.data_ptr(), by_kernel)
    found = _kept.get(key)
    if found is not None and _same(_bytes(found.kernel), _bytes(kernel)):
        return found
    copy = torch.empty(kernel.shape, dtype=kernel.dtype, device="cpu")
    np.copyto(_bytes(copy), _bytes(kernel))
    chosen = asked
    if by_kernel and any(candidate.reason == NEEDS_KERNEL for candidate in asked.candidates):
        chosen = plan(asked.spec, copy, accuracy=asked.accuracy)
    fresh = Kept(asked, chosen, copy, chosen.prepared(copy))
    with _lock:
        _kept[key] = fresh
        _kept.move_to_end(key)
        total = sum(entry.kernel.nbytes for entry in _kept.values())
        while len(_kept) > MOST_KEPT or (total > KEPT_BYTES and len(_kept) > 1):
            total -= _kept.popitem(last=False)[1].kernel.nbytes
    return fresh
