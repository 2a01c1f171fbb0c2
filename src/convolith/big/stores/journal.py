"""The journal of a run: a line for each block that is stored, so that an interrupted run goes on where it ended.

The first line identifies the source, the kernel and the options, since the result depends on them. A lock file keeps a
second process away.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from convolith.errors import ConvolithError
from convolith.version import __version__

FORMAT = 1
"""Version of the journal."""
SECONDS = 1.0
"""Seconds after which what was noted is brought to the disk: files of blocks get there by themselves."""


class Journal:
    """Blocks that are stored, by their numbers, with what is needed to check them."""

    def __init__(self, path: Path, fingerprint: Mapping[str, Any]) -> None:
        self.path = path
        self.fingerprint = {"format": FORMAT, "version": __version__, **fingerprint}
        self.stored: dict[tuple[int, ...], dict[str, Any]] = {}
        self._file: Any = None
        self._next = 0.0

    def exists(self) -> bool:
        """Return whether a run was interrupted."""
        return self.path.exists()

    def read(self) -> None:
        """Read the blocks that an interrupted run stored; a line that was cut off is left out.

        Raises:
            ConvolithError: a journal of another source, kernel, or options.
        """
        first, *lines = self.path.read_text().splitlines() or [""]
        try:
            found = json.loads(first)
        except ValueError:
            found = {}
        wanted = json.loads(json.dumps(self.fingerprint))
        different = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        if different:
            name = different[0]
            raise ConvolithError(
                f"{self.path} is of another run: {', '.join(different)} differ ({name} was {found.get(name)}, and is "
                f"{wanted.get(name)}); start anew with resume=False (--anew), which removes its blocks"
            )
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                self.stored[tuple(record["block"])] = record

    def open(self) -> None:
        """Write a new journal with the blocks that are known, and go on writing to it."""
        part = self.path.with_name(self.path.name + ".part")
        with part.open("w") as file:
            for record in (self.fingerprint, *self.stored.values()):
                file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)
        self._file = self.path.open("a")

    def add(self, block: tuple[int, ...], record: Mapping[str, Any]) -> None:
        """Note that a block is stored; every second on the disk itself, so that a power failure costs no more."""
        line = {"block": list(block), **record}
        self.stored[block] = dict(line)
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if time.monotonic() >= self._next:
            os.fsync(self._file.fileno())
            self._next = time.monotonic() + SECONDS

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the journal of a run that is complete."""
        self.close()
        self.path.unlink(missing_ok=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock file; one of a process of this machine that is gone is taken over.

    Raises:
        ConvolithError: another process, or one of another machine, holds it.
    """
    me = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%S")}
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            break
        except FileExistsError:
            holder = _holder(path)
            if holder.get("host") == me["host"] and not _runs(int(holder.get("pid", 0))):
                path.unlink(missing_ok=True)
                continue
            raise ConvolithError(
                f"{path} says that process {holder.get('pid')} on {holder.get('host')} writes this result since "
                f"{holder.get('since')}; wait for it, or remove the file if that process is gone"
            ) from None
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(me, file)
        yield
    finally:
        path.unlink(missing_ok=True)


def _holder(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _runs(pid: int) -> bool:
    """Return whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return pid > 0
