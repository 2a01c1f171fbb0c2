"""`filter_image`: pictures, stacks and signals as people have them, each plane separately."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import inf, prod
from typing import Any, NamedTuple, Unpack, overload

import numpy as np
import torch

from convolith.arrays import ArrayOrLists, Operands, as_target, as_tensor, listed
from convolith.conv import ApplyOptions
from convolith.correlation import filter_cache, missing, nddata, overflow
from convolith.correlation.functional import correlate
from convolith.correlation.result_dtypes import convert, delivered, result_named
from convolith.dtypes import ITEMSIZE, dtype_name, is_float
from convolith.errors import ConvolithError, shown
from convolith.geometry import (
    MAX_AXES,
    NO_VALUE,
    Axes,
    Padding,
    check_whole,
    extent,
    grids,
    per_axis,
    translated_mode,
)
from convolith.planner import machine, plan
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype
from convolith.torch_private import safe_in_forks

FEW_CHANNELS = 4
"""Largest length of a last axis that is taken for the channels of a picture: grey, grey with alpha, RGB, RGBA."""


AS_FLOATS = {"engine": "auto", "accuracy": "default"}
"""How whole numbers are filtered in float64, to see which results wrap around."""


def _also_of_nddata(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Let a filter take astropy's `CCDData` too, and return one: its data, uncertainty and coordinates in turn."""

    @wraps(compute)
    def filtered(image: Any, kernel: Any, *args: Any, **options: Any) -> Any:
        if not nddata.is_nddata(image):
            return compute(image, kernel, *args, **options)
        about: dict[str, Any] = dict(options)
        taps = as_tensor("kernel", _kernel_array(kernel))
        shape, size = np.shape(image.data), tuple(taps.shape)
        places = picture_axes(shape, size, about.get("axes"), about.get("channel_axis"))
        geometry = (about.get("stride", 1), about.get("padding", "same"), about.get("dilation", 1))
        lying = grids(tuple(shape[place] for place in places), size, *geometry)
        left = {name: about[name] for name in about if name not in ("nan", "mask", "dtype", "out")}
        left |= {"padding_value": 0.0} if "padding_value" in left else {}  # padding is exact
        incomplete = about.get("nan", "propagate") != "propagate" and nddata.is_incomplete(image, about.get("mask"))
        return nddata.filtered(
            image,
            lambda data: compute(data, kernel, *args, **options),
            lambda variance: compute(variance, taps.to(torch.float64) ** 2, *args, **left),
            dict(zip(places, lying, strict=True)),
            incomplete=incomplete,
        )

    return filtered


class FilterOptions(ApplyOptions, total=False):
    """Options of `filter_image`."""

    axes: Any
    channel_axis: int | None
    stride: Axes
    padding: Padding
    dilation: Axes
    padding_mode: str
    padding_value: float
    origin: Axes


@overload
def filter_image(image: torch.Tensor, kernel: Any, **options: Unpack[FilterOptions]) -> torch.Tensor: ...
@overload
def filter_image(image: ArrayOrLists, kernel: Any, **options: Unpack[FilterOptions]) -> np.ndarray: ...
@overload
def filter_image(image: Any, kernel: Any, **options: Unpack[FilterOptions]) -> Any: ...


