"""How the axes of x and y are read: images and channels that are there or not, and the border that y lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from convolith.errors import ConvolithError, shown
from convolith.geometry import MAX_AXES, per_axis, same_padding

MANY_CHANNELS = 32
"""Largest length of the first of two axes that may be the channels of a signal."""
SMALLEST = 3
"""Kernel size for which an unknown one is taken, where the axes are read."""


def spatial_axes(kernel_size: Any, shape: Sequence[int] | None = None) -> int:
    """Return the number of spatial axes.

    It is the length of `kernel_size`. One number, or "auto", means as many axes as x has beyond its images and
    channels: 3 of five, 2 of four or three, 1 of one. Of two, x is a picture (height, width) or a signal (channels,
    samples), whichever is possible; where both are, "auto" means a signal.

    Args:
        kernel_size: as for `fit`.
        shape: shape of x; without one, a single number means two axes.

    Raises:
        ConvolithError: a number of axes that x does not have, an x that may be a picture or a signal.
    """
    kernel_size = kernel_size.tolist() if isinstance(kernel_size, np.ndarray) else kernel_size
    if isinstance(kernel_size, Sequence) and not isinstance(kernel_size, str):
        axes = len(kernel_size)
    elif shape is None or len(shape) in (3, 4):
        axes = 2
    elif len(shape) == 2:
        axes = _axes_of_two(kernel_size, *shape)
    else:
        axes = 3 if len(shape) == 5 else 1
    if not 1 <= axes <= MAX_AXES:
        raise ConvolithError(f"kernel_size has {axes} entries; expected 1 to {MAX_AXES}, one per spatial axis")
    if shape is not None and not axes <= len(shape) <= axes + 2:
        came, meant = (
            f"{n}{kind} {'axis' if n == 1 else 'axes'}" for n, kind in ((len(shape), ""), (axes, " spatial"))
        )
        example = (SMALLEST,) * min(max(len(shape) - 1, 1), MAX_AXES)
        raise ConvolithError(
            f"x has {came} but kernel_size {shown(kernel_size)} means {meant}; expected "
            "(N, in_channels, *size), (in_channels, *size) or (*size); for another number of axes give kernel_size as "
            f"a tuple of one number per axis, such as {example}"
        )
    return axes


def _axes_of_two(kernel_size: Any, first: int, second: int) -> int:
    """Return 2 if an x of two axes is a picture, 1 if it is a signal with channels."""
    size = SMALLEST if isinstance(kernel_size, str) else per_axis("kernel_size", kernel_size, 1, 1)[0]
    picture = size <= first
    signal = first <= MANY_CHANNELS and first * size <= second - size + 1
    if first > 1 and picture and signal and not isinstance(kernel_size, str):
        raise ConvolithError(
            f"x has shape {(first, second)} and kernel_size is {shown(kernel_size)}: a signal of {first} channels "
            f"(pass kernel_size=({size},)) or a picture of {first}x{second} (pass kernel_size=({size}, {size}))"
        )
    return 1 if first == 1 or signal else 2


class Border(NamedTuple):
    """Ranges of pixels along each axis: of y, and of x, whose windows give those of y."""

    of_y: tuple[slice, ...]
    of_x: tuple[slice, ...]

    def in_x(self, array: Any) -> Any:
        """Return the part of an array or tensor whose last axes are those of x."""
        return array[(..., *self.of_x)]

    def in_y(self, array: Any) -> Any:
        """Return the part of an array or tensor whose last axes are those of y."""
        return array[(..., *self.of_y)]


def inner_part(
    size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    origin: Sequence[int],
) -> Border:
    """Return the part of a y as large as x whose windows lie in x.

    The centre of a window is element `(k - 1) // 2`, plus the origin, as in `filter_image`.

    Raises:
        ConvolithError: no such part.
    """
    of_y, of_x = [], []
    for n, k, d, shift in zip(size, kernel_size, dilation, origin, strict=True):
        before, after = same_padding(n, k, 1, d)
        first = before + shift * d
        start, stop = max(0, first), min(n, n - (before + after) + first)
        if stop <= start:
            raise ConvolithError(
                f"y is as large as x, {tuple(size)}, and no window of kernel_size {tuple(kernel_size)}"
                + (f" with origin {tuple(origin)}" if any(origin) else "")
                + " lies inside x; pass a smaller kernel_size, or padding='same'"
            )
        of_y.append(slice(start, stop))
        of_x.append(slice(start - first, stop - first + before + after))
    return Border(tuple(of_y), tuple(of_x))
