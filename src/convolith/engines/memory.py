"""Fresh memory for results: large results are written into memory that earlier ones gave back.

The system takes longer to hand out 64 MB in pages of 4 KB, zeroed, than a small kernel takes to fill them, and torch
gives freed memory back to it. Here the memory of a large result that nobody refers to any more is kept for the next
one, up to a bound, and comes in huge pages where the system has them (as NumPy asks for them too).
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from math import prod
from threading import RLock
from typing import Any

import numpy as np
import torch

from convolith.dtypes import ITEMSIZE

HUGE_PAGE = 1 << 21
LARGE = 1 << 20
"""Bytes from which memory is kept; below, the allocator of the process keeps it by itself."""
KEPT_BYTES = 1 << 27
"""What is kept at most: the longest unused goes back to the system first."""
NUMPY: dict[torch.dtype, Any] = {getattr(torch, name): np.dtype(name) for name in ITEMSIZE if name != "bfloat16"}
"""The dtypes that NumPy has too; bfloat16 is made of as many bits."""

_kept: OrderedDict[int, list[mmap.mmap]] = OrderedDict()  # by size, the longest unused first
_lock = RLock()  # a tensor may be collected, and its memory come back, while memory is taken
_total = 0


class _Lent(np.ndarray):
    """Memory that is given back when the last tensor or view that refers to it is gone."""

    block: mmap.mmap

    def __del__(self) -> None:
        block = self.__dict__.get("block")  # views have none
        if block is not None and _give_back is not None:  # None: the interpreter ends
            _give_back(block)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """An uninitialised contiguous tensor."""
    size = prod(shape) * dtype.itemsize
    if size < LARGE or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.empty(shape, dtype=dtype)
    size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    block = _take(size) or _fresh(size)
    array = _Lent(shape, NUMPY.get(dtype, np.uint16), block)
    array.block = block
    made = torch.from_numpy(array)  # the tensor refers to the array while it lives
    return made if dtype in NUMPY else made.view(dtype)


def _fresh(size: int) -> mmap.mmap:
    """Memory from the system, private to this process and its children."""
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= 2 * HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            block.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without them
            return block
    return block


def _take(size: int) -> mmap.mmap | None:
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


def _give_back(block: mmap.mmap) -> None:
    """Keep memory that nobody refers to; what is too much goes back to the system."""
    global _total
    with _lock:
        _kept.setdefault(len(block), []).append(block)
        _kept.move_to_end(len(block))
        _total += len(block)
        while _total > KEPT_BYTES:
            size, blocks = next(iter(_kept.items()))
            blocks.pop(0)  # unmapped when its array is gone
            _total -= size
            if not blocks:
                del _kept[size]
