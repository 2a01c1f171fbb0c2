"""The data of a fit, read and checked once: `y = correlate(x, kernel) + offset`, one equation per pixel of y."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch

from convolith.arrays import as_tensor, bare, check_same_kind, listed
from convolith.dtypes import dtype_name, is_float
from convolith.errors import ConvolithError, check_flag, warn
from convolith.fitting.data.pixels import (
    Pixels,
    bad_pixels,
    check_finite,
    check_magnitude,
    pixel_weights,
    read_by,
    without_unread,
)
from convolith.fitting.data.polynomials import Powers, monomials, values
from convolith.fitting.data.shapes import Border, inner_part, spatial_axes
from convolith.geometry import Axes, Padding, per_axis, split_input_shape
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype

CHANNELS_LAST = 4
"""Most channels for which the last axis of a picture, or of a sound, is taken in messages."""
ROUNDING = 1e-6
"""Share of the largest y below which what a kernel predicts is rounding."""


@dataclass(frozen=True)
class Problem:
    """Input, output and weights in float64, with the geometry that relates them.

    Attributes:
        spec: spec of the correlation to fit, in float64.
        padded: padded x, (N, in_channels, *padded size).
        y: (N, out_channels, *output_size), zero at excluded pixels.
        weights: (N, *output_size): 0 at excluded pixels of y, 1 or the given weight elsewhere.
        dtypes: original dtypes of x and y.
        places: positions of the pixels of padded, for each axis (N, length), or (1, length) if equal for all images.
        terms: monomials of position in the kernel's weights; each multiplies x, which gives channels of its own.
        known: monomials of position that are columns of the equations themselves, the constant first.
        used: number of known columns to fit: 0, 1 for a constant per output channel, or more.
    """

    spec: ConvSpec
    padded: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    dtypes: tuple[str, ...]
    places: tuple[np.ndarray, ...]
    terms: Powers
    known: Powers
    used: int

    @property
    def channels(self) -> int:
        """Number of channels of modulated x: those of x, once for each term."""
        return len(self.terms) * self.spec.in_channels

    @property
    def windows(self) -> int:
        """Number of values in a window of modulated x: the kernel's weights per output channel."""
        return self.channels * self.spec.taps

    @property
    def unknowns(self) -> int:
        """Number of unknowns per output channel."""
        return self.windows + self.used

    def modulated(self, shift: np.ndarray | float = 0.0) -> np.ndarray:
        """Return x less a shift (per channel), times each of the terms, (N, channels, *padded size)."""
        x: np.ndarray = self.padded
        if np.any(shift):
            x = x - np.reshape(shift, (-1, *(1,) * self.spec.axes))
        if len(self.terms) == 1:
            return x
        wide: np.ndarray = values(self.places, self.terms)[:, :, None] * x[:, None]
        return wide.reshape(len(x), self.channels, *x.shape[2:])

    def centres(self) -> tuple[np.ndarray, ...]:
        """Return the positions of window centres, for each axis (N or 1, output length)."""
        result = []
        for place, n, s, extent in zip(self.places, self.y.shape[2:], self.spec.stride, self.spec.extent, strict=True):
            first = np.arange(n) * s
            result.append((place[:, first] + place[:, first + extent - 1]) / 2)
        return tuple(result)

    def cut(self, images: slice, spans: Sequence[tuple[int, int]]) -> Problem:
        """Return the equations of a range of images and, along each axis, a range (start, stop) of the pixels of y."""
        of_y = [slice(*span) for span in spans]
        of_x = [
            slice(start * s, (stop - 1) * s + extent)
            for (start, stop), s, extent in zip(spans, self.spec.stride, self.spec.extent, strict=True)
        ]
        return replace(
            self,
            padded=self.padded[(images, slice(None), *of_x)],
            y=self.y[(images, slice(None), *of_y)],
            weights=self.weights[(images, *of_y)],
            places=tuple(
                place[images if len(place) > 1 else slice(None), span]
                for place, span in zip(self.places, of_x, strict=True)
            ),
        )

    def means(self) -> np.ndarray:
        """Return the mean of each channel of x, padding included, and of y, (in_channels + out_channels,)."""
        return np.concatenate([part.mean(axis=(0, *range(2, part.ndim))) for part in (self.padded, self.y)])

    @property
    def equations(self) -> int:
        """Number of pixels of y with nonzero weight, per output channel."""
        return int(np.count_nonzero(self.weights))


