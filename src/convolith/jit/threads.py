"""Execution of generated code on torch's OpenMP threads, or on a pool of Python threads if these are unavailable."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from convolith.torch_private import is_forked

Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""Generated function: it takes the address of its arguments, in which a counter shares its tasks among threads."""
_local = threading.local()


def _after_fork() -> None:
    pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def openmp() -> Any:
    """Return `GOMP_parallel(function, arguments, threads, flags)` of the library that torch uses, or None."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        parallel = ctypes.CDLL(str(library)).GOMP_parallel  # resolved through torch's linked libraries
    except (OSError, AttributeError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel


@cache
def pool() -> ThreadPoolExecutor:
    """Return the fallback: Python threads, which release the interpreter lock while generated code runs."""
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="convolith")


def thread_count() -> int:
    """Return the number of threads of a region: torch's setting, within the limit of `at_most`, or one after a fork."""
    if is_forked():
        return 1
    limit = getattr(_local, "limit", None)
    return torch.get_num_threads() if limit is None else min(limit, torch.get_num_threads())


@contextmanager
def at_most(threads: int | None) -> Iterator[None]:
    """Return a context in which regions of this thread run on some threads at most; None sets no limit."""
    before = getattr(_local, "limit", None)
    _local.limit = threads if threads is not None else before
    try:
        yield
    finally:
        _local.limit = before


def run(address: int, arguments: int, threads: int) -> None:
    """Call the function at an address on `threads` threads with the same arguments; return when all have finished."""
    if threads == 1 or is_forked():
        Region(address)(arguments)
        return
    parallel = openmp()
    if parallel is not None:
        parallel(address, arguments, threads, 0)
        return
    futures = [pool().submit(Region(address), arguments) for _ in range(threads - 1)]
    Region(address)(arguments)
    for future in futures:
        future.result()


KEPT_SCRATCH = 1 << 24
"""Upper bound on the scratch bytes that a thread keeps between calls; larger scratch is released."""


def forget_scratch() -> None:
    """Release the scratch memory of this thread."""
    _local.scratch = None


def scratch_bytes() -> int:
    """Return the bytes of scratch that this thread keeps."""
    kept: torch.Tensor | None = getattr(_local, "scratch", None)
    return 0 if kept is None else kept.nbytes


def scratch(size: int) -> torch.Tensor:
    """Return at least `size` bytes, aligned to 4096, which this thread alone uses until its next call."""
    buffer: torch.Tensor | None = getattr(_local, "scratch", None)
    if buffer is not None and buffer.numel() >= size:
        return buffer
    if size <= KEPT_SCRATCH:
        buffer = _local.scratch = None  # released before more is allocated
    raw = torch.empty(size + 4096, dtype=torch.uint8, device="cpu")
    fresh = raw[-raw.data_ptr() % 4096 :]
    if size <= KEPT_SCRATCH:
        _local.scratch = fresh
    return fresh
