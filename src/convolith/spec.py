"""Geometry of one convolution layer: `ConvSpec`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import prod
from typing import Any

from convolith.dtypes import check_dtype, dtype_name, result_dtype
from convolith.errors import ConvolithError, check_flag
from convolith.geometry import (
    KERNEL_LAYOUT,
    LARGEST,
    MAX_AXES,
    Axes,
    Padding,
    Pairs,
    channel_mismatch,
    check_groups,
    check_mode,
    check_output_padding,
    check_padding_name,
    check_padding_value,
    check_whole,
    extent,
    is_symbolic,
    output_length,
    per_axis,
    resolve_padding,
    shape_of,
    split_input_shape,
    transposed_length,
)

MOST_INTERLEAVED = 4
"""Most channels of a picture that are computed where they are, between each other: RGBA has four."""
MUCH_LARGER = 2.5
"""Ratio of the kernel's spatial size to the input's from which an error suggests that x and k were swapped."""


@dataclass(frozen=True, init=False)
class ConvSpec:
    """Geometry of one layer: validated once, canonical, immutable and hashable.

    The layer computes `y[o, p] = b[o] + sum over c, t of k[o, c, t] x[c, p*stride + t*dilation - padding]`, on one, two
    or three spatial axes. The arguments are attributes too, with one entry per axis, and with `padding` as a (before,
    after) pair per axis.

    Args:
        in_channels, out_channels: number of channels of x and of the result.
        size: spatial size of x: one number for all axes, or one per axis.
        kernel_size: number of taps: one for all axes, or one per axis. `size` or `kernel_size` gives the number of
            axes.
        batch: number of images in x; 0 is allowed and gives an empty result.
        stride, dilation: a number, or one per axis.
        padding: a number, one per axis, a pair per axis, or `"same"`, `"valid"`, `"full"`; numbers or pairs for a
            transposed convolution, whose result they crop.
        groups: number of groups of channels; it divides both channel counts.
        transposed: True for the adjoint ("deconvolution"); kernel (in_channels, out_channels/groups, *kernel_size).
        output_padding: a number, or one per axis: pixels added to the end of a transposed convolution's result; less
            than the stride or the dilation.
        padding_mode: as in `correlate`; `"constant"` with a `padding_value` of 0 becomes `"zeros"`.
        padding_value: the number around x for `padding_mode="constant"`.
        bias: whether one number per output channel is added to the result.
        dtype: name of the dtype of x.
        kernel_dtype: name of the dtype of the kernel; by default that of x (they differ for an integer image and a
            float kernel).

    Raises:
        ConvolithError: a layer that cannot be computed; the message gives the remedy.

    Example:
        >>> from convolith import ConvSpec
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
    padding_value: float
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
        padding_value: float = 0.0,
        bias: bool = False,
        dtype: str = "float32",
        kernel_dtype: str | None = None,
    ) -> None:
        put = partial(object.__setattr__, self)  # a frozen dataclass refuses normal assignment
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
        put("transposed", check_flag("transposed", transposed))
        put(
            "output_padding",
            check_output_padding(output_padding, self.stride, self.dilation, transposed=self.transposed),
        )
        mode = check_mode(padding_mode, transposed=self.transposed)
        check_padding_name(padding, transposed=self.transposed)
        put("padding", resolve_padding(padding, self.size, self.kernel_size, self.stride, self.dilation))
        put("bias", check_flag("bias", bias))
        put("dtype", dtype_name(dtype))
        put("kernel_dtype", dtype_name(self.dtype if kernel_dtype is None else kernel_dtype))
        check_dtype("x", self.dtype)
        put("padding_value", check_padding_value(padding_value, mode, self.dtype))
        put("padding_mode", "zeros" if mode == "constant" and not self.padding_value else mode)
        check_dtype("k", self.kernel_dtype)
        result_dtype(self.dtype, self.kernel_dtype)
        self._check_fits()

    def _check_fits(self) -> None:
        """Refuse a geometry without any output, or with an output longer than `LARGEST`."""
        for axis, (n, pair, e) in enumerate(zip(self.size, self.padding, self.extent, strict=True)):
            length = self.output_size[axis]
            if not is_symbolic(length) and length > LARGEST:
                raise ConvolithError(
                    f"padding is {pair} and stride {self.stride[axis]} on spatial axis {axis}, which gives an output "
                    f"of {length} elements; expected at most 2^40"
                )
            if length >= 1 if self.transposed else n + sum(pair) >= e:
                continue
            if self.transposed:
                raise ConvolithError(
                    f"padding is {pair} on spatial axis {axis}, which crops the whole output away; pass a smaller one"
                )
            remedy = "use a larger padding or a smaller k"
            if self._seems_swapped:
                remedy = "did you swap x and k? if not, " + remedy
            raise ConvolithError(
                f"k spans {e} elements on spatial axis {axis} (kernel_size {self.kernel_size[axis]}, dilation "
                f"{self.dilation[axis]}) but the padded input has {n + sum(pair)}; {remedy}"
            )

    @property
    def _seems_swapped(self) -> bool:
        """Whether the kernel is much larger than the input and along no axis smaller, as if they were swapped."""
        larger = all(k >= n for k, n in zip(self.kernel_size, self.size, strict=True))
        return self.groups == 1 and larger and prod(self.kernel_size) >= MUCH_LARGER * prod(self.size)

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
        padding_value: float = 0.0,
    ) -> ConvSpec:
        """Return the spec of the correlation of `x` with `k`, from their shapes and dtypes.

        Args:
            x: (N, in_channels, *size), or (in_channels, *size), which counts as a batch of one: an array or a tensor.
            k: (out_channels, in_channels/groups, *kernel_size); transposed: (in_channels, out_channels/groups, ...).
            bias: (out_channels,), or None; only whether it is given matters.
            stride, padding, dilation, groups, transposed, output_padding, padding_mode, padding_value: as for
                `ConvSpec`.

        Returns:
            A `ConvSpec`, with the dtypes of x and k.

        Raises:
            ConvolithError: lists without a shape and a dtype, shapes that do not match, options that are invalid.

        Example:
            >>> import numpy as np
            >>> from convolith import ConvSpec
            >>> ConvSpec.of(np.zeros((3, 32, 32)), np.zeros((8, 3, 5, 5)), padding="same").output_shape
            (1, 8, 32, 32)
        """
        x_shape, k_shape = _shape_of_array("x", x), _shape_of_array("k", k)
        axes = len(k_shape) - 2
        if not 1 <= axes <= MAX_AXES:
            layout = "(in_channels, out_channels/groups, *kernel_size)" if transposed else KERNEL_LAYOUT
            hint = "; for a 2-D image and a 2-D kernel call filter_image" if len(k_shape) == 2 else ""
            raise ConvolithError(f"k has shape {k_shape}; expected {layout} with 1 to {MAX_AXES} spatial axes{hint}")
        batch, channels, size = split_input_shape(x_shape, axes)
        groups = check_whole("groups", groups, 1)
        if min(k_shape) < 1:
            raise ConvolithError(f"k has shape {k_shape}; expected no empty axis")
        in_channels, out_channels = k_shape[1] * groups, k_shape[0]
        if transposed:
            in_channels, out_channels = k_shape[0], k_shape[1] * groups
        if channels != in_channels:
            raise ConvolithError(channel_mismatch(x_shape, k_shape, channels, in_channels, transposed=transposed))
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
            padding_value=padding_value,
            bias=bias is not None,
            dtype=dtype_name(x.dtype),
            kernel_dtype=dtype_name(k.dtype),
        )

    @classmethod
    def from_module(cls, module: Any, input_shape: Sequence[int]) -> ConvSpec:
        """Return the spec of a torch convolution module (`Conv1d` to `ConvTranspose3d`) at an input shape.

        Args:
            module: the module, of torch or of `cl.nn`.
            input_shape: (N, in_channels, *size), or (in_channels, *size), which counts as a batch of one.

        Returns:
            A `ConvSpec`, with the dtype of the module's weights for x and the kernel.

        Raises:
            ConvolithError: a module that is not a convolution, another number of axes or channels, an input that the
                kernel does not fit into.

        Example:
            >>> import torch
            >>> from convolith import ConvSpec
            >>> ConvSpec.from_module(torch.nn.Conv2d(3, 8, 3), (1, 3, 32, 32)).output_shape
            (1, 8, 30, 30)
        """
        check_module(module)
        shape = shape_of("input_shape", input_shape)
        batch, channels, size = split_input_shape(shape, len(module.kernel_size))
        if channels != module.in_channels:
            raise ConvolithError(
                f"input_shape {shape} has {channels} channels but the module expects {module.in_channels}; pass "
                f"(N, {module.in_channels}, *size)"
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
        """Number of spatial axes: 1, 2 or 3."""
        return len(self.size)

    @property
    def extent(self) -> tuple[int, ...]:
        """Number of positions that the dilated kernel spans, per axis."""
        return tuple(extent(k, d) for k, d in zip(self.kernel_size, self.dilation, strict=True))

    @property
    def taps(self) -> int:
        """Number of taps in the kernel: the product of `kernel_size`."""
        return prod(self.kernel_size)

    @property
    def pads_beyond_zeros(self) -> bool:
        """Whether x is surrounded by anything but zeros: repeated elements, or another constant."""
        return self.padding_mode != "zeros" and any(map(any, self.padding))

    @property
    def products_per_output(self) -> int:
        """Number of products summed into one output of an ordinary (not transposed) convolution."""
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
        """Shape of x: (N, in_channels, *size)."""
        return (self.batch, self.in_channels, *self.size)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of k: (out_channels, in_channels/groups, *kernel_size), or the transposed layout."""
        if self.transposed:
            return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result: (N, out_channels, *output_size)."""
        return (self.batch, self.out_channels, *self.output_size)

    @property
    def out_dtype(self) -> str:
        """Name of the result's dtype."""
        return result_dtype(self.dtype, self.kernel_dtype)

    def squeezed(self) -> ConvSpec:
        """Return the spec without its unpadded axes of size 1 and kernel size 1; at least one axis remains.

        Removing such axes from a contiguous array needs no copy. A transposed spec is returned unchanged.
        """
        return _squeezed(self)

    @property
    def interleaved(self) -> int:
        """Number of channels of a picture whose channels are its last spatial axis, as in (H, W, 3); 1 elsewhere.

        A kernel has a single tap there, so that a plane (H, W * 3) with a dilation of 3 computes the same; see `plane`.
        """
        single = self.axes > 1 and self.kernel_size[-1] == 1 and not any(self.padding[-1]) and not self.transposed
        return self.size[-1] if single and max(self.stride[-2:]) == 1 and self.size[-1] <= MOST_INTERLEAVED else 1

    def plane(self) -> ConvSpec:
        """Return the spec without unpadded axes of one position, and with interleaved channels as a dilation.

        In modes other than zeros, the padding of the last axis then repeats whole pixels, of `interleaved` elements.
        """
        return _plane(self)


@lru_cache(maxsize=4096)
def _squeezed(spec: ConvSpec) -> ConvSpec:
    per_axis_of = zip(spec.size, spec.extent, spec.padding, strict=True)
    axes = [axis for axis, (n, e, pair) in enumerate(per_axis_of) if n > 1 or e > 1 or any(pair)] or [0]
    if len(axes) == spec.axes or spec.transposed:
        return spec
    names = ("size", "kernel_size", "stride", "padding", "dilation", "output_padding")
    changes: dict[str, Any] = {name: tuple(getattr(spec, name)[axis] for axis in axes) for name in names}
    return replace(spec, **changes)


@lru_cache(maxsize=4096)
def _plane(spec: ConvSpec) -> ConvSpec:
    channels = spec.interleaved
    if channels == 1:
        return _squeezed(spec)
    *outer, width, _ = zip(spec.size, spec.kernel_size, spec.padding, spec.dilation, strict=True)
    n, taps, (before, after), step = width
    wide = (n * channels, taps, (before * channels, after * channels), step * channels if taps > 1 else 1)
    size, kernel_size, padding, dilation = zip(*outer, wide, strict=True)
    options: dict[str, Any] = {"kernel_size": kernel_size, "padding": padding, "dilation": dilation}
    options |= {"stride": spec.stride[:-1], "output_padding": spec.output_padding[:-1]}
    return replace(spec, size=size, **options)


def _shape_of_array(argument: str, array: Any) -> tuple[int, ...]:
    """Return the shape of an array or a tensor; refuse an object without a shape and a dtype."""
    try:
        shape, _ = tuple(array.shape), array.dtype
    except (AttributeError, TypeError, RuntimeError):  # RuntimeError: a nested tensor, which has several shapes
        raise ConvolithError(
            f"{argument} is a {type(array).__name__} without a shape and a dtype; expected a NumPy array or "
            "a torch tensor"
        ) from None
    return shape


def check_module(module: Any) -> None:
    """Refuse an object that lacks the attributes of a torch convolution."""
    needed = ("kernel_size", "stride", "padding", "dilation", "groups", "transposed", "output_padding", "weight")
    if not all(hasattr(module, name) for name in needed):
        raise ConvolithError(f"module is a {type(module).__name__}; expected a torch convolution such as nn.Conv2d")