@_also_of_nddata
@safe_in_forks
def filter_image(
    image: Any,
    kernel: Any,
    *,
    axes: Any = None,
    channel_axis: int | None = None,
    stride: Axes = 1,
    padding: Padding = "same",
    dilation: Axes = 1,
    padding_mode: str = "zeros",
    padding_value: float = NO_VALUE,
    origin: Axes = 0,
    engine: str = "auto",
    accuracy: str = "default",
    flip: bool = False,
    nan: str = "propagate",
    mask: Any = None,
    dtype: Any = None,
    out: Any = None,
) -> Any:
    """Correlate a picture, a stack or a signal with one kernel: every channel and every other axis separately.

    The options that are not described here are those of `correlate`.

    Args:
        image: an array, a tensor or nested lists with any number of axes and any real dtype; booleans count as 0 and 1.
            Without `axes` and `channel_axis`: as many axes as the kernel, or, for a kernel of two axes, (H, W,
            channels) with 1 to 4 channels. RGBA's alpha is filtered like a colour; leave it out with `image[..., :3]`.
            For astropy's `CCDData` the result is a `CCDData` too: its variances are those of the image filtered with
            the squared kernel, and its world coordinates are adjusted to the pixels of the result.
        kernel: an array, a tensor or nested lists of 1 to 3 axes. A float image is filtered in its own dtype, an
            integer image in the kernel's dtype. An integer image with an integer kernel gives exact sums in int64
            (uint64 if both are unsigned and one is uint64), with a warning where a sum wraps around; with `nan` or
            `mask`, sums in float64.
        axes: axes of the image along which the kernel is applied, one for each axis of the kernel, in order.
        channel_axis: axis of the channels; the kernel is applied along all others. Give it or `axes`.
        stride, dilation: a number, or one per axis of the kernel.
        padding: as for `correlate`; by default `"same"`, so that the result has the size of the image.
        padding_mode: as for `correlate`; the words of NumPy, SciPy and OpenCV are taken too (`"nearest"`, `"mirror"`,
            `"edge"`, `"wrap"`, ...), but `"reflect"` is NumPy's: for SciPy's say `"symmetric"`.
        padding_value: as for `correlate`.
        origin: shifts the kernel's centre, one number or one per axis, as in `scipy.ndimage.correlate`. The centre is
            element `(k - 1) // 2`; for an even kernel SciPy and OpenCV take `k // 2`, which is `origin=1` here. With
            `flip` the centre is element `k // 2` and the shift has the opposite sign, as in `scipy.ndimage.convolve`.
        engine, accuracy, flip: as for `correlate`.
        nan, mask: missing elements, as for `correlate`; the mask has the shape of the image or broadcasts to it. A
            masked array brings its own. With `engine="auto"`, NaN reaches only the outputs that read it, in tensors
            too.
        dtype: dtype of the result. An integer dtype rounds half to even, clips, and turns NaN into 0, with warnings
            that give the number of values. A float dtype is also the one of the computation, with a warning where it
            does not hold the values. Without `dtype`, sums of float32 or float64 pixels that exceed their own dtype are
            infinite and give no warning, since a check of every result would take a fifth of the time of a small
            kernel.
        out: array or CPU tensor to write the result into, of its shape; its dtype counts as `dtype`.

    Returns:
        The filtered picture in the layout of `image`; `out` if it is given.

    Raises:
        ConvolithError: axes that can be read in two ways, complex pictures, and whatever `correlate` refuses.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> picture = np.zeros((4, 4), np.uint8)
        >>> picture[1, 1] = 9
        >>> cl.filter_image(picture, np.full((3, 3), 1 / 9, np.float32))[0]
        array([1., 1., 1., 0.], dtype=float32)
        >>> cl.filter_image(picture, np.full((3, 3), 1 / 9), dtype=np.uint8, padding_mode="symmetric")[1]
        array([1, 1, 1, 0], dtype=uint8)
    """
    key = plain = None
    if mask is None and out is None and nan == "propagate":
        geometry = (axes, channel_axis, stride, padding, dilation, padding_mode, padding_value, origin)
        given = (*geometry, engine, accuracy, flip, dtype)
        repeat = filter_cache.repeat_key(image, kernel, given)
        again = filter_cache.repeated(repeat, image)
        if again is None:
            key, plain = filter_cache.key_of(image, kernel, given)
            again = filter_cache.found(key, plain, image, kernel, repeat)
        if again is not None:
            return again
    image = listed("image", image)
    if not isinstance(image, np.ndarray | torch.Tensor):
        raise ConvolithError(
            f"image is a {type(image).__name__}; expected a NumPy array or a torch tensor; pass numpy.asarray(image)"
        )
    missing.check_choice(nan)
    image, mask = missing.unmasked("image", image, mask, nan)
    picture = as_tensor("image", _without_booleans(image))
    taps = as_tensor("kernel", _kernel_array(kernel))
    if picture.is_complex() or taps.is_complex():
        raise ConvolithError("image or kernel is complex; filter_image takes real pictures; call correlate instead")
    places = picture_axes(tuple(picture.shape), tuple(taps.shape), axes, channel_axis)
    wanted = result_named(dtype, None if out is None else as_target("out", out))
    before = {"image": picture, "kernel": taps}
    if wanted is not None and is_float(wanted):
        picture = picture.to(torch_dtype(wanted))
    if picture.is_floating_point():
        taps = taps.to(picture.dtype)
    options: dict[str, Any] = {
        "stride": stride,
        "padding": _shifted(padding, origin, taps, dilation, stride, flip=flip),
        "dilation": dilation,
        "groups": 1,
        "padding_mode": translated_mode(padding_mode),
        "padding_value": padding_value,
    }
    how = {"engine": engine, "accuracy": accuracy, "flip": flip}
    free = engine == "auto" and accuracy == "default"
    layouts = _layouts(picture, taps.to(picture.device), places, options, whole=free)
    if len(layouts) > 1:
        layouts.sort(key=lambda one: (plan(one.spec).seconds or inf) + one.copying)
    y = _delivered(_filtered(picture, layouts[0], how, nan, mask), picture, layouts[0], how, wanted)
    if missing.is_plain(picture):
        overflow.say_overflow(y, before, {"image": picture.dtype, "kernel": taps.dtype})
    if filter_cache.repeatable(key, layouts[0].spec, how):
        dtypes = (before["image"].dtype, before["kernel"].dtype)
        shape = tuple(picture.shape)
        ways = [filter_cache.way(shape, n.spec, n.places, how, wanted, n.copying, dtypes) for n in layouts]
        filter_cache.remember(key, ways)
    return delivered(y, image, out, (picture, taps))


