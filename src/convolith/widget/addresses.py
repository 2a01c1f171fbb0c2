"""States of the explorer as address fragments: `look_address`, `fold_address` (from arrays), `cost_address` (a spec).

The bounds are those of the page (`web/src/state/*_state.ts`), which refuses what is beyond them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.algebra.kernels import dense
from convolith.arrays import as_tensor, listed
from convolith.conv import Conv, as_conv
from convolith.errors import ConvolithError, check_flag, check_option
from convolith.spec import ConvSpec


class Bounds(NamedTuple):
    """Largest values of a layer that a view takes, along each axis."""

    channels: int
    size: int
    kernel: int
    stride: int
    dilation: int
    padding: int
    output_padding: int


LOOK = Bounds(6, 16, 7, 4, 4, 12, 3)
LENGTH = 32
"""Largest size of an input of the view Look on one axis."""
COST = Bounds(2048, 4096, 63, 16, 64, 1024, 0)
COST_BATCH = 1024
COST_DTYPES = ("float64", "float32", "bfloat16", "float16")
FOLD_CHANNELS, FOLD_SIZES, FOLD_KERNEL, FOLD_STRIDE, FOLD_PADDING, FOLD_DILATION = 3, range(3, 11), 5, 3, 6, 3
"""Largest values of the convolutions that the view Fold draws, and the sizes of its input."""
MOST_CELLS = 6000
"""Most cells of the view Look."""
PADDING_MODES = ("zeros", "reflect", "symmetric", "replicate", "circular")
LARGEST_VALUE = 1e100
"""Largest magnitude of a value."""


def look_address(x: Any, k: Any, bias: Any = None, *, flip: bool = False, **options: Any) -> str:
    """Return the address of the view Look with a layer and its values.

    Args:
        x, k, bias, flip: as in `correlate`; k may be a `Conv`.
        options: stride, padding, dilation, groups and padding_mode.

    Raises:
        ConvolithError: a layer that cannot be computed or drawn.
    """
    x = listed("x", x)
    as_tensor("x", x)
    conv = _conv_of(x, k, bias, options)
    spec = conv.spec(np.shape(x))
    _check_look(spec, has_batch=len(np.shape(x)) - 2 == spec.axes)
    entries = {
        **_geometry(spec),
        "outpad": _joined(spec.output_padding),
        "transposed": int(spec.transposed),
        "flip": int(check_flag("flip", flip)),
        "x": _values("x", x),
        "k": _values("k", conv.weight),
    }
    if conv.bias is not None:
        entries["b"] = _values("bias", conv.bias)
    return _fragment("look", entries)


def _conv_of(x: Any, k: Any, bias: Any, options: dict[str, Any]) -> Conv:
    if not isinstance(k, Conv):
        k = listed("k", k, x)
        padding = options.get("padding", 0)
        if padding == "same" and np.ndim(k) > 2:  # with a stride, its amount depends on the size of x
            options = options | {"padding": ConvSpec.of(x, k, **options).padding}
        return Conv(k, bias, **options)
    usual = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros"}
    given = [name for name, value in options.items() if value != usual[name]] + ["bias"] * (bias is not None)
    if given:
        raise ConvolithError(f"{given[0]} was given together with a Conv, which brings its own; pass it to Conv")
    return k


def _check_look(spec: ConvSpec, *, has_batch: bool) -> None:
    if has_batch and spec.batch != 1:
        raise ConvolithError(f"x has {spec.batch} images; the figure draws one; pass x[0]")
    _check_geometry(spec, LOOK if spec.axes == 2 else LOOK._replace(size=LENGTH))
    around = [n + (0 if spec.transposed else sum(pair)) for n, pair in zip(spec.size, spec.padding, strict=True)]
    cells = spec.in_channels * prod(around) + prod(spec.kernel_shape) + prod(spec.output_shape[1:])
    if cells > MOST_CELLS:
        raise ConvolithError(
            f"the figure would have {cells:,} cells; it draws at most {MOST_CELLS:,}; pass a smaller x"
        )


def cost_address(spec: ConvSpec, *, convention: str = "dense", input_gradient: bool = True) -> str:
    """Return the address of the view Cost with a layer.

    Args:
        spec: the layer.
        convention, input_gradient: as in `cost`.

    Raises:
        ConvolithError: a layer that the view does not take.
    """
    if spec.transposed:
        raise ConvolithError("the layer is transposed; the view Cost takes others only")
    _check_geometry(spec, COST)
    if spec.batch > COST_BATCH:
        raise ConvolithError(f"the layer has {spec.batch} images; the view Cost takes at most {COST_BATCH}")
    check_option("dtype", spec.dtype, COST_DTYPES)
    check_option("padding_mode", spec.padding_mode, PADDING_MODES)
    entries = {
        **_geometry(spec),
        "batch": spec.batch,
        "bias": int(spec.bias),
        "dtype": spec.dtype,
        "count": convention,
        "first": int(not input_gradient),
    }
    return _fragment("cost", {f"cost.{name}": value for name, value in entries.items()})


def _geometry(spec: ConvSpec) -> dict[str, Any]:
    return {
        "axes": spec.axes,
        "channels": f"{spec.in_channels}x{spec.out_channels}",
        "groups": spec.groups,
        "size": _joined(spec.size),
        "kernel": _joined(spec.kernel_size),
        "stride": _joined(spec.stride),
        "dilation": _joined(spec.dilation),
        "padding": _joined(_sides(spec)),
        "mode": spec.padding_mode,
    }


def _check_geometry(spec: ConvSpec, most: Bounds) -> None:
    if spec.axes > 2:
        raise ConvolithError(f"k has {spec.axes} spatial axes; the figure draws one or two; pass a slice of x and of k")
    for name, value, remedy in (
        ("input", spec.in_channels, f"x[:{most.channels}] and k[:, :{most.channels}]"),
        ("output", spec.out_channels, f"k[:{most.channels}]"),
    ):
        if value > most.channels:
            raise ConvolithError(
                f"the layer has {value} {name} channels; the figure draws at most {most.channels}; pass {remedy}"
            )
    for name, what, values, limit in (
        ("x", "elements", spec.size, most.size),
        ("k", "taps", spec.kernel_size, most.kernel),
    ):
        if max(values) > limit:
            raise ConvolithError(
                f"{name} has {_joined(values)} {what}; the figure draws at most {limit} along an axis; "
                f"pass a part of {name}"
            )
    _check_option("stride", spec.stride, most.stride)
    _check_option("dilation", spec.dilation, most.dilation)
    _check_option("padding", _sides(spec), most.padding)
    _check_option("output_padding", spec.output_padding, most.output_padding)


def _sides(spec: ConvSpec) -> list[int]:
    return [side for pair in spec.padding for side in pair]


def _check_option(name: str, values: Sequence[int], most: int) -> None:
    if max(values) > most or min(values) < 0:
        raise ConvolithError(f"{name} is {_joined(values)}; the figure draws at most {most}; pass a smaller one")


def fold_address(
    first: Any, second: Any, *, x: Any = None, arrangement: str = "row", relu: bool = False, skip: bool = False
) -> str:
    """Return the address of the view Fold with two convolutions and their values.

    Args:
        first, second: convolutions, or weights.
        x, arrangement, relu, skip: as in `convolith.widget.fold`.

    Raises:
        ConvolithError: convolutions that cannot be computed or drawn.
    """
    check_option("arrangement", arrangement, ("row", "branches"))
    row = arrangement == "row"
    convs = as_conv("first", first), as_conv("second", second)
    for name, conv in zip(("first", "second"), convs, strict=True):
        _check_fold(name, conv)
    _check_pair(convs, row=row)
    x = listed("x", x)
    size = _fold_size(convs, row=row) if x is None else _size_of(x, convs[0])
    entries: dict[str, Any] = {
        "fold": arrangement,
        "fold.size": size,
        "fold.channels": _joined([convs[0].in_channels, convs[0].out_channels if row else 1, convs[1].out_channels]),
        "fold.mode": _shared_mode(convs),
        "fold.relu": int(check_flag("relu", relu)),
        "fold.skip": int(check_flag("skip", skip)),
        "fold.x": "random.1" if x is None else _values("x", x),
    }
    for n, conv in enumerate(convs, 1):
        factor = dense(conv, torch.float64)
        entries |= {
            f"fold.kernel{n}": conv.kernel_size[0],
            f"fold.stride{n}": conv.stride[0],
            f"fold.padding{n}": conv.padding[0][0],
            f"fold.dilation{n}": conv.dilation[0],
            f"fold.k{n}": _values("first" if n == 1 else "second", factor.weight),
        }
        if factor.bias is not None:
            entries[f"fold.b{n}"] = _values("bias", factor.bias)
    return _fragment("fold", entries)


def _check_fold(name: str, conv: Conv) -> None:
    if conv.transposed or len(conv.kernel_size) != 2:
        kind = "transposed" if conv.transposed else f"of {len(conv.kernel_size)} axes"
        raise ConvolithError(f"{name} is {kind}; the figure draws two-dimensional convolutions that are not transposed")
    sides = {
        (k, s, d, *pair)
        for k, s, d, pair in zip(conv.kernel_size, conv.stride, conv.dilation, conv.padding, strict=True)
    }
    before, after = conv.padding[0]
    if len(sides) > 1 or before != after:
        raise ConvolithError(f"{name} is {conv}; the figure draws kernels whose rows, columns and sides are equal")
    for what, value, most in (
        ("input channels", conv.in_channels, FOLD_CHANNELS),
        ("output channels", conv.out_channels, FOLD_CHANNELS),
        ("taps along an axis", conv.kernel_size[0], FOLD_KERNEL),
    ):
        if value > most:
            raise ConvolithError(
                f"{name} has {value} {what}; the figure draws at most {most}; pass a part of its weights"
            )
    for option, value, most in (
        ("stride", conv.stride[0], FOLD_STRIDE),
        ("dilation", conv.dilation[0], FOLD_DILATION),
        ("padding", before, FOLD_PADDING),
    ):
        _check_option(f"{option} of {name}", [value], most)


def _check_pair(convs: tuple[Conv, Conv], *, row: bool) -> None:
    first, second = convs
    if row and first.out_channels != second.in_channels:
        raise ConvolithError(
            f"first gives {first.out_channels} channels, but second takes {second.in_channels}; expected as many"
        )
    channels = [(conv.in_channels, conv.out_channels) for conv in convs]
    if not row and channels[0] != channels[1]:
        raise ConvolithError(
            f"the branches have {channels[0]} and {channels[1]} input and output channels; expected equal ones"
        )


def _shared_mode(convs: tuple[Conv, Conv]) -> str:
    modes = {conv.padding_mode for conv in convs if any(map(any, conv.padding))} or {"zeros"}
    if len(modes) > 1:
        raise ConvolithError(f"the padding modes are {' and '.join(sorted(modes))}; the figure draws one for both")
    return modes.pop()


def _size_of(x: Any, conv: Conv) -> int:
    shape = tuple(np.shape(x))
    batch = shape[0] if len(shape) == 4 else 1
    if (
        len(shape) not in (3, 4)
        or batch != 1
        or shape[-2] != shape[-1]
        or shape[-1] not in FOLD_SIZES
        or shape[-3] != conv.in_channels
    ):
        expected = f"({conv.in_channels}, size, size) with a size from {FOLD_SIZES[0]} to {FOLD_SIZES[-1]}"
        raise ConvolithError(f"x has shape {shape}; expected {expected}; pass a part of x, or None for random numbers")
    return int(shape[-1])


def _fold_size(convs: tuple[Conv, Conv], *, row: bool) -> int:
    """Return the size of an input that both convolutions fit into, with a margin around where there is room."""
    reach = [conv.dilation[0] * (conv.kernel_size[0] - 1) - 2 * conv.padding[0][0] for conv in convs]
    needed = 1 + (reach[0] + convs[0].stride[0] * max(reach[1], 0) if row else max(reach))
    if needed > FOLD_SIZES[-1]:
        raise ConvolithError(
            f"the convolutions need an input of {needed} x {needed}; the figure draws at most {FOLD_SIZES[-1]} x "
            f"{FOLD_SIZES[-1]}; pass smaller kernels or dilations"
        )
    return min(max(needed + 3, 6), FOLD_SIZES[-1])


def _values(name: str, array: Any) -> str:
    tensor = as_tensor(name, array).detach()
    if tensor.is_complex():
        raise ConvolithError(f"{name} is complex; the figure draws real numbers; pass {name}.real or {name}.imag")
    numbers = tensor.to("cpu", torch.float64).flatten().tolist()
    if not all(abs(number) <= LARGEST_VALUE for number in numbers):  # NaN is refused too
        raise ConvolithError(
            f"{name} has values that are not finite or beyond {LARGEST_VALUE:g}; the figure draws others only"
        )
    return "_".join(_written(number) for number in numbers)


def _written(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(number).replace("+", "")


def _joined(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))


def _fragment(view: str, entries: dict[str, Any]) -> str:
    return f"#v=1&view={view}&" + "&".join(f"{key}={value}" for key, value in entries.items())
