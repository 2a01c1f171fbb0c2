"""3x3 kernels with fewer products: Winograd's minimal filtering, F(2x2, 3x3) to F(6x6, 3x3), in generated code.

A tile of 2x2, 4x4 or 6x6 outputs takes 16, 36 or 64 products per channel where direct sums take 36, 144 or 324. The
transforms are described in `transforms`, the blocks of tiles in `emit`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, isfinite, prod
from typing import NamedTuple

import numpy as np
import torch

from convolith.dtypes import half_ulp
from convolith.engines.base import TRANSPOSED, GeneratedEngine, turned, unsupported
from convolith.engines.buffers import empty
from convolith.engines.machine_limits import MachineLimits
from convolith.engines.padding import padded, padded_bytes, unpadded
from convolith.engines.steps import OUTPUT, Finish, Layout, Step, Steps
from convolith.engines.winograd import emit_weights as weights
from convolith.engines.winograd.emit import (
    ARGUMENTS,
    INPUTS,
    PRODUCTS,
    SUMMED_AT_ONCE,
    VECTORS,
    WHOLE,
    WinogradRecipe,
    panel_rows,
    write,
)
from convolith.jit import Routine, Target, host, routine, scratch, thread_count
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype
from convolith.work import Count, ForwardMemory, Memory, Work, layer_work

AT = ARGUMENTS.at
X, U, BIAS, Y, SCRATCH, V, FIRST, LAST, ZEROS = range(9)
"""Slots of the addresses, which come first."""
BLOCK_BYTES = 1 << 18
"""Upper bound on the bytes of a block's transformed inputs: half of a second-level cache of 512 KiB."""
PRODUCT_BYTES = 160 << 10
"""Upper bound on the bytes of the products of a block of output channels, which share that cache."""
MOST_VECTORS = 12
"""Upper bound on the vectors of tiles in a block: more vectors do not improve the reuse of the weights."""
TASKS_PER_THREAD = 4
PRODUCT_EFFICIENCY, NARROW_EFFICIENCY = 0.85, 0.8
"""Fraction of the peak product rate that register tiles of three vectors, and of fewer, reach."""
WEIGHTS_SHARE = 0.6
"""Time to read weights, which are fetched ahead, as a share of the time to copy as many bytes."""
TRANSFORM_STEPS = {2: 7, 4: 7, 6: 11}
"""Cost of a transform per point of a tile, as a number of products, by the outputs of a tile along an axis."""
SERIAL_STEPS = 500_000
"""Number of products and transform steps below which one thread finishes before a second one has started."""
SERIAL_PAIRS = 4_000
"""Number of channel pairs below which one thread has transformed a kernel before a second one has started."""
PACK_STEPS, PACK_SECONDS = 10.0, 25e-6
"""Cost of a kernel's transform per point and per tap, as a number of products; and fixed time of the transform."""
LAYOUTS = 256
"""Number of specs whose blocks are cached."""
BEYOND = 64
"""Number of zeros after the last panel, which its last vectors read."""
GAIN = {2: 6.0, 4: 40.0, 6: 600.0}
"""Amplification of a rounding error by the transforms, measured on the data of the tests."""
MOST_ACCURATE = 4
"""Largest number of outputs of a tile along an axis that every accuracy with transforms allows."""


class State(NamedTuple):
    """Everything that is prepared before an input is known."""

    spec: ConvSpec
    shape: tuple[int, ...]
    u: torch.Tensor
    no_bias: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor
    zeros: torch.Tensor
    template: array[int]
    stages: tuple[tuple[int, int], ...]
    region: Routine
    threads: int
    scratch_bytes: int
    v_bytes: int


class Blocks(NamedTuple):
    """Sizes among a region's arguments, threads, stages, and bytes of scratch and of transformed inputs."""

    slots: dict[str, int]
    threads: int
    stages: tuple[tuple[int, int], ...]
    scratch_bytes: int
    v_bytes: int


