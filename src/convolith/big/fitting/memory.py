"""Memory that a fit takes: predicted before it runs, and measured while it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, prod
from threading import Event, Thread
from typing import NamedTuple, Self

from convolith.big.fitting.stacks import Block, Roles, Stack
from convolith.big.jobs import resident_bytes
from convolith.big.layout import FIXED_BYTES, IN_FLIGHT, readable
from convolith.big.stores.sources import Source
from convolith.errors import ConvolithError

VALUE_BYTES = 20
"""Bytes of an update for each pixel of a channel, besides the pixel: float64, copies, marks; as measured."""
PLACE_BYTES = 250
"""Bytes of an update for each pixel of an image, for transforms and for pixels that are left out; as measured."""
UPDATE_BYTES = 60 << 20
"""Bytes of an update that do not depend on the size of the block; as measured."""
MATRICES = 18
"""Matrices of products at a time, besides those of the folds: an update takes 9, a merge 4, solving up to 15."""
LIVE = 2
"""Number of stacks that are read at a time, where there are several."""


class Memory(NamedTuple):
    """Memory of a fit.

    Attributes:
        in_flight: number of blocks that are worked on at a time; of groups of blocks, where other processes do so.
        cache_bytes: bytes of decoded chunks that are kept of each stack that is read, by the names of its sources.
        predicted_bytes: peak in addition to what the process has before, and so in every other process.
    """

    in_flight: int
    cache_bytes: Mapping[str, int]
    predicted_bytes: int

    @classmethod
    def of(
        cls, stacks: Sequence[Stack], blocks: Sequence[Block], folds: int, memory: int, elsewhere: int | None = None
    ) -> Memory:
        """Return the largest memory that is of use, up to a limit.

        Args:
            stacks, blocks: the data.
            folds: number of states that are kept.
            memory: the limit, for each process.
            elsewhere: number of groups of blocks that other processes work on, or None if this one does.

        Raises:
            ConvolithError: too little memory, with the least that works.
        """
        spec = stacks[0].spec
        matrix = 8 * (spec.in_channels * spec.taps + 1 + spec.out_channels) ** 2
        values = [stacks[block.stack].read_values(block) for block in blocks]
        of_x, of_y = (max(counts) for counts in zip(*values, strict=True))
        itemsize = max(part.dtype.itemsize for stack in stacks for part in (stack.x, stack.y))
        marks = sum(one.source.dtype.itemsize + 2 for one in stacks[0].marks.values())
        read = (of_x + of_y) * (itemsize + 10 + marks)
        update = UPDATE_BYTES + (of_x + of_y) * VALUE_BYTES + PLACE_BYTES * of_x // spec.in_channels
        wanted, least = _cached(stacks, blocks)
        states = folds if elsewhere is None else 0
        fixed = FIXED_BYTES + update + (states + MATRICES) * matrix
        main = 0 if elsewhere is None else FIXED_BYTES + (folds + MATRICES + elsewhere) * matrix
        tries = ((IN_FLIGHT, wanted), (1, wanted), (1, least))
        live = min(LIVE, len(stacks))
        for in_flight, cache in tries if elsewhere is None else tries[1:]:
            total = max(main, fixed + in_flight * read + live * sum(cache.values()))
            if total <= memory:
                return cls(elsewhere or in_flight, cache, total)
        raise ConvolithError(
            f"memory is {readable(memory)}, but a fit with {folds} {'state' if folds == 1 else 'states'} of "
            f"{readable(matrix)} and blocks of up to {max(of_x, of_y):,} pixels takes {readable(total)}; pass at least "
            f"{ceil(total / (1 << 20))}MB, or a smaller block=, kernel_size= or folds="
        )


def _cached(stacks: Sequence[Stack], blocks: Sequence[Block]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes of chunks of each source of a stack that are of use, and the least: one chunk."""
    wanted = dict.fromkeys(stacks[0].sources, 0)
    least = dict(wanted)
    seen = set()
    for block in blocks:
        if block.stack not in seen:
            seen.add(block.stack)
            stack = stacks[block.stack]
            for name, (source, roles) in stack.sources.items():
                wanted[name] = max(wanted[name], _row_bytes(source, roles, stack, block))
                chunk = 0 if source.decoded_chunks is None else prod(source.decoded_chunks) * source.dtype.itemsize
                least[name] = max(least[name], chunk)
    return wanted, least


def _row_bytes(source: Source, roles: Roles, stack: Stack, block: Block) -> int:
    """Return the bytes of the chunks that a row of blocks reads; the next row reads the last of them again."""
    chunks = source.decoded_chunks
    if chunks is None:
        return 0
    pairs = block.pairs if roles.pairs else ()
    shared = any(chunks[a] > high - low for a, (low, high) in zip(roles.pairs, pairs, strict=True))
    total = source.dtype.itemsize
    for axis, (n, chunk) in enumerate(zip(source.shape, chunks, strict=True)):
        count = n
        if axis in roles.pairs:
            low, high = pairs[roles.pairs.index(axis)]
            count = (ceil((high - low) / chunk) + 1) * chunk if chunk > 1 else high - low
        elif axis == roles.axes[0] and not shared:
            low, high = block.spans[0]
            reach = (high - low) * stack.spec.stride[0] + stack.spec.extent[0]
            count = (ceil(reach / chunk) + 1) * chunk
        total *= min(count, ceil(n / chunk) * chunk)
    return total


class Peak:
    """Largest memory of this process within a context, looked at many times a second."""

    def __init__(self) -> None:
        self.before = self.most = resident_bytes()
        self._ended = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.most = max(self.most, resident_bytes())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.most = max(self.most, resident_bytes())

    @property
    def measured_bytes(self) -> int | None:
        """Peak in addition to the memory at the beginning, or None where the system does not tell."""
        return self.most - self.before if self.before else None
