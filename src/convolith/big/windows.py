"""Windows of a large array: what each block of a correlation's result reads, borders included.

Along every axis, a block reads at most three ranges of the source: one in the middle, and what a border repeats on
either side. Functions here know sizes alone, no arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from convolith.engines.buffers import reused_array
from convolith.errors import ConvolithError
from convolith.geometry import (
    Axes,
    Padding,
    check_mode,
    extent,
    output_length,
    per_axis,
    resolve_padding,
    sources_at,
    translated_mode,
)

MOST_RANGES = 3
"""Largest number of ranges that are read separately; more are read as one range that spans them."""

Range = tuple[int, int]


class Span(NamedTuple):
    """Part of one axis of the source that a block reads.

    Attributes:
        ranges: (start, stop) of each range of the source that is read.
        take: for each position of the padded window, the index among the positions that are read, one range after
            another; -1 in padding that repeats no pixel. None if the window is just the positions that are read.
    """

    ranges: tuple[Range, ...]
    take: np.ndarray | None = None

    @property
    def length(self) -> int:
        """Number of positions that are read."""
        return sum(stop - start for start, stop in self.ranges)


class Window(NamedTuple):
    """A block of a result, and the part of the source that it reads; `cl.big.windows` yields them.

    Attributes:
        output: place of the block in the result, a slice for each axis.
        spans: positions that it reads, a `Span` for each axis.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> image = np.arange(12.0).reshape(3, 4)
        >>> first = next(cl.big.windows(image.shape, (3, 3), (2, 2)))
        >>> first.output, first.padded(first.read(image)).tolist()[1]
        ((slice(0, 2, None), slice(0, 2, None)), [0.0, 0.0, 1.0, 2.0])
    """

    output: tuple[slice, ...]
    spans: tuple[Span, ...]

    def read(self, array: Any) -> np.ndarray:
        """Return the pixels that the block reads, without padding.

        Args:
            array: the source, or anything of its shape that can be sliced: an array, a Zarr array, an open file.

        Returns:
            An array with `span.length` positions along each axis.
        """
        parts = [range(len(span.ranges)) for span in self.spans]
        shape = tuple(span.length for span in self.spans)
        single = all(len(part) == 1 for part in parts)
        if single:
            return np.asarray(array[tuple(slice(*span.ranges[0]) for span in self.spans)])
        result = np.empty(shape, array.dtype)
        for numbers in product(*parts):
            source, goal = [], []
            for span, number in zip(self.spans, numbers, strict=True):
                first = sum(stop - start for start, stop in span.ranges[:number])
                start, stop = span.ranges[number]
                source.append(slice(start, stop))
                goal.append(slice(first, first + stop - start))
            result[tuple(goal)] = array[tuple(source)]
        return result

    def padded(self, pixels: np.ndarray, value: Any = 0, dtype: Any = None) -> np.ndarray:
        """Return the pixels of the window with the padding around them.

        Pixels are copied once at most.

        Args:
            pixels: the result of `read`.
            value: number in padding that repeats no pixel ("zeros" or "constant").
            dtype: dtype of the result; by default that of the pixels.

        Returns:
            The window, which a correlation without padding (`padding=0`) turns into the block. It may be `pixels`
            itself, where there is no padding.
        """
        kind = pixels.dtype if dtype is None else np.dtype(dtype)
        if all(span.take is None for span in self.spans):
            return pixels.astype(kind, copy=False)
        sizes = [n if one.take is None else len(one.take) for one, n in zip(self.spans, pixels.shape, strict=True)]
        result = reused_array(tuple(sizes), kind)
        _pad(result, pixels, [span.take for span in self.spans], value, 0)
        return result


def _pad(result: np.ndarray, pixels: np.ndarray, takes: Sequence[np.ndarray | None], value: Any, axis: int) -> None:
    """Fill a result from one axis on: what pixels are in turn as one part, and what is before and after it."""
    if axis == len(takes):
        result[...] = pixels
        return
    take = takes[axis]
    before: tuple[Any, ...] = (slice(None),) * axis
    if take is None:
        _pad(result, pixels, takes, value, axis + 1)
        return
    if not pixels.shape[axis]:  # a window in the padding alone
        result[...] = value
        return
    edges = np.r_[0, np.flatnonzero((np.diff(take) != 1) | (take[:-1] < 0)) + 1, len(take)]
    longest = int(np.argmax(np.diff(edges)))
    start, stop = int(edges[longest]), int(edges[longest + 1])
    for part in (slice(0, start), slice(start, stop), slice(stop, len(take))):
        places = take[part]
        if not len(places):
            continue
        goal, outside = result[(*before, part)], places < 0
        if part.start == start and not outside.any():
            source = pixels[(*before, slice(int(places[0]), int(places[0]) + len(places)))]
        else:
            source = np.take(pixels, np.where(outside, 0, places), axis)
        _pad(goal, source, takes, value, axis + 1)
        if outside.any():
            goal[(*before, outside)] = value


def span_of(first: int, count: int, size: int, reach: int, stride: int, before: int, mode: str) -> Span:
    """Return what a range of a result reads along one axis.

    Args:
        first, count: the range.
        size: length of the source.
        reach: extent of the dilated kernel.
        stride: pixels from one result to the next.
        before: padding before the source.
        mode: padding mode.
    """
    start = first * stride - before
    stop = start + (count - 1) * stride + reach
    if start >= 0 and stop <= size:
        return Span(((start, stop),))
    sources = sources_at(np.arange(start, stop), size, mode)
    needed = np.unique(sources[sources >= 0])
    if not len(needed):
        return Span(((0, 0),), sources)
    breaks = np.flatnonzero(np.diff(needed) > 1)
    ranges = [(int(part[0]), int(part[-1]) + 1) for part in np.split(needed, breaks + 1)]
    if len(ranges) > MOST_RANGES:
        ranges = [(ranges[0][0], ranges[-1][1])]
    joined = np.concatenate([np.arange(*one) for one in ranges])
    return Span(tuple(ranges), np.where(sources < 0, -1, np.searchsorted(joined, sources)))


class Geometry(NamedTuple):
    """How a kernel slides over an array.

    Attributes:
        shape: shape of the array.
        axes: axes that the kernel slides along, in the order of the kernel's own.
        kernel_size, stride, padding, dilation, mode: as for `correlate`, one entry per axis of the kernel.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[Range, ...]
    dilation: tuple[int, ...]
    mode: str

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        result = list(self.shape)
        for axis, k, s, pair, d in zip(
            self.axes, self.kernel_size, self.stride, self.padding, self.dilation, strict=True
        ):
            result[axis] = output_length(self.shape[axis], k, s, pair, d)
        return tuple(result)

    def window(self, output: Sequence[slice]) -> Window:
        """Return what a block of the result reads."""
        spans = [Span(((part.start, part.stop),)) for part in output]
        for axis, k, s, (before, _), d in zip(
            self.axes, self.kernel_size, self.stride, self.padding, self.dilation, strict=True
        ):
            part = output[axis]
            reach, count = extent(k, d), part.stop - part.start
            spans[axis] = span_of(part.start, count, self.shape[axis], reach, s, before, self.mode)
        return Window(tuple(output), tuple(spans))


