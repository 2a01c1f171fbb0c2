"""Transposed convolutions as one correlation: each residue of an output position modulo the stride is a channel.

With `q = m s + r` (an output position before cropping, the stride s and the phase r), the sum over `p s + t d = q` of
`k[c, o, t] x[c, p]` is a correlation of x with the taps `u = j s + r` of the dilated kernel, reversed:
`sum over j of k'[c, o, j s + r] x[c, m - j]`. The fastest engine that accepts them computes the phases as
channels; then they are interleaved. At stride 1 there is a single phase and no interleaving.

This is the polyphase form of an interpolating filter (P. P. Vaidyanathan, "Multirate Systems and Filter Banks", 1993).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch

from convolith.dtypes import COMPLEX, ITEMSIZE, is_float
from convolith.engines import aten
from convolith.engines.base import Engine, unsupported
from convolith.engines.direct.engine import direct
from convolith.engines.fft.engine import fft
from convolith.engines.im2col.engine import im2col
from convolith.engines.machine_limits import MachineLimits
from convolith.engines.pointwise.engine import pointwise
from convolith.engines.winograd.engine import winograd_2x2, winograd_4x4
from convolith.spec import ConvSpec
from convolith.work import ForwardMemory, Memory, Work, layer_work

INNER: tuple[Engine[Any], ...] = (
    pointwise,
    direct,
    winograd_4x4,
    winograd_2x2,
    im2col,
    aten.contiguous,
    aten.channels_last,
    fft,
)
"""Engines that may compute the phases."""
INTERLEAVING_PASSES = 4
"""Number of times that the result is read or written while the phases are interleaved and cropped."""
INTERLEAVING_CALLS = 2.0
"""Fixed overhead of interleaving, in units of `MachineLimits.call_seconds`."""
MOST_PHASES = 64
"""Largest number of phases; beyond it, padding the kernel to whole strides dominates the cost."""


class Layout(NamedTuple):
    """Correlation that computes the phases, and the start of the result in the interleaved phases."""

    spec: ConvSpec
    start: tuple[int, ...]


class State(NamedTuple):
    """Layer, its phases, the engine that computes them, and the state of that engine."""

    spec: ConvSpec
    layout: Layout
    engine: Engine[Any]
    inner: Any


class Phases(Engine[State]):
    """Engine of transposed convolutions."""

    name = "phases"

    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Return a reason for all but transposed convolutions of real floats with few phases."""
        if not spec.transposed:
            return "for transposed layers alone"
        if not is_float(spec.dtype) or spec.dtype != spec.kernel_dtype or spec.dtype in COMPLEX:
            return unsupported(spec)
        if prod(spec.stride) > MOST_PHASES:
            return f"the strides multiply to {prod(spec.stride)}, over {MOST_PHASES}"
        return None

    def keeps_nonfinite_local(self, spec: ConvSpec) -> bool:
        """Return False: the kernel is zero-padded to whole strides, and infinity times zero is NaN."""
        return False

    def note(self, spec: ConvSpec) -> str:
        """Describe the number of phases and the engine that computes them."""
        count = prod(spec.stride)
        return f"{count} phase{'s' * (count > 1)} by {engine_of(spec).name}; may spread NaN and infinity"

    def work(self, spec: ConvSpec) -> Work:
        """Count the work of the engine that computes the phases, and the copies."""
        inner = engine_of(spec).work(layout(spec).spec)
        inner_memory, memory = inner.memory.forward, layer_work(spec).memory.forward
        copied = INTERLEAVING_PASSES * memory.output if _interleaves(spec) else 0
        forward = replace(inner.forward, bytes=inner.forward.bytes + copied)
        workspace = inner_memory.workspace + (inner_memory.output + memory.output if copied else 0)
        prepared = inner_memory.prepared or prod(layout(spec).spec.kernel_shape) * ITEMSIZE[spec.dtype]
        terms = ForwardMemory(memory.input, memory.parameters, memory.output, workspace, prepared)
        return Work(forward=forward, memory=Memory(terms))

    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of the engine that computes the phases, and of the copies."""
        needed = engine_of(spec).seconds(layout(spec).spec, limits)
        if not _interleaves(spec):
            return needed
        copied = INTERLEAVING_PASSES * prod(spec.output_shape) * ITEMSIZE[spec.out_dtype]
        return needed + INTERLEAVING_CALLS * limits.call_seconds + limits.moving_seconds(copied)

    def error_bound(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> float:
        """Return the bound of the engine that computes the phases."""
        return engine_of(spec).error_bound(layout(spec).spec)

    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time to sort the taps by phase and to prepare the engine that computes the phases."""
        inner = layout(spec).spec
        copied = 4 * prod(inner.kernel_shape) * ITEMSIZE[spec.kernel_dtype]
        return 4 * limits.call_seconds + limits.moving_seconds(copied) + engine_of(spec).prepare_seconds(inner, limits)

    def prepare(self, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
        """Prepare the kernels of the phases with the engine that computes them.

        A transposed convolution is the adjoint of a correlation with the same kernel, so `adjoint` has no effect.
        """
        inner, engine = layout(spec), engine_of(spec)
        return State(spec, inner, engine, engine.prepare(inner.spec, phase_kernels(spec, kernel)))

    def apply(
        self, state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the phases as channels, interleave and crop them."""
        spec, (inner_spec, starts), engine, inner = state
        if not _interleaves(spec):
            return engine.apply(inner, x, bias, out)
        y = engine.apply(inner, x, None if bias is None else bias.repeat_interleave(prod(spec.stride)))
        axes = spec.axes
        y = y.reshape(spec.batch, spec.out_channels, *spec.stride, *inner_spec.output_size)
        order = [place for axis in range(axes) for place in (2 + axes + axis, 2 + axis)]
        y = y.permute(0, 1, *order)
        y = y.reshape(
            spec.batch, spec.out_channels, *(n * s for n, s in zip(inner_spec.output_size, spec.stride, strict=True))
        )
        for axis, (start, length) in enumerate(zip(starts, spec.output_size, strict=True), start=2):
            y = y.narrow(axis, start, length)
        return y.contiguous() if out is None else out.copy_(y)


phases = Phases()


@lru_cache(maxsize=1024)
def layout(spec: ConvSpec) -> Layout:
    """Return the correlation that computes the phases."""
    taps, padding, start = [], [], []
    axes_of = zip(spec.extent, spec.kernel_size, spec.stride, spec.size, spec.padding, spec.output_size, strict=True)
    for extent, kernel_size, stride, size, (before, _), length in axes_of:
        reach = -(-extent // stride) - 1  # number of earlier input positions that a phase reads
        taps.append(kernel_size if stride == 1 else reach + 1)
        first, last = before // stride, -(-(before + length) // stride)
        lead = max(reach - first, 0)
        padding.append((lead, max(last - size, 0)))
        start.append(before - stride * (reach - lead))  # the first step that is computed is reach - lead
    spec_of_phases = ConvSpec(
        batch=spec.batch,
        in_channels=spec.in_channels,
        out_channels=spec.out_channels * prod(spec.stride),
        size=spec.size,
        kernel_size=tuple(taps),
        padding=tuple(padding),
        dilation=tuple(d if s == 1 else 1 for d, s in zip(spec.dilation, spec.stride, strict=True)),
        groups=spec.groups,
        bias=spec.bias,
        dtype=spec.dtype,
    )
    return Layout(spec_of_phases, tuple(start))


@lru_cache(maxsize=1024)
def engine_of(spec: ConvSpec) -> Engine[Any]:
    """Return the engine that computes the phases, chosen by default machine limits so that plan and state agree."""
    inner = layout(spec).spec
    fit = [engine for engine in INNER if engine.refuse(inner) is None]
    return min(fit, key=lambda engine: engine.seconds(inner, MachineLimits()))


def _interleaves(spec: ConvSpec) -> bool:
    """Return whether the phases must be interleaved or cropped, which copies the result."""
    return prod(spec.stride) > 1 or layout(spec).spec.output_size != spec.output_size


def phase_kernels(spec: ConvSpec, kernel: torch.Tensor) -> torch.Tensor:
    """Return the reversed taps of each phase: (out_channels * phases, in_channels/groups, *taps)."""
    taps = layout(spec).spec.kernel_size
    whole = kernel.new_zeros((*kernel.shape[:2], *(n * s for n, s in zip(taps, spec.stride, strict=True))))
    steps = tuple(slice(0, e if s > 1 else None, d if s > 1 else 1) for e, s, d in _spacing(spec))
    whole[(..., *steps)] = kernel
    axes, ins, outs = spec.axes, spec.in_channels // spec.groups, spec.out_channels // spec.groups
    split = [number for pair in zip(taps, spec.stride, strict=True) for number in pair]
    parts = whole.reshape(spec.groups, ins, outs, *split)
    steps_at, phases_at = ([3 + 2 * axis + place for axis in range(axes)] for place in (0, 1))
    parts = parts.permute(0, 2, *phases_at, 1, *steps_at)
    return parts.flip(*range(-axes, 0)).reshape(-1, ins, *taps)


def _spacing(spec: ConvSpec) -> zip[tuple[int, int, int]]:
    """Return the extent, stride and dilation of each axis."""
    return zip(spec.extent, spec.stride, spec.dilation, strict=True)
