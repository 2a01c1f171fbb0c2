"""Sizes, distances from the centre, and checks that the kernels share."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np

from convolith.errors import ConvolithError
from convolith.geometry import MAX_AXES, check_whole


def positive(argument: str, value: Any) -> float:
    """Return a positive finite number."""
    if isinstance(value, Sequence | np.ndarray):
        raise ConvolithError(f"{argument} is {value!r}; expected a positive number")
    return numbers(argument, value)[0]


def numbers(argument: str, value: Any) -> list[float]:
    """Return positive finite numbers: one for each of several axes, or one number for two axes."""
    several = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
    entries = list(value) if several else [value]
    try:
        found = [float(one) for one in entries]
    except (TypeError, ValueError):
        found = []
    if not 1 <= len(found) <= MAX_AXES or not all(0 < one < float("inf") for one in found):
        raise ConvolithError(f"{argument} is {value!r}; expected a positive number" + ", or one per axis" * several)
    return found if several else found * 2


def sizes_of(size: Any, reaches: Sequence[float]) -> tuple[int, ...]:
    """Return the sizes given, or odd ones that hold some distances from the centre."""
    if size is None:
        return tuple(2 * max(ceil(reach - 1e-9), 0) + 1 for reach in reaches)
    entries = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else [size] * len(reaches)
    if len(entries) != len(reaches) or not 1 <= len(entries) <= MAX_AXES:
        raise ConvolithError(f"size is {size!r}; expected one number, or one for each of {len(reaches)} axes")
    return tuple(check_whole("size", one, 1) for one in entries)


def axes_of(sizes: Sequence[int]) -> list[np.ndarray]:
    """Return the distances of pixels from the centre along each axis."""
    return [np.arange(n) - (n - 1) / 2 for n in sizes]


def radii_of(sizes: Sequence[int]) -> np.ndarray:
    """Return the distance of each pixel from the centre."""
    radii: np.ndarray = np.sqrt(sum(grid**2 for grid in np.meshgrid(*axes_of(sizes), indexing="ij")))
    return radii


def summing_to_one(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel divided by its sum.

    Raises:
        ConvolithError: no pixel with a weight.
    """
    total = float(kernel.sum())
    if not total > 0:
        raise ConvolithError("no pixel of the kernel has any weight; pass a larger width, or another size")
    scaled: np.ndarray = kernel / total
    return scaled
