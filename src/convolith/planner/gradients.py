"""Which engines compute a correlation's gradients, weighed against torch's own backward pass.

The input's gradient is a correlation itself, with the kernel turned round. The kernel's gradient is one whose kernel is
as large as an image; where few channels meet, code of its own sums it. No kernel among them comes again, so that its
preparation counts in full.
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
"""What our node in autograd's graph costs beside torch's: Python on the way forward and back."""
CLEARLY = 0.85
"""Times torch's estimated time that an engine's must stay under: estimates err, and torch's way is never a loss."""


class KernelGradient(NamedTuple):
    """Who computes the kernel's gradient: sums of shifted products, or a transform planned for exchanged operands."""

    spec: ConvSpec
    """Of the layer."""
    swapped: Plan | None
    """Of x with the gradient as a kernel, images as channels; None where shifted products are summed."""
    seconds: float


class GradientChoice(NamedTuple):
    """Who computes the gradients of one layer; torch's own backward pass what is None."""

    by_x: Plan | None
    by_k: KernelGradient | None
    layout: torch.memory_format
    """In which torch computes the rest."""
    seconds: float
    """Of everything that is wanted, by those chosen."""
    torch_seconds: float
    """Of the same by torch's own backward pass, as the operands come."""


def chosen_gradients(spec: ConvSpec, accuracy: str, wanted: tuple[bool, bool]) -> GradientChoice:
    """Who computes the gradients that are wanted, of the input and of the kernel."""
    return _chosen(spec, accuracy, wanted, thread_count(), generation())


def pays(forward: Plan, wanted: tuple[bool, bool], *, last: bool = False) -> bool:
    """Whether a recorded call and its backward pass are faster by our engines than by torch's own operator.

    Args:
        forward: the plan of the call.
        wanted: whether the gradients of the input and of the kernel will be.
        last: whether the input comes in channels_last, as torch takes it; most engines copy it.
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
    return ours <= CLEARLY * (usual + chosen.torch_seconds)


@lru_cache(maxsize=4096)
def _chosen(spec: ConvSpec, accuracy: str, wanted: tuple[bool, bool], *state: int) -> GradientChoice:  # noqa: ARG001 - part of the key
    limits = machine.limits()
    usual = aten.contiguous.gradient_seconds(spec, limits)
    by_x = input_gradient(spec, accuracy) if wanted[0] else None
    by_k = kernel_gradient(spec, accuracy) if wanted[1] else None
    left = wanted[0] and by_x is None, wanted[1] and by_k is None
    times = {torch.contiguous_format: usual}
    last = aten.CHANNELS_LAST.get(spec.axes)
    if last is not None and spec.out_dtype not in COMPLEX:
        times[last] = aten.channels_last.gradient_seconds(spec, limits)
    rest = {layout: _sum(seconds, left) for layout, seconds in times.items()}
    layout = min(rest, key=lambda each: rest[each])
    seconds = rest[layout] + (by_x.seconds or 0.0 if by_x else 0.0) + (by_k.seconds if by_k else 0.0)
    return GradientChoice(by_x, by_k, layout, seconds, _sum(usual, wanted))


def _sum(seconds: tuple[float, float], wanted: tuple[bool, bool]) -> float:
    return sum(time for time, want in zip(seconds, wanted, strict=True) if want)


def _seconds_of(chosen: Plan, engine: str) -> float | None:
    return next((c.seconds for c in chosen.candidates if c.engine == engine and c.reason is None), None)


def _torch_seconds(spec: ConvSpec) -> tuple[float, float]:
    """Of torch's backward pass in the better of its formats, for either gradient."""
    formats = [aten.contiguous]
    if spec.axes in aten.CHANNELS_LAST and spec.out_dtype not in COMPLEX:
        formats.append(aten.channels_last)
    times = [engine.gradient_seconds(spec, machine.limits()) for engine in formats]
    by_x, by_k = (min(each) for each in zip(*times, strict=True))
    return by_x, by_k


def input_gradient(spec: ConvSpec, accuracy: str) -> Plan | None:
    """`sum over o, t of k[o, c, t] grad[o, q - t + padding]`: a correlation with the flipped kernel, channels swapped.

    None where torch's own backward pass computes it: because it is faster, or for windows that are strided or
    transposed, more cropped than the kernel reaches, and complex numbers.
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
    found = plan(adjoint, accuracy=accuracy).for_new_kernels
    if found.engine in (aten.contiguous.name, aten.channels_last.name):
        return None
    return found if (found.seconds or inf) < CLEARLY * _torch_seconds(spec)[0] else None


def kernel_gradient(spec: ConvSpec, accuracy: str) -> KernelGradient | None:
    """`sum over n, p of x[c, p + t - padding] grad[o, p]`: shifted products, or x correlated with the gradient.

    None where torch's own backward pass is faster. Neither way puts NaN and infinity where a direct sum does.
    """
    if spec.transposed or accuracy in ("double", "exact") or spec.out_dtype in COMPLEX or not spec.batch:
        return None
    found = [each for each in (_shifted(spec), _transformed(spec)) if each is not None]
    best = min(found, key=lambda each: each.seconds, default=None)
    return best if best is not None and best.seconds < CLEARLY * _torch_seconds(spec)[1] else None


def _shifted(spec: ConvSpec) -> KernelGradient | None:
    """By products at shifts, where few channels meet."""
    if lags.refuse(spec) is not None:
        return None
    return KernelGradient(spec, None, lags.seconds(spec, machine.limits()))


def _transformed(spec: ConvSpec) -> KernelGradient | None:
    """By Fourier transforms: of all engines, only they gain from a kernel as large as an image."""
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
