"""Missing elements of x: NaN, or marked by a mask; left out of every window, or filled in from their neighbours.

Leaving out is the normalised convolution of Knutsson and Westin ("Normalized and differential convolution", CVPR 1993):
the sum over the elements that are there, times the sum of the whole kernel over the sum of the weights that met an
element. The padding counts as being there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

from convolith.arrays import Operands, check_bias, flip
from convolith.correlation.result_dtypes import real_dtype
from convolith.dtypes import dtype_name, is_float, result_dtype
from convolith.engines import BY_NAME
from convolith.errors import ConvolithError, check_option, shown, warn
from convolith.jit import thread_count
from convolith.planner import plan
from convolith.planner.store import generation
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype
from convolith.torch_private import needs_torch_operators

CHOICES = ("propagate", "omit", "interpolate")
NO_WEIGHT = {torch.float64: 1e-12, torch.complex128: 1e-12}
"""Fraction of the sum of |k| up to which the weights that met an element count as none; 1e-5 in other dtypes."""

HALF_OF_ONE = 0.5
"""Threshold between no NaN in a window and at least one, counted in floats."""

Correlate = Callable[..., torch.Tensor]
"""Function of x, k and options that computes a plain correlation."""


def check_choice(nan: Any) -> None:
    """Refuse another value of the option `nan`."""
    check_option("nan", nan, CHOICES)


def unmasked(argument: str, x: Any, mask: Any, nan: str) -> tuple[Any, Any]:
    """Return the data of a masked array, and its mask joined with `mask`; other arrays unchanged."""
    if mask is not None:
        mask = _booleans(mask, argument)
    if not isinstance(x, np.ma.MaskedArray):
        return x, mask
    if nan == "propagate":
        raise ConvolithError(
            f"{argument} is a masked array; say what its masked elements do: nan='omit' or nan='interpolate'"
        )
    own = np.array(np.ma.getmaskarray(x))  # a copy, since torch warns about memory that cannot be written
    return x.data, torch.from_numpy(own) if mask is None else torch.from_numpy(own) | mask.cpu()


def as_floats(operands: Operands, wanted: str | None, *, needed: bool) -> Operands:
    """Return operands in the dtype of the computation: a wanted float dtype, or floats where they are needed."""
    kind = wanted if wanted is not None and is_float(wanted) else None
    if kind is None and needed:
        kind = result_dtype(*(dtype_name(tensor.dtype) for tensor in operands[:2]))
        kind = kind if is_float(kind) else "float64"
    if kind is None:
        return operands
    dtype = torch_dtype(kind)
    x, k, bias = operands
    parts = next((dtype_name(one.dtype) for one in operands if one is not None and one.is_complex()), None)
    if parts is not None and not dtype.is_complex:
        raise real_dtype(kind, parts)
    return Operands(x.to(dtype), k.to(dtype), None if bias is None else bias.to(dtype))


def correlated(
    compute: Correlate,
    operands: Operands,
    mask: Any,
    nan: str,
    options: dict[str, Any],
    how: dict[str, Any],
    names: tuple[str, str] = ("x", "k"),
) -> torch.Tensor:
    """Correlate x, some of whose elements may be missing.

    Args:
        compute: the plain correlation, a function of x, k, bias and options.
        operands: x, k and the bias, of one float dtype unless nothing can be missing.
        mask: booleans that broadcast to x: True where it is missing; or None.
        nan: `"propagate"`, `"omit"` or `"interpolate"`.
        options: geometry of the correlation.
        how: `engine`, `accuracy` and `flip`.
        names: names of the arguments x and k, for messages.
    """
    x, k, bias = operands
    missing = None
    if nan != "propagate" or mask is not None:
        missing = _missing(x, None if mask is None else checked_mask(mask, names[0], x))
    k = flip(k, range(2, k.ndim)) if how["flip"] else k
    how = {name: how[name] for name in ("engine", "accuracy")}
    batched = x.ndim == k.ndim
    if missing is not None and nan == "propagate":
        if bool(missing.all()):
            warn(f"all pixels of {names[0]} are missing; so are the results")
        x = torch.where(missing, torch.full((), float("nan"), dtype=x.dtype, device=x.device), x)
    if missing is None or nan == "propagate":
        return _local(compute, Operands(x, k, bias), options, how)
    x, missing = (x, missing) if batched else (x[None], missing[None])
    if nan == "omit":
        y = _omitted(partial(compute, **how), x, k, missing, kernel_name=names[1], **options)
    else:
        filled = _interpolated(partial(compute, **how), x, k, missing, options)
        y = _local(compute, Operands(filled, k, None), options, how)
    y = _without_anything(y, missing, options["groups"], names[0])
    bias = check_bias(bias, len(k), dtype_name(y.dtype))
    if bias is not None:
        y = y + bias.reshape(-1, *[1] * (k.ndim - 2))
    return y if batched else y[0]


def _local(compute: Correlate, operands: Operands, options: dict[str, Any], how: dict[str, Any]) -> torch.Tensor:
    """Correlate so that NaN reaches just the windows that read it, where x is plain data."""
    x, k, bias = operands
    if is_plain(x) and would_spread(operands, options, **how):
        batched = x.ndim == k.ndim
        y = propagated(compute, Operands(x if batched else x[None], k, bias), options, how)
        return y if batched else y[0]
    return compute(x, k, bias, **options, **how)


def is_plain(x: torch.Tensor) -> bool:
    """Return whether x is an ordinary tensor on the CPU, whose values can be looked at."""
    return type(x) is torch.Tensor and x.is_cpu and not torch.compiler.is_compiling() and not needs_torch_operators()


def would_spread(operands: Operands, options: dict[str, Any], accuracy: str, engine: str) -> bool:
    """Return whether the planned or named engine would spread NaN of x over a tile of outputs."""
    x, k, _ = operands
    if not x.is_floating_point() or options.get("transposed"):
        return False
    geometry = tuple(options.items())
    shapes = (tuple(x.shape), tuple(k.shape), x.dtype, k.dtype)
    try:
        local = _stays_local(*shapes, geometry, accuracy, engine, thread_count(), generation())
    except TypeError:  # an option that cannot be hashed: a list, an array
        local = _stays_local.__wrapped__(*shapes, geometry, accuracy, engine)
    return not local and bool(x.detach().sum().isnan())  # one pass; infinities of both signs give NaN too


@lru_cache(maxsize=4096)
def _stays_local(
    x: tuple[int, ...],
    k: tuple[int, ...],
    x_dtype: torch.dtype,
    k_dtype: torch.dtype,
    geometry: tuple[tuple[str, Any], ...],
    accuracy: str,
    engine: str,
    *state: int,  # noqa: ARG001 - part of the key
) -> bool:
    """Return whether the planned or named engine keeps NaN in its windows."""
    shapes = (torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in ((x, x_dtype), (k, k_dtype)))
    spec = ConvSpec.of(*shapes, **dict(geometry))
    chosen = plan(spec, accuracy=accuracy).engine if engine == "auto" else engine
    return not spec.batch or chosen not in BY_NAME or BY_NAME[chosen].keeps_nonfinite_local(spec)


def propagated(compute: Correlate, operands: Operands, options: dict[str, Any], how: dict[str, Any]) -> torch.Tensor:
    """Correlate x, (N, in_channels, *size), so that NaN reaches just the outputs whose windows read it.

    NaN is set to 0, and every output that reads one is set to NaN: a box of ones finds them. With infinities the sums
    are computed directly.
    """
    x, k, bias = operands
    none = x.isnan()
    if bool(x.isinf().any()):
        return compute(x, k, bias, **options, engine="auto", accuracy="exact")
    y = compute(torch.where(none, torch.zeros((), dtype=x.dtype, device=x.device), x), k, bias, **options, **how)
    groups, size = options["groups"], x.shape[2:]
    read = none.reshape(len(x), groups, -1, *size).any(2).to(torch.float32)
    around = options
    if options["padding_mode"] == "constant":
        around = options | {"padding_mode": "zeros", "padding_value": 0.0}
    box = torch.ones((groups, 1, *k.shape[2:]), dtype=torch.float32, device=x.device)
    reached = compute(read, box, **around) > HALF_OF_ONE
    every = reached.repeat_interleave(y.shape[1] // groups, 1)
    return torch.where(every, torch.full((), float("nan"), dtype=y.dtype, device=y.device), y)


def _without_anything(y: torch.Tensor, missing: torch.Tensor, groups: int, name: str) -> torch.Tensor:
    """Return results that are NaN for pictures of which every element is missing, with a warning.

    The padding around such a picture counts as being there, but says nothing about it.
    """
    none = missing.reshape(len(missing), groups, -1).all(-1)
    if not missing.numel() or not bool(none.any()):
        return y
    which = "" if bool(none.all()) else f" in {int(none.sum()):,} of {none.numel():,} pictures"
    warn(f"all pixels of {name} are missing{which}; so are the results")
    every = none.repeat_interleave(y.shape[1] // groups, 1).reshape(*y.shape[:2], *[1] * (y.ndim - 2))
    return torch.where(every, torch.full((), float("nan"), dtype=y.dtype, device=y.device), y)


def _missing(x: torch.Tensor, marked: torch.Tensor | None) -> torch.Tensor | None:
    """Return which elements are NaN or marked, or None if all are there."""
    if x.is_floating_point() and bool(x.detach().sum().isnan()):  # one pass; infinities of both signs give NaN too
        none = x.detach().isnan()
        marked = none if marked is None else marked | none
    return marked if marked is not None and bool(marked.any()) else None


def checked_mask(mask: Any, argument: str, x: torch.Tensor) -> torch.Tensor:
    """Return a mask as booleans of the shape of an array."""
    tensor = _booleans(mask, argument)
    try:
        return tensor.to(x.device).expand(x.shape)
    except RuntimeError:
        each = tuple(tensor.shape) == tuple(x.shape[: tensor.ndim]) and tensor.ndim == x.ndim - 1
        raise ConvolithError(
            f"mask has shape {tuple(tensor.shape)}; expected that of {argument}, {tuple(x.shape)}, or one that "
            f"broadcasts to it{'; for one mask of all channels pass mask[..., None]' if each else ''}"
        ) from None


def _booleans(mask: Any, argument: str) -> torch.Tensor:
    """Return a mask as a tensor of booleans."""
    try:
        array = mask if isinstance(mask, torch.Tensor) else np.array(mask)
    except ValueError as error:
        raise ConvolithError(f"mask is {shown(mask)}; expected rows of equal length ({error})") from None
    kind = dtype_name(array.dtype)
    if kind != "bool":
        raise ConvolithError(
            f"mask has dtype {kind}; expected booleans, True where {argument} is missing; pass mask != 0"
        )
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(array)


def _interpolated(
    compute: Correlate, x: torch.Tensor, k: torch.Tensor, missing: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    """Return x with its missing elements replaced by the mean of their neighbours, weighted by |k| of all channels."""
    weights = k.detach().abs().amax((0, 1)).to(_wide(x.dtype))
    weights = weights if bool(weights.any()) else torch.ones_like(weights)  # of a kernel without weights, any do
    weights = (weights / weights.sum()).expand(x.shape[1], 1, *k.shape[2:])
    around = {name: options[name] for name in ("dilation", "padding_mode", "padding_value")}
    near = _omitted(compute, x, weights, missing, padding="same", groups=x.shape[1], **around)
    return torch.where(missing, near, x)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums that are divided by each other: float32 for half types."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _omitted(
    compute: Correlate,
    x: torch.Tensor,
    k: torch.Tensor,
    missing: torch.Tensor,
    *,
    kernel_name: str = "k",
    **options: Any,
) -> torch.Tensor:
    """Return the normalised convolution; NaN where no weight met an element."""
    dtype, wide = x.dtype, _wide(x.dtype)
    x, k = x.to(wide), k.to(wide)  # the sums of a half type may exceed it, although their quotient does not
    kept = torch.where(missing, torch.zeros((), dtype=x.dtype, device=x.device), x)
    axes = tuple(range(1, k.ndim))
    total, size = k.sum(axes), k.abs().sum(axes)
    nothing = NO_WEIGHT.get(x.dtype, 1e-5) * size
    if bool((total.abs() <= nothing).any()):
        raise ConvolithError(
            f'{kernel_name} sums to 0, so that nan="omit" has no weights to divide by; pass nan="interpolate", which '
            "fills the missing elements first"
        )
    around = dict(options)
    if options.get("padding_mode", "zeros") in ("zeros", "constant"):
        around |= {"padding_mode": "constant", "padding_value": 1.0}
    met = compute((~missing).to(x.dtype), k, **around)
    shape = (1, -1, *[1] * (k.ndim - 2))
    enough = met.abs() > nothing.reshape(shape)
    met = torch.where(enough, met, torch.ones((), dtype=met.dtype, device=met.device))
    y = compute(kept, k, **options) * (total.reshape(shape) / met)
    return torch.where(enough, y, torch.full((), float("nan"), dtype=y.dtype, device=y.device)).to(dtype)
