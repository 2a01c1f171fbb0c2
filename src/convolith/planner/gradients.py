"""Choice of the engines for a correlation's gradients, compared with torch's own backward pass.

The input's gradient is itself a correlation, with the flipped kernel. The kernel's gradient is a correlation whose
kernel is as large as an image; for few channels, dedicated code sums it. Each of these kernels is used only once, so
that its preparation counts in full.
"""

from __future__ import annotations

from functools import lru_cache
from math import inf, prod
from typing import NamedTuple

import torch

from convolith.dtypes import COMPLEX, ITEMSIZE
from convolith.engines import BY_NAME, aten
from convolith.engines.kernel_gradient import engine as lags
from convolith.jit import thread_count
from convolith.planner import machine
from convolith.planner.choose import plan
from convolith.planner.plan import Plan
from convolith.planner.store import generation
from convolith.spec import ConvSpec

NODE_SECONDS = 4e-5
"""Overhead of our node in autograd's graph over torch's: Python in the forward and backward pass."""
CLEARLY = 0.85
"""Fraction of torch's estimated time below which an engine is chosen: estimates err, and torch's pass is no loss."""
WHOLE_STEP = 0.8
"""Fraction of torch's estimated time of a training step (forward and backward pass) below which our engines compute it.
Estimates leave out the time that Python takes between the passes."""


class KernelGradient(NamedTuple):
    """Method for the kernel's gradient: sums of shifted products, or a transform planned for exchanged operands."""

    spec: ConvSpec
    """Spec of the layer."""
    swapped: Plan | None
    """Plan for x with the output's gradient as kernel and images as channels; None for shifted products."""
    seconds: float


class GradientChoice(NamedTuple):
    """Methods for the gradients of one layer; None for torch's own backward pass."""

    by_x: Plan | None
    by_k: KernelGradient | None
    layout: torch.memory_format
    """Memory format in which torch computes the other gradients."""
    seconds: float
    """Time of all wanted gradients by the chosen methods."""
    torch_seconds: float
    """Time of all wanted gradients by torch's own backward pass, for contiguous operands."""


def chosen_gradients(spec: ConvSpec, accuracy: str, wanted: tuple[bool, bool]) -> GradientChoice:
    """Choose the methods for the wanted gradients, of the input and of the kernel."""
    return _chosen(spec, accuracy, wanted, thread_count(), generation())


def pays(forward: Plan, wanted: tuple[bool, bool], *, last: bool = False) -> bool:
    """Return whether a recorded call and its backward pass are faster by our engines than by torch's own operator.

    Args:
        forward: plan of the call.
        wanted: whether the gradients of the input and of the kernel will be computed.
        last: whether the input is in channels_last, which torch reads directly and most engines copy.
    """
    usual = _seconds_of(forward, aten.contiguous.name)
    if usual is None:
        return True
    spec = forward.spec
    chosen = chosen_gradients(spec, forward.accuracy, wanted)
    fresh = forward.for_new_kernels if wanted[1] else forward
    ours = (fresh.seconds or 0.0) + chosen.seconds + NODE_SECONDS
    if last:
        item = ITEMSIZE[spec.dtype]
        copied = (2 + 2 * sum(wanted)) * item * (prod(spec.input_shape) + prod(spec.output_shape))
        ours += machine.limits().moving_seconds(copied)
    return ours <= WHOLE_STEP * (usual + chosen.torch_seconds)


@lru_cache(maxsize=4096)
def _chosen(spec: ConvSpec, accuracy: str, wanted: tuple[bool, bool], *state: int) -> GradientChoice:  # noqa: ARG001 - part of the key
    limits = machine.limits()
    usual = aten.contiguous.gradient_seconds(spec, limits)
    by_x = input_gradient(spec, accuracy) if wanted[0] else None
    by_k = kernel_gradient(spec, accuracy) if wanted[1] else None
    by_torch = wanted[0] and by_x is None, wanted[1] and by_k is None
    times = {torch.contiguous_format: usual}
    last = aten.CHANNELS_LAST.get(spec.axes)
    if last is not None and spec.out_dtype not in COMPLEX:
        times[last] = aten.channels_last.gradient_seconds(spec, limits)
    rest = {layout: _sum(seconds, by_torch) for layout, seconds in times.items()}
    layout = min(rest, key=lambda each: rest[each])
    seconds = rest[layout] + (by_x.seconds or 0.0 if by_x else 0.0) + (by_k.seconds if by_k else 0.0)
    return GradientChoice(by_x, by_k, layout, seconds, _sum(usual, wanted))


