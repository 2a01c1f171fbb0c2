"""The geometry of one convolution layer: `ConvSpec`, and the shape rules behind it as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from operator import index
from typing import Any

from convolith.dtypes import check_dtype, dtype_name, result_dtype
from convolith.errors import ConvolithError

Axes = int | Sequence[int]
"""One whole number for every spatial axis, or one per axis."""
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]
"""One number, one per axis, a (before, after) pair per axis, or "same", "valid" or "full"."""
Pairs = tuple[tuple[int, int], ...]

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
PADDING_NAMES = ("same", "valid", "full")
MAX_AXES = 3


def extent(kernel_size: int, dilation: int) -> int:
    """How many positions a dilated kernel spans along one axis."""
    return dilation * (kernel_size - 1) + 1


def output_length(size: int, kernel_size: int, stride: int, padding: tuple[int, int], dilation: int) -> int:
    """The number of outputs along one axis (less than 1 where the kernel does not fit)."""
    return (size + sum(padding) - extent(kernel_size, dilation)) // stride + 1


def transposed_length(
    size: int, kernel_size: int, stride: int, padding: tuple[int, int], dilation: int, output_padding: int
) -> int:
    """The number of outputs of a transposed convolution along one axis."""
    return (size - 1) * stride + extent(kernel_size, dilation) - sum(padding) + output_padding


def same_padding(size: int, kernel_size: int, stride: int, dilation: int) -> tuple[int, int]:
    """The padding that gives `ceil(size / stride)` outputs along one axis, the smaller half first."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + extent(kernel_size, dilation) - size, 0)
    return total // 2, total - total // 2


def per_axis(argument: str, value: Any, axes: int, minimum: int) -> tuple[int, ...]:
    """One whole number per spatial axis, each at least `minimum`, from one number or a sequence of them."""
    entries = [value] * axes if not isinstance(value, Sequence) else list(value)
    try:
        numbers = tuple(index(entry) for entry in entries)
    except TypeError:
        raise ConvolithError(f"{argument} is {value!r}; expected a whole number, or one per spatial axis") from None
    if len(numbers) != axes:
        raise ConvolithError(f"{argument} has {len(numbers)} entries; expected one number, or {axes} (one per axis)")
    if min(numbers) < minimum:
        raise ConvolithError(f"{argument} is {value!r}; expected {minimum} or more on every axis")
    return numbers


def explicit_padding(value: Any, axes: int) -> Pairs:
    """A (before, after) pair per axis from a number, a number per axis or a pair per axis."""
    entries = [value] * axes if not isinstance(value, Sequence) else list(value)
    if len(entries) != axes:
        hint = f"; a pair for the one axis is written (({entries[0]}, {entries[1]}),)" if len(entries) == 2 else ""
        raise ConvolithError(f"padding has {len(entries)} entries; expected one number, or {axes} (one per axis){hint}")
    pairs = []
    for entry in entries:
        pair = tuple(entry) if isinstance(entry, Sequence) else (entry, entry)
        try:
            before, after = (index(number) for number in pair)
        except (TypeError, ValueError):
            raise ConvolithError(
                f"padding is {value!r}; expected a whole number, one per axis, a (before, after) pair per axis, "
                f"or one of {', '.join(PADDING_NAMES)}"
            ) from None
        if before < 0 or after < 0:
            raise ConvolithError(f"padding is {value!r}; expected 0 or more; to crop, slice x instead")
        pairs.append((before, after))
    return tuple(pairs)


