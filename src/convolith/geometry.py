"""Shape rules of convolution: pure functions of integers, and the checks of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from numbers import Real
from operator import index
from typing import Any, NamedTuple

import numpy as np

from convolith.errors import ConvolithError, check_option, shown

Axes = int | Sequence[int]
"""Type of an option: one integer for every spatial axis, or one per axis."""
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]
"""Type of a padding: one number, one per axis, a (before, after) pair per axis, or "same", "valid" or "full"."""
Pairs = tuple[tuple[int, int], ...]

PADDING_MODES = ("zeros", "reflect", "symmetric", "replicate", "circular", "constant")
CONV_MODES = PADDING_MODES[:-1]
"""Padding modes of a `Conv`: those that need no number."""
TORCH_MODES = ("zeros", "reflect", "replicate", "circular")
"""Padding modes of torch's layers."""
OTHER_WORDS = {
    "mirror": "reflect",
    "reflect101": "reflect",
    "border_reflect_101": "reflect",
    "border_default": "reflect",
    "grid-mirror": "symmetric",
    "border_reflect": "symmetric",
    "nearest": "replicate",
    "edge": "replicate",
    "border_replicate": "replicate",
    "wrap": "circular",
    "grid-wrap": "circular",
    "border_wrap": "circular",
    "grid-constant": "constant",
    "border_constant": "constant",
}
"""Words of NumPy, SciPy and OpenCV for the padding modes, in lower case. SciPy's `reflect` is missing: it repeats the
edge, which is `symmetric` here and in NumPy."""
PADDING_NAMES = ("same", "valid", "full")
MAX_AXES = 3
NO_VALUE = 0.0
"""Padding value that is not given."""
MOST_EXACT = 2**53
"""Largest absolute value of an integer that a float of Python holds exactly, as all smaller ones."""
LARGEST = 2**40
"""Upper bound on each size, stride, padding and output length, so that sums of several stay far below 2^63."""


def is_symbolic(value: Any) -> bool:
    """Return whether a size is a symbolic integer of torch, which represents any size during graph export."""
    return not isinstance(value, int) and hasattr(value, "node") and hasattr(value, "__sym_max__")


def _whole(value: Any) -> int:
    """Return `value` as an int; a symbolic size is returned unchanged, since `index` would fix it to one number."""
    if isinstance(value, bool):
        return int(value)  # torch takes no bool for a size
    return value if isinstance(value, int) or is_symbolic(value) else index(value)


def _at_least(value: Any, minimum: int) -> Any:
    """Return the maximum of two numbers, the first of which may be symbolic."""
    return value.__sym_max__(minimum) if is_symbolic(value) else max(value, minimum)


def _over(number: Any) -> bool:
    """Return whether a number exceeds `LARGEST`; never for a symbolic size, which the comparison would constrain."""
    return not is_symbolic(number) and number > LARGEST


def extent(kernel_size: int, dilation: int) -> int:
    """Compute the number of positions that a dilated kernel spans along one axis."""
    return dilation * (kernel_size - 1) + 1


def output_length(size: int, kernel_size: int, stride: int, padding: tuple[int, int], dilation: int) -> int:
    """Compute the number of outputs along one axis (less than 1 if the kernel does not fit)."""
    return (size + sum(padding) - extent(kernel_size, dilation)) // stride + 1


def transposed_length(
    size: int, kernel_size: int, stride: int, padding: tuple[int, int], dilation: int, output_padding: int
) -> int:
    """Compute the number of outputs of a transposed convolution along one axis."""
    return (size - 1) * stride + extent(kernel_size, dilation) - sum(padding) + output_padding


