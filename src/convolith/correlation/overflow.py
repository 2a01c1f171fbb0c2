"""Results that their dtype does not hold: whole numbers that wrap around, floats that become infinite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.correlation.result_dtypes import as_integers, say_changed
from convolith.dtypes import HALVES, dtype_name
from convolith.errors import warn

SURE = 1 - 1e-6
"""Fraction of a limit up to which a bound that was computed in floats proves that the limit is kept."""
LIMITS = {name: float(np.iinfo(name).max) * SURE for name in ("int64", "uint64")}
MODULUS, HALF_MODULUS = 2.0**64, 2.0**63
"""Number that whole numbers wrap around at, and half of it, which the rounding of a float64 never reaches."""


MOST_KEPT_BYTES = 1 << 16
"""Bytes of a kernel up to which its size is cached."""


class Weights(NamedTuple):
    """Size of a kernel's weights."""

    total: float
    """Sum of their absolute values."""
    largest: float
    """Largest absolute value that is finite."""
    finite: bool


@lru_cache(maxsize=64)
def _weights(data: bytes, dtype: np.dtype[Any]) -> Weights:
    values = np.abs(np.frombuffer(data, dtype).astype(np.float64))
    finite = np.isfinite(values)
    return Weights(float(values.sum()), float(values[finite].max(initial=0.0)), bool(finite.all()))


def weights(kernel: Any) -> Weights:
    """Return the size of the weights of an array or a tensor; a kernel that recurs is looked up by its bytes."""
    if type(kernel) is not np.ndarray:
        kernel = kernel.detach() if kernel.requires_grad else kernel
        kernel = (kernel.float() if kernel.dtype is torch.bfloat16 else kernel).numpy()
    size = _weights if kernel.nbytes <= MOST_KEPT_BYTES else _weights.__wrapped__  # of a large one, that takes no time
    return size(kernel.tobytes(), kernel.dtype)


def forget() -> None:
    """Drop the cached sizes of kernels."""
    _weights.cache_clear()


def narrows(dtype: torch.dtype, to: torch.dtype) -> bool:
    """Return whether a conversion may turn a finite number into an infinite one."""
    if not to.is_floating_point or dtype is to:
        return False
    largest = torch.finfo(dtype).max if dtype.is_floating_point else float(torch.iinfo(dtype).max)
    return largest > torch.finfo(to).max


def safe_weights(dtype: torch.dtype, to: torch.dtype) -> float:
    """Return the largest absolute weight that survives a conversion; infinite where all do."""
    return torch.finfo(to).max if narrows(dtype, to) else inf


def safe_total(x: torch.dtype, padding_value: float, out_dtype: str) -> float:
    """Return the sum of |k| below which no sum of products exceeds the result's dtype, whatever the picture is."""
    return LIMITS[out_dtype] / max(largest_of(x), abs(padding_value))


@cache
def largest_of(dtype: torch.dtype) -> float:
    """Return the largest absolute value of an integer dtype."""
    limits = torch.iinfo(dtype)
    return float(max(-limits.min, limits.max))


def may_wrap(picture: torch.Tensor, kernel: torch.Tensor, padding_value: float, out_dtype: str) -> bool:
    """Return whether sums of products of whole numbers may exceed the result's dtype, by max |x| * sum |k|.

    The picture is read only if its dtype alone leaves the question open.
    """
    total = weights(kernel).total
    if total < safe_total(picture.dtype, padding_value, out_dtype) or not picture.numel():
        return False
    array = picture.detach().numpy()
    largest = max(-float(array.min()), float(array.max()), abs(padding_value))
    return bool(largest * total >= LIMITS[out_dtype])


def unwrapped(y: torch.Tensor, compute: Callable[[], torch.Tensor], wanted: str | None) -> torch.Tensor | None:
    """Find the results that have wrapped around, by the same sums in float64.

    Args:
        y: whole numbers modulo 2^64.
        compute: the correlation in float64.
        wanted: an integer dtype that the caller named, or None.

    Returns:
        The results in the wanted dtype, clipped, with a warning; None if none has wrapped around or no dtype was
        named: then a warning gives the number.
    """
    own = dtype_name(y.dtype)
    floats = compute().numpy().reshape(y.shape)
    values = y.numpy()
    wrapped = np.abs(floats - values.astype(np.float64)) > HALF_MODULUS
    count = int(wrapped.sum())
    if not count:
        return None
    if wanted is None:
        better = "uint64" if own == "int64" and floats.min() >= 0 and floats.max() < MODULUS else "float64"
        warn(f"{count:,} of {y.numel():,} results lie outside {own} and wrap around; pass dtype=numpy.{better}")
        return None
    fits = wrapped & (wanted == "uint64") & (floats >= 0) & (floats < MODULUS)
    rounded = as_integers(y if not wrapped.any() else torch.from_numpy(np.where(wrapped, 0, values)), wanted)
    limits = np.iinfo(wanted)
    result = rounded.values.numpy()
    result[fits] = values.view(np.uint64)[fits].astype(result.dtype)
    result[wrapped & ~fits & (floats < 0)] = limits.min
    result[wrapped & ~fits & (floats > 0)] = limits.max
    say_changed(rounded.clipped + count - int(fits.sum()), 0, y.numel(), wanted)
    return torch.from_numpy(result)


def may_overflow(x: torch.dtype, computed: torch.dtype, y: torch.dtype) -> bool:
    """Return whether a float result may be infinite by a conversion: of the picture, or of sums to a half type."""
    return y.is_floating_point and (narrows(x, computed) or dtype_name(y) in HALVES)


def all_finite(y: torch.Tensor) -> bool:
    """Return whether a sum of all results is finite, which proves that each of them is."""
    return bool(y.detach().sum(dtype=torch.float64).isfinite())


def say_overflow(y: torch.Tensor, given: Mapping[str, torch.Tensor], computed: Mapping[str, torch.dtype]) -> None:
    """Warn of results that are not finite because a dtype does not hold the operands or the sums.

    Args:
        y: the result.
        given: the picture and the kernel before they were converted, by the names of their arguments.
        computed: dtypes that they were converted to.
    """
    if not y.is_floating_point():
        return
    lost = [name for name, operand in given.items() if _loses(operand, computed[name])]
    half = dtype_name(y.dtype) in HALVES
    if not (lost or half) or all_finite(y) or not all(bool(_floats(one).isfinite().all()) for one in given.values()):
        return
    count = y.numel() - int(y.detach().isfinite().sum())
    cause = f"{' and '.join(lost)} {'has' if len(lost) == 1 else 'have'} values" if lost else "sums lie"
    warn(
        f"{count:,} of {y.numel():,} results are not finite, since {cause} beyond {dtype_name(y.dtype)} (largest "
        f"{torch.finfo(y.dtype).max:.3g}); pass dtype=numpy.float64"
    )


def _loses(operand: torch.Tensor, to: torch.dtype) -> bool:
    """Return whether an operand has values that a dtype does not hold."""
    if not narrows(operand.dtype, to) or not operand.numel():
        return False
    values = _floats(operand)
    return float(values.abs().max()) > torch.finfo(to).max


def _floats(operand: torch.Tensor) -> torch.Tensor:
    return operand.detach() if operand.is_floating_point() else operand.detach().to(torch.float64)