def _sum(seconds: tuple[float, float], wanted: tuple[bool, bool]) -> float:
    return sum(time for time, want in zip(seconds, wanted, strict=True) if want)


def _seconds_of(chosen: Plan, engine: str) -> float | None:
    return next((c.seconds for c in chosen.candidates if c.engine == engine and c.reason is None), None)


def _torch_seconds(spec: ConvSpec) -> tuple[float, float]:
    """Return the time of torch's backward pass for either gradient, in the faster of its memory formats."""
    formats = [aten.contiguous]
    if spec.axes in aten.CHANNELS_LAST and spec.out_dtype not in COMPLEX:
        formats.append(aten.channels_last)
    times = [engine.gradient_seconds(spec, machine.limits()) for engine in formats]
    by_x, by_k = (min(each) for each in zip(*times, strict=True))
    return by_x, by_k


def input_gradient(spec: ConvSpec, accuracy: str) -> Plan | None:
    """Plan `sum over o, t of k[o, c, t] grad[o, q - t + padding]`: correlation with flipped kernel, channels swapped.

    Return None where torch's own backward pass computes it: if it is faster, and for strides, transposed layers,
    padding larger than the kernel reaches, accuracy "double" and complex numbers.
    """
    around = tuple((e - 1 - a, e - 1 - b) for e, (a, b) in zip(spec.extent, spec.padding, strict=True))
    if max(spec.stride) > 1 or spec.transposed or min(min(pair) for pair in around) < 0:
        return None
    if accuracy == "double" or spec.kernel_dtype in COMPLEX:
        return None
    adjoint = ConvSpec(
        batch=spec.batch,
        in_channels=spec.out_channels,
        out_channels=spec.in_channels,
        size=spec.output_size,
        kernel_size=spec.kernel_size,
        padding=around,
        dilation=spec.dilation,
        groups=spec.groups,
        dtype=spec.out_dtype,
    )
    chosen = plan(adjoint, accuracy=accuracy).for_new_kernels
    if chosen.engine in (aten.contiguous.name, aten.channels_last.name):
        return None
    return chosen if (chosen.seconds or inf) < CLEARLY * _torch_seconds(spec)[0] else None


def kernel_gradient(spec: ConvSpec, accuracy: str) -> KernelGradient | None:
    """Plan `sum over n, p of x[c, p + t - padding] grad[o, p]`: shifted products, or x correlated with the gradient.

    Return None where torch's own backward pass is faster. Neither method places NaN and infinity as a direct sum does.
    """
    if spec.transposed or accuracy in ("double", "exact") or spec.out_dtype in COMPLEX or not spec.batch:
        return None
    methods = [each for each in (_shifted(spec), _transformed(spec)) if each is not None]
    best = min(methods, key=lambda each: each.seconds, default=None)
    return best if best is not None and best.seconds < CLEARLY * _torch_seconds(spec)[1] else None


def _shifted(spec: ConvSpec) -> KernelGradient | None:
    """Return the method of shifted products, for few channels, or None."""
    if lags.refuse(spec) is not None:
        return None
    return KernelGradient(spec, None, lags.seconds(spec, machine.limits()))


def _transformed(spec: ConvSpec) -> KernelGradient | None:
    """Return the method of Fourier transforms, which alone gain from a kernel as large as an image, or None."""
    if max(*spec.stride, *spec.dilation) > 1 or spec.groups > 1:
        return None
    swapped = ConvSpec(
        batch=spec.in_channels,
        in_channels=spec.batch,
        out_channels=spec.out_channels,
        size=spec.size,
        kernel_size=spec.output_size,
        padding=spec.padding,
        dtype=spec.out_dtype,
    )
    candidates = [c for c in plan(swapped).candidates if c.reason is None and c.engine == BY_NAME["fft"].name]
    if not candidates or candidates[0].seconds is None:
        return None
    seconds = candidates[0].seconds + (candidates[0].prepare_seconds or 0.0)
    return KernelGradient(spec, plan(swapped, engine="fft"), seconds)
