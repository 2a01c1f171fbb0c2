"""The filter of a source, from the arguments of a correlation."""

from __future__ import annotations

from typing import Any

import numpy as np

from convolith.arrays import as_tensor, listed
from convolith.big.arguments import axes_of, check_missing, dtypes_of
from convolith.big.blocks import Filter
from convolith.big.stores.sources import Source
from convolith.big.windows import geometry_of
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.geometry import Axes, Padding, check_whole
from convolith.planner.choose import check_choice


def filter_of(
    source: Source,
    kernel: Any,
    *,
    axes: Any,
    channel_axis: int | None,
    missing: str | float,
    nodata: float | None,
    dtype: Any,
    bias: Any,
    stride: Axes,
    padding: Padding | None,
    dilation: Axes,
    groups: int,
    padding_mode: str,
    padding_value: float,
    flip: bool,
    engine: str,
    accuracy: str,
) -> Filter:
    """Return the filter that the arguments of `plan` say.

    Raises:
        ConvolithError: as `plan`.
    """
    check_choice(accuracy, engine)
    if isinstance(kernel, Conv):
        options = kernel.options
        if options.get("transposed"):
            raise ConvolithError("kernel is a transposed Conv; expected one that is not transposed")
        bias, stride, dilation, groups = kernel.bias, options["stride"], options["dilation"], options["groups"]
        padding, padding_mode = options["padding"], options["padding_mode"]
    given = as_tensor("kernel", listed("kernel", kernel.weight if isinstance(kernel, Conv) else kernel))
    taps: np.ndarray = given.detach().cpu().numpy()
    if taps.dtype.kind not in "fiub" or not taps.size:
        raise ConvolithError(f"kernel has shape {taps.shape} and dtype {taps.dtype}; expected real numbers")
    mixing = isinstance(kernel, Conv)
    if mixing and taps.shape[:2] == (1, 1) and channel_axis is None:  # filters every picture, as an array of taps does
        mixing, taps = False, taps[0, 0]
    places, channels, taps = axes_of(source, taps, axes, channel_axis, is_conv=mixing)
    taps = np.flip(taps, tuple(range(2, taps.ndim))).copy() if flip else taps  # a view of one tap has odd strides
    geometry = geometry_of(
        source.shape,
        taps.shape[2:],
        places,
        stride=stride,
        padding=("same" if channels is None else "valid") if padding is None else padding,
        dilation=dilation,
        padding_mode=padding_mode,
    )
    inside, outside = dtypes_of(source.dtype, dtype)
    if np.isfinite(taps).all() and (np.abs(taps) > np.finfo(inside).max).any():
        raise ConvolithError(
            f"kernel has weights beyond {inside}, the dtype of the computation; pass dtype=numpy.float64, which is "
            "computed in float64"
        )
    nodata = source.nodata if nodata is None else nodata
    check_missing(missing, nodata, source.dtype, outside, taps)
    return Filter(
        geometry,
        channels,
        np.ascontiguousarray(taps, inside),
        None if bias is None else np.ascontiguousarray(as_tensor("bias", listed("bias", bias)).detach().cpu(), inside),
        check_whole("groups", groups, 1),
        float(padding_value),
        missing,
        nodata,
        inside,
        outside,
        engine,
        accuracy,
    )
