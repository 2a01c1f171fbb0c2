"""Memory for results: large results reuse the memory of earlier results that were released.

The operating system needs longer to provide 64 MB in zeroed pages of 4 KB than a small kernel needs to fill them, and
torch returns freed memory to the system. This module keeps the memory of large results that are no longer referenced
for reuse, up to a limit, and requests huge pages where the system supports them (as NumPy does).
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from threading import RLock, local
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.dtypes import ITEMSIZE

HUGE_PAGE = 1 << 21
LARGE = 1 << 20
"""Bytes from which memory is kept for reuse; the process's allocator keeps smaller blocks itself."""
MOST_WASTE = 1.3
"""Largest ratio of the memory in huge pages to the memory needed."""
KEPT_BYTES = 1 << 27
"""Upper bound on the bytes kept; the least recently used memory is returned to the system first."""
NUMPY: dict[torch.dtype, Any] = {getattr(torch, name): np.dtype(name) for name in ITEMSIZE if name != "bfloat16"}
"""NumPy dtype of each torch dtype, except bfloat16, which is stored in 16-bit integers."""


class Block(NamedTuple):
    """Memory from the system, of which `size` bytes from `offset` on are used."""

    memory: mmap.mmap
    offset: int
    size: int


_kept: OrderedDict[int, list[Block]] = OrderedDict()  # by size, least recently used first
_lock = RLock()  # reentrant: garbage collection may return memory inside the locked code
_total = 0
_local = local()


class _Lent(np.ndarray):
    """Array whose memory is returned for reuse when no tensor or view refers to it any more."""

    block: Block

    def __del__(self) -> None:
        block = self.__dict__.get("block")  # views have no block
        if block is not None and _give_back is not None:  # None at interpreter exit
            _give_back(block)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return an uninitialised contiguous tensor."""
    size = prod(shape) * dtype.itemsize
    if size < LARGE or getattr(_local, "plain", False) or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.empty(shape, dtype=dtype, device="cpu")
    size = bytes_for(size)
    block = _take(size) or _fresh(size)
    array = _Lent(shape, NUMPY.get(dtype, np.uint16), block.memory, block.offset)
    array.block = block
    tensor = torch.from_numpy(array)  # the tensor refers to the array while it lives
    return tensor if dtype in NUMPY else tensor.view(dtype)


def empty_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an uninitialised array in memory allocated by torch, which torch's profiler records."""
    return torch.empty(shape, dtype=getattr(torch, np.dtype(dtype).name), device="cpu").numpy()


def reused_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an uninitialised array of NumPy; a large one of a dtype that torch has is in memory that is reused."""
    kind = np.dtype(dtype)
    if not kind.isnative or kind.name not in ITEMSIZE:
        return np.empty(shape, kind)
    found: np.ndarray = empty(shape, getattr(torch, kind.name)).numpy()
    return found


def bytes_for(size: int) -> int:
    """Return the bytes to allocate for a size: whole pages, and huge pages where they waste little."""
    if size < LARGE:
        return size
    huge = -(-size // HUGE_PAGE) * HUGE_PAGE
    return huge if huge <= MOST_WASTE * size else -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


@contextmanager
def plain() -> Iterator[None]:
    """Allocate this thread's results with torch's allocator inside the context, so that its profiler records them."""
    _local.plain = True
    try:
        yield
    finally:
        _local.plain = False


def _fresh(size: int) -> Block:
    """Allocate memory private to this process and its children; whole huge pages are aligned to their size."""
    huge = size % HUGE_PAGE == 0 and hasattr(mmap, "MADV_HUGEPAGE")
    try:
        memory = mmap.mmap(-1, size + huge * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"cannot allocate {size:,} bytes for a result") from error
    if not huge:
        return Block(memory, 0, size)
    offset = -np.frombuffer(memory, np.uint8).ctypes.data % HUGE_PAGE
    with suppress(OSError):  # an operating system without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return Block(memory, offset, size)


def _take(size: int) -> Block | None:
    """Return kept memory of exactly this size, or None."""
    global _total
    with _lock:
        blocks = _kept.get(size)
        if not blocks:
            return None
        _total -= size
        block = blocks.pop()
        if not blocks:
            del _kept[size]
        return block


def give_up() -> None:
    """Return all kept memory to the system."""
    global _total
    with _lock:
        _kept.clear()
        _total = 0


def _give_back(block: Block) -> None:
    """Keep unreferenced memory for reuse; return the excess over KEPT_BYTES to the system."""
    global _total
    with _lock:
        _kept.setdefault(block.size, []).append(block)
        _kept.move_to_end(block.size)
        _total += block.size
        while _total > KEPT_BYTES:
            size, blocks = next(iter(_kept.items()))
            blocks.pop(0)  # unmapped when its array is deleted
            _total -= size
            if not blocks:
                del _kept[size]
