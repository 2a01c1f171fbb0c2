"""Any kernel as a matrix product: each tap of each input channel is a row of the matrix that the kernel multiplies.

The rows are gathered for a few positions at a time, into memory that stays in a cache, and multiplied by the code of
the pointwise engine; the matrix as a whole (known as im2col) is never stored. Gathering takes
little time if there are many output channels, and works for every stride and dilation.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

import torch

from convolith.dtypes import ITEMSIZE
from convolith.engines.base import TRANSPOSED, GeneratedEngine, turned, unsupported
from convolith.engines.buffers import empty
from convolith.engines.im2col import frames
from convolith.engines.machine_limits import MachineLimits
from convolith.engines.padding import padded, padded_size
from convolith.engines.pointwise import engine as pointwise_engine
from convolith.engines.pointwise.emit import ARGUMENTS, GATHERS
from convolith.engines.pointwise.engine import Generated, is_generated, pointwise
from convolith.engines.pointwise.tiling import VECTORS
from convolith.engines.steps import Finish, Layout, Steps
from convolith.jit import Target, host, thread_count
from convolith.spec import ConvSpec
from convolith.work import ForwardMemory, Memory, Work, layer_work

GATHERING_PRODUCTS = {True: 8.0, False: 16.0}
"""Time to gather one input, as a number of products: by vectors for strides of 1 and 2, one by one for others."""
EFFICIENCY = 0.98
"""Rate of products relative to the pointwise engine's: gathered columns are long and leave the first-level cache."""
FEWEST_OUTPUTS = 8
"""Number of output channels per group below which gathering costs more than the products."""
LARGEST_GATHERED = 1 << 23
"""Bytes of the gathered rows of a tile above which they leave the caches."""
OFFSETS = ARGUMENTS.at["offsets"]


class State(NamedTuple):
    """Layer, its matrix product, and the distances of the taps from the first."""

    spec: ConvSpec
    inner: Generated
    offsets: torch.Tensor


