"""Which dtypes a composition has, and whether they can hold it."""

from __future__ import annotations

import torch

from convolith.algebra.kernels import Factor
from convolith.dtypes import COMPLEX, UNSIGNED, is_float, result_dtype
from convolith.engines.protocol import torch_dtype
from convolith.errors import ConvolithError


def weight_dtype(first: str, second: str) -> str:
    """The dtype of the composed weight, with which every x gives the dtype that the two in a row give.

    Floats keep theirs. Only unsigned integers can make a uint64 result: of any unsigned x if the first has uint64
    weights, else of a uint64 x only, as with uint32.
    """
    if is_float(first) or is_float(second):
        return result_dtype(first, second)
    if first not in UNSIGNED or second not in UNSIGNED:
        return "int64"
    return "uint64" if first == "uint64" else "uint32"


def bias_dtype(weight: str) -> str:
    """The dtype of the composed bias: the weight's, or int64."""
    return weight if is_float(weight) else "int64"


def working_dtype(weight: str) -> torch.dtype:
    """The dtype that weights are multiplied in."""
    if weight in COMPLEX:
        return torch.complex128
    return torch.float64 if is_float(weight) else torch.int64


def check_range(product: Factor, largest: Factor, weight: str) -> None:
    """Refuse a composition that its dtypes cannot hold; `largest` is what its numbers are at most, in float64."""
    for what, values, most, name in (
        ("weights", product.weight, largest.weight, weight),
        ("bias", product.bias, largest.bias, bias_dtype(weight)),
    ):
        if values is None or most is None:
            continue
        reach = most.abs().max().item()
        if not is_float(name):
            bad = reach >= torch.iinfo(torch_dtype(name)).max
        else:
            greatest = values.detach().abs().max().item()
            overflows = not bool(values.detach().to(torch_dtype(name)).isfinite().all())
            vanishes = what == "weights" and 0 < greatest < torch.finfo(torch_dtype(name)).tiny
            bad = vanishes or (overflows and not bool(most.isnan().any()))
        if bad:
            raise ConvolithError(
                f"the composed {what} leave the range of {name} (the largest may be {reach:.3g}); convert both "
                "convolutions to a wider dtype, such as float64"
            )
