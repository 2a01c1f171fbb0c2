"""Fresh memory for results."""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from typing import Any

import torch

HUGE_PAGE = 1 << 21
WORTH_ASKING = 2 * HUGE_PAGE
"""Bytes from which the system is asked for huge pages: 64 MB take longer to hand out in pages of 4 KB than to fill."""


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """An uninitialised contiguous tensor, in huge pages where it is large and the system has them (as NumPy does)."""
    made = torch.empty(shape, dtype=dtype)
    size = made.nbytes
    if size >= WORTH_ASKING:
        advise = _madvise()
        if advise is not None:
            start = -(-made.data_ptr() // HUGE_PAGE) * HUGE_PAGE
            advise(start, (made.data_ptr() + size - start) // HUGE_PAGE * HUGE_PAGE, mmap.MADV_HUGEPAGE)
    return made


@cache
def _madvise() -> Any:
    """The system's call, or None where there is none. It is advice: its failure changes nothing."""
    if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        found = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found
