"""Weights and options of one convolution as an immutable value: `Conv`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, TypedDict, Unpack, overload

import numpy as np
import torch

from convolith.arrays import ArrayOrLists, as_tensor, check_bias, check_bias_shape, check_same_kind, is_numpy, listed
from convolith.dtypes import dtype_name, is_float
from convolith.errors import ConvolithError, check_flag
from convolith.geometry import (
    MAX_AXES,
    Axes,
    Padding,
    Pairs,
    check_groups,
    check_mode,
    check_output_padding,
    check_padding_name,
    check_whole,
    per_axis,
    resolve_padding,
    shape_of,
    split_input_shape,
)
from convolith.spec import ConvSpec, check_module
from convolith.torch_private import safe_in_forks, version_of


class ApplyOptions(TypedDict, total=False):
    """Options of a call of a `Conv`: those of `correlate` that are not the layer's own."""

    engine: str
    accuracy: str
    flip: bool
    nan: str
    mask: Any
    dtype: Any
    out: Any


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Conv:
    """Convolution as an immutable value: its weights and options, for any input size.

    A `Conv` can be called: `conv(x)` is `correlate(x, conv)`. It keeps its own copy of the weights and the bias: NumPy
    copies are read-only, and a torch copy that was modified in place is refused on its next use. The options are
    attributes too, with one entry per axis.

    Args:
        weight: (out_channels, in_channels/groups, *kernel_size); transposed: (in_channels, out_channels/groups, ...);
            (height, width) for one channel: an array, a tensor or nested lists.
        bias: (out_channels,) or None.
        stride, dilation: a number, or one per axis.
        padding: a number, one per axis, a pair per axis, `"valid"`, `"full"`, or (at stride 1) `"same"`; numbers or
            pairs for a transposed convolution, whose result they crop.
        groups: number of groups of channels; it divides both channel counts.
        padding_mode: `"zeros"`, `"reflect"`, `"symmetric"`, `"replicate"` or `"circular"`, as for `correlate`;
            `"zeros"` for a transposed convolution.
        transposed: True for the adjoint ("deconvolution").
        output_padding: a number, or one per axis: pixels added to the end of a transposed convolution's result; less
            than the stride or the dilation.

    Raises:
        ConvolithError: `"same"` with a stride above 1 (its amount depends on the input size), and options that are
            invalid at every input size.

    Example:
        >>> import numpy as np
        >>> from convolith import Conv
        >>> blur = Conv(np.full((1, 1, 3, 3), 1 / 9), padding="same")
        >>> blur
        Conv(1 -> 1, kernel_size=(3, 3), padding=((1, 1), (1, 1)), dtype=float64)
        >>> blur.spec((1, 1, 32, 32)).output_shape
        (1, 1, 32, 32)
        >>> blur(np.ones((1, 4, 4)))[0, 0].round(2)
        array([0.44, 0.67, 0.67, 0.44])
    """

    _weight: Any
    _bias: Any
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    transposed: bool
    output_padding: tuple[int, ...]

    @safe_in_forks
    def __init__(
        self,
        weight: Any,
        bias: Any = None,
        *,
        stride: Axes = 1,
        padding: Padding = 0,
        dilation: Axes = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        transposed: bool = False,
        output_padding: Axes = 0,
    ) -> None:
        put = partial(object.__setattr__, self)  # a frozen dataclass refuses normal assignment
        weight = listed("weight", weight)
        bias = listed("bias", bias, weight)
        if getattr(weight, "ndim", None) == 2:  # one channel in, one out
            weight = weight[None, None]
        shape = tuple(as_tensor("weight", weight).shape)
        axes = len(shape) - 2
        if not 1 <= axes <= MAX_AXES or min(shape) < 1:
            raise ConvolithError(
                f"weight has shape {shape}; expected (out_channels, in_channels/groups, *kernel_size) with 1 to "
                f"{MAX_AXES} spatial axes and no empty one"
            )
        put("_weight", _own_copy(weight))
        put("stride", per_axis("stride", stride, axes, 1))
        put("dilation", per_axis("dilation", dilation, axes, 1))
        put("transposed", check_flag("transposed", transposed))
        put("groups", check_whole("groups", groups, 1))
        check_groups(groups, self.in_channels, self.out_channels)
        put("padding_mode", check_mode(padding_mode, transposed=self.transposed))
        if self.padding_mode == "constant":
            raise ConvolithError(
                'padding_mode is "constant"; a Conv takes "zeros" or a mode that repeats x; pass padding_mode and '
                "padding_value to correlate"
            )
        check_padding_name(padding, transposed=self.transposed)
        put("padding", resolve_padding(padding, None, shape[2:], self.stride, self.dilation))
        put(
            "output_padding",
            check_output_padding(output_padding, self.stride, self.dilation, transposed=self.transposed),
        )
        if bias is not None:
            check_same_kind(weight=weight, bias=bias)
            tensor = as_tensor("bias", bias)
            if is_float(self.dtype):
                check_bias(tensor, self.out_channels, self.dtype)
            else:  # the result's dtype depends on x, so `correlate` checks it
                check_bias_shape(tensor, self.out_channels)
            bias = _own_copy(bias)
        put("_bias", bias)

    @classmethod
    def from_module(cls, module: Any) -> Conv:
        """Return the `Conv` of a torch convolution module, with detached weights.

        Args:
            module: `Conv1d`, `Conv2d`, `Conv3d` or a `ConvTranspose` module of torch, or of `cl.nn`.

        Returns:
            A `Conv` with a copy of the module's weights and bias, and its options.

        Raises:
            ConvolithError: a module that is not a convolution.

        Example:
            >>> import torch
            >>> from convolith import Conv
            >>> Conv.from_module(torch.nn.Conv2d(3, 8, 3, stride=2))
            Conv(3 -> 8, kernel_size=(3, 3), stride=(2, 2), bias, dtype=float32)
        """
        check_module(module)
        return cls(
            module.weight.detach(),
            None if module.bias is None else module.bias.detach(),
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            groups=module.groups,
            padding_mode=module.padding_mode,
            transposed=module.transposed,
            output_padding=module.output_padding,
        )

    def spec(self, input_shape: Sequence[int], dtype: str | None = None) -> ConvSpec:
        """Return the geometry of the convolution of an input.

        Args:
            input_shape: (N, in_channels, *size), or (in_channels, *size), which counts as a batch of one.
            dtype: name of the input's dtype; by default that of the weights.

        Returns:
            A `ConvSpec`.

        Raises:
            ConvolithError: another number of axes or channels, an input that the kernel does not fit into.

        Example:
            >>> import numpy as np
            >>> from convolith import Conv
            >>> Conv(np.ones((8, 3, 5, 5)), stride=2).spec((1, 3, 33, 33)).output_shape
            (1, 8, 15, 15)
        """
        shape = shape_of("input_shape", input_shape)
        batch, channels, size = split_input_shape(shape, len(self.kernel_size))
        if channels != self.in_channels:
            raise ConvolithError(
                f"input_shape {shape} has {channels} channels but the convolution takes {self.in_channels}; pass "
                f"(N, {self.in_channels}, *size)"
            )
        return ConvSpec(
            batch=batch,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            size=size,
            kernel_size=self.kernel_size,
            **self.options,
            bias=self.bias is not None,
            dtype=dtype or self.dtype,
            kernel_dtype=self.dtype,
        )

    @overload
    def __call__(self, x: torch.Tensor, **how: Unpack[ApplyOptions]) -> torch.Tensor: ...
    @overload
    def __call__(self, x: ArrayOrLists, **how: Unpack[ApplyOptions]) -> np.ndarray: ...

    def __call__(self, x: Any, **how: Any) -> Any:
        """Return `correlate(x, self)`.

        Args:
            x: (N, in_channels, *size), or (in_channels, *size) for one image.
            how: `engine`, `accuracy`, `flip`, `nan`, `mask`, `dtype` and `out`, as for `correlate`.

        Raises:
            ConvolithError: whatever `correlate` refuses.
        """
        from convolith.correlation import correlate

        return correlate(x, self, **how)

    @property
    def weight(self) -> Any:
        """Weights as given, in the copy that the `Conv` keeps."""
        return _unwritten("weight", self._weight)

    @property
    def bias(self) -> Any:
        """Bias as given, in the copy that the `Conv` keeps, or None."""
        return _unwritten("bias", self._bias)

    @property
    def options(self) -> dict[str, Any]:
        """Options, without the weights and the bias, as keyword arguments of `ConvSpec` and `Conv`."""
        names = ("stride", "padding", "dilation", "groups", "padding_mode", "transposed", "output_padding")
        return {name: getattr(self, name) for name in names}

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return int(self.weight.shape[0] if self.transposed else self.weight.shape[1] * self.groups)

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return int(self.weight.shape[1] * self.groups if self.transposed else self.weight.shape[0])

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Number of taps per axis."""
        return tuple(self.weight.shape[2:])

    @property
    def dtype(self) -> str:
        """Name of the weights' dtype."""
        return dtype_name(self.weight.dtype)

    def row(self, name: str) -> dict[str, Any]:
        """Return the options as a row of a table, with `name` in its first column.

        Args:
            name: text that names the convolution.
        """
        across = ",".join
        return {
            "convolution": name,
            "channels": f"{self.in_channels} -> {self.out_channels}",
            "kernel size": "x".join(map(str, self.kernel_size)),
            "stride": across(map(str, self.stride)),
            "padding": across(f"{a}:{b}" for a, b in self.padding),
            "dilation": across(map(str, self.dilation)),
            "groups": self.groups,
            "weights": prod(self.weight.shape),
            "bias": self.bias is not None,
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> Conv:
        """Return the object itself, since an immutable value needs no copy."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Return a pickle form that calls `Conv` again, so that NumPy weights are read-only again."""
        weight, bias = (t.detach() if hasattr(t, "detach") else t for t in (self.weight, self.bias))
        return partial(Conv, **self.options), (weight, bias)

    def __repr__(self) -> str:
        axes = len(self.kernel_size)
        usual = {
            "stride": (1,) * axes,
            "padding": ((0, 0),) * axes,
            "dilation": (1,) * axes,
            "groups": 1,
            "padding_mode": "zeros",
            "transposed": False,
            "output_padding": (0,) * axes,
        }
        unusual = [f"{name}={value!r}" for name, value in self.options.items() if value != usual[name]]
        parts = [f"{self.in_channels} -> {self.out_channels}", f"kernel_size={self.kernel_size}", *unusual]
        return f"Conv({', '.join(parts + ['bias'] * (self.bias is not None) + [f'dtype={self.dtype}'])})"


def _unwritten(name: str, array: Any) -> Any:
    """Return a stored weight or bias; refuse a tensor that was modified in place (NumPy arrays are read-only)."""
    if array is not None and not is_numpy(array) and version_of(array):
        raise ConvolithError(
            f"the {name} of a Conv was written to after the Conv was created; a Conv is immutable: write to a clone of "
            "the tensor, and create a Conv from the clone"
        )
    return array


def _own_copy(array: Any) -> Any:
    """Return a private copy of an array or a tensor; a NumPy copy is read-only."""
    if not is_numpy(array):
        return as_tensor("weight", array).clone().resolve_conj().resolve_neg()
    copy = array.astype(array.dtype.newbyteorder("="), order="C", copy=True)
    copy.setflags(write=False)
    return copy


def as_conv(argument: str, value: Any) -> Conv:
    """Return a `Conv`, or the unpadded one of an array, a tensor or nested lists of weights.

    Raises:
        ConvolithError: anything else.
    """
    if isinstance(value, Conv):
        return value
    if isinstance(value, np.ndarray | torch.Tensor | list | tuple):
        return Conv(value)
    raise ConvolithError(
        f"{argument} is a {type(value).__name__}; expected a Conv, or its weights; pass Conv.from_module(module) for a "
        "torch module, composition.conv for a composition"
    )
