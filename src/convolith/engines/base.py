"""What every engine answers, and the number rules that engines share."""

from __future__ import annotations

from math import ceil, log2
from typing import Any, Protocol

import numpy as np
import torch

from convolith.dtypes import HALVES, half_ulp, integer_bits, is_float
from convolith.engines.machine_limits import MachineLimits
from convolith.spec import ConvSpec
from convolith.work import Work

NEEDS_KERNEL = "depends on the kernel's values: plan with kernel="
"""The reason of an engine that cannot say anything before it has seen the kernel."""


class Engine(Protocol):
    """One algorithm: a module (or an object) with these names; it owns its formulas, and the planner compares."""

    @property
    def name(self) -> str:
        """How it is called in plans, wisdom and `engine=`."""

    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Why it cannot compute this spec (with these kernel values, where given), or None if it can."""

    def keeps_nonfinite_local(self, spec: ConvSpec) -> bool:
        """Whether it adds the products themselves, so that NaN and infinity land where the direct sum puts them."""

    def work(self, spec: ConvSpec) -> Work:
        """What it really does: operations, bytes moved and workspace of the forward pass."""

    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """An estimate of its time on a machine: what it really does, against what the machine can do."""

    def error_bound(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> float:
        """What its error stays under, relative to max|x| times the largest sum of |k| over one output; 0 if exact."""

    def note(self, spec: ConvSpec) -> str:
        """How it goes about it, in a few words for `explain()`."""

    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """An estimate of what `prepare` takes for a kernel that was not seen before, of a spec that was."""

    def prepare(self, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> Any:
        """Whatever depends on the kernel alone, done once.

        Args:
            spec: what is computed.
            kernel: in the spec's own layout.
            adjoint: the kernel is that of the layer whose input gradient the spec computes: its channels are exchanged
                and its taps reversed first.
        """

    def apply(
        self, state: Any, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The result of (N, in_channels, *size), in the spec's `out_dtype`; into `out` where it is given."""


def turned(spec: ConvSpec, kernel: torch.Tensor) -> torch.Tensor:
    """The kernel of the adjoint of a layer, from the layer's own: channels exchanged, taps reversed."""
    bits = {torch.bfloat16: torch.int16}.get(kernel.dtype, kernel.dtype)
    grouped = kernel.detach().view(bits).numpy()  # NumPy, since torch's threads do not survive a fork
    grouped = grouped.reshape(spec.groups, -1, *kernel.shape[1:]).swapaxes(1, 2)
    backwards = np.flip(grouped, tuple(range(3, grouped.ndim)))
    return torch.from_numpy(np.ascontiguousarray(backwards).reshape(spec.kernel_shape)).view(kernel.dtype)


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def working_dtype(spec: ConvSpec) -> torch.dtype:
    """The dtype in which torch's own operators give the right result.

    Half types are widened to float32. Integers go through float64 where no sum can reach 2^53, so that every
    rounding is exact, and through int64 (whose overflow is the modulo that is asked for) otherwise.
    """
    if spec.out_dtype in HALVES:
        return torch.float32
    if is_float(spec.out_dtype):
        return torch_dtype(spec.out_dtype)
    products = spec.in_channels * spec.taps
    bits = integer_bits(spec.dtype) + integer_bits(spec.kernel_dtype) + ceil(log2(products))
    return torch.float64 if bits <= 53 else torch.int64


def to_working(tensor: torch.Tensor, working: torch.dtype) -> torch.Tensor:
    """The tensor in the working dtype; uint64 keeps its bits, since the arithmetic is modulo 2^64."""
    if tensor.dtype is torch.uint64 and working is torch.int64:
        return tensor.view(torch.int64)
    return tensor.to(working)


def from_working(result: torch.Tensor, out_dtype: str) -> torch.Tensor:
    """The result in the dtype that is promised."""
    if out_dtype == "uint64":
        return result.to(torch.int64).view(torch.uint64)
    return result.to(torch_dtype(out_dtype))


def add_bias(y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Y with the bias added to each output channel, in place."""
    if bias is not None:
        y += to_working(bias, y.dtype).reshape(-1, *[1] * (y.ndim - 2))
    return y


def deliver(y: torch.Tensor, bias: torch.Tensor | None, spec: ConvSpec, out: torch.Tensor | None) -> torch.Tensor:
    """The last step of an engine: the bias, the promised dtype, and `out` if it was given.

    Integer sums take their bias after leaving float64, in int64, where it cannot be rounded.
    """
    if not is_float(spec.out_dtype):
        y = y.to(torch.int64)
    y = from_working(add_bias(y, bias), spec.out_dtype)
    if out is None:
        return y
    out.copy_(y)
    return out


def error_scale(spec: ConvSpec, x: torch.Tensor, kernel: torch.Tensor) -> float:
    """What error bounds are relative to: max|x| times the largest sum of |k| over one output."""
    if spec.transposed:
        weights = kernel.abs().reshape(spec.groups, -1, *kernel.shape[1:]).sum(1).flatten(2).sum(2)
    else:
        weights = kernel.abs().flatten(1).sum(1)
    return float(x.abs().max()) * float(weights.max())


def direct_sum_bound(spec: ConvSpec) -> float:
    """An estimate of a direct sum's error in the working dtype: half of the worst case of a running sum, plus a start.

    A running sum of n products loses at most u/2 per addition of a partial sum that is n/2 on average; the tests hold
    engines under this on random data, constant images with box kernels, ramps and alternating signs.
    """
    if not is_float(spec.out_dtype):
        return 0.0
    products = spec.in_channels * spec.taps if spec.transposed else spec.products_per_output
    wide = "float32" if spec.out_dtype in HALVES else spec.out_dtype
    return half_ulp(wide) * (4 + products / 4)
