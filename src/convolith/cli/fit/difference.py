"""Pictures that `convolith fit` makes: BEFORE matched to AFTER, their difference, and its noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from convolith.cli.fit.data import Pair
from convolith.conv import Conv
from convolith.correlation import correlate
from convolith.errors import ConvolithError
from convolith.fitting import Fit, VaryingFit
from convolith.fitting.data.shapes import inner_part
from convolith.geometry import per_axis

PICTURES = ("matched", "difference", "noise")
"""Names of the pictures, which are those of the options."""


def pictures(found: Fit | VaryingFit, pair: Pair, options: dict[str, Any], wanted: list[str]) -> dict[str, np.ndarray]:
    """Return the pictures, each in the layout of AFTER, in float64; pixels that are not known are NaN.

    These are the border whose windows leave BEFORE, pixels whose windows meet a bad pixel of BEFORE, and, except in
    the matched picture, bad pixels of AFTER.

    Args:
        found: the fit.
        pair: the data.
        options: options of `fit`.
        wanted: names of the pictures; the noise needs the variance of AFTER.
    """
    x, y = (np.asarray(part, float) for part in (pair.x, pair.y))
    levels = np.atleast_1d(np.inf if options["saturation"] is None else options["saturation"])
    x = np.where(_bad(x, _with_channels(pair.pixels["x_mask"], x), levels[0]), np.nan, x)
    y = np.where(_bad(y, _with_channels(pair.pixels["mask"], y), levels[-1]), np.nan, y)
    matched = _filtered(found, x, y.shape, options, squared=False)
    result = {"matched": matched, "difference": y - matched}
    if "noise" in wanted:
        own, theirs = (_with_channels(part, like) for part, like in zip(pair.variances, (x, y), strict=True))
        variance = np.broadcast_to(np.nan if theirs is None else theirs, y.shape) + 0.0 * result["difference"]
        if own is not None:
            variance = variance + _filtered(found, np.broadcast_to(own, x.shape), y.shape, options, squared=True)
        result["noise"] = np.sqrt(np.maximum(variance, 0.0))
    return {name: _laid_out(result[name], pair) for name in wanted}


def _with_channels(part: np.ndarray | None, like: np.ndarray) -> np.ndarray | None:
    """Return a mask or a variance of several images, (N, *size), with an axis of channels."""
    several = part is not None and part.ndim == like.ndim - 1 and part.shape == (len(like), *like.shape[2:])
    return part[:, None] if part is not None and several else part


def _bad(values: np.ndarray, mask: np.ndarray | None, level: float) -> np.ndarray:
    """Return which pixels are not finite, saturated or masked."""
    marks: np.ndarray = ~np.isfinite(values) | (values >= level)
    return marks if mask is None else marks | mask


def _filtered(
    found: Fit | VaryingFit, x: np.ndarray, shape: tuple[int, ...], options: dict[str, Any], *, squared: bool
) -> np.ndarray:
    """Return x filtered by the kernel, or by its square, at the pixels of AFTER; NaN where a window leaves x."""
    if isinstance(found, VaryingFit):
        if squared:
            raise ConvolithError(
                "--before-variance was given for a kernel that varies with position, through which no variance is "
                "carried; leave it out, or fit a constant kernel"
            )
        sky = None if found.kernel.background is None else np.asarray(found.kernel.background, float)
        filtered = replace(found.kernel, weights=np.asarray(found.kernel.weights, float), background=sky).apply(x)
        size, dilation = found.kernel.weights.shape[3:], found.kernel.dilation
    else:
        conv = found.conv
        weight = np.asarray(conv.weight, float)
        bias = None if conv.bias is None or squared else np.asarray(conv.bias, float)
        size, dilation = weight.shape[2:], conv.dilation
        filtered = correlate(x, Conv(weight**2 if squared else weight, bias, **conv.options))
    axes = len(size)
    if filtered.shape[-axes:] == shape[-axes:]:
        return np.asarray(filtered)
    origin = per_axis("origin", options.get("origin", 0), axes, -max(x.shape))
    border = inner_part(x.shape[-axes:], size, dilation, origin)
    first = [part.start for part in border.of_x]
    count = [part.stop - part.start for part in border.of_y]
    whole = np.full((*filtered.shape[:-axes], *shape[-axes:]), np.nan)
    inner: tuple[Any, ...] = (..., *(slice(a, a + n) for a, n in zip(first, count, strict=True)))
    border.in_y(whole)[...] = filtered[inner]
    return whole


def _laid_out(planes: np.ndarray, pair: Pair) -> np.ndarray:
    """Return images or channels in the layout of AFTER's file: (H, W, channels) for pictures in colour."""
    shape = pair.shape
    if pair.stack is not None:
        return pair.stack.laid_out(planes)
    if planes.size == np.prod(shape) and planes.squeeze().shape != tuple(n for n in shape if n != 1):
        planes = np.moveaxis(planes.reshape(-1, *shape[:2]), 0, -1)
    return planes.reshape(shape)
