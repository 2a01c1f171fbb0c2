"""Fresh memory for results: large results are written into memory that earlier ones gave back.

The system takes longer to hand out 64 MB in pages of 4 KB, zeroed, than a small kernel takes to fill them, and torch
gives freed memory back to it. Here the memory of a large result that nobody refers to any more is kept for the next
one, up to a bound, and comes in huge pages where the system has them (as NumPy asks for them too).
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
"""Bytes from which memory is kept; below, the allocator of the process keeps it by itself."""
MOST_WASTE = 1.3
"""Times what is needed that huge pages may take."""
KEPT_BYTES = 1 << 27
"""What is kept at most: the longest unused goes back to the system first."""
NUMPY: dict[torch.dtype, Any] = {getattr(torch, name): np.dtype(name) for name in ITEMSIZE if name != "bfloat16"}
"""The dtypes that NumPy has too; bfloat16 is made of as many bits."""


class Block(NamedTuple):
    """Memory from the system, of which `size` bytes from `offset` on are used."""

    memory: mmap.mmap
    offset: int
    size: int


_kept: OrderedDict[int, list[Block]] = OrderedDict()  # by size, the longest unused first
_lock = RLock()  # a tensor may be collected, and its memory come back, while memory is taken
_total = 0
_local = local()


class _Lent(np.ndarray):
    """Memory that is given back when the last tensor or view that refers to it is gone."""

    block: Block

    def __del__(self) -> None:
        block = self.__dict__.get("block")  # views have none
        if block is not None and _give_back is not None:  # None: the interpreter ends
            _give_back(block)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """An uninitialised contiguous tensor."""
    size = prod(shape) * dtype.itemsize
    if size < LARGE or getattr(_local, "plain", False) or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.empty(shape, dtype=dtype, device="cpu")
    size = bytes_for(size)
    block = _take(size) or _fresh(size)
    array = _Lent(shape, NUMPY.get(dtype, np.uint16), block.memory, block.offset)
    array.block = block
    made = torch.from_numpy(array)  # the tensor refers to the array while it lives
    return made if dtype in NUMPY else made.view(dtype)


def empty_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array of torch's memory, which its profiler knows."""
    return torch.empty(shape, dtype=getattr(torch, np.dtype(dtype).name), device="cpu").numpy()


def bytes_for(size: int) -> int:
    """What is taken for so many: whole pages, and huge ones where that wastes little."""
    if size < LARGE:
        return size
    huge = -(-size // HUGE_PAGE) * HUGE_PAGE
    return huge if huge <= MOST_WASTE * size else -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


@contextmanager
def plain() -> Iterator[None]:
    """While inside, results of this thread come from torch's allocator, which tells its profiler of them."""
    _local.plain = True
    try:
        yield
    finally:
        _local.plain = False


def _fresh(size: int) -> Block:
    """Memory from the system, private to this process and its children; whole huge pages begin where those do."""
    huge = size % HUGE_PAGE == 0 and hasattr(mmap, "MADV_HUGEPAGE")
    try:
        memory = mmap.mmap(-1, size + huge * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"a result of {size:,} bytes finds no room in memory") from error
    if not huge:
        return Block(memory, 0, size)
    offset = -np.frombuffer(memory, np.uint8).ctypes.data % HUGE_PAGE
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return Block(memory, offset, size)


def _take(size: int) -> Block | None:
    """Memory of exactly this size that was given back, if there is any."""
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
    """Give everything that is kept back to the system."""
    global _total
    with _lock:
        _kept.clear()
        _total = 0


def _give_back(block: Block) -> None:
    """Keep memory that nobody refers to; what is too much goes back to the system."""
    global _total
    with _lock:
        _kept.setdefault(block.size, []).append(block)
        _kept.move_to_end(block.size)
        _total += block.size
        while _total > KEPT_BYTES:
            size, blocks = next(iter(_kept.items()))
            blocks.pop(0)  # unmapped when its array is gone
            _total -= size
            if not blocks:
                del _kept[size]
