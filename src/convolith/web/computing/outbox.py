"""Events and arrays that a computation sends from the second process to the server."""

from __future__ import annotations

from typing import Any

from convolith.report.plain import plain
from convolith.web.store import Stored, new_name


class Outbox:
    """Receiver of the events and arrays of a computation.

    Args:
        connection: end of a pipe to the server.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def send(self, event: str, **data: Any) -> None:
        """Send an event to the page."""
        self._connection.send(("event", {"event": event, **plain(data)}))

    def put(self, stored: Stored) -> str:
        """Send an array to the server's results, and return its identifier."""
        name = new_name("result")
        self._connection.send(("result", (name, stored)))
        return name
