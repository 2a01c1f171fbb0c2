"""The journal of a run: a line for each block that is stored, so that an interrupted run goes on where it ended.

The first line identifies the source, the kernel and the options, since the result depends on them. A lock file keeps a
second process away. In memory, a block is one byte.
"""

from __future__ import annotations

import json
import os
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from convolith.big.stores.places import Place, RemotePath
from convolith.errors import ConvolithError
from convolith.version import __version__

FORMAT = 1
"""Version of the journal."""
SECONDS = 1.0
"""Seconds after which what was noted is brought to the disk: files of blocks get there by themselves."""


class Log(ABC):
    """A text that grows."""

    @abstractmethod
    def exists(self) -> bool:
        """Return whether there is one."""

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """Yield its lines."""

    @abstractmethod
    def begin(self, lines: Iterable[str], *, fresh: bool) -> None:
        """Begin with some lines; unless `fresh`, they are some of those that are there, which are read meanwhile."""

    @abstractmethod
    def append(self, text: str) -> None:
        """Add a text."""

    @abstractmethod
    def sync(self) -> None:
        """Let what was added survive a power failure."""

    @abstractmethod
    def close(self) -> None:
        """End the writing."""

    @abstractmethod
    def remove(self) -> None:
        """Remove the text."""


class FileLog(Log):
    """A text in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None

    def exists(self) -> bool:
        """Return whether there is one."""
        return self.path.exists()

    def lines(self) -> Iterator[str]:
        """Yield its lines."""
        with self.path.open(errors="replace") as file:
            yield from file

    def begin(self, lines: Iterable[str], *, fresh: bool) -> None:  # noqa: ARG002 - the lines are all there is to keep
        """Replace the file."""
        part = self.path.with_name(self.path.name + ".part")
        with part.open("w") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)
        self._file = self.path.open("a")

    def append(self, text: str) -> None:
        """Add a text."""
        self._file.write(text)
        self._file.flush()

    def sync(self) -> None:
        """Bring what was added to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


class ObjectLog(Log):
    """A text in an object store, whose objects do not grow: an object for what is added from one `sync` to the next."""

    def __init__(self, path: RemotePath) -> None:
        self.path = path
        self._waiting: list[str] = []
        self._next = 0

    def exists(self) -> bool:
        """Return whether there is one."""
        return self.path.exists()

    def lines(self) -> Iterator[str]:
        """Yield its lines."""
        for name in self.path.names():
            yield from (self.path / name).read_text().splitlines()

    def begin(self, lines: Iterable[str], *, fresh: bool) -> None:
        """Begin anew, or go on after the objects that are there."""
        if fresh:
            self.path.remove()
            self._waiting = list(lines)
            self.sync()
        else:
            deque(lines, 0)
            self._next = max(int(name) for name in self.path.names()) + 1

    def append(self, text: str) -> None:
        """Keep a text for the next object."""
        self._waiting.append(text)

    def sync(self) -> None:
        """Write what was added as an object."""
        if self._waiting:
            (self.path / f"{self._next:08d}").write_text("".join(self._waiting))
            self._waiting, self._next = [], self._next + 1

    def close(self) -> None:
        """Write what was added."""
        self.sync()

    def remove(self) -> None:
        """Remove all objects."""
        self.path.remove()


