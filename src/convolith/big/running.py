"""The run of a plan: blocks are read, computed, written and noted in the journal; and its report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from convolith.big.blocks import Filter
from convolith.big.jobs import PHASES, Block, Jobs, resident_bytes
from convolith.big.layout import WAITING, Layout, readable
from convolith.big.stores.journal import Journal
from convolith.big.stores.sources import Source
from convolith.big.stores.targets import Target
from convolith.big.walk import walk
from convolith.jit import thread_count
from convolith.report.html_page import fragment
from convolith.report.progress import Meter, State
from convolith.report.table import Table


@dataclass(frozen=True)
class BigReport:
    """Report of a run: blocks, bytes, times, memory, and the pixels that were clipped or are missing.

    `BigPlan.run` returns it; print it for a table.

    Attributes:
        blocks, resumed: number of blocks of the result, and of those that an interrupted run had stored.
        read_bytes, written_bytes: bytes of decoded pixels that were read, and of pixels that were written.
        seconds: times in seconds: "in all", of the run; "read", "compute" and "write", of its phases, added over all
            blocks (and so over threads or processes).
        predicted_bytes, measured_bytes: peak of memory in addition to what a process had, in bytes; the second is
            looked at whenever a block has been computed, and None where the system does not tell.
        clipped, missing: number of results that an integer dtype does not hold, and that are missing.
        absent: number of chunks (or shards) of the source that are not stored, and were read as its fill value; None
            where this is not known.
        bad: reason for each block that could not be read, by its number along each axis; these blocks are filled with
            missing pixels.
        overflowed: number of results that are not finite, since sums exceed the dtype of the result.
        empty: whether all pixels of the source are missing.
    """

    blocks: int
    resumed: int
    read_bytes: int
    written_bytes: int
    seconds: Mapping[str, float]
    predicted_bytes: int
    measured_bytes: int | None
    clipped: int
    missing: int
    absent: int | None = None
    bad: Mapping[tuple[int, ...], str] = field(default_factory=dict)
    overflowed: int = 0
    empty: bool = False

    def tables(self) -> list[Table]:
        """Return the report as a table."""
        peak = "" if self.measured_bytes is None else f"{readable(self.measured_bytes)} of "
        rows: dict[str, Any] = {
            "blocks": f"{self.blocks:,}" + (f", {self.resumed:,} of them resumed" if self.resumed else ""),
            "read": readable(self.read_bytes),
            "written": readable(self.written_bytes),
            "time": timing(self.seconds),
            "peak of memory": f"{peak}{readable(self.predicted_bytes)} predicted",
            "clipped": self.clipped,
            "overflowed": self.overflowed,
            "missing": self.missing,
            "absent chunks": self.absent,
            "bad blocks": len(self.bad),
        }
        return [Table.of_properties("Run", rows)]

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables())

    def _repr_html_(self) -> str:
        """Return the table as HTML for notebooks."""
        return fragment(self.tables())


def timing(seconds: Mapping[str, float]) -> str:
    """Return the time of a run and of its phases as a text."""
    phases = ", ".join(f"{name} {taken:.3g}" for name, taken in seconds.items() if name != "in all")
    return f"{seconds['in all']:.3g} s ({phases} s, added over threads)"


class Run:
    """A run of a plan.

    Args:
        source, target, filter_, layout: those of the plan.
        journal: the blocks that are stored.
    """

    def __init__(self, source: Source, target: Target, filter_: Filter, layout: Layout, journal: Journal) -> None:
        self.source, self.target, self.filter, self.layout, self.journal = source, target, filter_, layout, journal

    def begin(self, *, resume: bool) -> int:
        """Make the unfinished result, or open the one of an interrupted run; return how many blocks it has."""
        if resume and self.journal.exists():
            self.journal.check()
            self.target.reopen()
            self.journal.begin(lambda numbers, record: self.target.holds(self.layout.place(numbers), record))
        else:
            self.target.create()
            self.journal.begin()
        return len(self.journal)

    def __call__(
        self,
        executor: Executor | None,
        in_flight: int | None,
        resumed: int,
        *,
        skip_bad: bool,
        progress: bool,
        listener: Callable[[State], object] | None = None,
    ) -> BigReport:
        """Compute and store the blocks that are missing."""
        start = time.perf_counter()
        seconds = dict.fromkeys(PHASES, 0.0)
        bad: dict[Block, str] = {}
        decoded = peak = 0
        here = is_here(executor)
        in_flight = in_flight or (self.layout.in_flight if here else 2 * (os.cpu_count() or 1))
        todo = (numbers for numbers in self.layout.order() if numbers not in self.journal)
        each = max(1, thread_count() // in_flight) if here else 1
        job = Jobs(self.source, self.target, self.filter, self.layout, skip_bad=skip_bad, threads=each)
        own = threads(in_flight) if executor is None else nullcontext(executor)
        submitted = in_flight + (WAITING if executor is None else 0)  # those that wait for a thread take no memory
        meter = Meter("correlating", self.layout.blocks - resumed, shown=progress, listener=listener)
        with own as pool, self.target.few_threads(thread_count()), meter:
            for numbers, future in walk(todo, job, pool, submitted, in_step=executor is None):
                record = future.result()
                for name, taken in record.pop("seconds").items():
                    seconds[name] += taken
                decoded, peak = decoded + record.pop("read"), max(peak, record.pop("peak"))
                if record["bad"] is not None:
                    bad[numbers] = record["bad"]
                self.journal.add(numbers, record)
                meter.step(self.layout.pixels(numbers) * self.filter.out_dtype.itemsize)
        return BigReport(
            self.layout.blocks,
            resumed,
            decoded,
            meter.bytes,
            {"in all": time.perf_counter() - start, **seconds},
            self.layout.predicted_bytes,
            peak if resident_bytes() else None,
            self.journal.clipped,
            self.journal.missing,
            self.source.absent(),
            bad,
            self.journal.overflowed,
            self.journal.empty == len(self.journal),
        )


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Return a context with some threads, whose jobs end before it does, unless an interrupt ends it."""
    pool = ThreadPoolExecutor(count)
    wait = True
    try:
        yield pool
    except KeyboardInterrupt:
        wait = False
        raise
    finally:
        pool.shutdown(wait, cancel_futures=not wait)


def is_here(executor: Executor | None) -> bool:
    """Return whether an executor computes in this process."""
    return executor is None or isinstance(executor, ThreadPoolExecutor)
