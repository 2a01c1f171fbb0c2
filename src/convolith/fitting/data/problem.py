"""The data of a fit, read and checked once: `y = correlate(x, kernel) + offset`, one equation per pixel of y."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from convolith.arrays import as_tensor, bare, check_same_kind
from convolith.correlation import correlate
from convolith.dtypes import dtype_name, is_float
from convolith.engines.padding import pad
from convolith.errors import ConvolithError, check_flag, shown
from convolith.fitting.data.polynomials import Powers, monomials, values
from convolith.geometry import MAX_AXES, Axes, Padding, split_input_shape
from convolith.spec import ConvSpec


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
        x: np.ndarray = self.padded - np.reshape(shift, (-1, *(1,) * self.spec.axes))
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
    mask: Any,
    weights: Any,
) -> Problem:
    """Check the data of a fit and convert them to a `Problem`; the arguments are those of `fit`."""
    tensors = {"x": as_tensor("x", x), "y": as_tensor("y", y)}
    check_same_kind(x=x, y=y)
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise ConvolithError(f"{name} has dtype {dtype_name(tensor.dtype)}; fit works on real data")
    axes = spatial_axes(kernel_size, tensors["x"].ndim)
    batched = tensors["x"].ndim == axes + 2
    wide = {name: bare(t if batched else t[None]).cpu().to(torch.float64) for name, t in tensors.items()}
    if wide["y"].ndim != wide["x"].ndim:
        raise ConvolithError(
            f"y has shape {tuple(tensors['y'].shape)}, but x {tuple(tensors['x'].shape)}; expected y as correlate "
            "gives it: (N, out_channels, *output_size), or without N where x has none"
        )
    batch, channels, size = split_input_shape(tuple(wide["x"].shape), axes)
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
    check_output(spec, tuple(wide["y"].shape))
    counts = pixel_weights(spec, mask, weights)
    target = wide["y"].numpy()
    used = np.broadcast_to(counts[:, None] > 0, target.shape)
    padded = without_unread(wide["x"], spec, counts)
    check_finite("y", np.where(used, target, 0.0), "repair them, or leave those pixels out with mask=")
    constant = monomials(axes, 0)
    return Problem(
        spec,
        padded,
        np.where(used, target, 0.0),
        counts,
        tuple(dtype_name(tensor.dtype) for tensor in tensors.values()),
        tuple(np.zeros((1, n)) for n in padded.shape[2:]),
        constant,
        constant,
        int(check_flag("offset", offset)),
    )


def spatial_axes(kernel_size: Any, dimensions: int | None = None) -> int:
    """Return the number of spatial axes: the length of kernel_size; for one number 3 if x has five axes, else 2."""
    if isinstance(kernel_size, Sequence) and not isinstance(kernel_size, str):
        axes = len(kernel_size)
    else:
        axes = 3 if dimensions == 5 else 2
    if not 1 <= axes <= MAX_AXES:
        raise ConvolithError(f"kernel_size has {axes} entries; expected 1 to {MAX_AXES}, one per spatial axis")
    if dimensions not in (None, axes + 1, axes + 2):
        raise ConvolithError(
            f"x has {dimensions} axes but kernel_size {kernel_size!r} means {axes} spatial ones; expected "
            "(N, in_channels, *size) or (in_channels, *size); for another number of axes give kernel_size as a tuple"
        )
    return axes


def check_output(spec: ConvSpec, shape: tuple[int, ...]) -> None:
    """Refuse a y whose shape the correlation cannot give, and name the kernel size that would give it, if any."""
    if shape[0] != spec.batch:
        raise ConvolithError(f"y has {shape[0]} images but x has {spec.batch}; expected the same number")
    if shape[0] == 0 or shape[1] == 0:
        raise ConvolithError(f"y has shape {shape}; expected at least one image and one channel to fit")
    if shape[2:] == spec.output_size:
        return
    message = (
        f"y has spatial size {shape[2:]} but x {spec.size} with kernel_size {spec.kernel_size} gives {spec.output_size}"
    )
    if shape[2:] == spec.size:
        raise ConvolithError(
            message
            + "; y is as large as x: leave the border out of y by half the kernel, or pass padding='same' with the "
            "padding_mode that y was made with"
        )
    if all(s == 1 and d == 1 for s, d in zip(spec.stride, spec.dilation, strict=True)):
        padded = [n + sum(pair) for n, pair in zip(spec.size, spec.padding, strict=True)]
        fitting = tuple(n - m + 1 for n, m in zip(padded, shape[2:], strict=True))
        if min(fitting) >= 1:
            message += f"; with this padding kernel_size={fitting} would fit"
    raise ConvolithError(message)


def pixel_weights(spec: ConvSpec, mask: Any, weights: Any) -> np.ndarray:
    """Return the weight of each pixel of y, (N, *output_size), from a mask (True excludes) and weights."""
    shape = (spec.batch, *spec.output_size)
    counts = np.ones(shape)
    if weights is not None:
        tensor = as_tensor("weights", weights)
        if tensor.is_complex():
            raise ConvolithError(f"weights has dtype {dtype_name(tensor.dtype)}; expected real numbers, 0 or more")
        values = bare(tensor).cpu().to(torch.float64).numpy()
        check_finite("weights", values, "give those pixels weight 0")
        if (values < 0).any():
            raise ConvolithError(f"weights has a least value of {values.min():g}; expected 0 or more")
        counts = counts * _broadcast("weights", values, shape)
    if mask is not None:
        if isinstance(mask, np.ma.MaskedArray):
            raise ConvolithError("mask is a masked array itself; expected plain booleans; pass mask.filled(True)")
        values = _mask_array(mask)
        if values.dtype != np.bool_:
            raise ConvolithError(f"mask has dtype {values.dtype}; expected booleans, True where y is left out")
        counts = np.where(_broadcast("mask", values, shape), 0.0, counts)
    return counts


def _mask_array(mask: Any) -> np.ndarray:
    """Return a mask as an array: given as an array, a tensor or lists."""
    try:
        return mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    except (TypeError, ValueError, RuntimeError):  # ragged lists; tensors without values, sparse or nested ones
        raise ConvolithError(
            f"mask is {shown(mask)}; expected an array or a tensor of booleans, True where y is left out"
        ) from None


def _broadcast(argument: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.shape not in (shape, shape[1:]):
        raise ConvolithError(
            f"{argument} has shape {values.shape}; expected {shape[1:]} (the spatial size of y) or {shape} (with N)"
        )
    return np.broadcast_to(values, shape)


def without_unread(x: torch.Tensor, spec: ConvSpec, counts: np.ndarray) -> np.ndarray:
    """Return padded x, with zeros at pixels that are in no window of a pixel of y with nonzero weight.

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
        marks = torch.from_numpy(~np.isfinite(used)).any(1, keepdim=True).to(torch.float64)
        ones = torch.ones((1, 1, *spec.kernel_size), dtype=torch.float64, device="cpu")
        seen = correlate(marks, ones, stride=spec.stride, dilation=spec.dilation)[:, 0].numpy() > 0.5
        reached = int(np.count_nonzero(seen & (counts > 0)))
        advice = f"repair them, or leave out with mask= the pixels of y that have them in their windows, {reached} more"
        check_finite("x", x.numpy(), advice)
    return used


def check_finite(argument: str, values: np.ndarray, advice: str) -> None:
    """Refuse NaN and infinity, which a solve would spread over the whole kernel."""
    bad = ~np.isfinite(values)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ConvolithError(
            f"{argument} has {int(bad.sum())} non-finite values, the first at {first}; expected finite numbers; "
            f"{advice}"
        )


def floating_dtype(x: Any, y: Any) -> str:
    """Return the dtype of the fitted kernel: the floating dtype of x, else of y, else float64."""
    names = [dtype_name(as_tensor(name, array).dtype) for name, array in (("x", x), ("y", y))]
    return next((name for name in names if is_float(name)), "float64")
