"""Progress of long computations: bars on stderr, and states for whoever listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

MEGABYTE = 1e6


def track(steps: Iterable[int], description: str, total: int, *, shown: bool) -> Iterator[int]:
    """Yield the steps, with a progress bar on stderr if `shown` is true and stderr is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as progress:
        yield from progress.track(steps, total=total, description=description)


@dataclass(frozen=True)
class State:
    """State of a computation that moves many bytes.

    Attributes:
        phase: what is done, such as "correlating".
        done, total: number of parts that are done, and of all.
        bytes: bytes of the parts that are done.
        seconds: time since the phase began.
    """

    phase: str
    done: int
    total: int
    bytes: int
    seconds: float

    @property
    def bytes_per_second(self) -> float:
        """Throughput since the phase began."""
        return self.bytes / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Time that the remaining parts take at the pace so far, or None before the first one."""
        return self.seconds / self.done * (self.total - self.done) if self.done else None


class Meter:
    """Progress of a computation that moves many bytes: a bar with its throughput, and a call for each step.

    Args:
        phase: what is done, such as "correlating".
        total: number of parts.
        shown: whether a bar is shown on stderr, if that is a terminal.
        listener: function that is called with the state after each step, or None.
    """

    def __init__(
        self, phase: str, total: int, *, shown: bool, listener: Callable[[State], object] | None = None
    ) -> None:
        self.phase, self.total, self.listener = phase, total, listener
        self.done = self.bytes = 0
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        more = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        visible = shown and console.is_terminal
        self._bar = Progress(*columns, *more, console=console, transient=True, disable=not visible)
        self._task = self._bar.add_task(phase, total=total, rate="")
        self._start = time.perf_counter()

    def __enter__(self) -> Self:
        self._bar.start()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, count_bytes: int, parts: int = 1) -> None:
        """Note that some parts, of a number of bytes in all, are done."""
        self.done, self.bytes = self.done + parts, self.bytes + count_bytes
        state = State(self.phase, self.done, self.total, self.bytes, time.perf_counter() - self._start)
        self._bar.update(self._task, completed=self.done, rate=f"{state.bytes_per_second / MEGABYTE:,.0f} MB/s")
        if self.listener is not None:
            self.listener(state)