@dataclass(frozen=True)
class Winograd(GeneratedEngine[State]):
    """Engine for one size of output tiles."""

    name: str
    outputs: int

    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Return a reason for all but 3x3 layers in float32 or float64 without stride, dilation or groups.

        Volumes have a kernel of 3x3 in their planes, and any along the depth.
        """
        if spec.transposed:
            return TRANSPOSED
        if spec.axes == 1 or spec.kernel_size[-2:] != (3, 3):
            return f"kernel_size {'x'.join(map(str, spec.kernel_size))} is not 3x3"
        if spec.dtype != spec.kernel_dtype or spec.dtype not in ("float32", "float64"):
            return unsupported(spec)
        if max(spec.stride[-2:]) > 1 or max(spec.dilation[-2:]) > 1:
            return "stride or dilation over 1"
        if spec.groups > 1:
            return "more than one group"
        if not isfinite(spec.padding_value):
            return "padding that is not finite would spread over tiles"
        return None

    @property
    def only_fast(self) -> bool:
        """Whether the tile is so large that its transforms lose more digits than smaller tiles do."""
        return self.outputs > MOST_ACCURATE

    def keeps_nonfinite_local(self, spec: ConvSpec) -> bool:
        """Return False: NaN and infinity spread over their tile."""
        return False

    def note(self, spec: ConvSpec) -> str:
        """Describe the tile."""
        lanes = self._recipe(spec).lanes(host())
        return f"F({self.outputs}x{self.outputs}, 3x3), {lanes} tiles at a time; spreads NaN and infinity"

    def work(self, spec: ConvSpec) -> Work:
        """Count the products of the tiles, and the transforms of inputs and outputs."""
        memory = layer_work(spec).memory.forward
        copied, spec = padded_bytes(spec), in_planes(spec)
        points = (self.outputs + 2) ** 2
        tiles = spec.batch * self._tiles(spec)[0] * self._tiles(spec)[1]
        products = tiles * points * spec.in_channels * spec.out_channels
        transforms = tiles * points * 6 * (spec.in_channels + spec.out_channels)
        item = torch_dtype(spec.dtype).itemsize
        transformed = tiles * points * (spec.in_channels + spec.out_channels) * item
        weights = points * spec.in_channels * spec.out_channels * item
        forward = Count(
            products + transforms // 2,
            products + transforms // 2,
            memory.bytes + 2 * (transformed + copied) + weights,
        )
        layout = self._blocks(replace(spec, batch=max(spec.batch, 1)), host())
        workspace = copied + layout.scratch_bytes + layout.v_bytes
        prepared = points * spec.in_channels * layout.slots["panels"] * panel_rows(host()) * item
        terms = ForwardMemory(memory.input, memory.parameters, memory.output, workspace, prepared)
        return Work(forward=forward, memory=Memory(terms))

    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of products in full vectors of tiles, of transforms, and of moving weights and operands."""
        given, spec = spec, in_planes(spec)
        down, across = self._tiles(spec)
        lanes = self._recipe(spec).lanes(host())
        points = (self.outputs + 2) ** 2
        tiles = ceil(spec.batch * down * across / lanes) * lanes
        rate = limits.products_per_second(spec.dtype)
        share = PRODUCT_EFFICIENCY if tiles > 3 * lanes else NARROW_EFFICIENCY
        products = tiles * points * spec.in_channels * ceil(spec.out_channels / 8) * 8 / (rate * share)
        transforms = tiles * points * TRANSFORM_STEPS[self.outputs] * (spec.in_channels + spec.out_channels) / rate
        weights = points * spec.in_channels * spec.out_channels * torch_dtype(spec.dtype).itemsize
        moving = WEIGHTS_SHARE * limits.moving_seconds(weights) + limits.moving_seconds(
            layer_work(given).memory.forward.bytes
        )
        copying = limits.moving_seconds(2 * padded_bytes(given))
        return limits.call_seconds + copying + products + transforms + moving / 2  # half of it overlaps the products

    def _recipe(self, spec: ConvSpec) -> WinogradRecipe:
        return WinogradRecipe(self.outputs, spec.dtype, deep=spec.axes == 3)

    def _tiles(self, spec: ConvSpec) -> tuple[int, int]:
        """Return the number of tiles down and across an image."""
        down, across = (ceil(n / self.outputs) for n in spec.output_size)
        return down, across

    def error_bound(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> float:
        """Bound the error of direct sums in chunks at each point, plus the amplification by the transforms."""
        channels = in_planes(spec).in_channels
        chunks = ceil(channels / SUMMED_AT_ONCE)
        summed = min(channels, SUMMED_AT_ONCE) / 4 + chunks / 4
        return half_ulp(spec.dtype) * (GAIN[self.outputs] + summed)

    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time to transform every pair of channels, and to read and write the data."""
        spec = in_planes(spec)
        pairs = spec.in_channels * ceil(spec.out_channels / panel_rows(host())) * panel_rows(host())
        points, rate = (self.outputs + 2) ** 2, limits.products_per_second(spec.dtype)
        busy = 1 if pairs < SERIAL_PAIRS else thread_count()
        moving = limits.moving_seconds(2 * pairs * (points + 9) * torch_dtype(spec.dtype).itemsize)
        return PACK_SECONDS + pairs * (points + 9) * PACK_STEPS / rate * thread_count() / busy + moving

    def prepare_for(self, target: Target, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
        """Prepare the code, the blocks and the transformed kernel for any processor."""
        ready = _ready(self, target, spec, thread_count())
        if spec.axes == 3:
            kernel = (turned(spec, kernel) if adjoint else kernel).reshape(spec.out_channels, -1, 3, 3)
            adjoint, spec = False, in_planes(spec)
        return ready._replace(u=self._transformed(target, spec, kernel, ready, adjoint=adjoint))

    def resized(self, state: State, spec: ConvSpec) -> State | None:
        """Share the transformed kernel, whose layout depends on channels alone."""
        return _ready(self, host(), spec, thread_count())._replace(u=state.u)

    def _blocks(self, spec: ConvSpec, target: Target) -> Blocks:
        """Plan the stages, their threads and their memory."""
        down, across = self._tiles(spec)
        tiles = spec.batch * down * across
        channels = spec.in_channels + spec.out_channels
        steps = tiles * (spec.in_channels * spec.out_channels + TRANSFORM_STEPS[self.outputs] * channels)
        threads = 1 if steps * (self.outputs + 2) ** 2 < SERIAL_STEPS else thread_count()
        slots = self._slots(spec, target, threads, tiles, down, across)
        stages = [(WHOLE, slots["blocks"])]
        if slots["blocks"] < slots["fewest_blocks"]:
            halves = ((INPUTS, slots["channel_chunks"]), (PRODUCTS, slots["panel_blocks"]))
            stages = [(stage, slots["blocks"] * parts) for stage, parts in halves]
        v_elements = 0 if len(stages) == 1 else slots["blocks"] * slots["v_block"]
        item = torch_dtype(spec.dtype).itemsize
        return Blocks(slots, threads, tuple(stages), item * threads * slots["thread_elements"], item * v_elements)

    def _slots(
        self, spec: ConvSpec, target: Target, threads: int, tiles: int, down: int, across: int
    ) -> dict[str, int]:
        """Return the sizes among a region's arguments."""
        lanes, rows = self._recipe(spec).lanes(target), panel_rows(target)
        item = torch_dtype(spec.dtype).itemsize
        points, m = self.outputs + 2, self.outputs
        vectors = ceil(tiles / lanes)
        vector_bytes = points**2 * spec.in_channels * lanes * item
        widest = min(max(BLOCK_BYTES // vector_bytes, VECTORS), MOST_VECTORS)
        blocks = ceil(vectors / widest)
        if blocks > threads:  # equally many blocks for every thread
            blocks = ceil(blocks / threads) * threads
        panels = ceil(spec.out_channels / (2 * rows)) * 2
        fewest_blocks = 2 * threads
        weight_bytes = points**2 * spec.in_channels * panels * rows * item
        if blocks < fewest_blocks and (weight_bytes <= BLOCK_BYTES or blocks * panels < 2 * fewest_blocks):
            fewest_blocks = threads  # the weights fit every thread's cache, or are too few to share
            blocks = max(blocks, threads)
        blocks = min(blocks, vectors)
        block_vectors = ceil(vectors / blocks)
        panel_block = max(2, PRODUCT_BYTES // (points**2 * rows * block_vectors * lanes * item) // 2 * 2)
        if blocks < fewest_blocks:
            panel_block = min(panel_block, max(2, panels * blocks // (threads * TASKS_PER_THREAD) // 2 * 2))
        panel_block = min(panel_block, panels)
        tile_rows_touched = (block_vectors * lanes + across - 2) // across + 1
        strip = _whole_lines(max(tile_rows_touched * across, block_vectors * lanes) * m + (m + 4) * lanes)
        edge = _whole_lines(tile_rows_touched * across + 2 * lanes)
        v_plane = block_vectors * spec.in_channels * lanes + 16
        m_plane = panel_block * rows * block_vectors * lanes + 16
        out_offset = points * (strip + 2 * edge)
        m_offset = out_offset + points * strip
        chunk = max(1, spec.in_channels // (threads * TASKS_PER_THREAD))
        return {
            "fewest_blocks": fewest_blocks,
            "in_channels": spec.in_channels,
            "out_channels": spec.out_channels,
            "height": spec.size[0],
            "width": spec.size[1],
            "out_height": spec.output_size[0],
            "out_width": spec.output_size[1],
            "pad_height": spec.padding[0][0],
            "pad_width": spec.padding[1][0],
            "y_image": spec.out_channels * spec.output_size[0] * spec.output_size[1],
            "y_channel": spec.output_size[0] * spec.output_size[1],
            "tile_rows": down,
            "tile_columns": across,
            "tiles": tiles,
            "vectors": vectors,
            "blocks": blocks,
            "block_vectors": block_vectors,
            "channel_chunk": chunk,
            "channel_chunks": ceil(spec.in_channels / chunk),
            "panels": panels,
            "panel_block": panel_block,
            "panel_blocks": ceil(panels / panel_block),
            "strip_pitch": strip,
            "edge_pitch": edge,
            "v_plane": v_plane,
            "v_block": v_plane * points**2,
            "m_plane": m_plane,
            "edge_offset": points * strip,
            "out_offset": out_offset,
            "m_offset": m_offset,
            "v_offset": m_offset + points**2 * m_plane,
            "thread_elements": _whole_lines(m_offset + points**2 * (m_plane + v_plane) + 64),
        }

    def _transformed(
        self, target: Target, spec: ConvSpec, kernel: torch.Tensor, ready: State, *, adjoint: bool
    ) -> torch.Tensor:
        """Compute U, (pairs of panels, points, PAIR, in_channels, rows), with zero rows for absent channels."""
        rows, panels = panel_rows(target), ready.template[AT["panels"]]
        size = (self.outputs + 2) ** 2 * panels * rows * spec.in_channels
        u = empty((size + BEYOND,), kernel.dtype)
        u[size:] = 0
        kernel = kernel.contiguous()
        steps = {"out_step": kernel.stride(0), "in_step": kernel.stride(1)}
        if adjoint:
            steps = {"out_step": kernel.stride(1), "in_step": kernel.stride(0), "reversed": 1}
        chunks = ceil(spec.in_channels / weights.CHUNK)
        threads = 1 if spec.in_channels * spec.out_channels < SERIAL_PAIRS else thread_count()
        room = scratch((self.outputs + 2) ** 2 * rows * weights.CHUNK * kernel.itemsize * threads)
        values = steps | {
            "kernel": kernel.data_ptr(),
            "u": u.data_ptr(),
            "scratch": room.data_ptr(),
            "tasks": panels * chunks,
            "chunks": chunks,
            "in_channels": spec.in_channels,
            "out_channels": spec.out_channels,
        }
        region = routine(weights.write, target, self._recipe(spec))
        weights.ARGUMENTS.run(region, weights.ARGUMENTS.new(values), threads)
        return u

    def apply(
        self, state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Fill in the arguments and run the stages."""
        if state.spec.pads_beyond_zeros:
            x = padded(x, state.spec)
        if x.stride(-1) != 1:
            x = x.contiguous()
        y = out if out is not None and out.is_contiguous() else empty(state.shape, x.dtype)
        room = scratch(state.scratch_bytes + state.v_bytes + 64)
        added = state.no_bias if bias is None else bias.contiguous()
        slots = state.template[:]
        slots[X], slots[U], slots[BIAS], slots[Y] = (t.data_ptr() for t in (x, state.u, added, y))
        slots[FIRST], slots[LAST], slots[ZEROS] = (t.data_ptr() for t in (state.first, state.last, state.zeros))
        slots[V], slots[SCRATCH] = room.data_ptr(), room.data_ptr() + state.v_bytes
        slots[AT["x_image"]], slots[AT["x_channel"]], *plane, slots[AT["x_row"]], _ = x.stride()
        slots[AT["x_plane"]] = plane[0] if plane else 0
        for stage, tasks in state.stages:
            ARGUMENTS.restart(slots)
            slots[AT["stage"]], slots[AT["tasks"]] = stage, tasks
            ARGUMENTS.run(state.region, slots, min(state.threads, tasks))
        if out is None or out is y:
            return y
        return out.copy_(y)

    def steps(self, state: State, layout: Layout, after: Finish) -> Steps | None:
        """Return one step for whole blocks, or one for the inputs and one for the products."""
        spec = state.spec
        if spec.pads_beyond_zeros:
            return None
        region = routine(write, host(), self._recipe(spec)._replace(tail=after.tail))
        tensors = {"u": state.u, "first": state.first, "last": state.last, "zeros": state.zeros}
        tensors |= after.tensors(spec.out_channels, spec.dtype)
        *_, height, width = spec.size
        strides = {"x_image": layout.x_image, "x_channel": prod(spec.size), "x_row": width, "y_image": layout.y_image}
        strides["x_plane"] = height * width
        places, scratch = {"x": 0, "y": OUTPUT}, {"v": 0, "scratch": state.v_bytes}
        steps = []
        for stage, tasks in state.stages:
            values = state.template[:]
            ARGUMENTS.update(values, strides | {"stage": stage, "tasks": tasks})
            threads = min(state.threads, tasks)
            steps.append(Step(region, ARGUMENTS, values, places, tensors, scratch, threads, after.residual))
        return Steps(tuple(steps), state.scratch_bytes + state.v_bytes + 64)


@lru_cache(maxsize=LAYOUTS)
def _ready(engine: Winograd, target: Target, spec: ConvSpec, threads: int) -> State:
    """Prepare all but the transformed kernel: the code, the blocks, and flags of a row's first and last tile."""
    given = spec
    if spec.pads_beyond_zeros:
        spec = unpadded(spec)
    recipe, volume = engine._recipe(spec), spec
    spec = in_planes(spec)
    across = engine._tiles(spec)[1]
    lanes, layout = recipe.lanes(target), engine._blocks(spec, target)
    slots = layout.slots | _depths(volume)
    flat = np.arange(slots["vectors"] * lanes) % across
    first, last = (torch.from_numpy(-(flat == place).astype(np.int32)) for place in (0, across - 1))
    zeros = (spec.size[1] + 4 * lanes + sum(spec.padding[1]), spec.out_channels)
    beyond, no_bias = (torch.from_numpy(np.zeros(n, spec.dtype)) for n in zeros)
    return State(
        given,
        volume.output_shape,
        beyond,
        no_bias,
        first,
        last,
        beyond,
        ARGUMENTS.new(slots),
        layout.stages,
        routine(write, target, recipe),
        layout.threads,
        layout.scratch_bytes,
        layout.v_bytes,
    )


@lru_cache(maxsize=LAYOUTS)
def in_planes(spec: ConvSpec) -> ConvSpec:
    """Return a layer of volumes as one of images: planes of the result, each tap along the depth a channel."""
    if spec.axes == 2:
        return spec
    return ConvSpec(
        batch=spec.batch * spec.output_size[0],
        in_channels=spec.in_channels * spec.kernel_size[0],
        out_channels=spec.out_channels,
        size=spec.size[1:],
        kernel_size=spec.kernel_size[1:],
        padding=spec.padding[1:],
        bias=spec.bias,
        dtype=spec.dtype,
        kernel_dtype=spec.kernel_dtype,
    )


def _depths(spec: ConvSpec) -> dict[str, int]:
    """Return the arguments that only layers of volumes have."""
    if spec.axes == 2:
        return {}
    return {
        "taps": spec.kernel_size[0],
        "depth": spec.size[0],
        "out_depth": spec.output_size[0],
        "stride_depth": spec.stride[0],
        "dilation_depth": spec.dilation[0],
        "pad_depth": spec.padding[0][0],
        "y_plane": prod(spec.output_size[1:]),
        "y_image": prod(spec.output_shape[1:]),
        "y_channel": prod(spec.output_size),
    }


def _whole_lines(elements: int) -> int:
    return ceil(elements / 16) * 16


winograd_2x2 = Winograd("winograd_2x2", 2)
winograd_4x4 = Winograd("winograd_4x4", 4)
winograd_6x6 = Winograd("winograd_6x6", 6)
