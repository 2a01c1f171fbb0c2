"""The dtype that a caller wants of a result: floats are converted, integers rounded half to even and clipped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.arrays import as_target, bare, check_same_kind, is_numpy, like
from convolith.correlation import emit_rounding
from convolith.correlation.emit_rounding import RoundingRecipe, lanes_of
from convolith.dtypes import COMPLEX, check_dtype, dtype_name, is_float
from convolith.engines import buffers
from convolith.errors import ConvolithError, warn
from convolith.jit import host, routine, thread_count
from convolith.planner.plan import check_apart
from convolith.tensors import torch_dtype

SMALL_BITS = 16
"""Bits of an integer dtype up to which float32 holds its limits and generated code rounds."""
CHUNK = 1 << 13
"""Number of vectors that one thread rounds at a time."""


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
        raise real_dtype(wanted, name)
    if is_float(wanted):
        return y.to(torch_dtype(wanted))
    if y.requires_grad:
        raise ConvolithError(
            f"dtype is {wanted}, which has no gradients; call under torch.no_grad(), or leave dtype out"
        )
    result, clipped, missing = as_integers(bare(y), wanted)
    say_changed(clipped, missing, y.numel(), wanted)
    return result


class Rounded(NamedTuple):
    """Integers, and the number of values that were clipped, and that were NaN."""

    values: torch.Tensor
    clipped: int
    missing: int


def real_dtype(wanted: str, name: str) -> ConvolithError:
    """Return the error for a real `dtype` of a complex result."""
    return ConvolithError(
        f"dtype is {wanted} but the result is {name}; expected a complex dtype; leave dtype out, and take the real part"
    )


def as_integers(values: torch.Tensor, wanted: str) -> Rounded:
    """Round half to even and clip to an integer dtype; NaN becomes 0."""
    if values.is_cpu and holds_rounded(dtype_name(values.dtype), wanted):
        return _rounded(values.contiguous(), wanted)
    if _fits(values, wanted):
        return Rounded(values.to(torch_dtype(wanted)), 0, 0)
    device, values = values.device, values.cpu()
    array = (values.float() if values.dtype is torch.bfloat16 else values).numpy()
    array = array.astype(np.float32) if array.dtype == np.float16 else array  # which does not hold the limits
    found = _clipped(array, wanted)
    return Rounded(torch.from_numpy(found.values).to(device), found.clipped, found.missing)


def holds_rounded(dtype: str, wanted: str) -> bool:
    """Return whether generated code rounds floats of a dtype to a wanted one: integers of 8 or 16 bits."""
    return dtype in ("float32", "float64") and not is_float(wanted) and np.iinfo(wanted).bits <= SMALL_BITS


def _rounded(values: torch.Tensor, wanted: str) -> Rounded:
    """Round and clip float32 or float64 to an integer dtype of 8 or 16 bits, in one pass."""
    target = host()
    recipe = RoundingRecipe(dtype_name(values.dtype), wanted)
    lanes = lanes_of(target, recipe)
    result = buffers.empty(tuple(values.shape), torch_dtype(wanted))
    vectors = values.numel() // lanes
    tasks = -(-vectors // CHUNK)
    counts = np.zeros((2, max(tasks, 1), lanes), np.int32)
    if tasks:
        slots = {"x": values.data_ptr(), "y": result.data_ptr(), "tasks": tasks, "chunk": CHUNK, "vectors": vectors}
        slots |= {"clipped": counts[0].ctypes.data, "missing": counts[1].ctypes.data}
        run = emit_rounding.ARGUMENTS.new(slots)
        emit_rounding.ARGUMENTS.run(routine(emit_rounding.write, target, recipe), run, min(thread_count(), tasks))
    rest = values.reshape(-1)[vectors * lanes :].numpy()
    last = _clipped(rest, wanted)
    result.view(-1)[vectors * lanes :] = torch.from_numpy(last.values)
    return Rounded(result, int(counts[0].sum()) + last.clipped, int(counts[1].sum()) + last.missing)


def delivered(y: torch.Tensor, x: Any, out: Any, inputs: Iterable[torch.Tensor | None]) -> Any:
    """Return a result in the kind of array that x is, or written into `out`.

    Raises:
        ConvolithError: an `out` of another kind, shape or dtype, or one that shares memory with an input.
    """
    if out is None:
        if y.dtype is torch.bfloat16 and is_numpy(x):
            raise ConvolithError("dtype is bfloat16, which NumPy does not have; pass float32, or torch tensors")
        return like(y.contiguous(), x)
    target = as_target("out", out)
    check_same_kind(x=x, out=out)
    if tuple(target.shape) != tuple(y.shape) or target.dtype is not y.dtype:
        raise ConvolithError(
            f"out has shape {tuple(target.shape)} and dtype {dtype_name(target.dtype)}; the result has "
            f"{tuple(y.shape)} and {dtype_name(y.dtype)}; pass such an array, or leave out= out"
        )
    if y.requires_grad:
        raise ConvolithError("out was given together with gradients; leave it out there, or call under torch.no_grad()")
    check_apart(target, **dict(zip(("x", "k", "bias"), inputs, strict=False)))
    target.copy_(y)
    return out


def _fits(values: torch.Tensor, wanted: str) -> bool:
    """Return whether all of some integers are within the limits of a dtype of 8 or 16 bits."""
    limits = np.iinfo(wanted)
    if values.is_floating_point() or limits.bits > SMALL_BITS or not values.numel() or values.dtype is torch.uint64:
        return False
    least, largest = (int(value) for value in torch.aminmax(values))
    return bool(limits.min <= least and largest <= limits.max)


class Clipped(NamedTuple):
    """Integers, and the number of values that were clipped, and that were NaN."""

    values: np.ndarray
    clipped: int
    missing: int


def _clipped(array: np.ndarray, wanted: str) -> Clipped:
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
    if missing:
        result[none] = 0
    return Clipped(result, clipped, missing)


def say_changed(clipped: int, missing: int, size: int, wanted: str) -> None:
    """Warn of values that an integer dtype does not hold."""
    if clipped:
        limits = np.iinfo(wanted)
        warn(f"{clipped:,} of {size:,} results lie outside {wanted} ({limits.min} to {limits.max}): clipped")
    if missing:
        warn(f"{missing:,} of {size:,} results are NaN, which {wanted} does not have: 0 instead")
