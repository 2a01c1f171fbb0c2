"""What the planner remembers on disk: JSON files signed with the processor, the threads and the versions.

A file is believed as a whole or not at all. Writers take a lock, read what is there, add theirs and replace the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite
import torch

from convolith.errors import warn
from convolith.jit import cache as disk
from convolith.jit import host, thread_count
from convolith.version import __version__

Check = Callable[[Any], bool]
_generation = 0


def generation() -> int:
    """A number that changes with everything that is added: plans made before may be out of date."""
    return _generation


def signature() -> dict[str, Any]:
    """What measurements depend on besides the spec."""
    target = host()
    return {
        "processor": target.cpu,
        "features": sha256(target.features.encode()).hexdigest()[:16],
        "threads": thread_count(),
        "versions": {"convolith": __version__, "torch": torch.__version__, "llvmlite": llvmlite.__version__},
    }


def path_of(kind: str) -> Path | None:
    """The file of a kind for the present signature, or None where nothing shall be kept."""
    home = disk.directory()
    digest = sha256(json.dumps(signature(), sort_keys=True).encode()).hexdigest()[:16]
    return None if home is None else home / f"{kind}-{digest}.json"


def read(kind: str, check: Check) -> dict[str, Any]:
    """The entries of a kind, or none where the file is missing, foreign, damaged or not as `check` wants it."""
    path = path_of(kind)
    if path is None or disk.usable(path.parent) is None:
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
    """Add entries to what is stored; a failure costs a warning, never the result."""
    global _generation
    _generation += 1
    path = path_of(kind)
    if path is None or disk.made(path.parent) is None:
        return
    with _locked(path.parent / f"{kind}.lock"):
        together = read(kind, check) | entries
        text = json.dumps({"signature": signature(), "entries": together}, indent=1, sort_keys=True)
        disk.replace_file(path, text.encode())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, of all processes."""
    try:
        import fcntl

        file = path.open("a")
    except (ImportError, OSError):  # no such locks on Windows, where the last writer wins
        yield
        return
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
