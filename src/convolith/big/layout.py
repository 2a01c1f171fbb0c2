"""How a large result is divided: blocks, the order in which they are computed, and the memory that this takes.

Blocks are written one by one. They are walked along the first axis of the kernel, panel by panel of the others, so that
the chunks that neighbouring blocks share are still there when the next one reads them: within a panel, every chunk of
the source is decoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

import numpy as np

from convolith.big.windows import Geometry
from convolith.errors import ConvolithError
from convolith.geometry import extent

SIDES = {1: 1 << 20, 2: 1024, 3: 128}
"""Length of a block along each axis that the kernel slides along, by their number, where no chunks suggest another."""
LONGEST = {1: 1 << 22, 2: 4096, 3: 256}
"""Length above which a chunk of the source is no model for the result's."""
FIXED_BYTES = 40 << 20
"""Bytes that a run takes for generated code, the source's library and the journal."""
IN_FLIGHT = 2
"""Number of blocks that are read, computed and written at a time: one is decoded while another one is computed."""
MOST_BLOCKS = 10_000_000
"""Most blocks of a run, of a Dask array, whose graph takes a few GB, or of a fit."""
WAITING = 2
"""Blocks that wait for a thread, so that none is idle while the journal is written."""
UNITS = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40, "B": 1}


@dataclass(frozen=True)
class Layout:
    """Division of a result.

    Attributes:
        shape: shape of the result.
        block: shape of its blocks; those at the end of an axis may be smaller.
        panel: number of blocks along each axis that are walked together.
        first: axis that is walked first within a panel.
        in_flight: number of blocks that are worked on at a time.
        cache_bytes: bytes of decoded chunks that are kept.
        job_bytes: bytes of a block that is worked on.
        amplification: bytes of the source that are decoded, divided by its size.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]
    panel: tuple[int, ...]
    first: int
    in_flight: int
    cache_bytes: int
    job_bytes: int
    amplification: float

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return tuple(ceil(n / b) for n, b in zip(self.shape, self.block, strict=True))

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return prod(self.counts)

    @property
    def predicted_bytes(self) -> int:
        """Peak of memory in addition to what the process has before the run."""
        return FIXED_BYTES + self.cache_bytes + self.in_flight * self.job_bytes

    def place(self, numbers: Sequence[int]) -> tuple[slice, ...]:
        """Return the place of a block in the result."""
        return tuple(slice(i * b, min((i + 1) * b, n)) for i, b, n in zip(numbers, self.block, self.shape, strict=True))

    def pixels(self, numbers: Sequence[int]) -> int:
        """Return the number of pixels of a block."""
        return prod(part.stop - part.start for part in self.place(numbers))

    def moment(self, numbers: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the place of a block in the order: its panel, and its numbers."""
        return tuple(n // size for n, size in zip(numbers, self.panel, strict=True)), tuple(numbers)

    def order(self) -> Iterator[tuple[int, ...]]:
        """Yield the numbers of all blocks, in the order in which they are computed."""
        panels = [range(0, count, size) for count, size in zip(self.counts, self.panel, strict=True)]
        for starts in product(*panels):
            ranges = [
                range(start, min(start + size, count))
                for start, size, count in zip(starts, self.panel, self.counts, strict=True)
            ]
            yield from product(*ranges)


def bytes_of(memory: str | int) -> int:
    """Return a number of bytes from a number, or from one with a unit such as "2GB".

    Raises:
        ConvolithError: something else, or a number that is not above zero.
    """
    text = str(memory).strip().upper().replace("IB", "B")
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            text, scale = text.removesuffix(unit), factor
            break
    else:
        scale = 1
    try:
        found = int(float(text) * scale)
    except ValueError:
        found = 0
    if found <= 0:
        raise ConvolithError(f"memory is {memory!r}; expected bytes above zero, or a text such as '500MB' or '2GB'")
    return found


def readable(count: float) -> str:
    """Return bytes as a short text."""
    for unit, factor in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} bytes"


