"""Torch's operators in a forked child process.

An OpenMP team belongs to the thread that started it. After a fork, torch's operators hang on the forked thread, which
waits for a team that the child does not have; a thread that the child starts gets its own team.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch

from convolith.torch_private import dispatch_modes, is_traced_or_transformed

T = TypeVar("T")
P = ParamSpec("P")
_forked = False
_living: ThreadPoolExecutor | None = None
"""Thread that a forked child started itself, on which torch's operators get their own OpenMP threads."""


class _Modes(NamedTuple):
    """Settings of torch that each thread has of its own."""

    inference: bool
    gradients: bool
    autocast: bool
    autocast_dtype: torch.dtype


def _after_fork() -> None:
    global _forked, _living
    _forked, _living = True, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def is_forked() -> bool:
    """Return whether this process is a forked child."""
    return _forked


def with_living_threads(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that runs torch's operators; on the thread that was forked, by a thread that the child started.

    Gradients, inference mode and autocast are those of the caller. A call that torch compiles,
    traces or transforms stays on the caller's thread.
    """
    global _living
    if not _forked or threading.current_thread() is not threading.main_thread():  # the forked thread is the main one
        return function(*arguments)
    if torch.compiler.is_compiling() or dispatch_modes() or is_traced_or_transformed():
        return function(*arguments)
    if _living is None:
        _living = ThreadPoolExecutor(1, "convolith-fork")
    modes = _Modes(
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
    )
    return _living.submit(_in_modes, modes, function, arguments).result()


def _in_modes(modes: _Modes, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    """Call a function with the caller's settings."""
    autocast = torch.autocast("cpu", enabled=modes.autocast, dtype=modes.autocast_dtype)
    with torch.inference_mode(modes.inference), torch.set_grad_enabled(modes.gradients), autocast:
        return function(*arguments)


def safe_in_forks(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that does not hang in a forked child: see `with_living_threads`."""

    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        if not _forked:
            return function(*arguments, **options)
        return with_living_threads(partial(function, *arguments, **options))

    return call
