"""Depthwise layers by generated code, with channels in the lanes of a vector: narrow images, strides and dilations."""

from __future__ import annotations

from array import array
from functools import lru_cache
from math import ceil, prod
from typing import NamedTuple

import numpy as np
import torch

from convolith.dtypes import ITEMSIZE
from convolith.engines.base import TRANSPOSED, GeneratedEngine, mixed_channels, turned, unsupported
from convolith.engines.buffers import empty
from convolith.engines.depthwise import emit
from convolith.engines.depthwise.emit import ARGUMENTS, PIXELS, UNROLLED, DepthwiseRecipe, lanes_of, square_of
from convolith.engines.machine_limits import SERIAL_PRODUCTS, MachineLimits
from convolith.engines.padding import source_tables
from convolith.engines.steps import OUTPUT, Finish, Layout, Step, Steps
from convolith.jit import Routine, Target, host, routine, scratch, thread_count
from convolith.spec import ConvSpec
from convolith.tensors import to_working, torch_dtype
from convolith.work import ForwardMemory, Memory, Work, layer_work

MOST_BYTES = 1 << 19
"""Largest ring of rows of a thread: beyond it, rows come from a cache that threads share."""
LOADS_PER_TAP = 9 / 8
"""Loads of a tile per tap and pixel: the inputs, and a weight for all of them."""
READING, WRITING = 4.5, 4.5
"""Time of transposing a pixel of all channels of a block on its way in and out, as a number of products."""
EFFICIENCY = 0.85
"""Fraction of the peak product rate that tiles reach, but for their loads."""
TASKS_PER_THREAD = 4
STRIP_REACHES = 4
"""Least height of a strip, as a number of windows, whose rows the next strip reads again."""
LAYOUTS = 1024
"""Number of specs whose blocks are cached."""


class State(NamedTuple):
    """Everything that is prepared before an input is known."""

    spec: ConvSpec
    recipe: DepthwiseRecipe
    weight: torch.Tensor
    """Weights of a block of channels, tap by tap."""
    no_bias: torch.Tensor
    sources: dict[str, torch.Tensor]
    """Tables of padding, by argument name."""
    template: array[int]
    """Arguments without addresses, for a contiguous x."""
    region: Routine
    target: Target
    threads: int
    scratch_bytes: int


