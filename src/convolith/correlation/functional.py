"""Public functions: arguments are read and checked, then passed to the plan, to autograd or to torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict, Unpack, overload

import numpy as np
import torch
from torch.overrides import handle_torch_function, has_torch_function

from convolith.arrays import (
    ArrayOrLists,
    Operands,
    as_target,
    check_bias,
    check_same_kind,
    is_numpy,
    like,
    listed,
    read_operands,
)
from convolith.arrays import flip as flip_axes
from convolith.conv import Conv
from convolith.correlation import call_cache, missing, overflow, registered_operator
from convolith.correlation.gradients import padded_before, recorded, run
from convolith.correlation.result_dtypes import convert, delivered, result_named
from convolith.dtypes import dtype_name, is_float
from convolith.engines import aten
from convolith.errors import ConvolithError, check_flag
from convolith.geometry import NO_VALUE, Axes, Padding
from convolith.planner import check_choice, check_device, computed, plan_call
from convolith.planner.plan import check_apart
from convolith.spec import ConvSpec
from convolith.tensors import from_working, to_working, torch_dtype, working_dtype
from convolith.torch_private import AUTOCAST_DEVICES, is_view, needs_torch_operators, safe_in_forks, without_batch

UNSET_OPTIONS = {
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 1,
    "padding_mode": "zeros",
    "padding_value": NO_VALUE,
}
"""Defaults of `correlate`, which the options of a `Conv` replace."""
DEVICES = {torch.float64: ("cpu", "cuda", "meta"), torch.int64: ("cpu", "meta")}
"""Devices on which torch convolves in the dtypes that integers are summed in."""


class ConvolveOptions(TypedDict, total=False):
    """Options of `convolve`."""

    stride: Axes
    padding: Padding
    dilation: Axes
    groups: int
    padding_mode: str
    padding_value: float
    engine: str
    accuracy: str
    nan: str
    mask: Any
    dtype: Any
    out: Any


class CorrelateOptions(ConvolveOptions, total=False):
    """Options of `correlate`."""

    flip: bool


@overload
def correlate(x: torch.Tensor, k: Any, bias: Any = None, **options: Unpack[CorrelateOptions]) -> torch.Tensor: ...
@overload
def correlate(x: ArrayOrLists, k: Any, bias: Any = None, **options: Unpack[CorrelateOptions]) -> np.ndarray: ...


@safe_in_forks
def correlate(
    x: Any,
    k: Any,
    bias: Any = None,
    *,
    stride: Axes = 1,
    padding: Padding = 0,
    dilation: Axes = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    padding_value: float = NO_VALUE,
    engine: str = "auto",
    accuracy: str = "default",
    flip: bool = False,
    nan: str = "propagate",
    mask: Any = None,
    dtype: Any = None,
    out: Any = None,
) -> Any:
    """Compute the cross-correlation that convolution layers apply, on one, two or three spatial axes.

    `y[o, p] = bias[o] + sum over c, t of k[o, c, t] x[c, p*stride + t*dilation - padding]`

    NumPy inputs give NumPy outputs; torch inputs give torch outputs, with gradients. Floats keep their dtype (half
    types are accumulated in float32); an integer with a float is computed in the float's dtype; integers with integers
    give int64, or uint64 if both are unsigned and one is uint64, exactly and modulo 2^64 (float64 where elements may be
    missing, see `nan`).

    Args:
        x: (N, in_channels, *size), or (in_channels, *size) for one image: an array, a tensor or nested lists.
        k: (out_channels, in_channels/groups, *kernel_size), or a `Conv`, which brings its own bias and options.
        bias: (out_channels,).
        stride, dilation: a number, or one per axis.
        groups: number of groups of channels, each of which is convolved by itself; it divides both channel counts.
        padding: a number, one per axis, a (before, after) pair per axis, `"valid"`, `"full"`, or `"same"`, which gives
            `ceil(size / stride)` outputs with the smaller half of the padding first.
        padding_mode: what surrounds x: `"zeros"`, `"constant"` (`padding_value`), `"reflect"` (the edge is not
            repeated), `"symmetric"` (the edge is repeated; SciPy calls it reflect), `"replicate"` or `"circular"`.
        padding_value: the number around x for `padding_mode="constant"`.
        engine: `"auto"`, or one engine by name.
        accuracy: `"exact"`, `"default"`, `"fast"` or `"double"`; see `plan`.
        flip: reverse the kernel's spatial axes first, which makes it a convolution in the mathematical sense.
        nan: effect of a missing element of x, NaN or marked by `mask`. `"propagate"`: every output that reads it is
            NaN. In tensors without `mask` and `dtype`, engines that compute by tiles may spread it to other outputs;
            `accuracy="exact"` prevents that. `"omit"`: the element is left out, and the sum is scaled by (sum of k) /
            (sum of the weights that met an element), the normalised convolution. Zero or constant padding counts as
            present; a kernel that sums to 0 is refused; an output whose weights met no element is NaN.
            `"interpolate"`: the element is replaced by the mean of its neighbours, weighted by |k|, before x is
            correlated. With the last two or a mask, integers with integers are computed in float64.
        mask: booleans of the shape of x, or that broadcast to it: True where x is missing. A masked array brings its
            own.
        dtype: dtype of the result. An integer dtype rounds half to even, clips, and turns NaN into 0, with warnings
            that give the number of values; a float dtype is also the one of the computation.
        out: array or CPU tensor to write the result into, of the result's shape and dtype, sharing no memory with the
            operands; without gradients.

    Returns:
        (N, out_channels, *output_size), or without N if x has none; `out` if it is given.

    Raises:
        ConvolithError: shapes, dtypes, devices or options that do not match; the message names the remedy.

    References:
        Knutsson and Westin, "Normalized and differential convolution", CVPR 1993 (`nan="omit"`).

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> x = np.arange(9.0).reshape(1, 3, 3)
        >>> cl.correlate(x, np.array([[[[0.0, 1.0], [2.0, 3.0]]]]))
        array([[[19., 25.],
                [37., 43.]]])
    """
    flip = check_flag("flip", flip)
    if nan != "propagate" or mask is not None or dtype is not None or isinstance(x, np.ma.MaskedArray):
        geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        geometry |= {"padding_mode": padding_mode, "padding_value": padding_value}
        how = {"engine": engine, "accuracy": accuracy, "flip": flip}
        return _of_incomplete(x, k, bias, geometry, how, nan, mask, dtype, out)
    if has_torch_function((x, k, bias)):  # a tensor subclass, or a proxy that records the call
        return handle_torch_function(
            correlate,  # type: ignore[arg-type]  # torch expects one signature
            (x, k, bias),
            x,
            k,
            bias,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            padding_mode=padding_mode,
            padding_value=padding_value,
            engine=engine,
            accuracy=accuracy,
            flip=flip,
            **({} if out is None else {"out": out}),
        )
    compiling = torch.compiler.is_compiling()
    key = None
    if not (compiling or flip or out is not None):
        given = (stride, padding, dilation, groups, padding_mode, padding_value, engine, accuracy)
        plain = call_cache.as_plain(x, k, bias)
        key = call_cache.key_of(*plain, given)
        call = call_cache.find(key)
        if call is not None and not (is_numpy(x) and call_cache.spreads(call, plain.x)):
            return like(call_cache.run(call, *plain), x)
    x = listed("x", x)
    k = listed("k", k, x)  # a Conv stays
    bias = listed("bias", bias, x)
    options: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "padding_mode": padding_mode,
        "padding_value": padding_value,
    }
    if isinstance(k, Conv):
        k, bias, options = _unpack(k, bias, options)
    operands = read_operands(x, k, bias)
    if _without_channels(operands):
        operands, key = _with_channels(operands, groups), None
    operands = _prepared(operands, flip=flip, numpy=is_numpy(x))
    if compiling and not is_numpy(x) and out is None and registered_operator.takes_traced(*operands, options):
        return registered_operator.call_traced(*operands, accuracy, engine, **options)
    spec = ConvSpec.of(*operands, **options)
    check_choice(accuracy, engine)
    operands = operands._replace(bias=check_bias(operands.bias, spec.out_channels, spec.out_dtype))
    batched = operands.x.ndim == spec.axes + 2
    if not batched:
        operands = operands._replace(x=operands.x[None])
    y = _without_spreading(operands, spec, options, accuracy, engine) if is_numpy(x) else None
    if out is not None:
        target = _target(out, x, operands, spec, batched=batched)
        if y is None:
            _write(target, operands, spec, accuracy, engine)
        else:
            target.copy_(y)
        return out
    if y is None:
        remember = None if key is None else partial(call_cache.remember, key, plain.x, plain.bias)
        y = _computed(operands, spec, accuracy, engine, remember, numpy=is_numpy(x))
    return like(y if batched else without_batch(y), x)


def _of_incomplete(
    x: Any,
    k: Any,
    bias: Any,
    geometry: dict[str, Any],
    how: dict[str, Any],
    nan: str,
    mask: Any,
    dtype: Any,
    out: Any,
) -> Any:
    """Correlate an x with missing elements, or into another dtype."""
    missing.check_choice(nan)
    x, bias = listed("x", x), listed("bias", bias, x)
    k = listed("k", k, x)  # a Conv stays
    if isinstance(k, Conv):
        k, bias, geometry = _unpack(k, bias, geometry)
        if geometry["transposed"]:
            raise ConvolithError("nan, mask or dtype was given together with a transposed Conv; leave them out")
        geometry = {name: geometry.get(name, unset) for name, unset in UNSET_OPTIONS.items()}
    x, mask = missing.unmasked("x", x, mask, nan)
    wanted = result_named(dtype, None if out is None else as_target("out", out))
    given = read_operands(x, k, bias)
    operands = missing.as_floats(given, wanted, needed=nan != "propagate" or mask is not None)
    y = missing.correlated(correlate, operands, mask, nan, geometry, how)
    if missing.is_plain(operands.x):
        overflow.say_overflow(y, {"x": given.x, "k": given.k}, {"x": operands.x.dtype, "k": operands.k.dtype})
    return delivered(convert(y, wanted), x, out, operands)


def _target(out: Any, x: Any, operands: Operands, spec: ConvSpec, *, batched: bool) -> torch.Tensor:
    """Return `out` as a tensor to write to, with a batch axis.

    Raises:
        ConvolithError: if the result cannot be written there.
    """
    if not is_numpy(x) and (torch.compiler.is_compiling() or _torch_must_see(operands) or _needs_gradients(operands)):
        raise ConvolithError(
            "out was given together with gradients, tracing, a transform, autocast or another device than the CPU; "
            "leave it out there, or call under torch.no_grad()"
        )
    target = as_target("out", out)
    check_same_kind(x=x, out=out)
    shape = spec.output_shape if batched else spec.output_shape[1:]
    if tuple(target.shape) != shape or dtype_name(target.dtype) != spec.out_dtype:
        raise ConvolithError(
            f"out has shape {tuple(target.shape)} and dtype {dtype_name(target.dtype)}; the result has {shape} and "
            f"{spec.out_dtype}; pass such an array, or leave out= out"
        )
    check_apart(target, x=operands.x, k=operands.k, bias=operands.bias)
    return target if batched else target[None]


def _without_spreading(
    operands: Operands, spec: ConvSpec, options: dict[str, Any], accuracy: str, engine: str
) -> torch.Tensor | None:
    """Return the result with NaN in the outputs that read one, if the planned engine would spread it; else None."""
    if not missing.would_spread(operands, options, accuracy, engine):
        return None
    given = {name: options.get(name, unset) for name, unset in UNSET_OPTIONS.items()} | {"padding": spec.padding}
    return missing.propagated(correlate, operands, given, {"engine": engine, "accuracy": accuracy})


def _computed(
    operands: Operands,
    spec: ConvSpec,
    accuracy: str,
    engine: str,
    remember: Callable[..., None] | None,
    *,
    numpy: bool,
) -> torch.Tensor:
    """Compute by the registered operator, by torch's operators or by the engines, as the surroundings require."""
    compiling = torch.compiler.is_compiling()
    watched = not compiling and registered_operator.is_watched()
    if watched and not needs_torch_operators() and registered_operator.takes(operands, spec):
        return _as_operator(operands, spec, accuracy, engine)
    if not numpy and (compiling or _torch_must_see(operands)):
        return _through_torch(operands, spec, accuracy, engine)
    return _by_engines(operands, spec, accuracy, engine, remember)


