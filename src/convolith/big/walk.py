"""Blocks in order, with a bounded number of them in flight, on any executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, TypeVar

Job = TypeVar("Job")


def walk(
    jobs: Iterable[Job], run: Callable[[Job], Any], executor: Executor, in_flight: int
) -> Iterator[tuple[Job, Future[Any]]]:
    """Submit jobs in order, and yield each with its future when it has ended.

    No job is submitted while `in_flight` others are unfinished. After an interrupt (Ctrl-C), no further job is
    submitted; those in flight are yielded, and the interrupt is raised again. A second one is raised at once.
    """
    waiting: dict[Future[Any], Job] = {}
    coming = iter(jobs)
    interrupt: KeyboardInterrupt | None = None
    while True:
        done: set[Future[Any]] = set()
        try:
            while len(waiting) < in_flight and (job := next(coming, None)) is not None:
                waiting[executor.submit(run, job)] = job
            if waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        except KeyboardInterrupt as stop:
            if interrupt is not None:
                raise
            interrupt, coming = stop, iter(())
            continue
        if not waiting:
            break
        for future in done:
            yield waiting.pop(future), future
    if interrupt is not None:
        raise interrupt
