"""Prepared kernels kept from call to call, and used again only after the kernel was found to be the same.

A kernel is prepared to be kept when it comes back: one that changes between calls, as in training, costs nothing. A
tensor's version says nothing of writes through `.data` or `.numpy()`, so all bytes of a kept kernel are read in every
call: a small one is compared with a copy, of a large one a digest is compared (see `digest` for what that may miss).
Whether a kernel seems to have come back is judged by a few bytes, since nothing but time depends on it.
"""

from __future__ import annotations

import ctypes
import os
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from convolith.planner.digest import digest

if TYPE_CHECKING:
    from convolith.planner.plan import Plan

KEPT_BYTES = 1 << 28
"""The most bytes of kernels whose preparations are kept; the longest unused are forgotten first."""
DIGEST_BYTES = 1 << 20
"""From which on a kernel is recognised by its digest: below, comparing it with its copy takes less time."""
MOST_KEPT = 1024
WITNESS_BYTES = 64
"""Bytes at either end of a kernel by which one seems to have come back."""


def _bytes(kernel: torch.Tensor) -> np.ndarray:
    """The bytes of a kernel, for NumPy: torch's threads do not survive a fork."""
    whole = kernel.contiguous()
    return whole.as_strided((whole.numel(),), (1,)).view(torch.uint8).numpy()  # one element has any stride at all


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


class PreparedKernel(NamedTuple):
    """A plan and the engine's state for a kernel, and what the kernel is recognised by: its bytes, or their digest."""

    requested: Plan  # kept alive, since its identity is part of the key
    plan: Plan
    state: Any
    mark: np.ndarray | None = None
    size: int = 0
    """Bytes of the kernel."""


class SeenKernel(NamedTuple):
    """A kernel that came once, or whose values decide nothing: a few of its bytes."""

    requested: Plan
    witness: bytes
    settled: bool
    """Whether there is nothing to gain from keeping it."""


Choose = Callable[[torch.Tensor], "Plan"]
Key = tuple[int, int, bool, bool]
_kept: OrderedDict[Key, PreparedKernel | SeenKernel] = OrderedDict()
_total = 0
_lock = Lock()


def _after_fork() -> None:
    """A thread that held the lock is not in the child."""
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def forget() -> None:
    """Give back all that is kept."""
    global _total
    with _lock:
        _kept.clear()
        _total = 0


def once(requested: Plan, kernel: torch.Tensor, *, fixed: bool = False) -> PreparedKernel:
    """A plan and its state for a kernel of which nothing is kept."""
    fresh = requested if fixed else requested.for_new_kernels
    return PreparedKernel(requested, fresh, fresh.prepared(kernel))


def prepared(
    requested: Plan, kernel: torch.Tensor, choose: Choose | None = None, *, fixed: bool = False
) -> PreparedKernel:
    """A plan and its state for a kernel (a plain tensor of the right dtype), kept from its second call on.

    Args:
        requested: the plan for the spec alone.
        choose: the plan for a kernel's values, where they may decide about the engine.
        fixed: keep to the plan's engine, even for a kernel that was not seen before.
    """
    if not (choose or requested.prepares):
        return once(requested, kernel, fixed=fixed)
    key = (id(requested), kernel.data_ptr(), choose is not None, fixed)
    found = _found(key)
    if isinstance(found, PreparedKernel) and found.mark is not None and _same(found.mark, _mark(_bytes(kernel))):
        return found
    witness = _witness(kernel)
    if not isinstance(found, SeenKernel) or found.witness != witness:
        _keep(key, SeenKernel(requested, witness, settled=False))
        return once(requested, kernel, fixed=fixed)
    if found.settled:
        return once(requested, kernel, fixed=fixed)
    copy = torch.empty(kernel.shape, dtype=kernel.dtype, device="cpu")
    np.copyto(_bytes(copy), _bytes(kernel))
    chosen = choose(copy) if choose else requested
    if not chosen.prepares:
        _keep(key, SeenKernel(requested, witness, settled=True))
        return once(requested, kernel, fixed=fixed)
    fresh = PreparedKernel(requested, chosen, chosen.prepared(copy), _mark(_bytes(copy)), copy.nbytes)
    _keep(key, fresh)
    return fresh


def _mark(data: np.ndarray) -> np.ndarray:
    """Return what a kernel is recognised by: these very bytes (no copy) if they are few, else their digest."""
    return data if data.size < DIGEST_BYTES else digest(data)


def _witness(kernel: torch.Tensor) -> bytes:
    """The first and the last bytes of a contiguous kernel, and of another its first element."""
    size = kernel.nbytes if kernel.is_contiguous() else kernel.itemsize
    few = min(size, WITNESS_BYTES)
    start = kernel.data_ptr()
    return ctypes.string_at(start, few) + ctypes.string_at(start + size - few, few)


def _found(key: Key) -> PreparedKernel | SeenKernel | None:
    """Return the entry of a key, or None; it counts as just used."""
    with _lock:
        entry = _kept.get(key)
        if entry is not None:
            _kept.move_to_end(key)
        return entry


def _keep(key: Key, entry: PreparedKernel | SeenKernel) -> None:
    """Remember an entry, and give back the longest unused beyond the bounds."""
    global _total
    with _lock:
        _total += _size(entry) - _size(_kept.get(key))
        _kept[key] = entry
        _kept.move_to_end(key)
        while len(_kept) > MOST_KEPT or (_total > KEPT_BYTES and len(_kept) > 1):
            _total -= _size(_kept.popitem(last=False)[1])


def _size(entry: PreparedKernel | SeenKernel | None) -> int:
    """Bytes of a kept kernel."""
    return entry.size if isinstance(entry, PreparedKernel) else 0
