"""Public functions: arguments are read and checked, then passed to the plan, to autograd or to torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.overrides import handle_torch_function, has_torch_function

from convolith.arrays import (
    Operands,
    as_target,
    as_tensor,
    check_bias,
    check_same_kind,
    is_numpy,
    like,
    read_operands,
)
from convolith.arrays import flip as flip_axes
from convolith.conv import Conv
from convolith.correlation import call_cache, registered_operator
from convolith.correlation.gradients import padded_before, recorded, run
from convolith.dtypes import dtype_name, is_float
from convolith.engines import aten
from convolith.errors import ConvolithError, check_flag
from convolith.geometry import Axes, Padding
from convolith.planner import check_choice, computed, plan
from convolith.planner.plan import check_apart
from convolith.spec import ConvSpec
from convolith.tensors import from_working, to_working, torch_dtype, working_dtype
from convolith.torch_private import AUTOCAST_DEVICES, is_view, needs_torch_operators, without_batch

UNSET_OPTIONS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros"}
"""Defaults of `correlate`, which the options of a `Conv` replace."""


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
    engine: str = "auto",
    accuracy: str = "default",
    flip: bool = False,
    out: Any = None,
) -> Any:
    """Compute the cross-correlation that convolution layers apply, on one, two or three spatial axes.

    `y[o, p] = bias[o] + sum over c, t of k[o, c, t] x[c, p*stride + t*dilation - padding]`

    NumPy inputs give NumPy outputs; torch inputs give torch outputs, with gradients. Floats keep their dtype (half
    types are accumulated in float32); integers with integers give int64, or uint64 if both are unsigned and one is
    uint64, exactly and modulo 2^64; an integer with a float is computed in the float's dtype.

    Args:
        x: (N, in_channels, *size), or (in_channels, *size) for one image.
        k: (out_channels, in_channels/groups, *kernel_size), or a `Conv`, which brings its own bias and options.
        bias: (out_channels,).
        stride, dilation: a number, or one per axis.
        padding: a number, one per axis, a (before, after) pair per axis, `"valid"`, `"full"`, or `"same"`, which gives
            `ceil(size / stride)` outputs with the smaller half of the padding first.
        padding_mode: `"zeros"`, `"reflect"` (the edge is not repeated), `"replicate"` or `"circular"`.
        engine: `"auto"`, or one engine by name.
        accuracy: `"exact"`, `"default"`, `"fast"` or `"double"`; see `plan`.
        flip: reverse the kernel's spatial axes first, which makes it a convolution in the mathematical sense.
        out: array or CPU tensor to write the result into, of the result's shape and dtype, sharing no memory with the
            operands; without gradients.

    Returns:
        (N, out_channels, *output_size), or without N if x has none; `out` if it is given.

    Raises:
        ConvolithError: shapes, dtypes, devices or options that do not match; the message names the remedy.

    Example:
        >>> import numpy as np
        >>> x = np.arange(9.0).reshape(1, 3, 3)
        >>> correlate(x, np.array([[[[0.0, 1.0], [2.0, 3.0]]]]))
        array([[[19., 25.],
                [37., 43.]]])
    """
    flip = check_flag("flip", flip)
    if has_torch_function((x, k, bias)):  # a tensor subclass, or a proxy that records the call
        return handle_torch_function(
            correlate,
            (x, k, bias),
            x,
            k,
            bias,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            padding_mode=padding_mode,
            engine=engine,
            accuracy=accuracy,
            flip=flip,
            **({} if out is None else {"out": out}),
        )
    compiling = torch.compiler.is_compiling()
    key = None
    if not (compiling or flip or out is not None):
        key = call_cache.key_of(x, k, bias, (stride, padding, dilation, groups, padding_mode, engine, accuracy))
        call = call_cache.find(key)
        if call is not None:
            return call_cache.run(call, x, k, bias)
    watched = not compiling and registered_operator.is_watched()
    options: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "padding_mode": padding_mode,
    }
    if isinstance(k, Conv):
        k, bias, options = _unpack(k, bias, options)
    operands = read_operands(x, k, bias)
    operands = _prepared(operands, flip=flip, numpy=is_numpy(x))
    if compiling and not is_numpy(x) and out is None and registered_operator.takes_traced(*operands, options):
        return registered_operator.call_traced(*operands, accuracy, engine, **options)
    spec = ConvSpec.of(*operands, **options)
    check_choice(accuracy, engine)
    operands = operands._replace(bias=check_bias(operands.bias, spec.out_channels, spec.out_dtype))
    batched = operands.x.ndim == spec.axes + 2
    if not batched:
        operands = operands._replace(x=operands.x[None])
    if out is not None:
        _write(_target(out, x, operands, spec, batched=batched), operands, spec, accuracy, engine)
        return out
    if watched and not needs_torch_operators() and registered_operator.takes(operands, spec):
        y = _as_operator(operands, spec, accuracy, engine)
    elif not is_numpy(x) and (compiling or _torch_must_see(operands)):
        y = _through_torch(operands, spec, accuracy, engine)
    else:
        y = _by_engines(
            operands, spec, accuracy, engine, None if key is None else partial(call_cache.remember, key, x, bias)
        )
    return like(y if batched else without_batch(y), x)


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
            f"{spec.out_dtype}"
        )
    check_apart(target, x=operands.x, k=operands.k, bias=operands.bias)
    return target if batched else target[None]


def _write(target: torch.Tensor, operands: Operands, spec: ConvSpec, accuracy: str, engine: str) -> None:
    """Compute a result into a tensor."""
    x, k, bias = operands
    run(plan(spec, accuracy=accuracy, engine=engine), x, k, bias, by_kernel=engine == "auto", out=target)


def _by_engines(
    operands: Operands, spec: ConvSpec, accuracy: str, engine: str, remember: Callable[..., None] | None
) -> torch.Tensor:
    """Compute by the engines, inside autograd if needed, and pass the plan or function to `remember`."""
    if _needs_gradients(operands):
        y, how = recorded(operands, spec, accuracy, engine)
    else:
        how = plan(spec, accuracy=accuracy, engine=engine)
        y = run(how, *operands, by_kernel=engine == "auto")
    if remember is not None:
        remember(spec, how)
    return y


def convolve(x: Any, k: Any, bias: Any = None, **options: Any) -> Any:
    """Convolve in the mathematical sense: `correlate` with the kernel's spatial axes reversed (`flip=True`).

    Example:
        >>> import numpy as np
        >>> convolve(np.array([[1.0, 2.0]]), np.array([[[1.0, 10.0]]]), padding="full")
        array([[ 1., 12., 20.]])
    """
    if "flip" in options:
        raise ConvolithError(f"flip is {options['flip']!r}; convolve always flips; call correlate to choose")
    return correlate(x, k, bias, flip=True, **options)


def filter_image(
    image: Any,
    kernel: Any,
    *,
    stride: Axes = 1,
    padding: Padding = "same",
    dilation: Axes = 1,
    padding_mode: str = "zeros",
    engine: str = "auto",
    accuracy: str = "default",
    flip: bool = False,
) -> Any:
    """Correlate a picture with one kernel, each channel separately.

    Args:
        image: (H, W), or (H, W, channels), of any real dtype; booleans count as 0 and 1.
        kernel: (kernel height, kernel width): an array, a tensor or nested lists. A float image is filtered in its
            own dtype, an integer image in the kernel's; whole numbers with whole numbers stay exact, as int64.
        padding: `"same"` by default, so that the result has the size of the image.

    Returns:
        The filtered picture in the layout of `image`. The other arguments are those of `correlate`.

    Raises:
        ConvolithError: another number of axes, complex pictures, and whatever `correlate` refuses.

    Example:
        >>> import numpy as np
        >>> picture = np.zeros((4, 4), np.uint8)
        >>> picture[1, 1] = 9
        >>> filter_image(picture, np.full((3, 3), 1 / 9, np.float32))[0]
        array([1., 1., 1., 0.], dtype=float32)
    """
    if not isinstance(image, np.ndarray | torch.Tensor):
        raise ConvolithError(
            f"image is a {type(image).__name__}; expected a NumPy array or a torch tensor; pass numpy.asarray(image)"
        )
    picture = as_tensor("image", _without_booleans(image))
    taps = as_tensor("kernel", _kernel_array(kernel))
    if picture.is_complex() or taps.is_complex():
        raise ConvolithError("image or kernel is complex; filter_image takes real pictures; call correlate instead")
    if picture.ndim not in (2, 3):
        raise ConvolithError(f"image has shape {tuple(picture.shape)}; expected (H, W) or (H, W, channels)")
    if taps.ndim != 2:
        raise ConvolithError(
            f"kernel has shape {tuple(taps.shape)}; expected (height, width); to mix channels call correlate"
        )
    if picture.is_floating_point():
        taps = taps.to(picture.dtype)
    planes = (picture[..., None] if picture.ndim == 2 else picture).movedim(-1, 0)[:, None]
    y = correlate(
        planes,
        taps.to(picture.device)[None, None],
        stride=stride,
        padding=padding,
        dilation=dilation,
        padding_mode=padding_mode,
        engine=engine,
        accuracy=accuracy,
        flip=flip,
    )
    result = y[:, 0].movedim(0, -1)
    return like((result[..., 0] if picture.ndim == 2 else result).contiguous(), image)


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


def _unpack(conv: Conv, bias: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Return a Conv's weight, bias and options; no other bias or options may be given."""
    given = [name for name, value in options.items() if value != UNSET_OPTIONS[name]] + ["bias"] * (bias is not None)
    if given:
        raise ConvolithError(
            f"{given[0]} was given together with a Conv, which carries its own; leave it out, or build the Conv with it"
        )
    return conv.weight, conv.bias, conv.options


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
    x, k, bias = operands
    if is_float(spec.out_dtype):
        dtype = torch_dtype(computed(spec, accuracy).out_dtype)
        y = aten.torch_operators(x.to(dtype), k.to(dtype), None if bias is None else bias.to(dtype), spec)
        if not torch.compiler.is_compiling() and is_view(y):  # cropped
            y = y.clone()
        return y.to(torch_dtype(spec.out_dtype)) if accuracy == "double" else y
    working = working_dtype(spec)
    y = aten.torch_operators(to_working(x, working), to_working(k, working), None, spec).to(torch.int64)
    if bias is not None:
        y = y + to_working(bias, torch.int64).reshape(-1, *[1] * spec.axes)
    return from_working(y, spec.out_dtype)