def read(
    x: Any,
    y: Any,
    *,
    kernel_size: Axes,
    stride: Axes,
    padding: Padding,
    dilation: Axes,
    padding_mode: str,
    offset: bool,
    pixels: Pixels,
    origin: Axes = 0,
) -> Problem:
    """Check the data of a fit and convert them to a `Problem`; the arguments are those of `fit`.

    A y that is as large as x, where padding is "valid" and the stride 1, loses the border whose windows leave x.
    """
    (x, own_x), (y, own_y) = (_unmasked(name, array) for name, array in (("x", x), ("y", y)))
    check_same_kind(x=x, y=y)
    tensors = {name: _real(name, array) for name, array in (("x", x), ("y", y))}
    axes = spatial_axes(kernel_size, tensors["x"].shape)
    wide = {name: _whole(name, tensor, axes) for name, tensor in tensors.items()}
    _check_batch(tensors, axes)
    batch, channels, size = split_input_shape(tuple(wide["x"].shape), axes)
    hint = channels_last(tuple(wide["x"].shape), axes)
    check_reach(size, kernel_size, padding, dilation, hint)
    spec = ConvSpec(
        batch=batch,
        in_channels=channels,
        out_channels=max(wide["y"].shape[1], 1),
        size=size,
        kernel_size=kernel_size,
        dtype="float64",
        stride=stride,
        padding=padding,
        dilation=dilation,
        padding_mode=padding_mode,
    )
    bad = bad_pixels(wide["x"].numpy(), pixels) | _marks(own_x, wide["x"].shape)
    left_out = pixels.bad("y", wide["y"].numpy()) | _marks(own_y, wide["y"].shape)
    border = _border(spec, tuple(wide["y"].shape), padding, per_axis("origin", origin, axes, -max(spec.size)))
    if border is not None:
        wide["x"], wide["y"] = border.in_x(wide["x"]), border.in_y(wide["y"])
        bad, left_out = border.in_x(bad), border.in_y(left_out)
        spec = replace(spec, size=tuple(wide["x"].shape[2:]))
    check_output(spec, tuple(wide["y"].shape))

    def cut(values: np.ndarray) -> np.ndarray:
        result: np.ndarray = values if border is None or values.shape[-axes:] != size else border.in_y(values)
        return result

    _check_channels_last(spec, hint)
    counts = pixel_weights((spec.batch, *spec.output_size), pixels, cut, None if border is None else size)
    counts = np.where(left_out | read_by(bad, spec), 0.0, counts)
    target = wide["y"].numpy()
    used = counts[:, None] > 0
    if not used.all():
        target = np.where(used, target, 0.0)
    of_x, of_y = ((), ()) if border is None else (border.of_x, border.of_y)
    known = torch.where(torch.from_numpy(bad)[:, None], 0.0, wide["x"]) if bad.any() else wide["x"]
    padded = without_unread(known, spec, counts, of_x)
    check_finite("y", target, "repair them, or pass nan='omit' or mask=", of_y)
    check_magnitude("x", padded, counts)
    check_magnitude("y", target, counts)
    constant = monomials(axes, 0)
    return Problem(
        spec,
        np.ascontiguousarray(padded),
        np.ascontiguousarray(target),
        counts,
        tuple(dtype_name(tensor.dtype) for tensor in tensors.values()),
        tuple(np.zeros((1, n)) for n in padded.shape[2:]),
        constant,
        constant,
        int(check_flag("offset", offset)),
    )


def _check_batch(tensors: dict[str, torch.Tensor], axes: int) -> None:
    """Refuse a y without an axis of images where x has one, and the reverse."""
    x, y = (tensors[name] for name in ("x", "y"))
    if (x.ndim == axes + 2) != (y.ndim == axes + 2):
        raise ConvolithError(
            f"y has shape {tuple(y.shape)}, but x {tuple(x.shape)}; expected y as correlate gives it: (N, "
            "out_channels, *output_size), or without N where x has none"
        )


