"""Upper bounds on the errors of engines, and the scale that they are relative to."""

from __future__ import annotations

import torch

from convolith.dtypes import HALVES, half_ulp, is_float
from convolith.spec import ConvSpec


def error_scale(spec: ConvSpec, x: torch.Tensor, kernel: torch.Tensor) -> float:
    """Return the scale of error bounds: max|x| times the largest sum of |k| over one output."""
    if spec.transposed:
        weights = kernel.abs().reshape(spec.groups, -1, *kernel.shape[1:]).sum(1).flatten(2).sum(2)
    else:
        weights = kernel.abs().flatten(1).sum(1)
    return float(x.abs().max()) * float(weights.max())


def direct_sum_bound(spec: ConvSpec, products: int | None = None) -> float:
    """Estimate the error of a direct sum: half of the worst case of a running sum in the working dtype, and a constant.

    The sum has the products of one of the spec's outputs, or a given number of them.

    A running sum of n products loses at most u/2 per addition of a partial sum that is n/2 on average; the tests check
    this bound on random data, constant images with box kernels, ramps and alternating signs.
    """
    if not is_float(spec.out_dtype):
        return 0.0
    if products is None:
        products = spec.in_channels * spec.taps if spec.transposed else spec.products_per_output
    wide = "float32" if spec.out_dtype in HALVES else spec.out_dtype
    return half_ulp(wide) * (4 + products / 4)
