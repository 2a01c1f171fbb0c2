"""The run of a plan: blocks are read, computed, written and noted in the journal; and its report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from convolith.big.blocks import Filter
from convolith.big.cache import Chunks
from convolith.big.journal import Journal
from convolith.big.layout import Layout, readable
from convolith.big.sources import Source
from convolith.big.targets import ZarrTarget
from convolith.big.walk import walk
from convolith.big.windows import Window
from convolith.errors import ConvolithError
from convolith.jit import thread_count
from convolith.report.html_page import fragment
from convolith.report.progress import track
from convolith.report.table import Table

PHASES = ("read", "compute", "write")
Block = tuple[int, ...]


@dataclass(frozen=True)
class BigReport:
    """Report of a run: blocks, bytes, times, memory, and the pixels that were clipped or are missing.

    Attributes:
        blocks, resumed: number of blocks of the result, and of those that an interrupted run had stored.
        read_bytes, written_bytes: bytes of decoded pixels that were read, and of pixels that were written.
        seconds: time of the run, and of its phases, added over all blocks: "read", "compute", "write".
        predicted_bytes, measured_bytes: peak of memory in addition to what the process had, in bytes; the second is
            looked at whenever a block has been computed, and None where the system does not tell.
        clipped, missing: number of results that an integer dtype does not hold, and that are missing.
        bad: blocks that could not be read, with the reason; they are filled with missing pixels.
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
    bad: Mapping[tuple[int, ...], str] = field(default_factory=dict)

    def tables(self) -> list[Table]:
        """Return the report as a table."""
        row: dict[str, Any] = {"blocks": self.blocks, "resumed": self.resumed}
        row |= {"read": readable(self.read_bytes), "written": readable(self.written_bytes)}
        row |= {f"s {name}": seconds for name, seconds in self.seconds.items()}
        row["predicted peak"] = readable(self.predicted_bytes)
        if self.measured_bytes is not None:
            row["measured peak"] = readable(self.measured_bytes)
        row |= {"clipped": self.clipped, "missing": self.missing, "bad blocks": len(self.bad)}
        return [Table("Run", [row])]

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables())

    def _repr_html_(self) -> str:
        """Return the table as HTML for notebooks."""
        return fragment(self.tables())


class Run:
    """A run of a plan on this machine.

    Args:
        source, target, filter_, layout: those of the plan.
        journal: the blocks that are stored.
    """

    def __init__(self, source: Source, target: ZarrTarget, filter_: Filter, layout: Layout, journal: Journal) -> None:
        self.source, self.target, self.filter, self.layout, self.journal = source, target, filter_, layout, journal
        self.parts: Any = source.array if source.chunks is None else Chunks(source, layout.cache_bytes)
        self._read_bytes = self._peak = 0
        self._skip_bad = False

    def begin(self, *, resume: bool) -> int:
        """Make the unfinished result, or open the one of an interrupted run; return how many blocks it has."""
        if resume and self.journal.exists():
            self.journal.read()
            self.target.reopen()
            stored = self.journal.stored
            for block in [n for n, record in stored.items() if not self.target.holds(self.layout.place(n), record)]:
                del stored[block]
        else:
            self.target.create()
        self.journal.open()
        return len(self.journal.stored)

    def __call__(self, executor: Executor | None, resumed: int, *, skip_bad: bool, progress: bool) -> BigReport:
        """Compute and store the blocks that are missing."""
        start, before, self._skip_bad = time.perf_counter(), resident_bytes(), skip_bad
        seconds = dict.fromkeys(PHASES, 0.0)
        bad: dict[Block, str] = {}
        jobs = [numbers for numbers in self.layout.order() if numbers not in self.journal.stored]
        own = ThreadPoolExecutor(self.layout.in_flight) if executor is None else nullcontext(executor)
        with own as pool, self.target.few_threads(thread_count()):
            done = walk(jobs, self._block, pool, self.layout.in_flight)
            for _, (numbers, future) in zip(
                track(range(len(jobs)), "correlating", len(jobs), shown=progress), done, strict=True
            ):
                record = future.result()
                for name, taken in zip(PHASES, record.pop("seconds"), strict=True):
                    seconds[name] += taken
                if record["bad"] is not None:
                    bad[numbers] = record["bad"]
                self.journal.add(numbers, record)
        records = self.journal.stored.values()
        decoded = self.parts.decoded_bytes if isinstance(self.parts, Chunks) else self._read_bytes
        written = len(jobs) / max(self.layout.blocks, 1) * self.layout.result_pixels * self.filter.out_dtype.itemsize
        return BigReport(
            self.layout.blocks,
            resumed,
            decoded,
            int(written),
            {"in all": time.perf_counter() - start, **seconds},
            self.layout.predicted_bytes,
            self._peak - before if before else None,
            sum(record.get("clipped", 0) for record in records),
            sum(record.get("missing", 0) for record in records),
            bad,
        )

    def _block(self, numbers: Block) -> dict[str, Any]:
        """Read, compute and write one block; return what the journal keeps, and the seconds of each phase."""
        clock = [time.perf_counter()]
        window = self.filter.whole_channels(self.filter.geometry.window(self.layout.place(numbers)), self.source.shape)
        pixels = reason = None
        try:
            pixels = window.read(self.parts)
        except Exception as problem:
            reason = f"{type(problem).__name__}: {problem}"
            if not self._skip_bad:
                raise self._unreadable(numbers, window, problem) from problem
        clock.append(time.perf_counter())
        if pixels is None:
            found = self.filter.absent(tuple(part.stop - part.start for part in window.output))
        else:
            self._read_bytes += pixels.nbytes
            found = self.filter.compute(window, pixels)
        clock.append(time.perf_counter())
        self._peak = max(self._peak, resident_bytes())
        record = self.target.write(window.output, found.pixels)
        clock.append(time.perf_counter())
        taken = [later - earlier for earlier, later in pairwise(clock)]
        return record | {"clipped": found.clipped, "missing": found.missing, "seconds": taken, "bad": reason}

    def _unreadable(self, numbers: Block, window: Window, problem: Exception) -> ConvolithError:
        place = ", ".join(f"{part.start}:{part.stop}" for part in window.output)
        return ConvolithError(
            f"{self.source.name} cannot be read for block {numbers}, pixels [{place}] of the result: {problem}; repair "
            "it, or pass skip_bad=True (--skip-bad), which leaves such blocks missing"
        )


def resident_bytes() -> int:
    """Return the bytes of memory that this process has, or 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0
