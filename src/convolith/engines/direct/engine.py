"""Direct sums by generated code: few channels, depthwise, integers and half types, on one to three axes."""

from __future__ import annotations

from array import array
from dataclasses import replace
from functools import lru_cache
from math import ceil, log2, prod
from typing import NamedTuple

import numpy as np
import torch

from convolith.dtypes import COMPLEX, HALVES, ITEMSIZE, dtype_name, integer_bits, is_float
from convolith.engines.base import TRANSPOSED, Changed, GeneratedEngine, turned
from convolith.engines.buffers import empty
from convolith.engines.direct import emit
from convolith.engines.direct import tiling as geometry
from convolith.engines.direct.emit import ARGUMENTS
from convolith.engines.direct.emit_tile import VECTORS, DirectRecipe, lanes_of, rolls
from convolith.engines.emit_rounded import KINDS
from convolith.engines.machine_limits import SERIAL_PRODUCTS, MachineLimits
from convolith.engines.padding import source_tables
from convolith.engines.steps import OUTPUT, Finish, Layout, Step, Steps
from convolith.jit import Routine, Target, host, routine, scratch, thread_count
from convolith.spec import ConvSpec
from convolith.tensors import to_working, torch_dtype
from convolith.work import ForwardMemory, Memory, Work, layer_work

LARGEST_SCRATCH = 1 << 23
"""Bytes of a block's packed inputs above which packing gains nothing."""
DENSE_EFFICIENCY, PLANE_EFFICIENCY, SIGNAL_EFFICIENCY = 0.92, 0.95, 0.6
"""Fractions of the peak product rate, with many taps, of tiles of several channels, one channel, and one row."""
STARTING_TAPS, ROLLED_STARTING_TAPS = {True: 5.0, False: 10.0}, 1.5
"""Overhead of a tile, as a number of products per output, with several channels and with one; and of a row of a strip
of rolling sums."""
NARROW_EFFICIENCY = 0.7
"""Factor on the efficiency where the output has fewer columns than two vectors."""
DEEP_EFFICIENCY = 0.88
"""Factor on the efficiency where a row of inputs exceeds a first-level cache and a stride or a dilation widens it."""
SINGLE_TAP_EFFICIENCY = 0.8
"""Factor on the efficiency with one tap, where each input is loaded for as many products as a tile has channels."""
INT64_EFFICIENCY = 0.15
"""Factor on the efficiency for 64-bit integers, whose products are composed of 32-bit products."""
ROW_SECONDS, ROW_VECTOR_SECONDS = 1e-8, 2.5e-9
"""Overhead of a row of outputs of one channel, and of each vector of the row, on one thread of processors whose masks
are vectors (before AVX-512)."""
SPLIT_SECONDS, FEW_SPLIT_SECONDS = 4.5e-11, 3.3e-10
"""Time per input of splitting rows of one channel by a stride, on one thread; and where rows are shorter than a vector,
which are copied one by one."""
LARGEST_STRIDE = 16
"""Largest stride: beyond it, windows hardly overlap, and most of the inputs that a block copies are not needed."""
LAYOUTS = 1024
"""Number of specs whose blocks are cached."""


class State(NamedTuple):
    """Everything that is prepared before an input is known."""

    spec: ConvSpec
    recipe: DirectRecipe
    shape: tuple[int, ...]
    """Shape of the result, whose spatial axes may be merged into one in the spec."""
    kernel: torch.Tensor
    no_bias: torch.Tensor
    sources: dict[str, torch.Tensor]
    """Tables of padding that repeats inputs, by argument name."""
    template: array[int]
    """Arguments without addresses, for a contiguous x."""
    region: Routine
    target: Target
    threads: int
    scratch_bytes: int
    out_dtype: torch.dtype


def sum_dtype(spec: ConvSpec) -> str:
    """Return the narrowest type in which integer sums are exact and convertible, or the working type of floats."""
    if spec.out_dtype in HALVES:
        return "float32"
    if is_float(spec.out_dtype):
        return spec.out_dtype
    bits = integer_bits(spec.dtype) + integer_bits(spec.kernel_dtype) + ceil(log2(spec.products_per_output))
    return "float32" if bits <= 24 else "float64" if bits <= 51 else "int64"


