"""Which pixels of x and y count, and how much: masks, weights, missing and saturated pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from convolith.arrays import as_tensor, bare
from convolith.correlation import correlate
from convolith.dtypes import dtype_name
from convolith.engines.padding import pad
from convolith.errors import ConvolithError, check_option, shown
from convolith.fitting.results import is_number
from convolith.spec import ConvSpec

NAN = ("refuse", "omit")
"""Ways to treat NaN and infinity in x and y: refuse the data, or leave those pixels out."""
MOST_DIGITS = 290.0
"""Decimal exponent up to which sums of squares, and what is computed from them, stay within float64."""
HALF_OF_ONE = 0.5
"""Threshold between no marked pixel in a window and at least one, counted in floats."""


@dataclass(frozen=True)
class Pixels:
    """Options of a fit about single pixels.

    Attributes:
        mask: booleans, True where a pixel of y is left out: (*size) or (N, *size), of y or of x where y is cropped.
        weights: 0 or more for each pixel of y; shaped as mask.
        x_mask: booleans, True where a pixel of x is bad: every pixel of y that reads it is left out; of the shape of x
            with or without channels and images.
        nan: `"refuse"`, or `"omit"` to take pixels that are not finite for masked ones.
        saturation: level from which pixels of x and of y count as masked: one number, or one for each.
    """

    mask: Any = None
    weights: Any = None
    x_mask: Any = None
    nan: str = "refuse"
    saturation: Any = None

    def __post_init__(self) -> None:
        check_option("nan", self.nan, NAN)
        _ = self.levels

    @property
    def levels(self) -> tuple[float, float]:
        """Saturation levels of x and y."""
        if self.saturation is None:
            return float("inf"), float("inf")
        entries = self.saturation if isinstance(self.saturation, Sequence | np.ndarray) else [self.saturation] * 2
        if len(entries) != 2 or not all(is_number(one) or one == float("inf") for one in entries):
            raise ConvolithError(
                f"saturation is {shown(self.saturation)}; expected a number, or one for x and one for y"
            )
        return float(entries[0]), float(entries[1])

    def bad(self, argument: str, values: np.ndarray) -> np.ndarray:
        """Return which pixels of an array, (N, channels, *size), are missing or saturated in a channel, (N, *size)."""
        marks = np.zeros((len(values), *values.shape[2:]), bool)
        if self.saturation is not None:
            marks = np.any(values >= self.levels[argument == "y"], axis=1)
        return marks | np.any(~np.isfinite(values), axis=1) if self.nan == "omit" else marks


def booleans(argument: str, mask: Any, what: str) -> np.ndarray:
    """Return a mask as an array of booleans: given as an array, a tensor or lists."""
    expected = f"expected an array or a tensor of booleans, True where {what}"
    if isinstance(mask, np.ma.MaskedArray):
        raise ConvolithError(
            f"{argument} is a masked array itself; expected plain booleans; pass {argument}.filled(True)"
        )
    try:
        values = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    except (TypeError, ValueError, RuntimeError):  # ragged lists; tensors without values, sparse or nested ones
        raise ConvolithError(f"{argument} is {shown(mask)}; {expected}") from None
    if values.dtype != np.bool_:
        raise ConvolithError(
            f"{argument} has dtype {values.dtype}; expected booleans, True where {what}; pass {argument} != 0"
        )
    return values


def pixel_weights(
    shape: tuple[int, ...],
    pixels: Pixels,
    crop: Callable[[np.ndarray], np.ndarray],
    whole: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Return the weight of each pixel of y from the mask and the weights.

    Args:
        shape: (N, *output_size).
        pixels: the options.
        crop: function that cuts the border off an array that is as large as a y that was cropped.
        whole: spatial size of y before it was cropped, if it was.
    """
    counts = np.ones(shape)
    if pixels.weights is not None:
        tensor = as_tensor("weights", pixels.weights)
        if tensor.is_complex():
            raise ConvolithError(f"weights has dtype {dtype_name(tensor.dtype)}; expected real numbers, 0 or more")
        values = bare(tensor).cpu().to(torch.float64).numpy()
        check_finite("weights", values, "give those pixels weight 0")
        if (values < 0).any():
            raise ConvolithError(f"weights has a least value of {values.min():g}; expected 0 or more")
        counts = counts * _broadcast("weights", crop(values), shape, whole)
    if pixels.mask is not None:
        marks = crop(booleans("mask", pixels.mask, "y is left out"))
        counts = np.where(_broadcast("mask", marks, shape, whole), 0.0, counts)
    return counts


def _broadcast(argument: str, values: np.ndarray, shape: tuple[int, ...], whole: tuple[int, ...] | None) -> np.ndarray:
    if values.shape not in (shape, shape[1:]):
        size = whole or shape[1:]
        raise ConvolithError(
            f"{argument} has shape {values.shape}; expected {size} (the spatial size of y) or {(shape[0], *size)} "
            "(with N)"
        )
    return np.broadcast_to(values, shape)