def _unmasked(argument: str, array: Any) -> tuple[Any, np.ndarray | None]:
    """Return an array and its mask if it is a masked array; lists as arrays."""
    if isinstance(array, np.ma.MaskedArray):
        return array.data, np.ma.getmaskarray(array)
    return listed(argument, array), None


def _real(argument: str, array: Any) -> torch.Tensor:
    """Return an array as a tensor; booleans as 0 and 1."""
    tensor = as_tensor(argument, _without_booleans(array))
    if tensor.is_complex():
        raise ConvolithError(
            f"{argument} has dtype {dtype_name(tensor.dtype)}; fit works on real data; pass real and imaginary parts "
            f"as channels: numpy.concatenate([{argument}.real, {argument}.imag]) along the channel axis"
        )
    return tensor


def _without_booleans(array: Any) -> Any:
    """Return booleans as 0 and 1."""
    if isinstance(array, np.ndarray) and array.dtype == np.bool_:
        return array.view(np.uint8)
    return array.to(torch.uint8) if isinstance(array, torch.Tensor) and array.dtype is torch.bool else array


def _whole(argument: str, tensor: torch.Tensor, axes: int) -> torch.Tensor:
    """Return data in float64 with images and channels, (N, channels, *size)."""
    if not axes <= tensor.ndim <= axes + 2:
        raise ConvolithError(
            f"{argument} has shape {tuple(tensor.shape)}; expected {axes} spatial axes, with or without channels and "
            "N; add or remove axes, or pass another kernel_size"
        )
    missing = axes + 2 - tensor.ndim
    return bare(tensor[(None,) * missing]).cpu().to(torch.float64)


def _marks(own: np.ndarray | None, shape: torch.Size) -> np.ndarray:
    """Return the mask of a masked array, (N, *size) or one that broadcasts: True where a channel is masked."""
    marks: np.ndarray = np.zeros((), bool) if own is None else np.any(own.reshape(shape), axis=1)
    return marks


def _border(spec: ConvSpec, shape: tuple[int, ...], padding: Padding, origin: tuple[int, ...]) -> Border | None:
    """Return the part of a y as large as x that reads no padding, or None where nothing is cut off."""
    plain = max(spec.stride) == 1 and isinstance(padding, str) and padding == "valid"
    if plain and shape[2:] == spec.size and (spec.output_size != spec.size or any(origin)):
        return inner_part(spec.size, spec.kernel_size, spec.dilation, origin)
    if any(origin) and not (plain and shape[2:] == spec.size):
        raise ConvolithError(
            f"origin is {origin} with a y of spatial size {shape[2:]} and an x of {spec.size}; it applies to a y as "
            "large as x, with padding 'valid' and stride 1; elsewhere give padding as (before, after) pairs"
        )
    return None


def check_reach(size: tuple[int, ...], kernel_size: Axes, padding: Padding, dilation: Axes, hint: str) -> None:
    """Refuse an x without padding that is smaller than a window."""
    axes = len(size)
    sizes = per_axis("kernel_size", kernel_size, axes, 1)
    extent = tuple(d * (k - 1) + 1 for k, d in zip(sizes, per_axis("dilation", dilation, axes, 1), strict=True))
    if isinstance(padding, str) and padding == "valid" and any(n < e for n, e in zip(size, extent, strict=True)):
        raise ConvolithError(
            f"kernel_size is {sizes}, whose windows of {extent} pixels do not fit into x of spatial size {size}; "
            f"expected none larger than that{hint or '; pass a smaller kernel_size'}"
        )


def channels_last(shape: tuple[int, ...], axes: int) -> str:
    """Return a hint for data (N, channels, *size) whose last axis looks like channels, or nothing."""
    if axes == 2 and shape[:2] == (1, 1) and shape[-1] <= CHANNELS_LAST < shape[-2]:
        return "; channels come first: if x is a sound of (samples, channels), pass x.T and y.T"
    if axes > 2 or shape[-1] > CHANNELS_LAST or shape[1] <= max(shape[-1], CHANNELS_LAST):
        return ""
    moved = "x.T and y.T" if axes == 1 else "numpy.moveaxis(x, -1, -3), and y likewise"
    return f"; channels come before the spatial axes: are the {shape[1]} of x meant to be its last axis? pass {moved}"


