"""Passes over the blocks of a fit: their sums are added in an order that the blocks alone say, within a stated memory.

A few blocks that follow one another in a fold are a group. The sums of a group are added up first, in the order of its
blocks, then those of the groups, in theirs. Where other processes compute, a group is one job, so that they send few
sums; the result is the same as where one process computes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from convolith.big.fitting.checkpoint import Checkpoint, Reached
from convolith.big.fitting.jobs import Jobs, Part, Sums, pooled, units_of
from convolith.big.fitting.memory import Memory
from convolith.big.fitting.stacks import Block, Stack
from convolith.big.running import is_here, threads
from convolith.big.walk import ATTEMPTS, LOST, wait_for_any
from convolith.fitting.data.pixels import Pixels
from convolith.fitting.data.problem import Problem
from convolith.fitting.gram import Gram
from convolith.report.progress import Meter, State

SECONDS = 60.0
"""Seconds from one checkpoint to the next."""
Job = TypeVar("Job")
Result = TypeVar("Result")


def in_order(
    jobs: Iterable[Job], run: Callable[[Job], Result], executor: Executor, in_flight: int
) -> Iterator[tuple[Job, Result]]:
    """Submit jobs, a few at a time, and yield each with its result, in their order.

    A job whose worker is lost is submitted again, up to `ATTEMPTS` times. After an interrupt (Ctrl-C), no further job
    is submitted; those in flight are yielded, and the interrupt is raised again. A second one is raised at once.
    """
    waiting: deque[tuple[Job, Future[Result]]] = deque()
    coming = iter(jobs)
    interrupt: KeyboardInterrupt | None = None
    lost = 0
    while True:
        try:
            while len(waiting) < in_flight and (job := next(coming, None)) is not None:
                waiting.append((job, executor.submit(run, job)))
            if not waiting:
                break
            first, future = waiting[0]
            wait_for_any([future], executor)
            if type(future.exception()).__name__ in LOST and lost < ATTEMPTS - 1 and interrupt is None:
                lost += 1
                waiting[0] = first, executor.submit(run, first)
                continue
            result = future.result()
        except KeyboardInterrupt as stop:
            if interrupt is not None:
                raise
            interrupt, coming = stop, iter(())
            continue
        waiting.popleft()
        lost = 0
        yield first, result
    if interrupt is not None:
        raise interrupt


@dataclass
class Passes:
    """Passes over blocks.

    Attributes:
        stacks, blocks: the data.
        memory: memory to take.
        pixels: `nan` and `saturation` of `fit`.
        offset: whether a constant is fitted too.
        progress: whether a bar is shown on a terminal.
        listener: function that is called with the state after each step, or None.
        executor: where blocks are computed, or None for threads of its own.
        checkpoint: where the state is kept, or None.
        seconds: seconds of reading and of updates so far.
        read_bytes: bytes of decoded pixels that were read.
        resumed: number of blocks that an interrupted run had merged.
        peak_bytes: largest memory of another process, in addition to what it had.
    """

    stacks: Sequence[Stack]
    blocks: Sequence[Block]
    memory: Memory
    pixels: Pixels
    offset: bool
    progress: bool
    listener: Callable[[State], object] | None
    executor: Executor | None
    checkpoint: Checkpoint | None
    seconds: tuple[float, float] = (0.0, 0.0)
    read_bytes: int = 0
    resumed: int = 0
    peak_bytes: int = 0

    def __call__(
        self, reached: Reached, sums: Sums, merged: Callable[[Reached, int, Any], Mapping[str, Any]], phase: str
    ) -> Reached:
        """Make one pass over the blocks that are not merged yet.

        Args:
            reached: the state at the beginning.
            sums: what is added up.
            merged: changes of the state by the sums of a group, which is of a fold.
            phase: what the bar says.
        """
        here = is_here(self.executor)
        todo = self.blocks[reached.done :]
        self.resumed += reached.done
        job = self._jobs(sums, None if here else 1)
        own = threads(self.memory.in_flight) if self.executor is None else nullcontext(self.executor)
        saved = time.monotonic()
        group: Part | None = None
        try:
            with own as pool, Meter(phase, len(todo), shown=self.progress, listener=self.listener) as meter:
                units = units_of(todo, whole=not here)
                for unit, part in in_order(units, job, pool, self.memory.in_flight):
                    meter.step(part.read_bytes, len(unit.blocks))
                    group = part if group is None else group.joined(part, sums)
                    if not unit.ends:
                        continue
                    changes = merged(reached, unit.blocks[0].fold, group.sums)
                    missing = reached.missing + group.missing * (reached.passed == 0)
                    reached = replace(reached, done=reached.done + group.blocks, missing=missing, **changes)
                    self._count(group, here=here)
                    group = None
                    if self.checkpoint is not None and time.monotonic() - saved > SECONDS:
                        self.checkpoint.save(reached)
                        saved = time.monotonic()
        except BaseException:
            if self.checkpoint is not None:
                self.checkpoint.save(reached)
            raise
        reached = replace(reached, done=0, passed=reached.passed + 1)
        if self.checkpoint is not None:
            self.checkpoint.save(reached)
        return reached

    def sample(self, sums: Sums) -> Problem:
        """Read the block in the middle once more; its dtypes are those of its sources, which rounded the pixels."""
        block = self.blocks[len(self.blocks) // 2]
        stack = self.stacks[block.stack]
        return replace(self._jobs(sums, None).problem(block)[0], dtypes=(stack.x.dtype.name, stack.y.dtype.name))

    def _jobs(self, sums: Sums, threads: int | None) -> Jobs:
        return Jobs(self.stacks, self.memory.cache_bytes, sums, self.pixels, offset=self.offset, threads=threads)

    def _count(self, part: Part, *, here: bool) -> None:
        """Add what some blocks took."""
        self.read_bytes += part.read_bytes
        self.seconds = self.seconds[0] + part.seconds[0], self.seconds[1] + part.seconds[1]
        self.peak_bytes = self.peak_bytes if here else max(self.peak_bytes, part.peak_bytes)


def merged_state(reached: Reached, fold: int, state: Gram) -> Mapping[str, Any]:
    """Return the states of the folds with that of a group added."""
    states = list(reached.states)
    states[fold] = pooled(states[fold], state)
    return {"states": tuple(states)}
