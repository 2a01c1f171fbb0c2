"""The compute slot: one job at a time in a second process, others wait; each streams events, each can be cancelled."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from collections.abc import AsyncIterator, Callable, Mapping
from secrets import token_urlsafe
from typing import Any

from convolith.web.computing.worker import work
from convolith.web.schema import RequestError
from convolith.web.store import Store, Stored

MOST_WAITING = 8
"""Largest number of jobs that wait for the slot."""
END_SECONDS = 5.0
"""Time in which a process that was ended is gone."""


class Worker:
    """The second process, which imports torch as it starts.

    Args:
        load: function that returns the model of the command line, or None; it can be pickled.
    """

    def __init__(self, load: Callable[[], Any] | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, load), daemon=True)
        self.process.start()
        self.has_ended = False
        theirs.close()

    def end(self) -> None:
        """End the process, whatever it does."""
        self.has_ended = True
        self.process.kill()


class Job:
    """A request with its pictures, and its events.

    Args:
        request: one of the dataclasses of `requests`.
        pictures: pictures that it names.
    """

    def __init__(self, request: Any, pictures: Mapping[str, Stored]) -> None:
        self.id = token_urlsafe(9)
        self.task: tuple[Any, Mapping[str, Stored]] | None = (request, pictures)
        self.cancelled = False
        self.worker: Worker | None = None
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def put(self, event: dict[str, Any] | None) -> None:
        """Add an event, or None after the last one."""
        self._events.put_nowait(event)

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the events as lines of JSON until the job has ended."""
        while (event := await self._events.get()) is not None:
            yield json.dumps(event, allow_nan=False, separators=(",", ":")).encode() + b"\n"


class Slot:
    """One place for a job, and a queue: of the jobs in their order, the first one runs.

    Args:
        results: where the arrays go that jobs compute.
        load: function that returns the model of the command line, or None.
    """

    def __init__(self, results: Store, load: Callable[[], Any] | None) -> None:
        self._results, self._load = results, load
        self._worker: Worker | None = None
        self._jobs: dict[str, Job] = {}
        self._running: Job | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def jobs(self) -> int:
        """Number of jobs that run or wait."""
        return len(self._jobs)

    def warm(self) -> Worker:
        """Return the second process, started anew if there is none."""
        if self._worker is None or not self._worker.process.is_alive():
            self._worker = Worker(self._load)
        return self._worker

    def _renew(self) -> None:
        """Start another second process in place of one that was ended, so that it is ready for the next job."""
        if self._worker is not None and self._worker.has_ended:
            self._worker = None
            if not self._is_closed:
                self.warm()

    def submit(self, request: Any, pictures: Mapping[str, Stored]) -> Job:
        """Start a job, or let it wait for its turn.

        Raises:
            RequestError: status 429 if too many wait.
        """
        if len(self._jobs) > MOST_WAITING:
            raise RequestError(429, f"{len(self._jobs)} computations run or wait; cancel one, or try again later")
        job = Job(request, pictures)
        job.put({"event": "job", "id": job.id, "ahead": len(self._jobs)})
        self._jobs[job.id] = job
        self._begin_next()
        return job

    def _begin_next(self) -> None:
        """Start the first job, if none runs."""
        if self._running is None and self._jobs and not self._is_closed:
            self._running = next(iter(self._jobs.values()))
            self._running.put({"event": "started"})
            self._task = asyncio.create_task(self._run(self._running))

    async def _run(self, job: Job) -> None:
        outcome = {"event": "cancelled"}
        try:
            if not job.cancelled:
                job.worker = self.warm()
                outcome = await asyncio.to_thread(self._conversation, job, job.worker, asyncio.get_running_loop())
        finally:
            job.worker = self._running = None
            self._finish(job, outcome)

    def _finish(self, job: Job, outcome: dict[str, Any]) -> None:
        """Send the last event of a job, and start the next one."""
        del self._jobs[job.id]
        if job.cancelled:
            outcome = {"event": "cancelled"}
            self._renew()
        job.put(outcome)
        job.put(None)
        self._begin_next()

    def end(self, job: Job) -> None:
        """Cancel a job; nothing happens if it has ended. One that waits is not in the way of others any longer."""
        job.cancelled = True
        if job.worker is not None:
            job.worker.end()
        elif job.id in self._jobs and job is not self._running:
            self._finish(job, {"event": "cancelled"})

    def _conversation(self, job: Job, worker: Worker, loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
        """Give a job to the second process, pass its events on, and return the last one."""
        try:
            task, job.task = job.task, None  # its pictures may make room once they are sent
            worker.connection.send(task)
            while True:
                kind, message = worker.connection.recv()
                if kind == "event":
                    loop.call_soon_threadsafe(job.put, message)
                elif kind == "result":
                    name, stored = message
                    self._results.put(stored, name)
                else:
                    outcome: dict[str, Any] = message
                    return outcome
        except (EOFError, OSError):
            worker.process.join(END_SECONDS)
            worker.connection.close()
            reason = f"the process that computes has ended with {worker.process.exitcode}; was there enough memory?"
            return {"event": "failed", "reason": reason}

    def cancel(self, name: str) -> None:
        """Cancel a job.

        Raises:
            RequestError: status 404 if there is none that runs or waits.
        """
        if name not in self._jobs:
            raise RequestError(404, f"no computation {name[:64]!r} runs or waits; it may have ended")
        self.end(self._jobs[name])

    async def close(self) -> None:
        """Cancel all jobs, and end the second process."""
        self._is_closed = True
        for job in list(self._jobs.values()):
            self.end(job)
        if self._worker is not None:
            self._worker.end()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=END_SECONDS)
