"""Runs generated code on torch's own OpenMP threads, or on a pool of Python threads where they cannot be had."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""A generated function: it takes the address of its arguments and shares its tasks by a counter in them."""
_forked = False
"""OpenMP's threads do not survive a fork, and waiting for them would hang: a child runs everything itself."""


_local = threading.local()
_since_fork: ThreadPoolExecutor | None = None
"""One thread that a child started itself, on which torch's operators get OpenMP threads of their own."""


def _after_fork() -> None:
    global _forked, _since_fork
    _forked, _since_fork = True, None
    _local.since_fork = False
    pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def openmp() -> Any:
    """`GOMP_parallel(function, arguments, threads, flags)` of the library that torch itself uses, or None."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        found = ctypes.CDLL(str(library)).GOMP_parallel  # found among the libraries that torch was linked with
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    found.restype = None
    return found


@cache
def pool() -> ThreadPoolExecutor:
    """The fall-back: threads of Python, which release the interpreter while generated code runs."""
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="convolith")


def is_forked() -> bool:
    """Return whether this process is a child that was forked."""
    return _forked


def thread_count() -> int:
    """How many threads a region gets: what torch was told, and one after a fork."""
    return 1 if _forked else torch.get_num_threads()


def with_living_threads(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that runs torch's operators; after a fork, on a thread that this process started.

    OpenMP's team belongs to the thread that started it. The thread that forked waits for a team that the child does not
    have, so that torch's operators hang there; a thread that the child starts gets a team of its own.
    """
    global _since_fork
    if not _forked or getattr(_local, "since_fork", False):
        return function(*arguments)
    if _since_fork is None:
        _since_fork = ThreadPoolExecutor(1, "convolith-fork", lambda: setattr(_local, "since_fork", True))
    return _since_fork.submit(_without_gradients, torch.is_inference_mode_enabled(), function, arguments).result()


def _without_gradients(inference: bool, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:  # noqa: FBT001
    """Call a function without gradients, in inference mode if the caller is: both belong to a thread."""
    with torch.inference_mode(inference), torch.no_grad():
        return function(*arguments)


def run(address: int, arguments: int, threads: int) -> None:
    """Let `threads` threads call the function at an address with the same arguments; returns when all are done."""
    if threads == 1 or _forked:
        Region(address)(arguments)
        return
    parallel = openmp()
    if parallel is not None:
        parallel(address, arguments, threads, 0)
        return
    waiting = [pool().submit(Region(address), arguments) for _ in range(threads - 1)]
    Region(address)(arguments)
    for future in waiting:
        future.result()


KEPT_SCRATCH = 1 << 24
"""Bytes of scratch memory that a thread keeps from call to call; larger scratch is given back."""


def forget_scratch() -> None:
    """Give back what this thread keeps."""
    _local.scratch = None


def scratch(size: int) -> torch.Tensor:
    """At least `size` bytes, aligned to a page of 4096, which this thread alone uses until its next call."""
    kept: torch.Tensor | None = getattr(_local, "scratch", None)
    if kept is not None and kept.numel() >= size:
        return kept
    if size <= KEPT_SCRATCH:
        kept = _local.scratch = None  # given back before more is taken
    raw = torch.empty(size + 4096, dtype=torch.uint8, device="cpu")
    fresh = raw[-raw.data_ptr() % 4096 :]
    if size <= KEPT_SCRATCH:
        _local.scratch = fresh
    return fresh
