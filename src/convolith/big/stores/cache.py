"""Decoded chunks of a source: each is decoded by one thread, and kept while later blocks read it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from heapq import heappop, heappush
from itertools import product
from threading import Lock
from typing import Any

import numpy as np

from convolith.big.stores.sources import Source
from convolith.engines.buffers import reused_array

Moment = tuple[Any, ...]
"""Place of a block in the order in which blocks are computed."""


class Chunks:
    """A source that is read in whole chunks, which are kept for the next blocks.

    Where there are too many, those go first that no block reads any more, or whose last one comes first. If the order
    of blocks is not known, those go first that were read least recently.

    Args:
        source: a source with chunks.
        most_bytes: upper bound on the bytes of chunks that no block is reading.
        last_use: function of a chunk's numbers and of the moment of a block that reads it, which returns the moment of
            the last one that does; None where the order of blocks is not known.
    """

    def __init__(
        self,
        source: Source,
        most_bytes: int,
        last_use: Callable[[tuple[int, ...], Moment], Moment] | None = None,
    ) -> None:
        self.source, self.dtype = source, source.dtype
        self.chunks: tuple[int, ...] = source.chunks or source.shape
        self.most_bytes, self.last_use = most_bytes, last_use
        self._kept: OrderedDict[tuple[int, ...], Future[np.ndarray]] = OrderedDict()
        self._last: dict[tuple[int, ...], Moment] = {}
        self._ends: list[tuple[Moment, tuple[int, ...]]] = []  # a heap of `_last`, with earlier values among them
        self._bytes = 0
        self._lock = Lock()

    def part(self, slices: tuple[slice, ...], moment: Moment = ()) -> tuple[np.ndarray, int]:
        """Return a part, put together from chunks, and the bytes of those that were decoded for it.

        Chunks that another thread is decoding are waited for at the end, when all others are there.

        Args:
            slices: the part.
            moment: place in the order of the block that reads it.
        """
        decoded, later = 0, []
        result = reused_array(tuple(part.stop - part.start for part in slices), self.dtype)
        ranges = [
            range(part.start // chunk, -(-part.stop // chunk)) for part, chunk in zip(slices, self.chunks, strict=True)
        ]
        for numbers in product(*ranges):
            chunk, is_new = self._claimed(numbers, moment)
            if is_new:
                decoded += self._decode(numbers, chunk).nbytes
            if chunk.done():
                self._copy(numbers, chunk.result(), slices, result)
            else:
                later.append((numbers, chunk))
        for numbers, chunk in later:
            self._copy(numbers, chunk.result(), slices, result)
        return result, decoded

    def _copy(
        self, numbers: tuple[int, ...], pixels: np.ndarray, slices: tuple[slice, ...], result: np.ndarray
    ) -> None:
        """Copy what a part has of a chunk."""
        source, goal = [], []
        for number, chunk, part in zip(numbers, self.chunks, slices, strict=True):
            low, high = max(part.start, number * chunk), min(part.stop, (number + 1) * chunk)
            source.append(slice(low - number * chunk, high - number * chunk))
            goal.append(slice(low - part.start, high - part.start))
        result[tuple(goal)] = pixels[tuple(source)]

    def _claimed(self, numbers: tuple[int, ...], moment: Moment) -> tuple[Future[np.ndarray], bool]:
        """Return the place of a chunk, and whether the caller is to decode it."""
        with self._lock:
            if self.last_use is not None:
                last, before = self.last_use(numbers, moment), self._last.get(numbers)
                if before is None or before < last:
                    self._last[numbers] = last
                    heappush(self._ends, (last, numbers))
            known = self._kept.get(numbers)
            if known is not None:
                self._kept.move_to_end(numbers)
                return known, False
            mine = self._kept[numbers] = Future()
            return mine, True

    def _decode(self, numbers: tuple[int, ...], chunk: Future[np.ndarray]) -> np.ndarray:
        """Decode a chunk that was claimed, and let go of the oldest ones."""
        try:
            pixels = self.source.chunk(numbers)
        except BaseException as problem:
            chunk.set_exception(problem)
            with self._lock:
                self._kept.pop(numbers, None)
                self._last.pop(numbers, None)
            raise
        chunk.set_result(pixels)
        with self._lock:
            self._bytes += pixels.nbytes
            while self._bytes > self.most_bytes and (number := self._first_to_go()) is not None:
                self._bytes -= self._kept.pop(number).result().nbytes
                self._last.pop(number, None)
        return pixels

    def _first_to_go(self) -> tuple[int, ...] | None:
        """Return the chunk that is given up next, or None if there is one alone, or if it is being decoded."""
        if len(self._kept) < 2:
            return None
        if self.last_use is None:
            number = next(iter(self._kept))
        else:
            while self._last.get(self._ends[0][1]) != self._ends[0][0]:
                heappop(self._ends)
            number = self._ends[0][1]
        return number if self._kept[number].done() else None


class Reading:
    """A source as one block reads it: supports `array[slices]`, and counts the bytes.

    Args:
        array: chunks, or an array any part of which can be read alone.
        moment: place in the order of the block.

    Attributes:
        decoded_bytes: bytes that were decoded or copied so far.
    """

    def __init__(self, array: Any, moment: Moment = ()) -> None:
        self.array, self.moment, self.dtype, self.decoded_bytes = array, moment, array.dtype, 0

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        """Return a part."""
        if isinstance(self.array, Chunks):
            pixels, decoded = self.array.part(slices, self.moment)
        else:
            pixels = np.asarray(self.array[slices])
            decoded = pixels.nbytes
        self.decoded_bytes += decoded
        return pixels