def geometry_of(
    shape: Sequence[int],
    kernel_size: Sequence[int],
    axes: Sequence[int],
    *,
    stride: Axes = 1,
    padding: Padding = "same",
    dilation: Axes = 1,
    padding_mode: str = "zeros",
) -> Geometry:
    """Return a checked geometry.

    Raises:
        ConvolithError: axes that the array lacks or that are not as many as the kernel's; a kernel that does not fit;
            whatever `correlate` refuses.
    """
    size = tuple(shape[axis] for axis in axes)
    strides, spread = per_axis("stride", stride, len(axes), 1), per_axis("dilation", dilation, len(axes), 1)
    pairs = resolve_padding(padding, size, tuple(kernel_size), strides, spread)
    mode = check_mode(translated_mode(padding_mode), transposed=False)
    found = Geometry(tuple(shape), tuple(axes), tuple(kernel_size), strides, tuple(pairs), spread, mode)
    for axis, n in zip(axes, (found.output_shape[a] for a in axes), strict=True):
        if n < 1:
            raise ConvolithError(
                f"kernel_size is {tuple(kernel_size)}, but axis {axis} has {shape[axis]} pixels, with padding "
                f"{padding}; expected a kernel that fits; pass a smaller kernel, or a larger padding"
            )
    return found


def blocks_of(shape: Sequence[int], block: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield the blocks of a result, row by row; the last of each axis may be smaller."""
    counts = [range(ceil(n / b)) for n, b in zip(shape, block, strict=True)]
    for numbers in product(*counts):
        yield tuple(slice(i * b, min((i + 1) * b, n)) for i, b, n in zip(numbers, block, shape, strict=True))


def windows(
    shape: Sequence[int],
    kernel_size: Sequence[int],
    block: Sequence[int],
    *,
    axes: Sequence[int] | None = None,
    stride: Axes = 1,
    padding: Padding = "same",
    dilation: Axes = 1,
    padding_mode: str = "zeros",
) -> Iterator[Window]:
    """Yield, for every block of a correlation's result, its place and the part of the array that it reads.

    They serve for a loop of your own over an array that is larger than memory: read each window, pad it, correlate it
    without padding, and store the block.

    Args:
        shape: shape of the array.
        kernel_size: number of taps along each axis that the kernel slides along.
        block: shape of the blocks of the result.
        axes: axes of the array that the kernel slides along; by default the last ones.
        stride, padding, dilation, padding_mode: as for `correlate`; padding is "same" by default.

    Returns:
        An iterator over `Window` values, in row-major order of the blocks.

    Raises:
        ConvolithError: axes or sizes that do not fit together, and options that `correlate` refuses; at the first step
            of the iteration.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> image, kernel = np.arange(48.0).reshape(6, 8), np.ones((3, 3))
        >>> result = np.empty_like(image)
        >>> for window in cl.big.windows(image.shape, kernel.shape, (4, 4)):
        ...     pixels = window.padded(window.read(image))
        ...     result[window.output] = cl.filter_image(pixels, kernel, padding=0)
        >>> bool((result == cl.filter_image(image, kernel)).all())
        True
    """
    places = tuple(range(-len(kernel_size), 0)) if axes is None else tuple(axes)
    if len(places) != len(kernel_size) or len(block) != len(shape):
        raise ConvolithError(
            f"axes is {axes} and block {tuple(block)}; expected one axis for each of kernel_size {tuple(kernel_size)}, "
            f"and a block with {len(shape)} sizes"
        )
    if not all(-len(shape) <= axis < len(shape) for axis in places):
        raise ConvolithError(f"axes is {places}; expected axes of an array with {len(shape)} axes")
    for n in block:
        if not isinstance(n, int) or n < 1:
            raise ConvolithError(f"block is {tuple(block)}; expected whole numbers of 1 or more")
    geometry = geometry_of(
        shape,
        kernel_size,
        [axis % len(shape) for axis in places],
        stride=stride,
        padding=padding,
        dilation=dilation,
        padding_mode=padding_mode,
    )
    for output in blocks_of(geometry.output_shape, block):
        yield geometry.window(output)
