"""Memory of this machine, and its performance limits, shipped or measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, fields
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from convolith.dtypes import ITEMSIZE
from convolith.engines.machine_limits import MachineLimits
from convolith.errors import ConvolithError
from convolith.planner import store
from convolith.spec import ConvSpec

_limits: dict[str, MachineLimits] = {}


@cache
def memory_bytes() -> int | None:
    """Return the physical memory in bytes, or a container's limit; None if the system does not report it."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return min([physical, *_container_limits()])


def _container_limits() -> Iterator[int]:
    """Yield the memory limits that Linux sets for this process's container (control groups, version 2 and 1)."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or "max"
            yield int(Path(path).read_text())


def check_memory(what: str, needed: int) -> None:
    """Refuse an operation that needs more bytes than the machine has, before anything is allocated.

    Args:
        what: beginning of the message, such as `"the output of shape (1, 2) takes"`.
        needed: number of bytes.

    Raises:
        ConvolithError: too little memory; the message gives both sizes.
    """
    available = memory_bytes()
    if available is not None and needed > available:
        raise ConvolithError(
            f"{what} {needed / 1e9:,.3g} GB; this machine has {available / 1e9:,.3g} GB of memory; pass less at a time"
        )


def check_result(spec: ConvSpec) -> None:
    """Refuse a correlation whose result alone is larger than the machine's memory."""
    needed = prod(spec.output_shape) * ITEMSIZE[spec.out_dtype]
    check_memory(f"the result, of shape {spec.output_shape} and dtype {spec.out_dtype}, takes", needed)


def limits() -> MachineLimits:
    """Return this machine's limits if they were measured, and the shipped ones otherwise."""
    path = str(store.path_of("machine"))
    if path not in _limits:
        entries = store.read("machine", _good)
        _limits[path] = MachineLimits(**entries) if entries else MachineLimits()
    return _limits[path]


def measured() -> bool:
    """Return whether the limits were measured on this machine."""
    return limits() != MachineLimits()


def keep(found: MachineLimits) -> None:
    """Store measured limits for this and later processes."""
    store.add("machine", asdict(found), _good)
    _limits[str(store.path_of("machine"))] = found


def _good(entries: dict[str, Any]) -> bool:
    names = {field.name for field in fields(MachineLimits)}
    return set(entries) == names and all(isinstance(v, float) and v > 0 for v in entries.values())