class Journal:
    """Blocks that are stored, by their numbers, each with a record by which it can be checked.

    Args:
        path: place of the journal.
        fingerprint: what the result depends on.
        counts: number of blocks along each axis.

    Attributes:
        clipped, missing, overflowed: numbers of pixels in the blocks that are stored.
        empty: number of stored blocks all of whose pixels were missing.
    """

    def __init__(self, path: Place, fingerprint: Mapping[str, Any], counts: Sequence[int]) -> None:
        self.path = path
        self.log: Log = ObjectLog(path) if isinstance(path, RemotePath) else FileLog(path)
        self.fingerprint = {"format": FORMAT, "version": __version__, **fingerprint}
        self.clipped = self.missing = self.overflowed = self.empty = 0
        self._stored = np.zeros(tuple(counts), bool)
        self._next = 0.0

    def __contains__(self, block: tuple[int, ...]) -> bool:
        return bool(self._stored[block])

    def __len__(self) -> int:
        return int(np.count_nonzero(self._stored))

    def exists(self) -> bool:
        """Return whether a run was interrupted."""
        return self.log.exists()

    def check(self) -> None:
        """Check that the interrupted run was this one.

        Raises:
            ConvolithError: a journal of another source, kernel, or options.
        """
        found = _properties(next(self.log.lines(), ""))
        wanted = json.loads(json.dumps(self.fingerprint))
        different = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        if different:
            name = different[0]
            raise ConvolithError(
                f"{self.path} is of another run: {', '.join(different)} differ ({name} was {found.get(name)}, and is "
                f"{wanted.get(name)}); start anew with resume=False (--anew), which removes its blocks"
            )

    def begin(self, holds: Callable[[tuple[int, ...], Mapping[str, Any]], bool] | None = None) -> None:
        """Write a new journal, and go on writing to it.

        Args:
            holds: function that returns whether a block is stored as its record says: blocks of the interrupted run
                for which it does are in the new journal too. None starts without any.
        """
        first = json.dumps(self.fingerprint) + "\n"
        kept = () if holds is None else self._kept(holds)
        self.log.begin(chain([first], kept), fresh=holds is None)

    def _kept(self, holds: Callable[[tuple[int, ...], Mapping[str, Any]], bool]) -> Iterator[str]:
        """Yield the lines of blocks that are stored; one that was cut off, or is of no such block, is left out."""
        for line in islice(self.log.lines(), 1, None):
            try:
                record = json.loads(line)
                block = tuple(record["block"])
                known = all(0 <= number < count for number, count in zip(block, self._stored.shape, strict=True))
            except (ValueError, KeyError, TypeError):
                continue
            if known and block not in self and holds(block, record):
                self._count(block, record)
                yield json.dumps(record) + "\n"

    def _count(self, block: tuple[int, ...], record: Mapping[str, Any]) -> None:
        self._stored[block] = True
        self.clipped += record.get("clipped", 0)
        self.missing += record.get("missing", 0)
        self.overflowed += record.get("overflowed", 0)
        self.empty += record.get("empty", False)

    def add(self, block: tuple[int, ...], record: Mapping[str, Any]) -> None:
        """Note that a block is stored; every second on the disk itself, so that a power failure costs no more."""
        self._count(block, record)
        self.log.append(json.dumps({"block": list(block), **record}) + "\n")
        if time.monotonic() >= self._next:
            self.log.sync()
            self._next = time.monotonic() + SECONDS

    def close(self) -> None:
        """End the writing."""
        self.log.close()

    def remove(self) -> None:
        """Remove the journal of a run that is complete."""
        self.close()
        self.log.remove()


@contextmanager
def alone(path: Place) -> Iterator[None]:
    """Hold a lock file; one of a process of this machine that is gone is taken over.

    Raises:
        ConvolithError: another process, or one of another machine, holds it; a place that cannot be written.
    """
    me = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%S")}
    while True:
        try:
            _create(path, json.dumps(me))
            break
        except FileExistsError:
            holder = _holder(path)
            if holder.get("host") == me["host"] and not _runs(holder.get("pid")):
                path.unlink(missing_ok=True)
                continue
            whose = (
                f"says that process {holder['pid']} on {holder['host']} writes this result since "
                f"{holder.get('since')}; wait for it, or remove the file if that process is gone"
                if {"pid", "host"} <= set(holder)
                else "is there, as while a process writes this result, but does not say which; remove it if none does"
            )
            raise ConvolithError(f"{path} {whose}") from None
        except (OSError, TypeError, ValueError) as problem:  # of file systems that cannot write, or not so
            raise ConvolithError(
                f"{path} cannot be written ({problem}), which keeps a second process away from this result; choose a "
                "place that exists and can be written"
            ) from problem
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _create(path: Place, text: str) -> None:
    """Write a file that is not there yet."""
    if isinstance(path, RemotePath):
        path.create_text(text)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _holder(path: Place) -> dict[str, Any]:
    try:
        return _properties(path.read_text())
    except (OSError, ValueError):
        return {}


def _properties(text: str) -> dict[str, Any]:
    """Return a JSON object, empty for any other text."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _runs(pid: Any) -> bool:
    """Return whether a process of this machine exists; something else than a number is none."""
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return pid > 0
