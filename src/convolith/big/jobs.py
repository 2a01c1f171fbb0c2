"""The job of one block, in this process or in another one: read its window, compute it, write it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

from convolith.big.blocks import Filter
from convolith.big.layout import Layout
from convolith.big.stores.cache import Chunks, Moment, Reading
from convolith.big.stores.sources import Source
from convolith.big.stores.targets import Target
from convolith.big.windows import Geometry, Window
from convolith.errors import ConvolithError
from convolith.jit.threads import at_most

Block = tuple[int, ...]
MOST_RUNS = 4
"""Number of runs that a worker process keeps open, with their chunks."""
PHASES = ("read", "compute", "write")


class Jobs:
    """Blocks of one run, computed by number; what is sent to a worker process opens its files there, once.

    Args:
        source, target, filter_, layout: those of the plan.
        skip_bad: whether a block that cannot be read is left missing.
        threads: number of threads that generated code takes for a block. Blocks are computed side by side: threads that
            share one have to wait for one another, and spin meanwhile. torch's own number is left as it is, since all
            threads of a process share it.
    """

    def __init__(
        self, source: Source, target: Target, filter_: Filter, layout: Layout, *, skip_bad: bool, threads: int
    ) -> None:
        self.parts: dict[str, Any] = {"source": source, "target": target, "filter_": filter_, "layout": layout}
        self.parts |= {"skip_bad": skip_bad, "threads": threads}
        self.name = uuid4().hex
        self.source, self.target, self.filter, self.layout = source, target, filter_, layout
        self.skip_bad, self.threads = skip_bad, threads
        self._chunks: Chunks | None = None
        if source.decoded_chunks is not None:
            self._chunks = Chunks(source, layout.cache_bytes, LastUses(filter_.geometry, layout, source.decoded_chunks))
        self._before = resident_bytes()

    def __reduce__(self) -> Any:
        return opened, (type(self), self.name, self.parts)

    def __call__(self, numbers: Block) -> dict[str, Any]:
        """Read, compute and write one block; return what the journal keeps, and what the report adds up.

        Raises:
            ConvolithError: a block that cannot be read.
        """
        clock = [time.perf_counter()]
        window = self.filter.whole_channels(self.filter.geometry.window(self.layout.place(numbers)), self.source.shape)
        parts = self.source.array if self._chunks is None else self._chunks
        reading = Reading(parts, self.layout.moment(numbers))
        pixels = reason = None
        try:
            pixels = window.read(reading)
        except Exception as problem:
            reason = f"{type(problem).__name__}: {problem}"
            if not self.skip_bad:
                raise self._unreadable(numbers, window, problem) from problem
        clock.append(time.perf_counter())
        if pixels is None:
            found = self.filter.absent(tuple(part.stop - part.start for part in window.output))
            overflowed, empty = 0, False
        else:
            padded = self.filter.padded(window, pixels)
            with at_most(self.threads):
                found = self.filter.compute(padded)
            overflowed, empty = padded.overflowed(found), padded.empty
            del padded, pixels  # before the block is encoded
        clock.append(time.perf_counter())
        peak = resident_bytes() - self._before
        record: dict[str, Any] = dict(self.target.write(window.output, found.pixels))
        clock.append(time.perf_counter())
        about: dict[str, Any] = {"clipped": found.clipped, "missing": found.missing, "bad": reason}
        about |= {"overflowed": overflowed, "empty": empty}
        taken = dict(zip(PHASES, (later - earlier for earlier, later in pairwise(clock)), strict=True))
        return record | about | {"seconds": taken, "read": reading.decoded_bytes, "peak": peak}

    def _unreadable(self, numbers: Block, window: Window, problem: Exception) -> ConvolithError:
        place = ", ".join(f"{part.start}:{part.stop}" for part in window.output)
        return ConvolithError(
            f"{self.source.name} cannot be read for block {numbers}, pixels [{place}] of the result: {problem}; repair "
            "it, or pass skip_bad=True (--skip-bad), which leaves such blocks missing"
        )


class LastUses:
    """The last block within a panel that reads a chunk: along each axis of the kernel, the last of those that do.

    Args:
        geometry, layout: those of the plan.
        chunks: shape of the source's chunks.
    """

    def __init__(self, geometry: Geometry, layout: Layout, chunks: Sequence[int]) -> None:
        self.layout = layout
        self._readers: dict[int, dict[int, list[int]]] = {}
        for axis in geometry.axes:
            readers = self._readers[axis] = {}
            for number in range(layout.counts[axis]):
                numbers = [0] * len(layout.counts)
                numbers[axis] = number
                for start, stop in geometry.window(layout.place(numbers)).spans[axis].ranges:
                    for one in range(start // chunks[axis], -(-stop // chunks[axis])):
                        readers.setdefault(one, []).append(number)

    def __call__(self, numbers: tuple[int, ...], moment: Moment) -> Moment:
        """Return the place in the order of the last block that reads a chunk, in the panel of one that does."""
        panel, last = moment[0], list(moment[1])
        for axis, readers in self._readers.items():
            blocks = readers[numbers[axis]]
            last[axis] = blocks[bisect_left(blocks, (panel[axis] + 1) * self.layout.panel[axis]) - 1]
        return panel, tuple(last)


_open: OrderedDict[str, Any] = OrderedDict()
"""Runs of a worker process, by name."""
_opening = Lock()


def opened(make: Callable[..., Any], name: str, parts: Mapping[str, Any]) -> Any:
    """Return the run of a name in a worker process: the one that is open, or a new one.

    Args:
        make: class of the run.
        name: its name, which becomes its attribute `name`.
        parts: its arguments.
    """
    with _opening:
        found = _open.get(name)
        if found is None:
            found = _open[name] = make(**parts)
            found.name = name
            while len(_open) > MOST_RUNS:
                _open.popitem(last=False)
        return found


def resident_bytes() -> int:
    """Return the bytes of memory that this process has, or 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0
