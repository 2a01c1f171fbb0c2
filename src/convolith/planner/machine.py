"""What the planner knows of this machine: its memory, and its limits, shipped or measured."""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from functools import cache
from typing import Any

from convolith.engines.limits import Limits
from convolith.planner import stored

_limits: dict[str, Limits] = {}


@cache
def memory_bytes() -> int | None:
    """Physical memory, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def limits() -> Limits:
    """This machine's limits if they were measured, and the shipped ones otherwise."""
    path = str(stored.path_of("machine"))
    if path not in _limits:
        entries = stored.read("machine", _good)
        _limits[path] = Limits(**entries) if entries else Limits()
    return _limits[path]


def measured() -> bool:
    """Whether the limits are this machine's own."""
    return limits() != Limits()


def keep(found: Limits) -> None:
    """Store measured limits for this and later processes."""
    stored.add("machine", asdict(found), _good)
    _limits[str(stored.path_of("machine"))] = found


def _good(entries: dict[str, Any]) -> bool:
    names = {field.name for field in fields(Limits)}
    return set(entries) == names and all(isinstance(v, float) and v > 0 for v in entries.values())
