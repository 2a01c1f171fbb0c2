"""Blocks in order, with a bounded number of them in flight, on any executor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, TypeVar

from convolith.errors import warn

Job = TypeVar("Job")  # a hashable value


ATTEMPTS = 5
"""Number of times that a job is submitted whose worker is lost."""
LOST = ("KilledWorker", "FutureCancelledError", "CommClosedError", "WorkerStartTimeoutError")
"""Errors of `distributed` that say that a worker is gone, by name: the job itself did not fail."""
QUIET_SECONDS = 15
"""Seconds without a result after which the number of a cluster's workers is looked up."""


def wait_for_any(waiting: Iterable[Future[Any]], executor: Executor) -> set[Future[Any]]:
    """Wait until one of some futures has ended, and return those that have; warn while a cluster has no workers."""
    warned = False
    while True:
        done, _ = wait(waiting, None if warned else QUIET_SECONDS, FIRST_COMPLETED)
        if done:
            return done
        client = getattr(executor, "_client", None)  # that of an executor of `distributed`
        if client is not None and _has_no_workers(client):
            warned = True
            address = client.scheduler.address
            warn(
                f"the cluster at {address} has no workers; the run waits for new ones (`dask worker {address}`), or "
                "press Ctrl-C: what is stored stays, and the same call goes on from there"
            )


def _has_no_workers(client: Any) -> bool:
    """Return whether a cluster says that it has no workers; one that does not answer may come back."""
    try:
        return not client.nthreads()
    except (OSError, RuntimeError):
        return False


def walk(
    jobs: Iterable[Job], run: Callable[[Job], Any], executor: Executor, in_flight: int, *, in_step: bool = False
) -> Iterator[tuple[Job, Future[Any]]]:
    """Submit jobs in order, and yield each with its future when it has ended.

    No job is submitted while `in_flight` others are unfinished, or, if `in_step`, while the one that is `in_flight`
    places before it is unfinished: then jobs that share what they read stay close together. A job whose worker is lost
    is submitted again, up to `ATTEMPTS` times. After an interrupt (Ctrl-C), no further job is submitted; those in
    flight are yielded, and the interrupt is raised again. A second one is raised at once.
    """
    lost: Counter[Job] = Counter()
    waiting: dict[Future[Any], tuple[int, Job]] = {}  # with its place, in this order but for those submitted again
    coming = enumerate(jobs)
    place = 0
    interrupt: KeyboardInterrupt | None = None
    while True:
        done: set[Future[Any]] = set()
        try:
            while len(waiting) < in_flight and not (in_step and _first(waiting, place) + in_flight <= place):
                following = next(coming, None)
                if following is None:
                    break
                place = following[0] + 1
                waiting[executor.submit(run, following[1])] = following
            if waiting:
                done = wait_for_any(waiting, executor)
        except KeyboardInterrupt as stop:
            if interrupt is not None:
                raise
            interrupt, coming = stop, enumerate(())
            continue
        if not waiting:
            break
        for future in sorted(done, key=lambda one: one.exception() is not None):  # nothing that is done is lost
            number, job = waiting.pop(future)
            if type(future.exception()).__name__ in LOST and lost[job] < ATTEMPTS - 1 and interrupt is None:
                lost[job] += 1
                waiting[executor.submit(run, job)] = number, job
                continue
            yield job, future
    if interrupt is not None:
        raise interrupt


def _first(waiting: Mapping[Future[Any], tuple[int, Any]], place: int) -> int:
    """Return the first place of unfinished jobs, or that of the next one."""
    return min((number for number, _ in waiting.values()), default=place)
