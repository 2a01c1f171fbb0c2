"""Dtypes of a composition, and the check that they can represent it."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan

import torch

from convolith.algebra.kernels import Factor
from convolith.dtypes import COMPLEX, UNSIGNED, is_float, result_dtype
from convolith.errors import ConvolithError
from convolith.tensors import torch_dtype


def weight_dtype(first: str, second: str) -> str:
    """Return the dtype of the composed weight, which gives the result dtype of the two convolutions for every x.

    Float dtypes are unchanged. Only unsigned integers can give a uint64 result: for any unsigned x if the first has
    uint64 weights, otherwise only for a uint64 x, as with uint32.
    """
    if is_float(first) or is_float(second):
        return result_dtype(first, second)
    if first not in UNSIGNED or second not in UNSIGNED:
        return "int64"
    return "uint64" if first == "uint64" else "uint32"


def bias_dtype(weight: str) -> str:
    """Return the dtype of the composed bias: that of a float weight, otherwise int64."""
    return weight if is_float(weight) else "int64"


def working_dtype(weight: str) -> torch.dtype:
    """Return the dtype in which weights are multiplied."""
    if weight in COMPLEX:
        return torch.complex128
    return torch.float64 if is_float(weight) else torch.int64


def check_range(product: Factor, largest: Callable[[], Factor], weight: str) -> None:
    """Refuse a composition that its dtypes cannot represent.

    Args:
        product: the weights and bias in a working dtype.
        largest: returns upper bounds on the absolute values, in float64; called only where the range may be exceeded.
        weight: name of the dtype of the weights.
    """
    for what, values, name in (("weights", product.weight, weight), ("bias", product.bias, bias_dtype(weight))):
        if values is None:
            continue
        dtype = torch_dtype(name)
        if not is_float(name):
            reach = _reach(largest(), what)
            bad = reach >= torch.iinfo(dtype).max
        else:
            reach = values.detach().abs().max().item()
            vanishes = what == "weights" and 0 < reach < torch.finfo(dtype).tiny
            overflows = not bool(values.detach().to(dtype).isfinite().all())
            if overflows:
                reach = _reach(largest(), what)
            bad = vanishes or (overflows and not isnan(reach))
        if bad:
            raise ConvolithError(
                f"the composed {what} leave the range of {name} (the largest may be {reach:.3g}); convert both "
                "convolutions to a wider dtype, such as float64"
            )


def _reach(most: Factor, what: str) -> float:
    values = most.weight if what == "weights" else most.bias
    return 0.0 if values is None else float(values.abs().max())
