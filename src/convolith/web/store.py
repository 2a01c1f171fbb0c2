"""Arrays that the page has sent or that were computed for it: the least recently used ones make room for new ones."""

from __future__ import annotations

from collections import OrderedDict
from secrets import token_urlsafe
from threading import Lock
from typing import Any, NamedTuple

from convolith.web.schema import RequestError


class Stored(NamedTuple):
    """An array, (H, W) or (H, W, channels), and the notes on how it was read."""

    array: Any
    notes: tuple[str, ...] = ()


def new_name(kind: str) -> str:
    """Return an identifier for a picture or a result."""
    return f"{kind[0]}-{token_urlsafe(9)}"


class Store:
    """Arrays by identifier, within a number of bytes.

    Args:
        kind: word for an entry in messages and the first letter of identifiers.
        most_bytes: bytes of all arrays together; the newest entry stays in any case.
    """

    def __init__(self, kind: str, most_bytes: int) -> None:
        self.kind, self.most_bytes = kind, most_bytes
        self._entries: OrderedDict[str, Stored] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """Number of bytes that the arrays take."""
        return sum(int(entry.array.nbytes) for entry in self._entries.values())

    def put(self, entry: Stored, name: str | None = None) -> str:
        """Keep an array, under a name or a new identifier, which is returned."""
        name = name or new_name(self.kind)
        with self._lock:
            self._entries[name] = entry
            while len(self._entries) > 1 and self.bytes > self.most_bytes:
                self._entries.popitem(last=False)
        return name

    def find(self, name: str) -> Stored | None:
        """Return an array, which is then the most recently used one; None if there is none of that name."""
        with self._lock:
            if name in self._entries:
                self._entries.move_to_end(name)
            return self._entries.get(name)

    def get(self, name: str) -> Stored:
        """Return an array.

        Raises:
            RequestError: status 404: never there, or dropped since newer ones needed its room.
        """
        entry = self.find(name)
        if entry is None:
            raise RequestError(
                404, f"there is no {self.kind} {name[:64]!r}; it may have made room for newer ones: send it again"
            )
        return entry