class Layout(NamedTuple):
    """How a picture becomes planes for `correlate`, with its kernel and options."""

    shape: tuple[int, ...]
    """Shape of the planes."""
    kernel: torch.Tensor
    options: dict[str, Any]
    places: tuple[int, ...]
    """Axes of the picture that come last in the planes."""
    spec: ConvSpec
    """Geometry of the planes."""
    copying: float = 0.0
    """Estimated time of copying channels into planes and the result back, in seconds, where that can be avoided."""


def _delivered(
    y: torch.Tensor, picture: torch.Tensor, layout: Layout, how: dict[str, Any], wanted: str | None
) -> torch.Tensor:
    """Return a result in the wanted dtype; a warning gives the number of whole numbers that it does not hold."""
    if y.is_floating_point() or not missing.is_plain(picture) or (wanted is not None and is_float(wanted)):
        return convert(y, wanted)
    taps, value = layout.kernel, layout.options["padding_value"]
    if not overflow.may_wrap(picture, taps, float(value), dtype_name(y.dtype)):
        return convert(y, wanted)
    wide = layout._replace(kernel=taps.to(torch.float64))
    found = overflow.unwrapped(
        y.contiguous(), lambda: _filtered(picture.to(torch.float64), wide, how | AS_FLOATS, "propagate", None), wanted
    )
    return convert(y, wanted) if found is None else found


def _filtered(picture: torch.Tensor, layout: Layout, how: dict[str, Any], nan: str, mask: Any) -> torch.Tensor:
    """Correlate every plane of a picture with one kernel; the result has the picture's layout."""
    last, axes = tuple(range(-len(layout.places), 0)), len(layout.places)
    planes = picture.movedim(layout.places, last).reshape(layout.shape)
    if mask is not None:
        mask = missing.checked_mask(mask, "image", picture).movedim(layout.places, last).reshape(layout.shape)
    needed = nan != "propagate" or mask is not None
    operands = missing.as_floats(Operands(planes, layout.kernel, None), None, needed=needed)
    y = missing.correlated(correlate, operands, mask, nan, layout.options, how, ("image", "kernel"))
    others = [n for axis, n in enumerate(picture.shape) if axis not in layout.places]
    return y.reshape(*others, *y.shape[-axes:]).movedim(last, layout.places)


def _layouts(
    picture: torch.Tensor, taps: torch.Tensor, places: tuple[int, ...], options: dict[str, Any], *, whole: bool
) -> list[Layout]:
    """Return the layouts in which a picture can be filtered: as planes, or with a few channels where they are.

    Args:
        picture, taps, places, options: the picture, the kernel, the axes that it runs along, the geometry.
        whole: whether channels may stay where they are.
    """
    planes = _moved_last(picture, taps, places, options)
    inner = picture.ndim - 1
    few = picture.ndim > taps.ndim and 1 < picture.shape[-1] <= FEW_CHANNELS and inner not in places
    if not (whole and few and taps.ndim < MAX_AXES and missing.is_plain(picture)):
        return [planes]
    separate = planes.spec
    one = {name: (*getattr(separate, name), 1) for name in ("stride", "dilation")}
    together = options | one | {"padding": (*separate.padding, (0, 0))}
    between = _moved_last(picture, taps[..., None], (*places, inner), together)
    if between.spec.interleaved == 1:
        return [planes]
    copied = sum(prod(shape) for shape in (separate.input_shape, separate.output_shape)) * ITEMSIZE[separate.out_dtype]
    return [planes._replace(copying=machine.limits().moving_seconds(2 * copied)), between]


def _moved_last(picture: torch.Tensor, taps: torch.Tensor, places: tuple[int, ...], options: dict[str, Any]) -> Layout:
    """Return the layout in which some axes of a picture come last, and all others are images."""
    others = prod(n for axis, n in enumerate(picture.shape) if axis not in places)
    shape = (others, 1, *(picture.shape[place] for place in places))
    spec = ConvSpec.of(picture.new_empty(shape, device="meta"), taps[None, None], **options)
    return Layout(shape, taps[None, None], options, places, spec)


