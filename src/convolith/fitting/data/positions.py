"""Positions of pixels: over a frame, from the pixel at which an image begins, or given for whole images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from convolith.errors import ConvolithError
from convolith.fitting.data.polynomials import positions
from convolith.geometry import per_axis
from convolith.spec import ConvSpec


def pixel_places(spec: ConvSpec, origin: Sequence[int] | None, frame: tuple[int, ...] | None) -> tuple[np.ndarray, ...]:
    """Return the positions of an image's pixels, padding included, as (1, padded length) for each axis.

    Args:
        spec: spec of the image and its padding.
        origin: pixel of the frame at which the image begins.
        frame: number of pixels of the frame along each axis; None if the image itself is the frame.

    Raises:
        ConvolithError: an image without an origin that differs in size from the frame, or one that extends beyond it.
    """
    if origin is not None and frame is None:
        raise ConvolithError(f"origin is {origin!r}, but there is no frame yet; pass frame= where the state is made")
    first = per_axis("origin", 0 if origin is None else origin, spec.axes, 0)
    frame = frame or spec.size
    if origin is None and spec.size != frame:
        raise ConvolithError(
            f"x has size {spec.size} in a frame of {frame}; pass origin=, the pixel of the frame at which x begins"
        )
    if any(start + n > whole for start, n, whole in zip(first, spec.size, frame, strict=True)):
        raise ConvolithError(
            f"origin is {first} for an x of {spec.size}, which leaves the frame of {frame}; pass the pixel of the "
            "frame at which x begins"
        )
    return tuple(
        positions(start - before, n + before + after, whole)[None]
        for start, n, (before, after), whole in zip(first, spec.size, spec.padding, frame, strict=True)
    )


def given_places(given: Any, images: int, lengths: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Return one position for all pixels of each image, as (images or 1, length) for each axis.

    Raises:
        ConvolithError: positions of another shape, or not finite.
    """
    axes = len(lengths)
    values = _plain(given)
    if values is None or values.ndim not in (1, 2):
        raise _refused("positions", given, axes)
    rows = np.array([check_position(one, axes) for one in np.atleast_2d(values)])
    if len(rows) not in (1, images):
        raise ConvolithError(f"positions has {len(rows)} rows; expected one for each of {images} images")
    return tuple(np.repeat(rows[:, axis : axis + 1], n, axis=1) for axis, n in enumerate(lengths))


def check_position(position: Any, axes: int) -> tuple[float, ...]:
    """Return a position as a tuple of one finite number per axis.

    Raises:
        ConvolithError: anything else.
    """
    numbers = _plain(position)
    if numbers is None or numbers.shape != (axes,) or not np.isfinite(numbers).all():
        raise _refused("position", position, axes)
    return tuple(float(value) for value in numbers)


def _plain(values: Any) -> np.ndarray | None:
    """Return real numbers as an array, or None for anything else."""
    try:
        array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    except (TypeError, ValueError):  # ragged
        return None
    return array if array.dtype.kind in "iuf" else None


def _refused(argument: str, came: Any, axes: int) -> ConvolithError:
    return ConvolithError(
        f"{argument} is {came!r}; expected a finite number for each of {axes} axes, from -1 to 1 across the frame"
    )
