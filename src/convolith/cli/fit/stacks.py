"""Stacks of pictures, signals or volumes with one kernel: the axes that it runs along, and the images on all others."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from convolith.cli.io.fits import Unit
from convolith.cli.io.picture_info import named_axes
from convolith.correlation.images import axis_numbers
from convolith.errors import ConvolithError

MOST_CHANNELS, CHANNELS_AND_PICTURE = 4, 3
"""Most planes of a file that are its channels without an option, and number of axes of a picture with channels."""
CHANNELS = "CS"
"""Letters that TIFF has for axes of channels; every other one is of pages."""


class Stack(NamedTuple):
    """The layout of a stack in a file: `places` are the axes that the kernel runs along, of an array of `shape`."""

    places: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def others(self) -> tuple[int, ...]:
        """Axes of the images."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.places)

    def images(self, array: np.ndarray) -> np.ndarray:
        """Return an array in the layout of the file as images, (N, *size)."""
        moved = array.transpose(*self.others, *self.places)
        return moved.reshape(-1, *moved.shape[len(self.others) :])

    def laid_out(self, images: np.ndarray) -> np.ndarray:
        """Return images, (N, ..., *size) with axes of length 1 between, in the layout of the file."""
        order = (*self.others, *self.places)
        return images.reshape([self.shape[axis] for axis in order]).transpose(np.argsort(order))


def stacks_of(before: Unit, after: Unit, axes: Any, kernel_size: Any) -> tuple[Stack, Stack]:
    """Return the layouts of BEFORE and AFTER for axes given as numbers, or as letters that the files name.

    Raises:
        ConvolithError: axes that a file does not have, or not as many as the kernel; images that do not pair.
    """
    stacks = []
    for name, unit in (("BEFORE", before), ("AFTER", after)):
        ndim = unit.array.ndim
        numbers = named_axes(axes, unit.info.axes, ndim, name) if isinstance(axes, str) else axes
        stacks.append(Stack(axis_numbers("--axes", numbers, ndim, name), unit.array.shape))
    first, second = stacks
    count = len(first.places)
    if not isinstance(kernel_size, int | str) and len(kernel_size) != count:
        raise ConvolithError(
            f"--size has {len(kernel_size)} numbers and --axes {count}; expected one size for each axis of the kernel"
        )
    orders = [
        "".join(unit.info.axes[axis : axis + 1] for axis in (*stack.others, *stack.places))
        for unit, stack in zip((before, after), stacks, strict=True)
    ]
    if all(orders) and orders[0] != orders[1]:
        raise ConvolithError(
            f"BEFORE has the axes {before.info.axes} and AFTER {after.info.axes}, which do not pair with these --axes; "
            "expected one order of the images and of the kernel's axes; transpose one of the files"
        )
    counts = [[stack.shape[axis] for axis in stack.others] for stack in stacks]
    if counts[0] != counts[1]:
        came = ("x".join(map(str, one)) or "1" for one in counts)
        raise ConvolithError("with these --axes BEFORE has {} images and AFTER {}; expected as many".format(*came))
    if kernel_size == "auto" and count == 1 and prod(counts[0]) > 1:
        raise ConvolithError(
            f"--size is auto, which takes one signal, and --axes leaves {prod(counts[0])}; pass a number"
        )
    return first, second


def check_one_reading(name: str, unit: Unit, kernel_size: Any) -> None:
    """Refuse a file whose planes may be images or channels.

    Raises:
        ConvolithError: more planes before the kernel's axes than a picture has colours, or pages.
    """
    shape, several = unit.array.shape, CHANNELS_AND_PICTURE + 1
    number = isinstance(kernel_size, int | str)
    axes = (2 if len(shape) <= several else 3) if number else len(kernel_size)
    planes = shape[-axes - 1 : -axes]
    if unit.picture or axes == 1 or not axes < len(shape) <= axes + 2:
        return
    pages = unit.header is None and unit.info.axes[-axes - 1 : -axes] not in ("", *CHANNELS)
    if planes[0] <= MOST_CHANNELS and not pages:
        return
    stacks = []
    for first in (len(shape) - axes, len(shape) - axes - 1):
        size, others = shape[first : first + axes], shape[:first] + shape[first + axes :]
        names = ",".join(str(axis) for axis in range(first, first + axes))
        stacks.append(f"{prod(others)} of {'x'.join(map(str, size))} (pass --axes {names})")
    images = "one image" if len(shape) == axes + 1 else f"{shape[0]} images"
    raise ConvolithError(
        f"{name} has shape {shape} and the kernel {axes} axes: images with one kernel, {' or '.join(stacks)}, or "
        f"{images} with {planes[0]} channels (pass --mix-channels)"
    )
