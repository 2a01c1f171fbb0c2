"""Progress bars on stderr for long computations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def track(steps: Iterable[int], description: str, total: int, *, shown: bool) -> Iterator[int]:
    """Yield the steps, with a progress bar on stderr if `shown` is true and stderr is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as progress:
        yield from progress.track(steps, total=total, description=description)