class Im2col(GeneratedEngine[State]):
    """Engine of strided and dilated layers with many output channels."""

    name = "im2col"

    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Return a reason for transposed layers, single taps, dtypes without generated code and few outputs."""
        if spec.transposed:
            return TRANSPOSED
        if spec.taps == 1:
            return "the kernel has a single tap"
        if not is_generated(spec):
            return unsupported(spec)
        if spec.out_channels // spec.groups < FEWEST_OUTPUTS:
            return f"fewer than {FEWEST_OUTPUTS} output channels per group"
        if _gathered_bytes(spec) > LARGEST_GATHERED:
            return f"the inputs of a few outputs take {_gathered_bytes(spec) / 1e6:.0f} MB, more than fits a cache"
        return None

    def note(self, spec: ConvSpec) -> str:
        """Describe the matrix product."""
        return pointwise.note(product_of(spec))

    def work(self, spec: ConvSpec) -> Work:
        """Count the layer's products, the copy of padded inputs and the gathered rows of all threads."""
        layer, inner = layer_work(spec), pointwise.work(product_of(spec))
        given, there = layer.memory.forward, inner.memory.forward
        copied = _copied_bytes(spec)
        workspace = copied + thread_count() * _gathered_bytes(spec)
        forward = replace(layer.forward, bytes=layer.forward.bytes + 2 * copied)
        terms = ForwardMemory(given.input, given.parameters, given.output, workspace, there.prepared)
        return Work(forward=forward, memory=Memory(terms))

    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of the product, of gathering and of padding."""
        inner = product_of(spec)
        gathered = prod(spec.output_size) * spec.batch * inner.in_channels
        rate = limits.products_per_second(spec.dtype)
        gathering = gathered * GATHERING_PRODUCTS[step_of(spec) > 0] / rate
        padding = limits.moving_seconds(2 * _copied_bytes(spec))
        return pointwise.seconds(inner, limits) / EFFICIENCY + gathering + padding

    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time to write the panels of the kernel."""
        return pointwise.prepare_seconds(product_of(spec), limits)

    def prepare_for(self, target: Target, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
        """Prepare the kernel and the code for any processor."""
        inner = product_of(spec.plane())
        kernel = turned(spec, kernel) if adjoint else kernel
        weight = pointwise_engine.packed(target, inner, kernel.reshape(inner.kernel_shape), adjoint=False)
        return _ready(target, spec, weight)

    def resized(self, state: State, spec: ConvSpec) -> State | None:
        """Share the packed weights, whose layout depends on channels alone."""
        return _ready(host(), spec, state.inner.weight)

    def apply(
        self, state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Pad, gather and multiply."""
        spec, inner, slots = state.spec, state.inner, state.inner.template[:]
        x = padded(x, spec).contiguous()
        y = out if out is not None and out.is_contiguous() else empty(spec.output_shape, x.dtype)
        slots[OFFSETS] = state.offsets.data_ptr()
        pointwise_engine.run(inner, inner.region, slots, x, bias, y, inner.scratch_bytes)
        return y if out is None or out is y else out.copy_(y)

    def steps(self, state: State, layout: Layout, after: Finish) -> Steps | None:
        """Return the copy into a frame of zeros, where there is padding, and the product."""
        spec, inner = state.spec.plane(), state.inner
        if spec.pads_beyond_zeros:
            return None
        copied = -(-_copied_bytes(spec) // 4096) * 4096
        x_image = inner.template[ARGUMENTS.at["x_image"]] if copied else layout.x_image
        last = pointwise_engine.step_of(inner, layout._replace(x_image=x_image), after)
        operands = {name: place for name, place in last.operands.items() if not (copied and name == "x")}
        scratch = {"scratch": copied} | ({"x": 0} if copied else {})
        last = last._replace(operands=operands, tensors={**last.tensors, "offsets": state.offsets}, scratch=scratch)
        first = (frames.step(spec, layout.x_image),) if copied else ()
        return Steps((*first, last), copied + inner.scratch_bytes)


im2col = Im2col()


def _ready(target: Target, spec: ConvSpec, weight: torch.Tensor) -> State:
    """Prepare everything except the packed weights: the code, the blocks and the offsets of taps."""
    plain = spec.plane()
    ready = pointwise_engine.ready(target, product_of(plain), thread_count(), step_of(plain))
    template = ready.template[:]
    ARGUMENTS.update(template, _layout(plain))
    return State(spec, ready._replace(weight=weight, template=template), _offsets(plain))


@lru_cache(maxsize=1024)
def product_of(spec: ConvSpec) -> ConvSpec:
    """Return the 1x1 layer that multiplies the gathered rows."""
    return ConvSpec(
        batch=spec.batch,
        in_channels=spec.in_channels * spec.taps,
        out_channels=spec.out_channels,
        size=spec.output_size,
        kernel_size=(1,) * spec.axes,
        groups=spec.groups,
        bias=spec.bias,
        dtype=spec.dtype,
        kernel_dtype=spec.kernel_dtype,
    )


def step_of(spec: ConvSpec) -> int:
    """Return the stride along rows if positions are gathered by vectors, else 0."""
    return spec.stride[-1] if spec.stride[-1] <= 2 else 0


def _copied_bytes(spec: ConvSpec) -> int:
    """Return the bytes of x after padding, or 0 if nothing is added and x is read in place."""
    if not any(map(any, spec.padding)):
        return 0
    return spec.batch * spec.in_channels * prod(padded_size(spec)) * ITEMSIZE[spec.dtype]


def _gathered_bytes(spec: ConvSpec) -> int:
    """Return the bytes of the gathered rows of one thread's tile."""
    rows = spec.in_channels // spec.groups * spec.taps
    return rows * VECTORS * host().vector_bytes


def _strides(spec: ConvSpec) -> tuple[int, ...]:
    """Return the strides of a padded x."""
    return torch.empty((spec.batch, spec.in_channels, *padded_size(spec)), device="meta").stride()


def _offsets(spec: ConvSpec) -> torch.Tensor:
    """Return the distance of each tap from the first, in elements of a padded x."""
    steps = [s * d for s, d in zip(_strides(spec)[2:], spec.dilation, strict=True)]
    places = product(*map(range, spec.kernel_size))
    return torch.tensor([sum(map(int.__mul__, place, steps)) for place in places], dtype=torch.int64, device="cpu")


def _layout(spec: ConvSpec) -> dict[str, int]:
    """Return the arguments of a region that depend on the layout of a padded x."""
    strides = _strides(spec)
    ones = (0,) * (3 - spec.axes)
    depth, row, column = (*ones, *(s * n for s, n in zip(strides[2:], spec.stride, strict=True)))
    _, height, width = (*(1,) * (3 - spec.axes), *spec.output_size)
    channels = spec.in_channels // spec.groups
    return {
        "x_image": strides[0],
        "x_channel": strides[1],
        "x_group": channels * strides[1],
        "x_depth": depth,
        "x_row": row,
        "x_column": column,
        "out_height": height,
        "out_width": width,
        "reading": GATHERS,
        "channels": channels,
        "taps": spec.taps,
    }
