"""The interface of an engine, and the steps that engines share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch

from convolith.dtypes import is_float
from convolith.engines.error_bounds import direct_sum_bound
from convolith.engines.machine_limits import MachineLimits
from convolith.engines.steps import Finish, Layout, Steps
from convolith.jit import Target, host
from convolith.spec import ConvSpec
from convolith.tensors import from_working, to_working
from convolith.work import Work

State = TypeVar("State")
"""Everything that an engine prepares before an input is known."""
NEEDS_KERNEL = "depends on the kernel's values: plan with kernel="
"""Refusal reason of an engine that needs the values of the kernel to decide."""


TRANSPOSED = "not for transposed layers"
"""Refusal reason of an engine that computes ordinary correlations alone."""


def unsupported(spec: ConvSpec) -> str:
    """Return the refusal reason of an engine without code for the dtypes of a layer."""
    if spec.dtype == spec.kernel_dtype:
        return f"no code for {spec.dtype}"
    return f"no code for {spec.dtype} with a kernel of {spec.kernel_dtype}"


def mixed_channels(spec: ConvSpec) -> str:
    """Return the refusal reason of an engine that filters each channel by itself, by one kernel."""
    if spec.in_channels > spec.groups:
        return f"each output sums {spec.in_channels // spec.groups} channels, not one"
    return "several output channels for an input channel"


class Changed(NamedTuple):
    """Numbers of results that were clipped, and that were NaN, when sums were rounded to integers."""

    clipped: int
    missing: int


class Engine(ABC, Generic[State]):
    """One algorithm. Engines estimate their cost; the planner compares.

    An engine is stateless: `prepare` returns its state for one kernel, which `apply` takes.
    """

    name: str
    """Name of the engine, in plans, in stored measurements and for `engine=`."""

    @abstractmethod
    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Return why the engine cannot compute a spec (or this kernel, if given), or None if it can."""

    def for_kernel(self, spec: ConvSpec, kernel: torch.Tensor) -> Engine[State]:
        """Return the engine whose work, time and note hold for this kernel: this one, unless they depend on its values.

        The planner calls it before `refuse`, so that properties of a kernel, such as its rank, are computed once.
        """
        return self

    def keeps_nonfinite_local(self, spec: ConvSpec) -> bool:
        """Return whether NaN and infinity in x change only the outputs that read them, as in a direct sum."""
        return True

    def sums_directly(self, spec: ConvSpec) -> bool:
        """Return whether every output is the plain sum of its products, which accuracy "exact" asks for."""
        return self.keeps_nonfinite_local(spec)

    @property
    def only_fast(self) -> bool:
        """Whether accuracy "fast" alone allows the engine, whatever bound other accuracies would admit."""
        return False

    @abstractmethod
    def work(self, spec: ConvSpec) -> Work:
        """Return the operations, bytes moved and workspace of the forward pass, as the engine performs them."""

    @abstractmethod
    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of a call, from the work and the limits of a machine."""

    def error_bound(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> float:
        """Return an upper bound on the error, relative to `error_bounds.error_scale`; 0 if exact."""
        return direct_sum_bound(spec)

    @abstractmethod
    def note(self, spec: ConvSpec) -> str:
        """Describe in a few words how the engine computes a spec, for `explain()`."""

    @abstractmethod
    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of `prepare` for a new kernel of a known spec."""

    @abstractmethod
    def prepare(self, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
        """Compute everything that depends on the kernel alone, once.

        Args:
            spec: the layer.
            kernel: the weights, in the layout of the spec.
            adjoint: whether the spec computes the input gradient of the layer that the kernel belongs to; input and
                output channels are then exchanged and the taps reversed first.
        """

    def resized(self, state: State, spec: ConvSpec) -> State | None:
        """Return the state of a prepared kernel for a layer that differs in the size and the number of images alone.

        Returns None where the kernel has to be prepared anew.
        """
        return None

    @abstractmethod
    def apply(
        self, state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Convolve x, (N, in_channels, *size), into `out` if given; the result has the spec's `out_dtype`."""

    def apply_rounded(self, state: State, x: torch.Tensor, out: torch.Tensor) -> Changed | None:
        """Convolve x into `out`, integers of 8 or 16 bits: rounded half to even and clipped, with NaN as 0.

        Returns None, and computes nothing, if the engine does not round its sums where it stores them.
        """
        return None

    def steps(self, state: State, layout: Layout, after: Finish) -> Steps | None:
        """Return the steps of a program that compute a prepared layer, or None if the engine cannot be a step.

        Args:
            state: what `prepare` returned.
            layout: distances of images in x and in the result.
            after: bias, activation and residual.
        """
        return None


class GeneratedEngine(Engine[State]):
    """Engine in generated code, which can be prepared for a processor with narrower vectors than this one has."""

    def prepare(self, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
        """Prepare a kernel for this processor."""
        return self.prepare_for(host(), spec, kernel, adjoint=adjoint)

    @abstractmethod
    def prepare_for(self, target: Target, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
        """Prepare a kernel for a processor."""


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
