"""Storage of the planner on disk: JSON files signed with the processor, the threads and the versions.

A file is trusted as a whole or not at all. Writers take a lock, read the file, add their entries and replace the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite
import torch

from convolith.errors import warn
from convolith.jit import host, thread_count
from convolith.storage import cache_directory, locked, store, usable
from convolith.version import __version__

Check = Callable[[Any], bool]
_generation = 0


def generation() -> int:
    """Return a number that changes with every entry added: earlier plans may be out of date."""
    return _generation


def signature() -> dict[str, Any]:
    """Return everything that measurements depend on in addition to the spec."""
    target = host()
    return {
        "processor": target.cpu,
        "features": sha256(target.features.encode()).hexdigest()[:16],
        "threads": thread_count(),
        "versions": {"convolith": __version__, "torch": torch.__version__, "llvmlite": llvmlite.__version__},
    }


def path_of(kind: str) -> Path | None:
    """Return the file of a kind for the current signature, or None if nothing is to be stored."""
    home = cache_directory()
    digest = sha256(json.dumps(signature(), sort_keys=True).encode()).hexdigest()[:16]
    return None if home is None else home / f"{kind}-{digest}.json"


def read(kind: str, check: Check) -> dict[str, Any]:
    """Return the entries of a kind, or none if the file is missing, foreign, damaged or refused by `check`."""
    path = path_of(kind)
    if path is None or usable(path.parent) is None:
        return {}
    try:
        content = json.loads(path.read_text())
        entries = content["entries"]
        good = content["signature"] == signature() and isinstance(entries, dict) and check(entries)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        good = False
    if good:
        return dict(entries)
    warn(f"{path} is damaged or not ours; it is ignored")
    return {}


def add(kind: str, entries: dict[str, Any], check: Check) -> None:
    """Add entries to the stored ones; a failure gives a warning and no error."""
    global _generation
    _generation += 1
    path = path_of(kind)
    if path is None or usable(path.parent, create=True) is None:
        return
    with locked(path.parent / f"{kind}.lock"):
        together = read(kind, check) | entries
        text = json.dumps({"signature": signature(), "entries": together}, indent=1, sort_keys=True)
        store(path, text.encode())
