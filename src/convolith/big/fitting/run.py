"""Passes over the blocks of a fit: sums of each block, merged in the order of the blocks, within a stated memory."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from convolith.big.blocks import computing
from convolith.big.fitting.checkpoint import Checkpoint, Reached
from convolith.big.fitting.memory import LIVE, Memory
from convolith.big.fitting.stacks import Block, Stack
from convolith.big.stores.cache import Chunks, Reading
from convolith.big.stores.sources import Source
from convolith.errors import ConvolithError
from convolith.fitting.data.problem import Problem
from convolith.fitting.gram import Gram
from convolith.report.progress import track

SECONDS = 60.0
"""Seconds from one checkpoint to the next."""
Job = TypeVar("Job")
Result = TypeVar("Result")


def in_order(
    jobs: Iterable[Job], run: Callable[[Job], Result], executor: Executor, in_flight: int
) -> Iterator[tuple[Job, Result]]:
    """Submit jobs, a few at a time, and yield each with its result, in their order.

    After an interrupt (Ctrl-C), no further job is submitted; those in flight are yielded, and the interrupt is raised
    again. A second one is raised at once.
    """
    waiting: deque[tuple[Job, Future[Result]]] = deque()
    coming = iter(jobs)
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            while len(waiting) < in_flight and (job := next(coming, None)) is not None:
                waiting.append((job, executor.submit(run, job)))
            if not waiting:
                break
            first, future = waiting[0]
            result = future.result()
        except KeyboardInterrupt as stop:
            if interrupt is not None:
                raise
            interrupt, coming = stop, iter(())
            continue
        waiting.popleft()
        yield first, result
    if interrupt is not None:
        raise interrupt


@dataclass(frozen=True)
class Part:
    """Contribution of a block to the sums.

    Attributes:
        sums: the sums.
        missing: number of pixels of y that are left out.
        read_bytes: bytes of decoded pixels that were read.
        seconds: seconds of reading and of the update.
    """

    sums: Any
    missing: int
    read_bytes: int
    seconds: tuple[float, float]


class Run:
    """Passes over blocks.

    Args:
        stacks, blocks: the data.
        memory: memory to take.
        saturation: as for `fit`.
        offset: whether a constant is fitted too.
        progress: whether a bar is shown on a terminal.
        executor: threads, or None for some of its own.
        checkpoint: where the state is kept, or None.

    Attributes:
        seconds: seconds of reading and of updates so far.
        read_bytes: bytes of decoded pixels that were read.
        resumed: number of blocks that an interrupted run had merged.
    """

    def __init__(
        self,
        stacks: Sequence[Stack],
        blocks: Sequence[Block],
        memory: Memory,
        *,
        saturation: Any,
        offset: bool,
        progress: bool,
        executor: Executor | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.stacks, self.blocks, self.memory, self.executor = stacks, blocks, memory, executor
        self.saturation, self.offset, self.progress, self.checkpoint = saturation, offset, progress, checkpoint
        self.seconds = {"read": 0.0, "update": 0.0}
        self.read_bytes = self.resumed = 0
        self._parts: OrderedDict[int, tuple[Any, Any]] = OrderedDict()
        self._lock = Lock()

    def __call__(
        self,
        reached: Reached,
        sums: Callable[[Problem], Any],
        merged: Callable[[Reached, Block, Any], Mapping[str, Any]],
        words: str,
    ) -> Reached:
        """Make one pass over the blocks that are not merged yet.

        Args:
            reached: the state at the beginning.
            sums: the sums of the equations of a block.
            merged: changes of the state by the sums of a block.
            words: what the bar says.
        """
        jobs = self.blocks[reached.done :]
        self.resumed += reached.done
        own = ThreadPoolExecutor(self.memory.in_flight) if self.executor is None else nullcontext(self.executor)
        saved = time.monotonic()
        try:
            with own as pool:
                done = in_order(jobs, lambda block: self._part(block, sums), pool, self.memory.in_flight)
                steps = track(range(len(jobs)), words, len(jobs), shown=self.progress)
                for _, (block, part) in zip(steps, done, strict=True):
                    changes = merged(reached, block, part.sums)
                    missing = reached.missing + part.missing * (reached.passed == 0)
                    reached = replace(reached, done=reached.done + 1, missing=missing, **changes)
                    self.read_bytes += part.read_bytes
                    for name, taken in zip(self.seconds, part.seconds, strict=True):
                        self.seconds[name] += taken
                    if self.checkpoint is not None and time.monotonic() - saved > SECONDS:
                        self.checkpoint.save(reached)
                        saved = time.monotonic()
        except BaseException:
            if self.checkpoint is not None:
                self.checkpoint.save(reached)
            raise
        finally:
            self._parts.clear()
        reached = replace(reached, done=0, passed=reached.passed + 1)
        if self.checkpoint is not None:
            self.checkpoint.save(reached)
        return reached

    def _part(self, block: Block, sums: Callable[[Problem], Any]) -> Part:
        """Read a block, and compute its sums."""
        stack, start = self.stacks[block.stack], time.perf_counter()
        parts = self._sources(block.stack)
        of_x, of_y = (Named(source, own) for source, own in zip((stack.x, stack.y), parts, strict=True))
        problem = stack.problem(block, of_x, of_y, self.saturation, offset=self.offset)
        read = time.perf_counter()
        with computing:
            begun = time.perf_counter()
            found = sums(problem)
            ended = time.perf_counter()
        decoded = of_x.reading.decoded_bytes + of_y.reading.decoded_bytes
        return Part(found, problem.weights.size - problem.equations, decoded, (read - start, ended - begun))

    def _sources(self, number: int) -> tuple[Chunks | Any, Chunks | Any]:
        """Return what the x and y of a stack are read from: their chunks, which are kept while blocks need them."""
        with self._lock:
            known = self._parts.get(number)
            if known is None:
                stack = self.stacks[number]
                kept = zip((stack.x, stack.y), self.memory.cache_bytes, strict=True)
                of_x, of_y = (s.array if s.chunks is None else Chunks(s, most) for s, most in kept)
                known = self._parts[number] = of_x, of_y
            while len(self._parts) > LIVE:
                self._parts.popitem(last=False)
        return known


class Named:
    """A source as one block reads it: supports `array[slices]`, and names the source and the place in errors."""

    def __init__(self, source: Source, parts: Chunks | Any) -> None:
        self.name, self.dtype, self.reading = source.name, source.dtype, Reading(parts)

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        """Return a part."""
        try:
            return self.reading[slices]
        except Exception as problem:
            place = ", ".join(f"{part.start}:{part.stop}" for part in slices)
            reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
            raise ConvolithError(
                f"{self.name} cannot be read at [{place}]: {reason}; repair it, or leave it out"
            ) from problem


def of_state(template: Gram) -> Callable[[Problem], Gram]:
    """Return a function that computes the state of the equations of a block."""
    return lambda problem: template.like().add(problem)


def merged_state(reached: Reached, block: Block, state: Gram) -> Mapping[str, Any]:
    """Return the states of the folds with that of a block added."""
    states = list(reached.states)
    states[block.fold] = pooled(states[block.fold], state)
    return {"states": tuple(states)}


def pooled(first: Gram, second: Gram) -> Gram:
    """Return the state of the equations of both, with the sums about their common mean."""
    if not second.equations:
        return first
    result = first.like()
    if first.equations:
        share = second.weight / (first.weight + second.weight)
        result.shift = first.shift + share * (second.shift - first.shift)
        result.dtypes, result.size = first.dtypes, first.size
    return result.merge(first).merge(second)