def picture_axes(shape: tuple[int, ...], kernel: tuple[int, ...], axes: Any, channel_axis: Any) -> tuple[int, ...]:
    """Return the axes of an image that a kernel runs along, as numbers from 0.

    Raises:
        ConvolithError: axes that do not match the kernel, a shape that can be read in two ways.
    """
    if not 1 <= len(kernel) <= MAX_AXES:
        raise ConvolithError(
            f"kernel has shape {kernel}; expected 1 to {MAX_AXES} axes; to mix channels call correlate"
        )
    if axes is not None and channel_axis is not None:
        raise ConvolithError(f"axes is {shown(axes)} and channel_axis is {shown(channel_axis)}; give one of them")
    if channel_axis is not None:
        channels = axis_numbers("channel_axis", check_whole("channel_axis", channel_axis, -len(shape)), len(shape))[0]
        places = tuple(axis for axis in range(len(shape)) if axis != channels)
        argument = f"channel_axis is {channel_axis}, which leaves {len(places)} axes of image, of shape {shape},"
    elif axes is not None:
        places = axis_numbers("axes", axes, len(shape))
        argument = f"axes is {shown(axes)}"
    else:
        return _usual_places(shape, kernel)
    if len(places) != len(kernel):
        raise ConvolithError(f"{argument} but kernel has {len(kernel)}; expected one for each axis of the kernel")
    return places


def axis_numbers(argument: str, value: Any, axes: int, image: str = "an image") -> tuple[int, ...]:
    """Return axes of an image with so many as different numbers from 0; `image` is its name in the error."""
    entries = value if isinstance(value, tuple | list) else [value]
    numbers = per_axis(argument, entries, len(entries), -axes)
    if any(number >= axes for number in numbers) or len({number % axes for number in numbers}) < len(numbers):
        has = f"{axes} {'axis' if axes == 1 else 'axes'}"
        raise ConvolithError(
            f"{argument} is {shown(value)}; expected different axes of {image} with {has}: {-axes} to {axes - 1}"
        )
    return tuple(number % axes for number in numbers)


def _usual_places(shape: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes that a kernel runs along where the caller gave none; refuse shapes with two readings."""
    if len(shape) == len(kernel):
        return tuple(range(len(shape)))
    if len(kernel) == 2 and len(shape) == 3:
        count, height, width = shape
        if width <= FEW_CHANNELS:
            return (0, 1)
        raise ConvolithError(
            f"image has shape {shape}, which may be {count} pictures of {height}x{width} (pass axes=(1, 2)) or one of "
            f"{count}x{height} with {width} channels (pass channel_axis=-1)"
        )
    if len(shape) < len(kernel):
        raise ConvolithError(
            f"image has shape {shape} but kernel has {len(kernel)} axes; expected an image with as many, or more"
        )
    last = tuple(range(-len(kernel), 0))
    raise ConvolithError(
        f"image has shape {shape} and kernel {len(kernel)} {'axis' if len(kernel) == 1 else 'axes'}; pass the "
        f"{'axis' if len(kernel) == 1 else 'axes'} of image that the kernel runs along, such as axes={last}"
    )


def _shifted(
    padding: Padding, origin: Axes, taps: torch.Tensor, dilation: Axes, stride: Axes, *, flip: bool
) -> Padding:
    """Return the padding that shifts the kernel's centre by `origin`; `padding` itself for an origin of 0."""
    shifts = per_axis("origin", origin, taps.ndim, -max(taps.shape))
    if not any(shifts):
        return padding
    if padding != "same" or any(step > 1 for step in per_axis("stride", stride, taps.ndim, 1)):
        raise ConvolithError(
            f"origin is {shown(origin)} with padding {shown(padding)} and stride {shown(stride)}; it applies to "
            "padding 'same' and stride 1; elsewhere give padding as (before, after) pairs"
        )
    pairs = []
    steps = per_axis("dilation", dilation, taps.ndim, 1)
    for shift, size, step in zip(shifts, taps.shape, steps, strict=True):
        reach = extent(size, step) - 1
        before = reach // 2 + (-shift if flip else shift) * step
        if not 0 <= before <= reach:
            raise ConvolithError(
                f"origin is {shown(origin)}, which puts the centre outside a kernel of {size} elements; expected "
                f"{-((size - 1) // 2)} to {size // 2}" + (", with the opposite sign under flip" if flip else "")
            )
        pairs.append((before, reach - before))
    return tuple(pairs)


def _without_booleans(array: Any) -> Any:
    """Convert booleans to 0 and 1; leave other arrays unchanged."""
    if array.dtype in (np.bool_, torch.bool):
        return array.view(np.uint8) if isinstance(array, np.ndarray) else array.to(torch.uint8)
    return array


def _kernel_array(kernel: Any) -> Any:
    """Return a kernel as an array or tensor; lists are read as NumPy reads them."""
    try:
        return _without_booleans(kernel if isinstance(kernel, torch.Tensor) else np.asanyarray(kernel))
    except ValueError as error:
        raise ConvolithError(f"kernel is {kernel!r}; expected rows of equal length ({error})") from None