def bad_pixels(x: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Return the bad pixels of x, (N, *size): masked, missing or saturated in one of its channels."""
    marks = pixels.bad("x", x)
    if pixels.x_mask is None:
        return marks
    given = booleans("x_mask", pixels.x_mask, "x is bad")
    if given.shape == x.shape:
        given = np.any(given, axis=1)
    elif given.shape == x.shape[1:] and given.shape != marks.shape:
        given = np.any(given, axis=0)
    if given.shape not in (marks.shape, marks.shape[1:]):
        raise ConvolithError(
            f"x_mask has shape {given.shape}; expected {marks.shape[1:]} (the spatial size of x), {marks.shape} (with "
            f"N) or {x.shape} (with channels)"
        )
    both: np.ndarray = marks | given
    return both


def read_by(marks: np.ndarray, spec: ConvSpec) -> np.ndarray:
    """Return which pixels of y have a marked pixel of x, (N, *size), in their window, (N, *output_size)."""
    if not marks.any():
        return np.zeros((len(marks), *spec.output_size), bool)
    padded = pad(torch.from_numpy(marks[:, None].astype(np.float32)), spec.padding, spec.padding_mode)
    return _reached(padded, spec)


def _reached(padded: torch.Tensor, spec: ConvSpec) -> np.ndarray:
    ones = torch.ones((1, 1, *spec.kernel_size), dtype=padded.dtype, device="cpu")
    sums = correlate(padded, ones, stride=spec.stride, dilation=spec.dilation)
    reached: np.ndarray = sums[:, 0].numpy() > HALF_OF_ONE
    return reached


def without_unread(x: torch.Tensor, spec: ConvSpec, counts: np.ndarray, cut: Sequence[slice] = ()) -> np.ndarray:
    """Return padded x, with zeros at pixels that are in no window of a pixel of y with nonzero weight.

    `cut` is the part of the caller's x that x is, for messages.

    Raises:
        ConvolithError: non-finite values in such a window.
    """
    padded = pad(x, spec.padding, spec.padding_mode).numpy()
    if (counts > 0).all() and max(spec.stride) == 1 and np.isfinite(padded).all():
        return padded
    read = counts > 0
    for axis, (size, k, s, d) in enumerate(
        zip(padded.shape[2:], spec.kernel_size, spec.stride, spec.dilation, strict=True), start=1
    ):
        wide = np.zeros((*read.shape[:axis], size, *read.shape[axis + 1 :]), bool)
        along = np.moveaxis(wide, axis, 0)
        for tap in range(k):
            along[tap * d : tap * d + s * (read.shape[axis] - 1) + 1 : s] |= np.moveaxis(read, axis, 0)
        read = wide
    used = np.where(read[:, None], padded, 0.0)
    if not np.isfinite(used).all():
        marks = torch.from_numpy(~np.isfinite(used)).any(1, keepdim=True).to(torch.float32)
        reached = int(np.count_nonzero(_reached(marks, spec) & (counts > 0)))
        advice = f"repair them, or pass nan='omit' or x_mask=, which leave out the {reached} pixels of y that read them"
        check_finite("x", x.numpy(), advice, cut)
    return used


def check_magnitude(argument: str, values: np.ndarray, counts: np.ndarray) -> None:
    """Refuse numbers whose weighted sums of squares leave the range of float64, at either end.

    Args:
        argument: name of the argument.
        values: its values.
        counts: weights of the pixels.
    """
    largest = float(max(values.max(initial=0.0), -values.min(initial=0.0)))
    weight = float(counts.max(initial=0.0))
    if not largest or not weight:
        return
    magnitude = 2 * np.log10(largest) + np.log10(weight)
    if abs(magnitude) + np.log10(max(values.size, 1)) > MOST_DIGITS:
        how = "divide" if magnitude > 0 else "multiply"
        weights, what = (f" with weights up to {weight:.1e}", "the weights, or ") if weight != 1 else ("", "")
        raise ConvolithError(
            f"{argument} has numbers up to {largest:.1e}{weights}, whose sums of squares leave the range of float64; "
            f"{how} {what}both x and y by one number, such as {10.0 ** abs(round(magnitude / 2)):.0e}, which leaves "
            "the kernel as it is"
        )


def check_finite(argument: str, values: np.ndarray, advice: str, cut: Sequence[slice] = ()) -> None:
    """Refuse NaN and infinity, which a solve would spread over the whole kernel.

    Args:
        argument: name of the argument.
        values: its values.
        advice: what to do.
        cut: part of the last axes that the values are, if they were cut out of the argument.
    """
    bad = ~np.isfinite(values)
    if count := int(bad.sum()):
        before = [0] * (values.ndim - len(cut)) + [part.start for part in cut]
        first = tuple(int(i) + n for i, n in zip(np.argwhere(bad)[0], before, strict=True))
        raise ConvolithError(
            f"{argument} has {count} non-finite value{'s' * (count > 1)}, the first at {first}; expected finite "
            f"numbers; {advice}"
        )