def _write(target: torch.Tensor, operands: Operands, spec: ConvSpec, accuracy: str, engine: str) -> None:
    """Compute a result into a tensor."""
    x, k, bias = operands
    run(plan_call(spec, k, accuracy=accuracy, engine=engine), x, k, bias, by_kernel=engine == "auto", out=target)


def _by_engines(
    operands: Operands, spec: ConvSpec, accuracy: str, engine: str, remember: Callable[..., None] | None
) -> torch.Tensor:
    """Compute by the engines, inside autograd if needed, and pass the plan or function to `remember`."""
    chosen = plan_call(spec, operands.k, accuracy=accuracy, engine=engine)
    if _needs_gradients(operands):
        y, how = recorded(operands, spec, accuracy, engine)
    else:
        y, how = run(chosen, *operands, by_kernel=engine == "auto"), chosen
    if remember is not None and not chosen.of_one_kernel:
        remember(spec, how)
    return y


@overload
def convolve(x: torch.Tensor, k: Any, bias: Any = None, **options: Unpack[ConvolveOptions]) -> torch.Tensor: ...
@overload
def convolve(x: ArrayOrLists, k: Any, bias: Any = None, **options: Unpack[ConvolveOptions]) -> np.ndarray: ...


@safe_in_forks
def convolve(x: Any, k: Any, bias: Any = None, **options: Any) -> Any:
    """Convolve in the mathematical sense: `correlate` with the kernel's spatial axes reversed (`flip=True`).

    `y[o, p] = bias[o] + sum over c, t of k[o, c, kernel_size - 1 - t] x[c, p*stride + t*dilation - padding]`

    Args:
        x: (N, in_channels, *size), or (in_channels, *size) for one image: an array, a tensor or nested lists.
        k: (out_channels, in_channels/groups, *kernel_size), or a `Conv`, whose weight is reversed.
        bias: (out_channels,).
        options: `stride`, `padding`, `dilation`, `groups`, `padding_mode`, `padding_value`, `engine`, `accuracy`,
            `nan`, `mask`, `dtype` and `out`, as for `correlate`.

    Returns:
        (N, out_channels, *output_size), or without N if x has none; `out` if it is given.

    Raises:
        ConvolithError: `flip` among the options, and whatever `correlate` refuses.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> cl.convolve(np.array([[1.0, 2.0]]), np.array([[[1.0, 10.0]]]), padding="full")
        array([[ 1., 12., 20.]])
    """
    if "flip" in options:
        raise ConvolithError(f"flip is {options['flip']!r}; convolve always flips; call correlate to choose")
    return correlate(x, k, bias, flip=True, **options)


