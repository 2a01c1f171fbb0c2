"""Cache of prepared kernels, which are used again only after a check that the kernel is the same.

A prepared kernel is cached when the kernel recurs: one that changes between calls, as in training, costs nothing. A
kernel is looked up by some of its bytes, not by its address: lists, flipped kernels and kernels in another dtype are at
a new address in every call. A tensor's version does not count writes through `.data` or `.numpy()`, so all bytes of a
cached kernel are read in every call: a small one is compared with a copy, a large one by its digest (see `digest` for
the changes that it may miss).
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

KEPT_BYTES = 1 << 29
"""Most bytes of cached kernels and of what was prepared from them; the least recently used are dropped first."""
DIGEST_BYTES = 1 << 20
"""Bytes from which on a kernel is recognised by its digest; below, comparing it with its copy takes less time."""
FEW_BYTES = 1 << 13
"""Bytes of a kernel up to which copying it costs less than calling the system's comparison."""
MOST_KEPT = 1024
WITNESS_BYTES = 64
"""Bytes at either end and in the middle of a kernel by which it is looked up."""


def _bytes(kernel: torch.Tensor) -> np.ndarray:
    """Return the bytes of a kernel as a NumPy array: torch's threads do not survive a fork."""
    whole = kernel.contiguous()
    return whole.as_strided((whole.numel(),), (1,)).view(torch.uint8).numpy()  # a single element may have any stride


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two arrays of bytes are equal, at memory speed."""
    if a.size <= FEW_BYTES:
        return a.tobytes() == b.tobytes()
    compare = _memcmp()
    if compare is None:
        return np.array_equal(a, b)
    return a.size == b.size and compare(a.ctypes.data, b.ctypes.data, a.size) == 0


@cache
def _memcmp() -> Any:
    """Return the system's memcmp, which stores no result per byte, or None if it is not found."""
    try:
        function = ctypes.CDLL(None).memcmp
    except (OSError, AttributeError, TypeError):
        return None
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t], ctypes.c_int
    return function


class PreparedKernel(NamedTuple):
    """Plan and engine state for a kernel, and the bytes or the digest by which the kernel is recognised."""

    requested: Plan  # kept alive, since its identity is part of the key
    plan: Plan
    state: Any
    mark: np.ndarray | None = None
    size: int = 0
    """Number of bytes of the kernel and of the state."""
    settled: bool = False
    """Whether later calls with this kernel get an equal state."""


class SeenKernel(NamedTuple):
    """A kernel that was seen once, or whose preparation is not worth caching."""

    requested: Plan
    settled: bool
    """Whether the preparation is not worth caching."""


Choose = Callable[[torch.Tensor], "Plan"]
Key = tuple[int, bytes, bool, bool]
_kept: OrderedDict[Key, PreparedKernel | SeenKernel] = OrderedDict()
_total = 0
_lock = Lock()


def _after_fork() -> None:
    """Replace the lock in a child process, which lacks the thread that may hold it."""
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def forget() -> None:
    """Drop all cached kernels."""
    global _total
    with _lock:
        _kept.clear()
        _total = 0


def once(requested: Plan, kernel: torch.Tensor, *, fixed: bool = False) -> PreparedKernel:
    """Prepare a kernel without caching it, and return its plan and state."""
    fresh = requested if fixed else requested.for_new_kernels
    return PreparedKernel(requested, fresh, fresh.prepared(kernel))


def prepared(
    requested: Plan, kernel: torch.Tensor, choose: Choose | None = None, *, fixed: bool = False
) -> PreparedKernel:
    """Return a plan and its state for a kernel (a plain tensor of the right dtype), cached from its second call on.

    Args:
        requested: the plan for the spec alone.
        choose: function that plans for a kernel's values, if they may decide the engine.
        fixed: whether to use the plan's engine even for a kernel that was not seen before.
    """
    if not (choose or requested.prepares):
        return once(requested, kernel, fixed=fixed)._replace(settled=True)
    data = _bytes(kernel)
    key = (id(requested), _witness(data), choose is not None, fixed)
    entry = _found(key)
    if isinstance(entry, PreparedKernel) and entry.mark is not None and _same(entry.mark, _mark(data)):
        return entry
    if not isinstance(entry, SeenKernel):
        _keep(key, SeenKernel(requested, settled=False))
        return once(requested, kernel, fixed=fixed)
    if entry.settled:
        return once(requested, kernel, fixed=fixed)._replace(settled=True)
    copy = torch.empty(kernel.shape, dtype=kernel.dtype, device="cpu")
    np.copyto(_bytes(copy), data)
    chosen = choose(copy) if choose else requested
    if not chosen.prepares:
        _keep(key, SeenKernel(requested, settled=True))
        return once(requested, kernel, fixed=fixed)
    state = chosen.prepared(copy)
    fresh = PreparedKernel(requested, chosen, state, _mark(_bytes(copy)), copy.nbytes + _bytes_of(state), settled=True)
    _keep(key, fresh)
    return fresh


def _mark(data: np.ndarray) -> np.ndarray:
    """Return the mark by which a kernel is recognised: its bytes (not a copy) if they are few, else their digest."""
    return data if data.size < DIGEST_BYTES else digest(data)


def _witness(data: np.ndarray) -> bytes:
    """Return the first and last bytes of a kernel, and some in its middle; all bytes of a small one."""
    if data.size <= 3 * WITNESS_BYTES:
        return data.tobytes()
    half = data.size // 2
    parts = (data[:WITNESS_BYTES], data[half : half + WITNESS_BYTES], data[-WITNESS_BYTES:])
    return b"".join(part.tobytes() for part in parts)


def _found(key: Key) -> PreparedKernel | SeenKernel | None:
    """Return the entry of a key, or None, and mark it as most recently used."""
    with _lock:
        entry = _kept.get(key)
        if entry is not None:
            _kept.move_to_end(key)
        return entry


def _keep(key: Key, entry: PreparedKernel | SeenKernel) -> None:
    """Cache an entry, and drop the least recently used ones beyond the bounds."""
    global _total
    with _lock:
        _total += _size(entry) - _size(_kept.get(key))
        _kept[key] = entry
        _kept.move_to_end(key)
        while len(_kept) > MOST_KEPT or (_total > KEPT_BYTES and len(_kept) > 1):
            _total -= _size(_kept.popitem(last=False)[1])


def _bytes_of(state: Any) -> int:
    """Return the bytes of all tensors in an engine's state."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    return sum(map(_bytes_of, state)) if isinstance(state, tuple) else 0


def _size(entry: PreparedKernel | SeenKernel | None) -> int:
    """Return the bytes of a cached kernel, 0 for other entries."""
    return entry.size if isinstance(entry, PreparedKernel) else 0
