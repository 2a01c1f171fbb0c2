"""The interface of an engine, and the steps that engines share."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from convolith.dtypes import is_float
from convolith.engines.machine_limits import MachineLimits
from convolith.spec import ConvSpec
from convolith.tensors import from_working, to_working
from convolith.work import Work

NEEDS_KERNEL = "depends on the kernel's values: plan with kernel="
"""Refusal reason of an engine that needs the values of the kernel to decide."""


class Engine(Protocol):
    """One algorithm: a module or an object with these functions. Engines estimate their cost; the planner compares."""

    @property
    def name(self) -> str:
        """Name of the engine, in plans, in stored measurements and for `engine=`."""

    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Return why the engine cannot compute a spec (or this kernel, if given), or None if it can."""

    def keeps_nonfinite_local(self, spec: ConvSpec) -> bool:
        """Return whether NaN and infinity in x change only the outputs that read them, as in a direct sum."""

    def work(self, spec: ConvSpec) -> Work:
        """Return the operations, bytes moved and workspace of the forward pass, as the engine performs them."""

    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of a call, from the work and the limits of a machine."""

    def error_bound(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> float:
        """Return an upper bound on the error, relative to `error_bounds.error_scale`; 0 if exact."""

    def note(self, spec: ConvSpec) -> str:
        """Describe in a few words how the engine computes a spec, for `explain()`."""

    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of `prepare` for a new kernel of a known spec."""

    def prepare(self, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> Any:
        """Compute everything that depends on the kernel alone, once.

        Args:
            spec: the layer.
            kernel: the weights, in the layout of the spec.
            adjoint: whether the spec computes the input gradient of the layer that the kernel belongs to; input and
                output channels are then exchanged and the taps reversed first.
        """

    def apply(
        self, state: Any, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Convolve x, (N, in_channels, *size), into `out` if given; the result has the spec's `out_dtype`."""


def turned(spec: ConvSpec, kernel: torch.Tensor) -> torch.Tensor:
    """Return the kernel of the adjoint of a layer: input and output channels exchanged, taps reversed."""
    bits = {torch.bfloat16: torch.int16}.get(kernel.dtype, kernel.dtype)
    grouped = kernel.detach().view(bits).numpy()  # NumPy, since torch's threads do not survive a fork
    grouped = grouped.reshape(spec.groups, -1, *kernel.shape[1:]).swapaxes(1, 2)
    backwards = np.flip(grouped, tuple(range(3, grouped.ndim)))
    return torch.from_numpy(np.ascontiguousarray(backwards).reshape(spec.kernel_shape)).view(kernel.dtype)


def add_bias(y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Add the bias to each output channel of y, in place."""
    if bias is not None:
        y += to_working(bias, y.dtype).reshape(-1, *[1] * (y.ndim - 2))
    return y


def deliver(y: torch.Tensor, bias: torch.Tensor | None, spec: ConvSpec, out: torch.Tensor | None) -> torch.Tensor:
    """Finish a result: add the bias, convert to the output dtype, and write to `out` if given.

    Integer sums are converted from float64 to int64 before the bias is added, so that the bias is not rounded.
    """
    if not is_float(spec.out_dtype):
        y = y.to(torch.int64)
    y = from_working(add_bias(y, bias), spec.out_dtype)
    if out is None:
        return y
    out.copy_(y)
    return out