def same_padding(size: int, kernel_size: int, stride: int, dilation: int) -> tuple[int, int]:
    """Compute the padding that gives `ceil(size / stride)` outputs along one axis, with the smaller half first."""
    if stride == 1:
        total = extent(kernel_size, dilation) - 1
    else:
        outputs = -(-size // stride)
        total = _at_least((outputs - 1) * stride + extent(kernel_size, dilation) - size, 0)
    return total // 2, total - total // 2


def _as_list(argument: str, value: Any) -> Any:
    """Return the numbers of an array or a tensor as lists, and any other value unchanged."""
    if not hasattr(value, "tolist"):
        return value
    try:
        return value.tolist()
    except (TypeError, RuntimeError):  # a class, or a meta, sparse or nested tensor
        raise ConvolithError(f"{argument} is {shown(value)}; expected numbers") from None


def per_axis(argument: str, value: Any, axes: int, minimum: int) -> tuple[int, ...]:
    """Return one integer per spatial axis, each at least `minimum`, from one number or a sequence."""
    value = _as_list(argument, value)
    entries = [value] * axes if not isinstance(value, Sequence) else list(value)
    try:
        numbers = tuple([_whole(entry) for entry in entries])
    except TypeError:
        raise ConvolithError(
            f"{argument} is {shown(value)}; expected a whole number, or one per spatial axis"
        ) from None
    if len(numbers) != axes:
        raise ConvolithError(f"{argument} has {len(numbers)} entries; expected one number, or {axes} (one per axis)")
    if any(number < minimum for number in numbers):
        raise ConvolithError(f"{argument} is {shown(value)}; expected {minimum} or more on every axis")
    if any(_over(number) for number in numbers):
        raise ConvolithError(f"{argument} is {shown(value)}; expected at most 2^40 on every axis")
    return numbers


def explicit_padding(value: Any, axes: int) -> Pairs:
    """Return a (before, after) pair per axis from one number, a number per axis or a pair per axis."""
    value = _as_list("padding", value)
    entries = [value] * axes if not isinstance(value, Sequence) else list(value)
    if len(entries) != axes:
        hint = f"; a pair for the one axis is written (({entries[0]}, {entries[1]}),)" if len(entries) == 2 else ""
        raise ConvolithError(f"padding has {len(entries)} entries; expected one number, or {axes} (one per axis){hint}")
    pairs = []
    for entry in entries:
        pair = tuple(entry) if isinstance(entry, Sequence) else (entry, entry)
        try:
            before, after = [_whole(number) for number in pair]
        except (TypeError, ValueError):
            raise ConvolithError(
                f"padding is {shown(value)}; expected a whole number, one per axis, a (before, after) pair per axis, "
                f"or one of {', '.join(PADDING_NAMES)}"
            ) from None
        if before < 0 or after < 0:
            raise ConvolithError(f"padding is {shown(value)}; expected 0 or more; to crop, slice x instead")
        if _over(before) or _over(after):
            raise ConvolithError(f"padding is {shown(value)}; expected at most 2^40 on every side")
        pairs.append((before, after))
    return tuple(pairs)


def resolve_padding(
    value: Any, size: tuple[int, ...] | None, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pairs:
    """Return the padding as a pair per axis; `size` may be None unless padding is `"same"` with a stride above 1."""
    axes = len(kernel_size)
    if not isinstance(value, str):
        return explicit_padding(value, axes)
    extents = [extent(k, d) for k, d in zip(kernel_size, dilation, strict=True)]
    if value == "valid":
        return ((0, 0),) * axes
    if value == "full":
        return tuple((e - 1, e - 1) for e in extents)
    if value != "same":
        raise ConvolithError(f"padding is {shown(value)}; expected numbers or one of {', '.join(PADDING_NAMES)}")
    if size is None:
        if max(stride) > 1:
            raise ConvolithError(
                'padding is "same" with a stride above 1: its amount depends on the input size, which a Conv does '
                "not know; give numbers, or pass padding to correlate"
            )
        size = tuple(extents)
    axes_of = zip(size, kernel_size, stride, dilation, strict=True)
    return tuple(same_padding(n, k, s, d) for n, k, s, d in axes_of)


class Grid(NamedTuple):
    """The pixel of the input at the first pixel of the result (counted from 0), and the pixels from one to the next."""

    start: float = 0.0
    step: int = 1

    def reference_pixel(self, pixel: float) -> float:
        """Return the number in the result of a pixel of the input; both count from 1, as FITS's CRPIX."""
        return (pixel - 1 - self.start) / self.step + 1


def grids(
    size: tuple[int, ...], kernel_size: tuple[int, ...], stride: Any, padding: Padding, dilation: Any
) -> tuple[Grid, ...]:
    """Return where the results of a correlation lie among the pixels of its input, for each axis.

    The result of a window lies at its centre, element `(extent - 1) // 2`.
    """
    axes = len(size)
    steps, spread = per_axis("stride", stride, axes, 1), per_axis("dilation", dilation, axes, 1)
    pairs = resolve_padding(padding, size, kernel_size, steps, spread)
    return tuple(
        Grid((extent(k, d) - 1) // 2 - before, step)
        for k, d, (before, _), step in zip(kernel_size, spread, pairs, steps, strict=True)
    )


def check_whole(argument: str, value: Any, minimum: int) -> int:
    """Return `value` as an int; refuse values below `minimum`."""
    try:
        number = _whole(value)
    except TypeError:
        raise ConvolithError(f"{argument} is {shown(value)}; expected a whole number") from None
    if number < minimum:
        raise ConvolithError(f"{argument} is {number}; expected {minimum} or more")
    if _over(number):
        raise ConvolithError(f"{argument} is {number}; expected at most 2^40")
    return number


def check_groups(groups: Any, in_channels: int, out_channels: int) -> int:
    """Return `groups` as an int; refuse a number that does not divide both channel counts."""
    number = check_whole("groups", groups, 1)
    for argument, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % number:
            raise ConvolithError(
                f"groups is {number}, which does not divide {argument} = {channels}; expected a divisor of in_channels "
                f"and out_channels, at most {gcd(in_channels, out_channels)}"
            )
    return number


def check_mode(padding_mode: Any, *, transposed: bool) -> str:
    """Return `padding_mode` if it is a known mode; a transposed convolution accepts "zeros" only."""
    word = OTHER_WORDS.get(padding_mode.lower()) if isinstance(padding_mode, str) else None
    if word is not None:
        raise ConvolithError(f"padding_mode is {shown(padding_mode)}, a word of another library; pass {shown(word)}")
    check_option("padding_mode", padding_mode, PADDING_MODES)
    if transposed and padding_mode != "zeros":
        raise ConvolithError(f'padding_mode is {shown(padding_mode)}; a transposed convolution takes "zeros" only')
    name: str = padding_mode
    return name


def translated_mode(padding_mode: Any) -> Any:
    """Return Convolith's word for a padding mode, given in its own, NumPy's, SciPy's or OpenCV's words."""
    return OTHER_WORDS.get(padding_mode.lower(), padding_mode) if isinstance(padding_mode, str) else padding_mode


def check_padding_name(padding: Any, *, transposed: bool) -> None:
    """Refuse "same" and "full" for a transposed convolution, whose padding crops its output."""
    if transposed and isinstance(padding, str) and padding in ("same", "full"):
        raise ConvolithError(
            f"padding is {padding!r}; a transposed convolution takes numbers, by which its output is cropped; pass "
            "padding=0 to crop nothing"
        )


def check_padding_value(value: Any, padding_mode: str, dtype: str) -> float:
    """Return `padding_value` as a float; refuse one that the mode does not use or that an integer dtype cannot hold."""
    if isinstance(value, complex) or not isinstance(value, Real):
        raise ConvolithError(f"padding_value is {shown(value)}; expected a real number")
    number = float(value)
    if padding_mode != "constant":
        if number:
            raise ConvolithError(
                f"padding_value is {shown(value)} but padding_mode is {padding_mode!r}; pass padding_mode='constant'"
            )
        return 0.0
    if "int" in dtype:
        limits = np.iinfo(dtype)
        if not number.is_integer() or not limits.min <= number <= limits.max or abs(number) > MOST_EXACT:
            raise ConvolithError(
                f"padding_value is {shown(value)}, which {dtype} does not hold; convert x to a float dtype first"
            )
    return number


def check_output_padding(
    value: Any, stride: Sequence[int], dilation: Sequence[int], *, transposed: bool
) -> tuple[int, ...]:
    """Return `output_padding` per axis: less than the stride or the dilation, and 0 unless transposed."""
    numbers = per_axis("output_padding", value, len(stride), 0)
    if any(numbers) and not transposed:
        raise ConvolithError(
            f"output_padding is {shown(value)}; it belongs to transposed convolutions (transposed=True)"
        )
    if any(o >= max(s, d) for o, s, d in zip(numbers, stride, dilation, strict=True) if o):
        raise ConvolithError(
            f"output_padding is {numbers}; expected less than the stride {tuple(stride)} or dilation {tuple(dilation)}"
        )
    return numbers


def padding_sources(size: int, padding: tuple[int, int], mode: str) -> np.ndarray:
    """Return the input position that each position of a padded axis repeats; -1 for "zeros" and "constant" padding.

    Padding longer than the input continues the pattern, as in `numpy.pad`.
    """
    before, after = padding
    return sources_at(np.arange(-before, size + after), size, mode)


def sources_at(positions: np.ndarray, size: int, mode: str) -> np.ndarray:
    """Return the input position that each position repeats, counted from the first input; -1 for none."""
    if mode in ("zeros", "constant"):
        return np.where((positions >= 0) & (positions < size), positions, -1)
    if mode == "circular":
        return positions % size
    if mode == "symmetric":  # the two edges are repeated
        mirrored: np.ndarray = np.minimum(positions % (2 * size), 2 * size - 1 - positions % (2 * size))
        return mirrored
    if mode == "replicate":
        return positions.clip(0, size - 1)
    period = max(2 * size - 2, 1)  # reflect: the two edges are not repeated
    return size - 1 - abs(size - 1 - positions % period)


KERNEL_LAYOUT = "(out_channels, in_channels/groups, *kernel_size)"


def split_input_shape(shape: tuple[int, ...], axes: int) -> tuple[int, int, tuple[int, ...]]:
    """Return (batch, channels, size) of x; an unbatched x counts as a batch of one."""
    if len(shape) not in (axes + 1, axes + 2):
        few = len(shape) < axes + 1
        remedy = "add the missing axes with x[None]" if few else "if k lacks an axis, add it with k[None] or k[:, None]"
        raise ConvolithError(
            f"x has shape {shape}; expected (N, in_channels, *size) or (in_channels, *size) with {axes} spatial "
            f"{'axis' if axes == 1 else 'axes'}, as k has; {remedy}"
        )
    if any(n < 1 for n in shape[-1 - axes :]):
        raise ConvolithError(f"x has shape {shape}; expected no empty channel or spatial axis (only N may be 0)")
    return shape[0] if len(shape) == axes + 2 else 1, shape[-1 - axes], shape[-axes:]


def shape_of(argument: str, value: Any) -> tuple[int, ...]:
    """Return a shape as a tuple of ints; refuse negative numbers."""
    entries = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (None,)
    try:
        shape = tuple(index(entry) for entry in entries)
    except TypeError:
        raise ConvolithError(f"{argument} is {shown(value)}; expected a shape such as (1, 3, 224, 224)") from None
    if min(shape, default=0) < 0:
        raise ConvolithError(f"{argument} is {shown(value)}; expected no negative numbers")
    return shape


def channel_mismatch(
    x_shape: tuple[int, ...], k_shape: tuple[int, ...], channels: int, expected: int, *, transposed: bool
) -> str:
    """Return the error message for mismatched channel counts, with a guess at the cause."""
    axes = len(k_shape) - 2
    source = "k.shape[0]" if transposed else "k.shape[1] * groups"
    message = f"x has {channels} channels (shape {x_shape}) but k expects {expected} ({source})"
    if x_shape[-1] == expected:
        place = -1 - axes
        return f"{message}; is x channels-last? pass x.movedim(-1, {place}) in torch, numpy.moveaxis(x, -1, {place})"
    fits = len(x_shape) == len(k_shape) and all(n >= k for n, k in zip(x_shape[1:], k_shape[1:], strict=True))
    if fits and x_shape[0] == k_shape[0] and not transposed:
        return (
            f"{message}; if x is one image of (channels, *size) and k, of shape {k_shape}, one kernel for its "
            "channels, pass k[None]"
        )
    return message + "; the channel axis of x precedes its spatial axes"
