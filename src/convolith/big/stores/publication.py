"""How a Zarr array appears at its place when it is complete: by a name in a folder, by a mark in an object store."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from convolith.big.stores.places import CHAIN, Place, RemotePath, needed
from convolith.big.stores.sources import COMPLETE
from convolith.errors import ConvolithError

PARTIAL, BEFORE = ".partial", ".before"
"""Endings of names: of the unfinished result, and of an earlier result that is replaced."""


class Publication(ABC):
    """The way in which a result appears at its place.

    Attributes:
        partial: where it is written.
        attributes: attributes of the unfinished result.
    """

    partial: Place
    attributes: Mapping[str, Any]

    @abstractmethod
    def clear(self) -> None:
        """Remove an unfinished result."""

    @abstractmethod
    def reopen(self) -> None:
        """Let an unfinished result be written further."""

    @abstractmethod
    def publish(self) -> None:
        """Let the complete result appear at its place."""


class Renamed(Publication):
    """A folder that gets its name when it is complete, and replaces one that was there.

    Args:
        path: name of the folder.
        journal: the journal.
        checksum: function that returns what the content of a file is checked by.
    """

    def __init__(self, path: Path, journal: Path, checksum: Callable[[bytes], list[int]]) -> None:
        self.path, self.journal, self.checksum = path, journal, checksum
        self.partial: Path = path.with_name(path.name + PARTIAL)
        self.before = path.with_name(path.name + BEFORE)
        self.attributes: Mapping[str, Any] = {}

    def clear(self) -> None:
        """Remove an unfinished result."""
        self._restore()
        if self.partial.exists():
            remove(self.partial)

    def reopen(self) -> None:
        """Take a result back that is complete, if its process ended before it removed the journal."""
        self._restore()
        if not self.partial.exists() and self._is_published():
            self.path.rename(self.partial)

    def publish(self) -> None:
        """Move the result to its place; one that was there before is removed afterwards.

        A process that ends between the two renames leaves the earlier result under another name: `clear` and `reopen`
        put it back.
        """
        if self.path.exists():
            self.path.rename(self.before)
        self.partial.rename(self.path)
        remove(self.before)

    def _restore(self) -> None:
        """Put an earlier result back whose replacement was interrupted, or remove it where the new one is in place.

        Raises:
            ConvolithError: something of that name that no run left, since there would be no journal without one.
        """
        if not (self.before.exists() or self.before.is_symlink()):
            return
        if not self.journal.exists():
            raise ConvolithError(
                f"{self.before} is there, where an earlier result is kept for a moment; rename or remove it"
            )
        if self.path.exists():
            remove(self.before)
        else:
            self.before.rename(self.path)

    def _is_published(self) -> bool:
        """Return whether the result in place is that of the journal, whose process ended before it removed that."""
        try:
            checked = 0
            with self.journal.open() as lines:
                next(lines)
                for line in lines:
                    for name, sums in json.loads(line)["files"].items():
                        if self.checksum((self.path / name).read_bytes()) != sums:
                            return False
                        checked += 1
            return checked > 0
        except (OSError, ValueError, KeyError, StopIteration):
            return False


class Marked(Publication):
    """A result in an object store, which has no renames: its attribute `COMPLETE` is false until all blocks are there.

    Args:
        path: its name.

    Raises:
        ConvolithError: a URL that goes through several file systems.
    """

    def __init__(self, path: RemotePath) -> None:
        if CHAIN in str(path):
            raise ConvolithError(
                f"target is {str(path)!r}, which goes through several file systems; expected one, such as s3://..."
            )
        self.path = self.partial = path
        self.attributes: Mapping[str, Any] = {COMPLETE: False}

    def clear(self) -> None:
        """Remove an unfinished result.

        Raises:
            ConvolithError: something else of that name, which could not be replaced in one step.
        """
        if not self.path.exists():
            return
        if self._mark() is not False:
            raise ConvolithError(
                f"target is {str(self.path)!r}, where something is already; an object store has no renames, so that it "
                "could not stay until the new result is complete; remove it, or choose another name"
            )
        self.path.remove()

    def reopen(self) -> None:
        """Mark a result as unfinished, if its process ended before it removed the journal."""
        if self._mark() is True:
            self._set(complete=False)

    def publish(self) -> None:
        """Mark the result as complete."""
        self._set(complete=True)

    def _mark(self) -> Any:
        try:
            return needed("zarr", "big").open(str(self.path), mode="r").attrs.get(COMPLETE)
        except Exception:  # noqa: BLE001 - whatever is there, it is no result of ours
            return None

    def _set(self, *, complete: bool) -> None:
        needed("zarr", "big").open(str(self.path), mode="r+").update_attributes({COMPLETE: complete})


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