def block_of(geometry: Geometry, chunks: Sequence[int] | None, whole: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the shape of the blocks of a result: as the source's chunks, or several of them if these are small.

    Args:
        geometry: the correlation.
        chunks: chunks of the source, or None.
        whole: axes that a block has whole, such as the channels that a kernel mixes.
    """
    shape, axes = geometry.output_shape, geometry.axes
    side, longest = SIDES[len(axes)], LONGEST[len(axes)]
    block = []
    for axis, n in enumerate(shape):
        if axis in whole:
            block.append(n)
        elif axis not in axes:
            block.append(1)
        else:
            own = min(chunks[axis], n) if chunks is not None else side
            own = own if own <= longest else side
            block.append(min(n, own * max(1, side // own)))
    return tuple(max(1, n) for n in block)


def check_blocks(shape: Sequence[int], block: Sequence[int]) -> None:
    """Refuse more blocks than can be listed."""
    count = prod(ceil(n / b) for n, b in zip(shape, block, strict=True))
    if count > MOST_BLOCKS:
        raise ConvolithError(
            f"source gives a result of {' x '.join(map(str, shape))} pixels, which are {count:,} blocks of "
            f"{' x '.join(map(str, block))}; expected {MOST_BLOCKS:,} or fewer; pass a larger block=, or correlate a "
            "part of it"
        )


def lay_out(
    geometry: Geometry,
    chunks: Sequence[int] | None,
    itemsize: int,
    block: Sequence[int],
    job_bytes: int,
    memory: int,
    argument: str = "memory",
) -> Layout:
    """Choose the panels and the number of blocks in flight that fit into memory.

    Args:
        geometry: the correlation.
        chunks: chunks of the source, or None where any part can be read alone.
        itemsize: bytes of a pixel of the source.
        block: shape of the blocks.
        job_bytes: bytes of a block that is worked on.
        memory: bytes that the run may take.
        argument: name of `memory` in messages.

    Raises:
        ConvolithError: too little memory, with the least that works.
    """
    shape = geometry.output_shape
    counts = tuple(ceil(n / b) for n, b in zip(shape, block, strict=True))
    first, *others = geometry.axes
    for in_flight in range(IN_FLIGHT, 0, -1):
        room = memory - FIXED_BYTES - in_flight * job_bytes
        panel = [1] * len(shape)
        for axis in geometry.axes:
            panel[axis] = counts[axis]
        while True:
            cache = _cached_bytes(geometry, chunks, itemsize, block, panel, first, in_flight + WAITING)
            if cache <= room:
                read = _amplification(geometry, chunks, block, panel, first)
                return Layout(shape, tuple(block), tuple(panel), first, in_flight, cache, job_bytes, read)
            widest = max(others, key=lambda axis: panel[axis], default=first)
            if panel[widest] == 1 or widest == first:
                break
            panel[widest] = -(-panel[widest] // 2)
    least = FIXED_BYTES + job_bytes + cache
    raise ConvolithError(
        f"{argument} is {readable(memory)}, but a run with blocks of {' x '.join(map(str, block))} takes "
        f"{readable(least)}; pass at least {ceil(least / (1 << 20))}MB, or a smaller block="
    )


def _cover(geometry: Geometry, axis: int, chunk: int, first: int, count: int) -> tuple[int, int]:
    """Return the first chunk and the one after the last that a range of the result reads along an axis."""
    output = [slice(0, 1)] * len(geometry.shape)
    output[axis] = slice(first, first + count)
    ranges = geometry.window(output).spans[axis].ranges
    return min(start for start, _ in ranges) // chunk, -(-max(stop for _, stop in ranges) // chunk)


def _cached_bytes(
    geometry: Geometry,
    chunks: Sequence[int] | None,
    itemsize: int,
    block: Sequence[int],
    panel: Sequence[int],
    first: int,
    window: int,
) -> int:
    """Return the bytes of decoded chunks that a walk along the first axis keeps.

    Those are the rows of chunks that two rows of blocks share, as wide as a panel, and the rest of the windows that are
    read at the moment: chunks behind them are no longer needed, and those ahead of them not yet there.
    The last argument is the number of blocks among which those are that are worked on at a time.
    """
    if chunks is None:
        return 0
    shape, total = geometry.output_shape, itemsize
    across, rest = 1, 1
    sizes = dict(
        zip(geometry.axes, zip(geometry.stride, geometry.kernel_size, geometry.dilation, strict=True), strict=True)
    )

    def reach(axis: int, count: int) -> int:
        """Return the chunks along an axis that a range of the result reads at most."""
        stride, k, dilation = sizes[axis]
        return ceil(((count - 1) * stride + extent(k, dilation)) / chunks[axis]) + 1

    second = next((axis for axis in geometry.axes if axis != first), None)
    for axis, chunk in enumerate(chunks):
        if axis not in geometry.axes:
            total *= ceil(min(block[axis], shape[axis]) / chunk)
        elif axis != first:
            count = min(panel[axis] * block[axis], shape[axis])
            middle = min(max(0, shape[axis] // 2 // block[axis] * block[axis]), shape[axis] - count)
            low, high = _cover(geometry, axis, chunk, middle, count)
            across *= high - low
            if axis != second:
                rest *= high - low
    ahead = window * across if second is None else min(reach(second, window * block[second]) * rest, window * across)
    rows, step = ceil(geometry.shape[first] / chunks[first]), block[first] * sizes[first][0]
    shared = max(0, reach(first, block[first]) - step // chunks[first])
    new = ceil(step / chunks[first])
    return total * prod(chunks) * min(shared * across + new * ahead, rows * across)


def _amplification(
    geometry: Geometry, chunks: Sequence[int] | None, block: Sequence[int], panel: Sequence[int], first: int
) -> float:
    """Return the bytes that are decoded over those that are needed: chunks at the seams of panels are read again."""
    if chunks is None:
        return 1.0
    found = 1.0
    for axis in geometry.axes:
        if axis == first:
            continue
        n, chunk, step = geometry.output_shape[axis], chunks[axis], panel[axis] * block[axis]
        covers = [_cover(geometry, axis, chunk, start, min(step, n - start)) for start in range(0, n, step)]
        needed = np.zeros(ceil(geometry.shape[axis] / chunk), bool)
        for low, high in covers:
            needed[low:high] = True
        found *= sum(high - low for low, high in covers) / max(int(needed.sum()), 1)
    return found
