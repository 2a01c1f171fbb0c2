"""Events of commands on stores: with --json, one line of JSON on stdout for each, while the command runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from convolith.cli.options import emit
from convolith.errors import ConvolithError
from convolith.report.plain import plain
from convolith.report.progress import State
from convolith.report.table import Table

SECONDS = 0.5
"""Seconds from one event of progress to the next; the last one of a phase is always printed."""
WRONG_USE, FAILED, INTERRUPTED = 2, 1, 130
"""Exit statuses that the event `failed` names."""


class Events:
    """Events on stdout, each a JSON object on a line, whose `event` says of which kind it is.

    Args:
        wanted: whether they are printed (--json).
    """

    def __init__(self, *, wanted: bool) -> None:
        self.wanted = wanted
        self._phase, self._next = "", 0.0

    def say(self, event: str, **data: Any) -> None:
        """Print an event."""
        if self.wanted:
            click.echo(json.dumps(plain({"event": event, **data})))

    def done(self, tables: list[Table], warnings: Sequence[str] = (), **data: Any) -> None:
        """Print the last events of a command that succeeds, or its tables where no events are wanted."""
        for text in warnings:
            self.say("warning", message=text)
        self.say("done", **data)
        if not self.wanted:
            emit(as_json=False, data=None, tables=tables)

    def progress(self, state: State) -> None:
        """Print how far a phase is, not more often than every `SECONDS`."""
        now = time.monotonic()
        if state.phase == self._phase and now < self._next and state.done < state.total:
            return
        self._phase, self._next = state.phase, now + SECONDS
        names = ("phase", "done", "total", "bytes", "seconds", "bytes_per_second", "seconds_left")
        self.say("progress", **{name: getattr(state, name) for name in names})


@contextmanager
def events(*, wanted: bool) -> Iterator[Events]:
    """Return a context in which a command prints events; the last one is `failed` if an error ends it."""
    stream = Events(wanted=wanted)
    try:
        yield stream
    except KeyboardInterrupt:
        stream.say("failed", reason="interrupted", exit_status=INTERRUPTED)
        raise
    except SystemExit as end:
        stream.say("failed", reason="interrupted", exit_status=end.code)
        raise
    except (ConvolithError, MemoryError) as problem:
        stream.say("failed", reason=str(problem) or type(problem).__name__, exit_status=WRONG_USE)
        raise
    except Exception as problem:
        stream.say("failed", reason=f"{type(problem).__name__}: {problem}", exit_status=FAILED)
        raise
