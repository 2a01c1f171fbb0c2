"""Arguments of a correlation from store to store, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convolith.big.stores.sources import Source
from convolith.errors import ConvolithError
from convolith.geometry import Axes, check_whole, per_axis

MISSING = ("propagate", "renormalise")
IMAGE_AXES = "zyx"
"""Names of axes of space, in the order in which a kernel's axes name them."""


def block_given(block: Axes, shape: Sequence[int], whole: Sequence[int]) -> tuple[int, ...]:
    """Return blocks that the caller chose, as one size or one for each axis, no larger than the result."""
    sizes = per_axis("block", block, len(shape), 1)
    return tuple(n if axis in whole else min(size, n) for axis, (size, n) in enumerate(zip(sizes, shape, strict=True)))


def axes_of(
    source: Source, taps: np.ndarray, axes: Any, channel_axis: Any, *, is_conv: bool
) -> tuple[tuple[int, ...], int | None, np.ndarray]:
    """Return the axes that a kernel slides along, that of the channels, and the kernel with channels."""
    count = len(source.shape)
    if axes is None and source.axes is not None:
        space = [number for number, name in enumerate(source.axes) if name in IMAGE_AXES]
        mixing = is_conv or taps.ndim == len(space) + 2
        wanted = taps.ndim - 2 if mixing else taps.ndim
        axes = space[-wanted:] if 1 <= wanted <= len(space) else None
    if axes is None:
        mixing = is_conv or taps.ndim > 3
        wanted = taps.ndim - 2 if mixing else taps.ndim
        if wanted > count:
            raise ConvolithError(
                f"source has shape {source.shape} and kernel {taps.shape}; expected no more axes of the kernel than of "
                "the source"
            )
        if not mixing and count not in (wanted,):
            raise ConvolithError(
                f"source has shape {source.shape} and kernel {taps.shape}; pass axes=, those of source that the kernel "
                f"slides along, such as axes={tuple(range(count - wanted, count))}"
            )
        axes = range(count - wanted, count)
    places = axis_numbers("axes", axes, source)
    mixing = taps.ndim == len(places) + 2
    if not mixing and (taps.ndim != len(places) or is_conv):
        raise ConvolithError(
            f"axes is {axes!r} but kernel has shape {taps.shape}; expected one axis for each of the kernel's, or two "
            "fewer for one with channels"
        )
    if not mixing:
        if channel_axis is not None:
            raise ConvolithError("channel_axis was given, but kernel mixes no channels; leave it out")
        return places, None, taps[None, None]
    if channel_axis is None:
        channel_axis = min(places) - 1
    (channels,) = axis_numbers("channel_axis", [channel_axis], source)
    if channels in places:
        raise ConvolithError(
            f"channel_axis is {channel_axis}, along which the kernel slides (axes {places}); expected another axis"
        )
    return places, channels, taps


def axis_numbers(argument: str, value: Any, source: Source, name: str = "source") -> tuple[int, ...]:
    """Return axes of a source, given as numbers or names, as different numbers from 0; `name` is for messages."""
    count, names = len(source.shape), source.axes
    found = []
    for one in value if np.iterable(value) else [value]:
        if isinstance(one, str):
            if names is None or one not in names:
                raise ConvolithError(
                    f"{argument} is {value!r}, but the axes of {name} are "
                    f"{' '.join(names) + '; pass some of these' if names else 'not named; pass numbers'}"
                )
            found.append(names.index(one))
        else:
            number = check_whole(argument, one, -count)
            if number >= count:
                raise ConvolithError(
                    f"{argument} is {value!r}, but {name} has {count} axes, {source.shape}; pass numbers below {count}"
                )
            found.append(number % count)
    if len(set(found)) < len(found) or not found:
        raise ConvolithError(f"{argument} is {value!r}; expected different axes; pass each once")
    return tuple(found)


def dtypes_of(source: np.dtype[Any], wanted: Any) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Return the dtypes of the computation and of the result."""
    floats = source.kind == "f"
    if wanted is None:
        outside = source.newbyteorder("=") if floats else np.dtype(np.float32)
    else:
        try:
            outside = source.newbyteorder("=") if wanted == "same" else np.dtype(wanted)
        except TypeError as problem:
            raise ConvolithError(f"dtype is {wanted!r}; expected a NumPy dtype, or 'same'") from problem
    if outside.kind not in "fiu":
        raise ConvolithError(f"dtype is {wanted!r}; expected a real dtype, such as float32 or uint8")
    inside = source.newbyteorder("=") if floats else np.dtype(np.float32)
    if np.float64 in (outside, source) or (source.itemsize > 2 and not floats):
        inside = np.dtype(np.float64)
    if inside == np.float16:
        inside = np.dtype(np.float32)
    return inside, outside


def check_missing(
    missing: Any, nodata: float | None, source: np.dtype[Any], result: np.dtype[Any], taps: np.ndarray
) -> None:
    """Refuse a `missing` that is none, or a `nodata` that a dtype does not hold."""
    if isinstance(missing, str) and missing not in MISSING:
        raise ConvolithError(f"missing is {missing!r}; expected 'propagate', 'renormalise', or a number")
    if missing == "renormalise":
        sums = np.abs(taps.sum((1, *range(2, taps.ndim))))
        if (sums <= 1e-12 * np.abs(taps).sum((1, *range(2, taps.ndim)))).any():
            raise ConvolithError("missing is 'renormalise', but the kernel sums to zero; pass 'propagate' or a number")
    for name, kind in (("source", source), ("result", result)):
        if nodata is None or kind.kind == "f":
            continue
        limits = np.iinfo(kind)
        if not float(nodata).is_integer() or not limits.min <= nodata <= limits.max:
            raise ConvolithError(
                f"nodata is {nodata}, which the {name}'s dtype {kind} does not hold; expected an integer from "
                f"{limits.min} to {limits.max}"
            )
