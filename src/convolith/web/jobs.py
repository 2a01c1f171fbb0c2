"""The compute slot: one job at a time in a thread of its own, others wait; each streams events, each can be cancelled.

A job is cancelled as Ctrl-C interrupts a program: an exception is raised in its thread at the next instruction of
Python. Calls of compiled code are not interrupted, so that long ones are made in parts (`tiles`). Imports are not
interrupted either, since many modules cannot be imported again after half of them ran; what all jobs need is imported
before the first one, which can be cancelled meanwhile. Every job has a new thread: a cancelled one may leave state of
its thread behind, in torch's modes for example.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from secrets import token_urlsafe
from threading import Lock, Thread
from typing import Any

from convolith.errors import ConvolithError
from convolith.report.plain import plain
from convolith.web.schema import RequestError

MOST_WAITING = 8
"""Largest number of jobs that wait for the slot."""
AGAIN_SECONDS = 0.2
"""Time after which a cancelled job that still runs is interrupted again: its code may have caught the exception, or
may have been importing a module."""
IMPORT = "<frozen importlib._bootstrap>"
"""File of Python's code that imports modules."""


class Cancelled(BaseException):
    """Exception that ends a cancelled job; code that catches every `Exception` does not catch it."""


class Job:
    """A computation, its events, and the thread that it runs in.

    Args:
        work: the computation, called with the job in a thread; it sends events with `send`.
    """

    def __init__(self, work: Callable[[Job], None]) -> None:
        self.id = token_urlsafe(9)
        self.cancelled = False
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._outcome: dict[str, Any] = {"event": "cancelled"}
        self._guard, self._over = Lock(), False

    def send(self, event: str, **data: Any) -> None:
        """Send an event to the page; called in the job's thread."""
        line = {"event": event, **plain(data)}
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, line)
        except RuntimeError:  # the server has ended
            raise Cancelled from None

    def cancel(self) -> None:
        """End the job as soon as its code comes to an instruction of Python; called in the loop."""
        self.cancelled = True
        self._changed.set()

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the events as lines of JSON until the job has ended."""
        while (event := await self._events.get()) is not None:
            yield json.dumps(event, allow_nan=False, separators=(",", ":")).encode() + b"\n"

    def put(self, event: dict[str, Any] | None) -> None:
        """Add an event, or None after the last one; called in the loop."""
        self._events.put_nowait(event)

    async def wait_for(self, task: asyncio.Future[Any]) -> None:
        """Wait for a task, but no longer than until the job is cancelled."""
        while not task.done() and not self.cancelled:
            cancelled: asyncio.Future[Any] = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait({task, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            cancelled.cancel()

    async def run(self) -> None:
        """Run the work in a thread until it has ended, cancelled or not."""
        thread = Thread(target=self._main, name=f"convolith job {self.id}", daemon=True)
        thread.start()
        while thread.is_alive():
            if self.cancelled:
                self._interrupt(thread)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), AGAIN_SECONDS)
            self._changed.clear()

    def finish(self) -> None:
        """Send the outcome as the last event."""
        self.put({"event": "cancelled"} if self.cancelled else self._outcome)
        self.put(None)

    def _interrupt(self, thread: Thread) -> None:
        with self._guard:
            if not self._over and thread.ident is not None and not _is_importing(thread.ident):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Cancelled))

    def _main(self) -> None:
        with suppress(Cancelled):
            try:
                self._outcome = self._done()
            finally:
                with self._guard:
                    self._over = True
        with suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(self._changed.set)

    def _done(self) -> dict[str, Any]:
        """Do the work, and return the event of its outcome."""
        try:
            self._work(self)
        except ConvolithError as problem:
            return {"event": "refused", "reason": str(problem)}
        except MemoryError:
            return {"event": "refused", "reason": "there is not enough memory for this; pass a smaller picture"}
        except Exception as problem:  # noqa: BLE001 - whatever a model's code raises; the page says so
            traceback.print_exc(file=sys.stderr)
            return {"event": "failed", "reason": f"{type(problem).__name__}: {problem}"}
        return {"event": "done"}


def _is_importing(thread: int) -> bool:
    """Return whether a thread is importing a module."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_filename == IMPORT:
            return True
        frame = frame.f_back
    return False


class Slot:
    """One place for a job, and a queue.

    Args:
        prepare: function that imports what jobs need, called once before the first one.
    """

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare
        self._prepared: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._jobs: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def jobs(self) -> int:
        """Number of jobs that run or wait."""
        return len(self._jobs)

    def submit(self, work: Callable[[Job], None]) -> Job:
        """Start a job, or let it wait for its turn.

        Raises:
            RequestError: status 429 if too many wait.
        """
        if len(self._jobs) > MOST_WAITING:
            raise RequestError(429, f"{len(self._jobs)} computations run or wait; cancel one, or try again later")
        job = Job(work)
        job.put({"event": "job", "id": job.id, "ahead": len(self._jobs)})
        self._jobs[job.id] = job
        task = asyncio.create_task(self._turn(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def _turn(self, job: Job) -> None:
        try:
            async with self._lock:
                if not job.cancelled:
                    job.put({"event": "started"})
                    self._prepared = self._prepared or asyncio.create_task(asyncio.to_thread(self._prepare))
                    await job.wait_for(self._prepared)
                if not job.cancelled:
                    await job.run()
        finally:
            del self._jobs[job.id]
            job.finish()

    def cancel(self, name: str) -> None:
        """Cancel a job.

        Raises:
            RequestError: status 404 if there is none that runs or waits.
        """
        if name not in self._jobs:
            raise RequestError(404, f"no computation {name[:64]!r} runs or waits; it may have ended")
        self._jobs[name].cancel()

    async def close(self, seconds: float = 1.0) -> None:
        """Cancel all jobs, and wait for their end for a while."""
        for job in list(self._jobs.values()):
            job.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)