def _check_channels_last(spec: ConvSpec, hint: str) -> None:
    """Refuse fewer equations than unknowns where the last axis looks like channels."""
    if hint and prod((spec.batch, *spec.output_size)) < spec.in_channels * spec.taps:
        raise ConvolithError(f"x has spatial size {spec.size}, which gives fewer equations than unknowns{hint}")


def check_output(spec: ConvSpec, shape: tuple[int, ...]) -> None:
    """Refuse a y whose shape the correlation cannot give, and name the kernel size that would give it, if any."""
    if shape[0] != spec.batch:
        raise ConvolithError(
            f"y has {shape[0]} images but x has {spec.batch}; expected the same number; pass the images of y in the "
            "order of those of x"
        )
    if shape[0] == 0 or shape[1] == 0:
        raise ConvolithError(
            f"y has shape {shape}; expected at least one image and one channel to fit; pass an array that is not empty"
        )
    if shape[2:] == spec.output_size:
        return
    message = (
        f"y has spatial size {shape[2:]} but x {spec.size} with kernel_size {spec.kernel_size} gives {spec.output_size}"
    )
    if shape[2:] == spec.size:
        raise ConvolithError(
            message + "; y is as large as x: pass padding='same' with the padding_mode that y was made with, or "
            "padding='valid', which leaves its border out"
        )
    if all(s == 1 and d == 1 for s, d in zip(spec.stride, spec.dilation, strict=True)):
        padded = [n + sum(pair) for n, pair in zip(spec.size, spec.padding, strict=True)]
        fitting = tuple(n - m + 1 for n, m in zip(padded, shape[2:], strict=True))
        if min(fitting) >= 1:
            raise ConvolithError(f"{message}; with this padding kernel_size={fitting} would fit")
    raise ConvolithError(f"{message}; pass the options with which y was made, or a y of that size")


def no_pixels() -> ConvolithError:
    """Return the error for data of which nothing is left."""
    return ConvolithError(
        "mask, weights, x_mask, nan or saturation leave no pixel of y to fit (a bad pixel of x takes all pixels of y "
        "with it that read it); expected at least one; leave out fewer"
    )


def result_dtype(x: Any, y: Any, problem: Problem, kernel: np.ndarray, known: np.ndarray) -> str:
    """Return the dtype of a fitted kernel: the floating dtype of x, else of y, else float64.

    It is float64 too, with a warning, if the other one cannot hold the fitted numbers.

    Args:
        x, y: the data as they came.
        problem: the equations.
        kernel, known: what was fitted.
    """
    arrays = [_without_booleans(_unmasked(name, array)[0]) for name, array in (("x", x), ("y", y))]
    names = [dtype_name(as_tensor("x", array).dtype) for array in arrays]
    return holding_dtype(next((name for name in names if is_float(name)), "float64"), problem, kernel, known)


def holding_dtype(name: str, problem: Problem, kernel: np.ndarray, known: np.ndarray) -> str:
    """Return a dtype for a fitted kernel, or float64, with a warning, if it cannot hold the fitted numbers."""
    limits = torch.finfo(torch_dtype(name))
    of_kernel, of_known, of_x, of_y = (
        float(np.abs(part).max(initial=0.0)) for part in (kernel, known, problem.padded, problem.y)
    )
    vanishes = of_kernel < limits.tiny and of_kernel * of_x * problem.windows > ROUNDING * of_y > 0
    if max(of_kernel, of_known) <= limits.max and not vanishes:
        return name
    warn(
        f"the fit has numbers of {of_kernel if vanishes else max(of_kernel, of_known):.1e}, which {name}, the dtype of "
        "the data, cannot hold; it is given in float64; scale x and y to numbers near one for a kernel in their dtype"
    )
    return "float64"
