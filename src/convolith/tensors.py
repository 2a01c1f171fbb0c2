"""Conversion of tensors to and from the dtype in which sums are computed."""

from __future__ import annotations

from math import ceil, log2

import torch

from convolith.dtypes import HALVES, integer_bits, is_float
from convolith.spec import ConvSpec


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch dtype with the given name."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def working_dtype(spec: ConvSpec) -> torch.dtype:
    """Return the dtype in which torch's own operators give the correct result.

    Half-precision types are computed in float32. Integers are computed in float64 if no sum can exceed 2^53, so that
    every sum is exact, and otherwise in int64, whose overflow is the specified arithmetic modulo 2^64.
    """
    if spec.out_dtype in HALVES:
        return torch.float32
    if is_float(spec.out_dtype):
        return torch_dtype(spec.out_dtype)
    products = spec.in_channels * spec.taps
    bits = integer_bits(spec.dtype) + integer_bits(spec.kernel_dtype) + ceil(log2(products))
    return torch.float64 if bits <= 53 else torch.int64


def to_working(tensor: torch.Tensor, working: torch.dtype) -> torch.Tensor:
    """Convert a tensor to the working dtype; uint64 keeps its bits, since the arithmetic is modulo 2^64."""
    if tensor.dtype is torch.uint64 and working is torch.int64:
        return tensor.view(torch.int64)
    return tensor.to(working)


def from_working(result: torch.Tensor, out_dtype: str) -> torch.Tensor:
    """Convert a result to the output dtype."""
    if out_dtype == "uint64":
        return result.to(torch.int64).view(torch.uint64)
    return result.to(torch_dtype(out_dtype))
