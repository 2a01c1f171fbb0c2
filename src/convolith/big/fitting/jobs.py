"""The job of some blocks of a fit, in this process or in another one: read them, and add up their sums."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby, islice
from threading import Lock
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from convolith.big.blocks import computing
from convolith.big.fitting.memory import LIVE
from convolith.big.fitting.stacks import Block, Stack
from convolith.big.jobs import opened, resident_bytes
from convolith.big.stores.cache import Chunks, Reading
from convolith.big.stores.sources import Source
from convolith.errors import ConvolithError
from convolith.fitting.data.pixels import Pixels
from convolith.fitting.data.problem import Problem
from convolith.fitting.gram import Gram
from convolith.jit.threads import at_most

GROUP = 4
"""Number of blocks whose sums are added before they are added to all others; after an interrupt, up to that many less
one are read again."""


class Unit(NamedTuple):
    """Blocks of one job.

    Attributes:
        blocks: blocks that follow one another in a group.
        ends: whether the group ends with them.
    """

    blocks: tuple[Block, ...]
    ends: bool


def units_of(blocks: Iterable[Block], *, whole: bool) -> Iterator[Unit]:
    """Yield the jobs of blocks: groups, or one block after the other.

    Args:
        blocks: the blocks, from the first of a group on.
        whole: whether a job is a whole group.
    """
    for _, same in groupby(blocks, key=lambda block: (block.stack, block.fold)):
        while group := tuple(islice(same, GROUP)):
            if whole:
                yield Unit(group, ends=True)
                continue
            for number, block in enumerate(group, start=1):
                yield Unit((block,), ends=number == len(group))


class Sums(ABC):
    """Sums that a pass adds up over the equations."""

    @abstractmethod
    def of(self, problem: Problem) -> Any:
        """Return the sums of the equations of a block."""

    @abstractmethod
    def added(self, first: Any, second: Any) -> Any:
        """Return the sums of the equations of both, in this order."""


class States(Sums):
    """States of the normal equations.

    Args:
        geometry: arguments of an empty `Gram`.
    """

    def __init__(self, geometry: Mapping[str, Any]) -> None:
        self.geometry = dict(geometry)

    def of(self, problem: Problem) -> Gram:
        """Return the state of the equations of a block."""
        return Gram(**self.geometry).add(problem)

    def added(self, first: Gram, second: Gram) -> Gram:
        """Return the state of the equations of both."""
        return pooled(first, second)


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


@dataclass(frozen=True)
class Part:
    """Contribution of some blocks to the sums.

    Attributes:
        sums: the sums.
        missing: number of pixels of y that are left out.
        read_bytes: bytes of decoded pixels that were read.
        seconds: seconds of reading and of the update.
        peak_bytes: memory of the process in addition to what it had before.
        blocks: number of blocks.
    """

    sums: Any
    missing: int
    read_bytes: int
    seconds: tuple[float, float]
    peak_bytes: int
    blocks: int

    def joined(self, other: Part, sums: Sums) -> Part:
        """Return the contribution of these blocks and of others that follow them."""
        names = ("missing", "read_bytes", "blocks")
        added = {name: getattr(self, name) + getattr(other, name) for name in names}
        seconds = self.seconds[0] + other.seconds[0], self.seconds[1] + other.seconds[1]
        peak = max(self.peak_bytes, other.peak_bytes)
        return Part(sums.added(self.sums, other.sums), seconds=seconds, peak_bytes=peak, **added)


class Jobs:
    """Blocks of one pass; what is sent to a worker process opens its files there, once.

    Args:
        stacks: the data.
        cache_bytes: bytes of decoded chunks that are kept, by the names of the sources.
        sums: what is added up.
        pixels: `nan` and `saturation` of `fit`.
        offset: whether a constant is fitted too.
        threads: number of threads that generated code takes for a block, or None for all.
    """

    def __init__(
        self,
        stacks: Sequence[Stack],
        cache_bytes: Mapping[str, int],
        sums: Sums,
        pixels: Pixels,
        *,
        offset: bool,
        threads: int | None,
    ) -> None:
        self.stacks, self.cache_bytes, self.sums, self.pixels = stacks, cache_bytes, sums, pixels
        self.offset, self.threads = offset, threads
        self.parts: dict[str, Any] = {"stacks": stacks, "cache_bytes": cache_bytes, "sums": sums, "pixels": pixels}
        self.parts |= {"offset": offset, "threads": threads}
        self.name = uuid4().hex
        self._readers: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._lock = Lock()
        self._before = resident_bytes()

    def __reduce__(self) -> Any:
        return opened, (type(self), self.name, self.parts)

    def __call__(self, unit: Unit) -> Part:
        """Read blocks in their order, and add up their sums."""
        first, *others = unit.blocks
        result = self._part(first)
        for block in others:
            result = result.joined(self._part(block), self.sums)
        return result

    def problem(self, block: Block) -> tuple[Problem, int]:
        """Read a block; return its equations, and the bytes that were decoded."""
        stack = self.stacks[block.stack]
        kept = self._kept(block.stack)
        readers = {name: Named(source, kept[name]) for name, (source, _) in stack.sources.items()}
        try:
            problem = stack.problem(block, readers, self.pixels, offset=self.offset)
        except UnreadableError:
            raise
        except ConvolithError as refusal:
            raise ConvolithError(f"{refusal} (positions count {_place(block)})") from refusal
        return problem, sum(reader.reading.decoded_bytes for reader in readers.values())

    def _part(self, block: Block) -> Part:
        """Read a block, and compute its sums."""
        start = time.perf_counter()
        problem, decoded = self.problem(block)
        read = time.perf_counter()
        with computing, nullcontext() if self.threads is None else at_most(self.threads):
            begun = time.perf_counter()
            found = self.sums.of(problem)
            ended = time.perf_counter()
        missing, peak = problem.weights.size - problem.equations, resident_bytes() - self._before
        return Part(found, missing, decoded, (read - start, ended - begun), peak, 1)

    def _kept(self, number: int) -> dict[str, Any]:
        """Return what the sources of a stack are read from: their chunks, which are kept while blocks need them."""
        with self._lock:
            known = self._readers.get(number)
            if known is None:
                known = self._readers[number] = {
                    name: source.array if source.decoded_chunks is None else Chunks(source, self.cache_bytes[name])
                    for name, (source, _) in self.stacks[number].sources.items()
                }
            while len(self._readers) > LIVE:
                self._readers.popitem(last=False)
        return known


def _place(block: Block) -> str:
    """Return where the positions in a message about a block count from."""
    pixels = ", ".join(str(low) for low, _ in block.spans)
    pairs = ", ".join(f"{low}:{high}" for low, high in block.pairs)
    return f"from pixel ({pixels}) of y" + (f" in pairs [{pairs}]" if pairs else "")


class UnreadableError(ConvolithError):
    """Error of a source that cannot be read."""


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
            raise UnreadableError(
                f"{self.name} cannot be read at [{place}]: {reason}; repair it, or leave it out"
            ) from problem
