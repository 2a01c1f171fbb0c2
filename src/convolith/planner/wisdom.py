"""Wisdom: measured times of engines, by spec and accuracy, in this process and on disk."""

from __future__ import annotations

from dataclasses import astuple
from threading import Lock
from typing import Any

from convolith.engines import BY_NAME
from convolith.planner import store
from convolith.spec import ConvSpec

Seconds = dict[str, float]
_known: dict[str, dict[str, Seconds]] = {}
_lock = Lock()


def key_of(spec: ConvSpec, accuracy: str) -> str:
    """Return the key of the measurements for a spec and an accuracy."""
    return repr((*astuple(spec), accuracy))


def recall(spec: ConvSpec, accuracy: str) -> Seconds | None:
    """Return the times measured for a spec, or None."""
    return _entries().get(key_of(spec, accuracy))


def remember(spec: ConvSpec, accuracy: str, seconds: Seconds) -> None:
    """Store measured times, for this process and later ones."""
    key = key_of(spec, accuracy)
    with _lock:
        _entries()[key] = seconds
    store.add("wisdom", {key: seconds}, _good)


def _entries() -> dict[str, Seconds]:
    path = str(store.path_of("wisdom"))
    if path not in _known:
        _known[path] = store.read("wisdom", _good)
    return _known[path]


def _good(entries: dict[str, Any]) -> bool:
    """Return whether every entry gives positive seconds of existing engines."""
    return all(
        isinstance(seconds, dict)
        and seconds
        and all(name in BY_NAME and isinstance(value, float) and value > 0 for name, value in seconds.items())
        for seconds in entries.values()
    )
