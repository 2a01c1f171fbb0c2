"""The dtype that a caller wants of a result: floats are converted, integers rounded half to even and clipped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from convolith.arrays import as_target, bare, check_same_kind, like
from convolith.dtypes import COMPLEX, check_dtype, dtype_name, is_float
from convolith.errors import ConvolithError, warn
from convolith.planner.plan import check_apart
from convolith.tensors import torch_dtype

SMALL_BITS = 16
"""Bits of an integer dtype up to which float32 holds both of its limits exactly."""
HALF = 0.5
"""Distance from a limit that still rounds to it."""


def result_named(dtype: Any, out: torch.Tensor | None) -> str | None:
    """Return the name of the wanted dtype: `dtype`, or that of `out`, or None for the result's own."""
    if dtype is None:
        return None if out is None else dtype_name(out.dtype)
    name = dtype_name(dtype)
    check_dtype("dtype", name)
    if out is not None and dtype_name(out.dtype) != name:
        raise ConvolithError(f"dtype is {name} but out has {dtype_name(out.dtype)}; give one of them, or equal ones")
    return name


def convert(y: torch.Tensor, wanted: str | None) -> torch.Tensor:
    """Return a result in the wanted dtype; a warning says how many values an integer dtype does not hold.

    Raises:
        ConvolithError: a complex result for a real dtype, or a result with gradients for an integer dtype.
    """
    name = dtype_name(y.dtype)
    if wanted is None or wanted == name:
        return y
    if name in COMPLEX and wanted not in COMPLEX:
        raise ConvolithError(f"dtype is {wanted} but the result is {name}; expected a complex dtype")
    if is_float(wanted):
        return y.to(torch_dtype(wanted))
    if y.requires_grad:
        raise ConvolithError(
            f"dtype is {wanted}, which has no gradients; call under torch.no_grad(), or leave dtype out"
        )
    values = bare(y)
    if _fits(values, wanted):
        return values.round().to(torch_dtype(wanted)) if values.is_floating_point() else values.to(torch_dtype(wanted))
    values = values.cpu()
    array = (values.float() if values.dtype is torch.bfloat16 else values).numpy()
    array = array.astype(np.float32) if array.dtype == np.float16 else array  # which does not hold the limits
    return torch.from_numpy(_to_integers(array, wanted)).to(y.device)


def _fits(values: torch.Tensor, wanted: str) -> bool:
    """Return whether all values round to integers of a dtype of 8 or 16 bits, whose limits every float type holds."""
    limits = np.iinfo(wanted)
    if limits.bits > SMALL_BITS or not values.numel() or values.dtype in (torch.uint64, torch.float16, torch.bfloat16):
        return False
    least, largest = (float(value) for value in torch.aminmax(values))
    return limits.min - HALF <= least and largest < limits.max + HALF  # NaN is in no range


def delivered(y: torch.Tensor, x: Any, out: Any, inputs: Iterable[torch.Tensor | None]) -> Any:
    """Return a result in the kind of array that x is, or written into `out`.

    Raises:
        ConvolithError: an `out` of another kind, shape or dtype, or one that shares memory with an input.
    """
    if out is None:
        return like(y.contiguous(), x)
    target = as_target("out", out)
    check_same_kind(x=x, out=out)
    if tuple(target.shape) != tuple(y.shape) or target.dtype is not y.dtype:
        raise ConvolithError(
            f"out has shape {tuple(target.shape)} and dtype {dtype_name(target.dtype)}; the result has "
            f"{tuple(y.shape)} and {dtype_name(y.dtype)}"
        )
    if y.requires_grad:
        raise ConvolithError("out was given together with gradients; leave it out there, or call under torch.no_grad()")
    check_apart(target, **dict(zip(("x", "k", "bias"), inputs, strict=False)))
    target.copy_(y)
    return out


def _to_integers(array: np.ndarray, wanted: str) -> np.ndarray:
    """Round half to even and clip; NaN becomes 0."""
    limits = np.iinfo(wanted)
    rounded = np.rint(array) if array.dtype.kind == "f" else array
    low, high = rounded < limits.min, rounded >= float(limits.max) + 1
    if array.dtype.kind != "f":
        high = rounded > limits.max
    none = np.isnan(rounded) if array.dtype.kind == "f" else np.zeros(0, bool)
    with np.errstate(invalid="ignore"):  # what does not fit is replaced in the next lines
        result = rounded.astype(wanted)
    clipped, missing = int(low.sum() + high.sum()), int(none.sum())
    if clipped:
        result[low], result[high] = limits.min, limits.max
        warn(f"{clipped:,} of {array.size:,} results lie outside {wanted} ({limits.min} to {limits.max}): clipped")
    if missing:
        result[none] = 0
        warn(f"{missing:,} of {array.size:,} results are NaN, which {wanted} does not have: 0 instead")
    return result