def resolve_padding(
    value: Any, size: tuple[int, ...] | None, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pairs:
    """The padding as a pair per axis; `size=None` where it is not known, which `"same"` needs only with a stride."""
    axes = len(kernel_size)
    if not isinstance(value, str):
        return explicit_padding(value, axes)
    extents = [extent(k, d) for k, d in zip(kernel_size, dilation, strict=True)]
    if value == "valid":
        return ((0, 0),) * axes
    if value == "full":
        return tuple((e - 1, e - 1) for e in extents)
    if value != "same":
        raise ConvolithError(f"padding is {value!r}; expected numbers or one of {', '.join(PADDING_NAMES)}")
    if size is None:
        if max(stride) > 1:
            raise ConvolithError(
                'padding is "same" with a stride above 1: its amount depends on the input size, which a Conv does '
                "not know; give numbers, or pass padding to correlate"
            )
        size = tuple(extents)
    axes_of = zip(size, kernel_size, stride, dilation, strict=True)
    return tuple(same_padding(n, k, s, d) for n, k, s, d in axes_of)


def check_whole(argument: str, value: Any, minimum: int) -> int:
    """`value` as an int of at least `minimum`."""
    try:
        number = index(value)
    except TypeError:
        raise ConvolithError(f"{argument} is {value!r}; expected a whole number") from None
    if number < minimum:
        raise ConvolithError(f"{argument} is {number}; expected {minimum} or more")
    return number


def check_groups(groups: Any, in_channels: int, out_channels: int) -> int:
    """`groups` as an int that divides both channel counts."""
    number = check_whole("groups", groups, 1)
    for argument, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % number:
            raise ConvolithError(f"groups is {number}, which does not divide {argument} = {channels}")
    return number


def check_mode(padding_mode: Any, *, transposed: bool) -> str:
    """`padding_mode`, one of the four that exist; a transposed convolution knows zeros only."""
    if padding_mode not in PADDING_MODES:
        raise ConvolithError(f"padding_mode is {padding_mode!r}; expected one of {', '.join(PADDING_MODES)}")
    if transposed and padding_mode != "zeros":
        raise ConvolithError(f'padding_mode is {padding_mode!r}; a transposed convolution takes "zeros" only')
    return str(padding_mode)


def check_output_padding(
    value: Any, stride: Sequence[int], dilation: Sequence[int], *, transposed: bool
) -> tuple[int, ...]:
    """`output_padding` per axis: below the stride or the dilation, and 0 unless transposed."""
    numbers = per_axis("output_padding", value, len(stride), 0)
    if any(numbers) and not transposed:
        raise ConvolithError(f"output_padding is {value!r}; it belongs to transposed convolutions (transposed=True)")
    if any(o >= max(s, d) for o, s, d in zip(numbers, stride, dilation, strict=True) if o):
        raise ConvolithError(
            f"output_padding is {numbers}; expected less than the stride {tuple(stride)} or dilation {tuple(dilation)}"
        )
    return numbers


@dataclass(frozen=True, init=False)
class ConvSpec:
    """The geometry of one layer: validated once, canonical, immutable and hashable.

    It describes `y[o, p] = b[o] + sum over c, t of k[o, c, t] x[c, p*stride + t*dilation - padding]`, on one, two
    or three spatial axes. Options may be given as one number for all axes; the fields hold one per axis, and
    `padding` a (before, after) pair per axis.

    Args:
        batch: images in x; 0 is allowed and gives an empty result.
        in_channels, out_channels: channels of x and of the result.
        size: spatial size of x, one number per axis.
        kernel_size: taps per axis.
        padding: a number, one per axis, a pair per axis, or `"same"`, `"valid"`, `"full"`.
        transposed: the adjoint ("deconvolution"); the kernel is then (in_channels, out_channels/groups, *kernel_size).
        dtype: of x, by name; `kernel_dtype` where it differs (an integer image and a float kernel).

    Raises:
        ConvolithError: anything that cannot be computed, with the remedy.

    Example:
        >>> spec = ConvSpec(in_channels=3, out_channels=64, size=224, kernel_size=(7, 7), stride=2, padding=3)
        >>> spec.output_shape
        (1, 64, 112, 112)
    """

    batch: int
    in_channels: int
    out_channels: int
    size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    groups: int
    transposed: bool
    output_padding: tuple[int, ...]
    padding_mode: str
    bias: bool
    dtype: str
    kernel_dtype: str

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        size: Axes,
        kernel_size: Axes,
        batch: int = 1,
        stride: Axes = 1,
        padding: Padding = 0,
        dilation: Axes = 1,
        groups: int = 1,
        transposed: bool = False,
        output_padding: Axes = 0,
        padding_mode: str = "zeros",
        bias: bool = False,
        dtype: str = "float32",
        kernel_dtype: str | None = None,
    ) -> None:
        put = partial(object.__setattr__, self)  # a frozen instance sets itself once, here
        axes = max(len(value) if isinstance(value, Sequence) else 1 for value in (size, kernel_size))
        if not 1 <= axes <= MAX_AXES:
            raise ConvolithError(f"kernel_size has {axes} axes; expected 1 to {MAX_AXES}")
        put("batch", check_whole("batch", batch, 0))
        put("in_channels", check_whole("in_channels", in_channels, 1))
        put("out_channels", check_whole("out_channels", out_channels, 1))
        put("size", per_axis("size", size, axes, 1))
        put("kernel_size", per_axis("kernel_size", kernel_size, axes, 1))
        put("stride", per_axis("stride", stride, axes, 1))
        put("dilation", per_axis("dilation", dilation, axes, 1))
        put("groups", check_groups(groups, self.in_channels, self.out_channels))
        put("transposed", bool(transposed))
        put(
            "output_padding",
            check_output_padding(output_padding, self.stride, self.dilation, transposed=self.transposed),
        )
        put("padding_mode", check_mode(padding_mode, transposed=self.transposed))
        if self.transposed and padding in ("same", "full"):
            raise ConvolithError(f"padding is {padding!r}; a transposed convolution takes numbers")
        put("padding", resolve_padding(padding, self.size, self.kernel_size, self.stride, self.dilation))
        put("bias", bool(bias))
        put("dtype", dtype_name(dtype))
        put("kernel_dtype", dtype_name(self.dtype if kernel_dtype is None else kernel_dtype))
        check_dtype("x", self.dtype)
        check_dtype("k", self.kernel_dtype)
        result_dtype(self.dtype, self.kernel_dtype)
        self._check_fits()

    def _check_fits(self) -> None:
        """Refuse what leaves no output, and padding that its mode cannot fill."""
        for axis, (n, pair, e) in enumerate(zip(self.size, self.padding, self.extent, strict=True)):
            largest = {"reflect": n - 1, "circular": n}.get(self.padding_mode)
            if largest is not None and max(pair) > largest:
                raise ConvolithError(
                    f"padding is {pair} on spatial axis {axis}, but {self.padding_mode!r} can fill at most {largest} "
                    f"beside {n} elements; use a smaller padding or another padding_mode"
                )
            if self.output_size[axis] >= 1:
                continue
            if self.transposed:
                raise ConvolithError(f"padding is {pair} on spatial axis {axis}, which crops the whole output away")
            raise ConvolithError(
                f"k spans {e} elements on spatial axis {axis} (kernel_size {self.kernel_size[axis]}, dilation "
                f"{self.dilation[axis]}) but the padded input has {n + sum(pair)}; use a larger padding or a smaller k"
            )

    @classmethod
    def of(
        cls,
        x: Any,
        k: Any,
        bias: Any = None,
        *,
        stride: Axes = 1,
        padding: Padding = 0,
        dilation: Axes = 1,
        groups: int = 1,
        transposed: bool = False,
        output_padding: Axes = 0,
        padding_mode: str = "zeros",
    ) -> ConvSpec:
        """The spec of correlating `x` with `k`, read off their shapes and dtypes.

        Args:
            x: (N, in_channels, *size), or (in_channels, *size), which counts as a batch of one.
            k: (out_channels, in_channels/groups, *kernel_size); transposed: (in_channels, out_channels/groups, ...).

        Example:
            >>> import numpy as np
            >>> ConvSpec.of(np.zeros((3, 32, 32)), np.zeros((8, 3, 5, 5)), padding="same").output_shape
            (1, 8, 32, 32)
        """
        x_shape, k_shape = tuple(x.shape), tuple(k.shape)
        axes = len(k_shape) - 2
        if not 1 <= axes <= MAX_AXES:
            layout = "(in_channels, out_channels/groups, *kernel_size)" if transposed else KERNEL_LAYOUT
            raise ConvolithError(f"k has shape {k_shape}; expected {layout} with 1 to {MAX_AXES} spatial axes")
        batch, channels, size = split_input_shape(x_shape, axes)
        groups = check_whole("groups", groups, 1)
        if min(k_shape) < 1:
            raise ConvolithError(f"k has shape {k_shape}; expected no empty axis")
        in_channels, out_channels = k_shape[1] * groups, k_shape[0]
        if transposed:
            in_channels, out_channels = k_shape[0], k_shape[1] * groups
        if channels != in_channels:
            raise ConvolithError(channel_mismatch(x_shape, channels, in_channels, axes, transposed=transposed))
        return cls(
            batch=batch,
            in_channels=in_channels,
            out_channels=out_channels,
            size=size,
            kernel_size=k_shape[2:],
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            transposed=transposed,
            output_padding=output_padding,
            padding_mode=padding_mode,
            bias=bias is not None,
            dtype=dtype_name(x.dtype),
            kernel_dtype=dtype_name(k.dtype),
        )

    @classmethod
    def from_module(cls, module: Any, input_shape: Sequence[int]) -> ConvSpec:
        """The spec of a torch convolution module (`Conv1d` to `ConvTranspose3d`) at an input shape.

        Args:
            input_shape: (N, in_channels, *size), or (in_channels, *size).

        Example:
            >>> import torch
            >>> ConvSpec.from_module(torch.nn.Conv2d(3, 8, 3), (1, 3, 32, 32)).output_shape
            (1, 8, 30, 30)
        """
        needed = ("kernel_size", "stride", "padding", "dilation", "groups", "transposed", "output_padding", "weight")
        if not all(hasattr(module, name) for name in needed):
            raise ConvolithError(f"module is a {type(module).__name__}; expected a torch convolution such as nn.Conv2d")
        batch, channels, size = split_input_shape(tuple(input_shape), len(module.kernel_size))
        if channels != module.in_channels:
            raise ConvolithError(
                f"input_shape {tuple(input_shape)} has {channels} channels but the module expects {module.in_channels}"
            )
        return cls(
            batch=batch,
            in_channels=module.in_channels,
            out_channels=module.out_channels,
            size=size,
            kernel_size=module.kernel_size,
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            groups=module.groups,
            transposed=module.transposed,
            output_padding=module.output_padding,
            padding_mode=module.padding_mode,
            bias=module.bias is not None,
            dtype=dtype_name(module.weight.dtype),
        )

    @property
    def axes(self) -> int:
        """The number of spatial axes: 1, 2 or 3."""
        return len(self.size)

    @property
    def extent(self) -> tuple[int, ...]:
        """How many positions the dilated kernel spans, per axis."""
        return tuple(extent(k, d) for k, d in zip(self.kernel_size, self.dilation, strict=True))

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return prod(self.kernel_size)

    @property
    def products_per_output(self) -> int:
        """Products that are summed into one output of a plain (not transposed) convolution."""
        return self.in_channels // self.groups * self.taps

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the result."""
        axes_of = zip(self.size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        if self.transposed:
            return tuple(transposed_length(*a, o) for a, o in zip(axes_of, self.output_padding, strict=True))
        return tuple(output_length(*a) for a in axes_of)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(N, in_channels, *size)."""
        return (self.batch, self.in_channels, *self.size)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """(out_channels, in_channels/groups, *kernel_size), or the transposed layout."""
        if self.transposed:
            return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, out_channels, *output_size)."""
        return (self.batch, self.out_channels, *self.output_size)

    @property
    def out_dtype(self) -> str:
        """The dtype of the result, by name."""
        return result_dtype(self.dtype, self.kernel_dtype)


KERNEL_LAYOUT = "(out_channels, in_channels/groups, *kernel_size)"


def split_input_shape(shape: tuple[int, ...], axes: int) -> tuple[int, int, tuple[int, ...]]:
    """(batch, channels, size) of x; an unbatched x counts as a batch of one."""
    if len(shape) == axes + 1:
        shape = (1, *shape)
    if len(shape) != axes + 2:
        raise ConvolithError(
            f"x has shape {shape}; expected (N, in_channels, *size) or (in_channels, *size) with {axes} spatial "
            f"{'axis' if axes == 1 else 'axes'}, as k has; add the missing axes with x[None]"
        )
    if min(shape[1:]) < 1:
        raise ConvolithError(f"x has shape {shape}; expected no empty channel or spatial axis (only N may be 0)")
    return shape[0], shape[1], shape[2:]


def channel_mismatch(x_shape: tuple[int, ...], channels: int, expected: int, axes: int, *, transposed: bool) -> str:
    """The message for a channel count that does not fit, with the channels-last guess where it would."""
    source = "k.shape[0]" if transposed else "k.shape[1] * groups"
    message = f"x has {channels} channels (shape {x_shape}) but k expects {expected} ({source})"
    if x_shape[-1] == expected:
        place = -1 - axes
        return f"{message}; is x channels-last? pass x.movedim(-1, {place}) in torch, numpy.moveaxis(x, -1, {place})"
    return message + "; the channels of x stand before its spatial axes"