class Direct(GeneratedEngine[State]):
    """Engine of direct sums."""

    name = "direct"

    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Return a reason for transposed or complex layers, long strides, and blocks that would not fit a cache."""
        if spec.transposed:
            return TRANSPOSED
        if spec.out_dtype in COMPLEX:
            return "not for complex numbers"
        steps = [s for s, n in zip(spec.stride, spec.output_size, strict=True) if n > 1]
        if max(steps, default=1) > LARGEST_STRIDE:
            return f"stride {max(steps)} is over {LARGEST_STRIDE}"
        if spec.dtype == "float16" and not host().halves:
            return "this processor does not convert float16"
        spec, target = spec.plane(), host()
        needed = geometry.plan_blocks(spec, recipe_of(spec, target), target)[0]["thread_elements"] * 8
        if needed > LARGEST_SCRATCH:
            return f"a block of inputs takes {needed / 1e6:.0f} MB, more than fits a cache"
        return None

    def note(self, spec: ConvSpec) -> str:
        """Describe the vectors and the type of the sums."""
        kind = sum_dtype(spec)
        return f"{host().lanes(8 if '64' in kind else 4)} x {kind}"

    def work(self, spec: ConvSpec) -> Work:
        """Count the layer's products and the scratch of the blocks."""
        layer = layer_work(spec)
        memory = layer.memory.forward
        wide = sum_dtype(spec)
        prepared = 0 if wide == spec.kernel_dtype else prod(spec.kernel_shape) * ITEMSIZE[wide]
        workspace = thread_count() * geometry.PACKED_BYTES
        terms = ForwardMemory(memory.input, memory.parameters, memory.output, workspace, prepared)
        return Work(forward=layer.forward, memory=Memory(terms))

    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of the products and of copied blocks, or of the memory traffic if that is longer."""
        spec, target, threads = spec.plane(), host(), thread_count()
        recipe = recipe_of(spec, target)
        lanes = target.lanes(torch_dtype(recipe.sum_dtype).itemsize)
        width = spec.output_size[-1]
        products = prod(spec.output_shape) / width * ceil(width / lanes) * lanes * spec.products_per_output
        products *= (
            ceil(spec.out_channels / spec.groups / recipe.channels) * recipe.channels * spec.groups / spec.out_channels
        )
        if recipe.channels > 1:
            share = DENSE_EFFICIENCY
        elif recipe.flat:
            share = SIGNAL_EFFICIENCY
        else:
            share = PLANE_EFFICIENCY
        starting = ROLLED_STARTING_TAPS if recipe.rolled else STARTING_TAPS[recipe.channels > 1]
        share *= spec.products_per_output / (spec.products_per_output + starting)
        if width < 2 * lanes:
            share *= NARROW_EFFICIENCY
        if recipe.deep and recipe.many_outputs and max(*recipe.stride, *recipe.dilation) > 1:
            share *= DEEP_EFFICIENCY
        if spec.taps == 1:
            share *= SINGLE_TAP_EFFICIENCY
        if recipe.sum_dtype == "int64":
            share *= INT64_EFFICIENCY
        rate = limits.products_per_second("float32" if recipe.sum_dtype == "float32" else "float64") * share
        forward = self.work(spec).forward
        busy = 1 if products < SERIAL_PRODUCTS else threads
        packed = 0 if _unpacked(spec, recipe) else 2 * prod(spec.input_shape) * torch_dtype(recipe.sum_dtype).itemsize
        edges = 0.0
        if recipe.channels == 1 and recipe.masked and target.masked_bytes > 1:
            rows = prod(spec.output_shape[:-1]) * (spec.in_channels // spec.groups)
            edges = rows * (ROW_SECONDS + ceil(width / lanes) * ROW_VECTOR_SECONDS) / threads
        if recipe.channels == 1 and recipe.stride[2] > 1:
            each = SPLIT_SECONDS if spec.size[-1] >= lanes else FEW_SPLIT_SECONDS
            edges += prod(spec.input_shape) * each / threads
        computing = (products / rate + packed / limits.cache_bytes_per_second + edges) * threads / busy
        return limits.call_seconds + max(computing, limits.moving_seconds(forward.bytes))

    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time to convert the kernel to the type of the sums, if it differs."""
        return 0.0 if sum_dtype(spec) == spec.kernel_dtype else limits.moving_seconds(16 * prod(spec.kernel_shape))

    def prepare_for(self, target: Target, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
        """Prepare the code, the blocks and the kernel for any processor."""
        ready = _ready(target, spec, thread_count())
        kernel = turned(spec, kernel) if adjoint else kernel
        return ready._replace(kernel=to_working(kernel, torch_dtype(ready.recipe.sum_dtype)).contiguous())

    def resized(self, state: State, spec: ConvSpec) -> State | None:
        """Share the kernel."""
        return _ready(host(), spec, thread_count())._replace(kernel=state.kernel)

    def apply(
        self, state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Fill in the arguments and run the region."""
        y = out if out is not None and out.is_contiguous() else empty(state.shape, state.out_dtype)
        _run(state, state.region, x, bias, y)
        return y if out is None or out is y else out.copy_(y)

    def apply_rounded(self, state: State, x: torch.Tensor, out: torch.Tensor) -> Changed | None:
        """Run the region that rounds, and add up what its threads counted."""
        recipe = state.recipe
        if (
            recipe.many_outputs
            or not out.is_contiguous()
            or not is_float(recipe.sum_dtype)
            or (recipe.sum_dtype != recipe.out_dtype)
        ):
            return None
        counts = np.zeros((state.threads, KINDS, lanes_of(recipe, state.target)), np.int32)
        _run(state, _rounding(state.target, recipe, out.dtype), x, None, out, counts.ctypes.data)
        clipped, missing = counts.sum((0, 2))
        return Changed(int(clipped), int(missing))

    def steps(self, state: State, layout: Layout, after: Finish) -> Steps | None:
        """Return one step, for contiguous planes."""
        if not is_float(state.spec.out_dtype) or state.recipe.sum_dtype != state.recipe.out_dtype:
            return None
        values = state.template[:]
        ARGUMENTS.update(values, {"x_image": layout.x_image, "y_image": layout.y_image, "streams": 0})
        region = routine(emit.write, host(), replace(state.recipe, tail=after.tail), ordered=True)
        named = after.tensors(state.spec.out_channels, state.recipe.sum_dtype)
        tensors = {"weight": state.kernel, **named, **state.sources}
        places = {"x": 0, "y": OUTPUT}
        step = Step(region, ARGUMENTS, values, places, tensors, {"scratch": 0}, state.threads, after.residual)
        return Steps((step,), state.scratch_bytes)


direct = Direct()


def _unpacked(spec: ConvSpec, recipe: DirectRecipe) -> bool:
    """Return whether most blocks are read in place."""
    padded = any(spec.padding[-1]) and spec.output_size[-1] < geometry.FEW_BLOCKS * geometry.SHORT_PACKED_ROW
    return recipe.masked or (recipe.x_dtype == recipe.sum_dtype and recipe.stride[2] == 1 and not padded)


@lru_cache(maxsize=LAYOUTS)
def _ready(target: Target, spec: ConvSpec, threads: int) -> State:
    """Prepare everything except the kernel: the code and the blocks."""
    shape, pixel, spec = spec.output_shape, spec.interleaved, _flattened(spec.plane())
    recipe = recipe_of(spec, target)
    wide = torch_dtype(recipe.sum_dtype)
    no_bias = torch.from_numpy(np.zeros(spec.out_channels, str(bias_dtype(recipe)).removeprefix("torch.")))
    slots, scratch_elements = geometry.plan_blocks(spec, recipe, target)
    products = prod(spec.output_shape) * spec.products_per_output
    threads = 1 if products < SERIAL_PRODUCTS else min(threads, slots["tasks"])
    strides = torch.empty((1, spec.in_channels, *spec.size), device="meta").stride()
    sources = source_tables(spec, pixel) if recipe.repeats else {}
    template = ARGUMENTS.new(slots)
    _describe(template, recipe, strides, torch_dtype(spec.dtype).itemsize)
    region = routine(emit.write, target, recipe, ordered=True)
    scratch_bytes = scratch_elements * wide.itemsize
    out_dtype = torch_dtype(spec.out_dtype)
    return State(
        spec, recipe, shape, no_bias, no_bias, sources, template, region, target, threads, scratch_bytes, out_dtype
    )


@lru_cache(maxsize=LAYOUTS)
def _rounding(target: Target, recipe: DirectRecipe, dtype: torch.dtype) -> Routine:
    """Return the region that rounds to an integer dtype."""
    return routine(emit.write, target, replace(recipe, rounded=dtype_name(dtype)), ordered=True)


def _flattened(spec: ConvSpec) -> ConvSpec:
    """Merge the axes of an unpadded layer with a single tap and stride 1 into a long one, where tiles are widest."""
    if spec.taps > 1 or max(spec.stride) > 1 or any(map(any, spec.padding)) or spec.axes == 1:
        return spec
    return replace(
        spec,
        size=(prod(spec.size),),
        kernel_size=(1,),
        stride=(1,),
        padding=((0, 0),),
        dilation=(1,),
        output_padding=(0,),
    )


def bias_dtype(recipe: DirectRecipe) -> torch.dtype:
    """Return the dtype of the bias: int64 for integer outputs, otherwise the type of the sums."""
    return torch.int64 if "int" in recipe.out_dtype else torch_dtype(recipe.sum_dtype)


def recipe_of(spec: ConvSpec, target: Target) -> DirectRecipe:
    """Return the parameters of the code for a spec; most other image, batch and channel sizes share the code."""
    # strides and dilations without effect become 1, so that no separate code is compiled
    stride = _three(tuple(s if n > 1 else 1 for s, n in zip(spec.stride, spec.output_size, strict=True)))
    dilation = _three(tuple(d if k > 1 else 1 for d, k in zip(spec.dilation, spec.kernel_size, strict=True)))
    kernel_size = _three(spec.kernel_size)
    deep = _window_bytes(spec) > geometry.WINDOW_BYTES
    recipe = DirectRecipe(
        spec.dtype,
        sum_dtype(spec),
        spec.out_dtype,
        kernel_size,
        stride,
        dilation,
        channels=_channels(spec.out_channels // spec.groups, target, 2 if deep else VECTORS),
        many_channels=spec.in_channels > spec.groups,
        many_outputs=spec.out_channels > spec.groups,
        deep=deep,
        flat=spec.axes == 1,
        masked=False,
        repeats=spec.pads_beyond_zeros,
    )
    recipe = replace(recipe, rolled=rolls(recipe, target))
    return replace(recipe, masked=geometry.masked(recipe, target, spec))


def _window_bytes(spec: ConvSpec) -> int:
    """Return the bytes of inputs that a row of tiles of a short block reads."""
    return (
        spec.in_channels
        // spec.groups
        * prod(spec.kernel_size[:-1])
        * geometry.SHORT_PACKED_ROW
        * torch_dtype(sum_dtype(spec)).itemsize
    )


def _three(values: tuple[int, ...]) -> tuple[int, int, int]:
    """Return one number per axis (depth, height, width), with 1 for missing axes."""
    return (*(1,) * (3 - len(values)), *values)  # type: ignore[return-value]  # three in all


def _channels(outs: int, target: Target, vectors: int) -> int:
    """Return the output channels of a tile: as many as the registers allow, unless fewer divide them better."""
    most = min(outs, target.accumulators // vectors)
    return min(range(most, 0, -1), key=lambda n: ceil(outs / n) * n * (1 + 0.15 * (most - n)))


def _run(
    state: State, region: Routine, x: torch.Tensor, bias: torch.Tensor | None, y: torch.Tensor, counts: int = 0
) -> None:
    """Run a region, which writes y, and counts at an address if it rounds."""
    slots = state.template[:]
    if x.ndim != state.spec.axes + 2:
        x = x.contiguous()  # its spatial axes are merged
    elif not x.is_contiguous():
        if x.stride(-1) != 1:
            x = x.contiguous()
        _describe(slots, state.recipe, x.stride(), x.element_size())
    added = state.no_bias if bias is None else bias.to(state.no_bias.dtype).contiguous()
    room = scratch(state.scratch_bytes)
    slots[X], slots[WEIGHT], slots[BIAS], slots[Y] = (t.data_ptr() for t in (x, state.kernel, added, y))
    slots[SCRATCH], slots[COUNTED] = room.data_ptr(), counts
    for name, table in state.sources.items():
        slots[AT[name]] = table.data_ptr()
    if slots[STREAMS] and (slots[Y] % 64 or counts):
        slots[STREAMS] = 0
    ARGUMENTS.run(region, slots, state.threads)


AT = ARGUMENTS.at
X, WEIGHT, BIAS, Y = (AT[name] for name in ("x", "weight", "bias", "y"))
SCRATCH, STREAMS, COUNTED = (AT[name] for name in ("scratch", "streams", "counts"))


def _describe(slots: array[int], recipe: DirectRecipe, strides: tuple[int, ...], itemsize: int) -> None:
    """Fill in the arguments that depend on the layout of x, whose last axis has stride 1."""
    slots[AT["x_image"]], slots[AT["x_channel"]], *rest = strides
    slots[AT["x_plane"]] = rest[0] if len(rest) == 3 else 0
    slots[AT["x_row"]] = rest[-2] if len(rest) > 1 else 0
    slots[AT["direct"]] = geometry.reads_in_place(
        recipe, slots[AT["in_channels"]], slots[AT["out_channels"]], slots[AT["x_row"]] * itemsize
    )