class Depthwise(GeneratedEngine[State]):
    """Engine of layers with one kernel per channel."""

    name = "depthwise"

    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Return a reason for all but float layers of one or two axes whose channels fill a vector."""
        if spec.transposed:
            return TRANSPOSED
        if not spec.in_channels == spec.out_channels == spec.groups:
            return mixed_channels(spec)
        if spec.axes > 2:
            return "for one or two axes alone"
        if spec.dtype != spec.kernel_dtype or spec.dtype not in ("float32", "float64"):
            return unsupported(spec)
        lanes = lanes_of(host(), spec.dtype)
        if spec.in_channels < lanes:
            return f"needs {lanes} channels or more to fill a vector"
        needed = _sizes(host(), spec)["thread_elements"] * ITEMSIZE[spec.dtype]
        if needed > MOST_BYTES:
            return f"a thread's rows take {needed / 1e6:.1f} MB, more than fits a cache"
        return None

    def note(self, spec: ConvSpec) -> str:
        """Describe the vectors."""
        return f"{lanes_of(host(), spec.dtype)} channels x {spec.dtype}"

    def work(self, spec: ConvSpec) -> Work:
        """Count the layer's products, and the ring of each thread."""
        layer = layer_work(spec)
        memory, item = layer.memory.forward, ITEMSIZE[spec.dtype]
        workspace = _sizes(host(), spec)["thread_elements"] * item * thread_count()
        prepared = _blocks(host(), spec) * lanes_of(host(), spec.dtype) * spec.taps * item
        terms = ForwardMemory(memory.input, memory.parameters, memory.output, workspace, prepared)
        return Work(forward=layer.forward, memory=Memory(terms))

    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of the products and of both transpositions, or of the memory traffic if that is longer."""
        pixels = prod(spec.output_size[:-1]) * ceil(spec.output_size[-1] / PIXELS) * PIXELS
        products = pixels * (spec.taps * LOADS_PER_TAP + WRITING) + prod(spec.size) * READING
        products *= spec.batch * _blocks(host(), spec) * lanes_of(host(), spec.dtype)
        forward, threads = self.work(spec).forward, thread_count()
        waiting = threads if prod(spec.output_shape) * spec.taps < SERIAL_PRODUCTS else 1
        computing = products * waiting / (limits.products_per_second(spec.dtype) * EFFICIENCY)
        return limits.call_seconds + max(computing, limits.moving_seconds(forward.bytes))

    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time to bring the weights into their order."""
        return limits.moving_seconds(16 * prod(spec.kernel_shape))

    def prepare_for(self, target: Target, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
        """Prepare the code, the blocks and the weights for any processor."""
        ready = _ready(target, spec, thread_count())
        kernel = turned(spec, kernel) if adjoint else kernel
        lanes, channels = lanes_of(target, spec.dtype), spec.in_channels
        weights = to_working(kernel, torch_dtype(spec.dtype)).numpy().reshape(channels, -1)
        firsts = np.minimum(np.arange(_blocks(target, spec)) * lanes, channels - lanes)
        packed = weights[firsts[:, None] + np.arange(lanes)].transpose(0, 2, 1)
        return ready._replace(weight=torch.from_numpy(np.ascontiguousarray(packed)))

    def resized(self, state: State, spec: ConvSpec) -> State | None:
        """Share the weights."""
        return _ready(state.target, spec, thread_count())._replace(weight=state.weight)

    def apply(
        self, state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Fill in the arguments and run the region."""
        spec = state.spec
        y = out if out is not None and out.is_contiguous() else empty(spec.output_shape, state.no_bias.dtype)
        x = x if x.is_contiguous() or x[:1].is_contiguous() else x.contiguous()
        slots = state.template[:]
        added = state.no_bias if bias is None else to_working(bias, state.no_bias.dtype).contiguous()
        room = scratch(state.scratch_bytes)
        slots[X], slots[WEIGHT], slots[BIAS], slots[Y] = (t.data_ptr() for t in (x, state.weight, added, y))
        slots[SCRATCH], slots[X_IMAGE] = room.data_ptr(), x.stride(0)
        for name, table in state.sources.items():
            slots[AT[name]] = table.data_ptr()
        ARGUMENTS.run(state.region, slots, state.threads)
        return y if out is None or out is y else out.copy_(y)

    def steps(self, state: State, layout: Layout, after: Finish) -> Steps | None:
        """Return one step, for contiguous planes."""
        values = state.template[:]
        ARGUMENTS.update(values, {"x_image": layout.x_image, "y_image": layout.y_image})
        region = routine(emit.write, state.target, state.recipe._replace(tail=after.tail), ordered=True)
        tensors = {"weight": state.weight, **after.tensors(state.spec.out_channels, state.spec.dtype), **state.sources}
        places = {"x": 0, "y": OUTPUT}
        step = Step(region, ARGUMENTS, values, places, tensors, {"scratch": 0}, state.threads, after.residual)
        return Steps((step,), state.scratch_bytes)


depthwise = Depthwise()
AT = ARGUMENTS.at
X, WEIGHT, BIAS, Y, SCRATCH, X_IMAGE = (AT[name] for name in ("x", "weight", "bias", "y", "scratch", "x_image"))


def _blocks(target: Target, spec: ConvSpec) -> int:
    """Return the number of blocks of channels."""
    return ceil(spec.in_channels / lanes_of(target, spec.dtype))


@lru_cache(maxsize=LAYOUTS)
def _sizes(target: Target, spec: ConvSpec) -> dict[str, int]:
    """Return the sizes of the image, the window and the ring among a region's arguments."""
    lanes, square = lanes_of(target, spec.dtype), square_of(target, spec.dtype)
    (height, width), (out_height, out_width) = _two(spec.size), _two(spec.output_size)
    before, after = spec.padding[-1]
    (stride_down, stride_across), (step_down, step_across) = _two(spec.stride), _two(spec.dilation)
    (taps_down, taps_across), reach = _two(spec.kernel_size), _two(spec.extent)[0]
    read = (ceil(out_width / PIXELS) * PIXELS - 1) * stride_across + spec.extent[-1]
    columns = max(read, before + width + max(after, square))
    return {
        "height": height,
        "width": width,
        "out_height": out_height,
        "out_width": out_width,
        "pad_width": before,
        "pad_after": after,
        "channels": spec.in_channels,
        "taps_down": taps_down,
        "step_down": step_down,
        "stride_down": stride_down,
        "taps_across": taps_across,
        "step_across": step_across,
        "ring_rows": reach,
        "pitch": columns * lanes,
        "thread_elements": reach * columns * lanes,
    }


@lru_cache(maxsize=LAYOUTS)
def _ready(target: Target, spec: ConvSpec, threads: int) -> State:
    """Prepare everything except the weights: the code and the blocks."""
    sizes, blocks, dtype = _sizes(target, spec), _blocks(target, spec), torch_dtype(spec.dtype)
    (_, stride), (_, step), (_, taps) = _two(spec.stride), _two(spec.dilation), _two(spec.kernel_size)
    least = ceil(STRIP_REACHES * sizes["ring_rows"] / sizes["stride_down"])
    wanted = ceil(threads * TASKS_PER_THREAD / max(1, spec.batch * blocks))
    strips = max(1, min(wanted, sizes["out_height"] // least))
    rows = ceil(sizes["out_height"] / strips)
    strips = ceil(sizes["out_height"] / rows)
    tasks = spec.batch * blocks * strips
    threads = 1 if prod(spec.output_shape) * spec.taps < SERIAL_PRODUCTS else min(threads, tasks)
    images = {"x_image": prod(spec.input_shape[1:]), "y_image": prod(spec.output_shape[1:])}
    slots = sizes | images | {"tasks": tasks, "blocks": blocks, "strips": strips, "strip_rows": rows}
    unrolled = taps <= UNROLLED
    recipe = DepthwiseRecipe(spec.dtype, stride, taps if unrolled else 0, step if unrolled else 0)
    tables = source_tables(spec)
    sources = {name: tables[name] for name in ("height_sources", "width_sources", "outside")}
    no_bias = torch.from_numpy(np.zeros(spec.out_channels, spec.dtype))
    region = routine(emit.write, target, recipe, ordered=True)
    bytes_ = sizes["thread_elements"] * threads * dtype.itemsize
    return State(spec, recipe, no_bias, no_bias, sources, ARGUMENTS.new(slots), region, target, threads, bytes_)


def _two(values: tuple[int, ...]) -> tuple[int, int]:
    """Return one number per axis (height, width), with 1 for a missing height."""
    return (*(1,) * (2 - len(values)), *values)  # type: ignore[return-value]  # two in all