def _unpack(conv: Conv, bias: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Return a Conv's weight, bias and options; no other bias or options may be given."""
    given = [name for name, value in options.items() if value != UNSET_OPTIONS[name]] + ["bias"] * (bias is not None)
    if given:
        raise ConvolithError(
            f"{given[0]} was given together with a Conv, which carries its own; leave it out, or build the Conv with it"
        )
    return conv.weight, conv.bias, conv.options


def _without_channels(operands: Operands) -> bool:
    """Return whether x and k have no input channels."""
    x, k, _ = operands
    axis = x.ndim - k.ndim + 1
    return axis in (0, 1) and k.ndim > 2 and not x.shape[axis] and not k.shape[1]


def _with_channels(operands: Operands, groups: Any) -> Operands:
    """Return operands without input channels as ones with a channel of zeros per group, which leaves the bias."""
    x, k, _ = operands
    axis, count = x.ndim - k.ndim + 1, groups if isinstance(groups, int) and groups > 0 else 1
    zeros = x.sum(axis, keepdim=True).to(x.dtype)
    shape = (*zeros.shape[:axis], count, *zeros.shape[axis + 1 :])
    return operands._replace(x=zeros.expand(shape), k=k.sum(1, keepdim=True).to(k.dtype))


def _prepared(operands: Operands, *, flip: bool, numpy: bool) -> Operands:
    """Return the operands with the kernel flipped if wanted, and tensors in autocast's dtype."""
    if flip:
        operands = operands._replace(k=flip_axes(operands.k, range(2, operands.k.ndim)))
    return operands if numpy else _autocast(operands)


def _autocast(operands: Operands) -> Operands:
    """Convert floating operands to autocast's dtype under autocast (float64 stays), as torch's own convolution does."""
    device = operands.x.device.type
    if device not in AUTOCAST_DEVICES or not torch.is_autocast_enabled(device):
        return operands
    target = torch.get_autocast_dtype(device)
    cast = (t.to(target) if t is not None and _eligible(t) else t for t in operands)
    return Operands(*cast)  # type: ignore[arg-type]  # x and k are tensors, so they stay tensors


def _eligible(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype is not torch.float64


def _as_operator(operands: Operands, spec: ConvSpec, accuracy: str, engine: str) -> torch.Tensor:
    """Call the registered operator; if gradients are needed, pad first, as a separate operation."""
    if _needs_gradients(operands):
        operands, spec = padded_before(operands, spec)
    return registered_operator.call(operands, spec, accuracy, engine)


def _needs_gradients(operands: Operands) -> bool:
    """Return whether autograd records operations on the operands."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands)


def _torch_must_see(operands: Operands) -> bool:
    """Return whether the device, a transform or the class of a tensor requires torch's own operators."""
    return (
        operands.x.device.type != "cpu"
        or needs_torch_operators()
        or any(t is not None and type(t) not in (torch.Tensor, torch.nn.Parameter) for t in operands)
    )


def _through_torch(operands: Operands, spec: ConvSpec, accuracy: str, engine: str) -> torch.Tensor:
    """Compute by torch's operators, in the operands' own float dtype (or wider), or exactly for integers."""
    if engine not in ("auto", aten.contiguous.name) or (
        accuracy == "exact" and not aten.contiguous.keeps_nonfinite_local(spec)
    ):
        raise ConvolithError(
            f"engine is {engine!r} and accuracy {accuracy!r}, but transforms, tracing, autocast and devices other than "
            "the CPU are left to torch's own convolution; use engine='auto' and accuracy='default' there"
        )
    check_device(operands.x.device, accuracy, spec.out_dtype)
    if not is_float(spec.out_dtype):
        return _whole_numbers(operands, spec)
    x, k, bias = operands
    dtype = torch_dtype(computed(spec, accuracy).out_dtype)
    y = aten.torch_operators(x.to(dtype), k.to(dtype), None if bias is None else bias.to(dtype), spec)
    if not torch.compiler.is_compiling() and is_view(y):  # cropped
        y = y.clone()
    return y.to(torch_dtype(spec.out_dtype)) if accuracy == "double" else y


def _whole_numbers(operands: Operands, spec: ConvSpec) -> torch.Tensor:
    """Compute integers by torch's operators, exactly: on the CPU if the device has no convolution of their dtype."""
    device, working = operands.x.device, working_dtype(spec)
    if device.type not in DEVICES.get(working, ()):
        moved = (None if tensor is None else tensor.cpu() for tensor in operands)
        operands = Operands(*moved)  # type: ignore[arg-type]  # x and k are tensors, so they stay tensors
    x, k, bias = operands
    y = aten.torch_operators(to_working(x, working), to_working(k, working), None, spec).to(torch.int64)
    if bias is not None:
        y = y + to_working(bias, torch.int64).reshape(-1, *[1] * spec.axes)
    return from_working(y, spec.out_dtype).to(device)
