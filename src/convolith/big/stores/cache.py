"""Decoded chunks of a source: each is decoded by one thread, and kept while the next blocks read it."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future
from itertools import product
from threading import Lock
from typing import Any

import numpy as np

from convolith.big.stores.sources import Source


class Chunks:
    """A source that is read in whole chunks, the latest of which are kept.

    Args:
        source: a source with chunks.
        most_bytes: upper bound on the bytes of chunks that no block is reading.
    """

    def __init__(self, source: Source, most_bytes: int) -> None:
        self.array, self.shape, self.dtype = source.array, source.shape, source.dtype
        self.chunks: tuple[int, ...] = source.chunks or self.shape
        self.most_bytes = most_bytes
        self._kept: OrderedDict[tuple[int, ...], Future[np.ndarray]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def part(self, slices: tuple[slice, ...]) -> tuple[np.ndarray, int]:
        """Return a part, put together from chunks, and the bytes of those that were decoded for it.

        Chunks that another thread is decoding are waited for at the end, when all others are there.
        """
        decoded, later = 0, []
        result = np.empty([part.stop - part.start for part in slices], self.dtype)
        ranges = [
            range(part.start // chunk, -(-part.stop // chunk)) for part, chunk in zip(slices, self.chunks, strict=True)
        ]
        for numbers in product(*ranges):
            chunk, is_new = self._claimed(numbers)
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

    def _claimed(self, numbers: tuple[int, ...]) -> tuple[Future[np.ndarray], bool]:
        """Return the place of a chunk, and whether the caller is to decode it."""
        with self._lock:
            known = self._kept.get(numbers)
            if known is not None:
                self._kept.move_to_end(numbers)
                return known, False
            mine = self._kept[numbers] = Future()
            return mine, True

    def _decode(self, numbers: tuple[int, ...], chunk: Future[np.ndarray]) -> np.ndarray:
        """Decode a chunk that was claimed, and let go of the oldest ones."""
        place = tuple(
            slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(numbers, self.chunks, self.shape, strict=True)
        )
        try:
            pixels = np.asarray(self.array[place])
        except BaseException as problem:
            chunk.set_exception(problem)
            with self._lock:
                self._kept.pop(numbers, None)
            raise
        chunk.set_result(pixels)
        with self._lock:
            self._bytes += pixels.nbytes
            while self._bytes > self.most_bytes and len(self._kept) > 1:
                number, oldest = next(iter(self._kept.items()))
                if not oldest.done():
                    break
                del self._kept[number]
                self._bytes -= oldest.result().nbytes
        return pixels


class Reading:
    """A source as one block reads it: supports `array[slices]`, and counts the bytes.

    Args:
        array: chunks, or an array any part of which can be read alone.

    Attributes:
        decoded_bytes: bytes that were decoded or copied so far.
    """

    def __init__(self, array: Any) -> None:
        self.array, self.dtype, self.decoded_bytes = array, array.dtype, 0

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        """Return a part."""
        if isinstance(self.array, Chunks):
            pixels, decoded = self.array.part(slices)
        else:
            pixels = np.asarray(self.array[slices])
            decoded = pixels.nbytes
        self.decoded_bytes += decoded
        return pixels
