"""A 1x1 kernel as a matrix product of channels: `y[o, p] = sum over c of k[o, c] x[c, p]`.

Inputs and kernels of one float dtype use generated code in either layout; other dtypes use torch's matrix product. The
blocks are the classical ones (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008), except
that inputs are packed during their first use.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from math import ceil, prod
from typing import NamedTuple

import numpy as np
import torch

from convolith.dtypes import COMPLEX, ITEMSIZE
from convolith.engines.base import TRANSPOSED, GeneratedEngine, deliver, turned
from convolith.engines.buffers import empty
from convolith.engines.machine_limits import SERIAL_PRODUCTS, MachineLimits, sum_dtype_name
from convolith.engines.pointwise import emit_packing
from convolith.engines.pointwise.emit import ARGUMENTS, GATHERS, IN_PLACE, PACKS, write, write_last
from convolith.engines.pointwise.tiling import VECTORS, PointwiseRecipe, channel_tile, panel_rows
from convolith.engines.steps import OUTPUT, Finish, Layout, Step, Steps
from convolith.jit import Routine, Target, host, routine, scratch, thread_count
from convolith.spec import ConvSpec
from convolith.tensors import to_working, torch_dtype, working_dtype
from convolith.work import Count, ForwardMemory, Memory, Work, layer_work

TORCH_EFFICIENCY = 0.6
"""Fraction of the peak product rate that torch's matrix product reaches on the shapes of layers."""
PRODUCT_EFFICIENCY = {True: 0.97, False: 0.85}
"""Fraction of the peak product rate that register tiles reach, with 32 vector registers and with 16."""
STARTING_CHANNELS = 6
"""Overhead of starting a tile and storing its sums, as a number of input channels."""
FEWEST_ROWS = 4
"""Number of output channels below which a tile does not get faster, since its sums wait for each other."""
GATHERING_PRODUCTS = 16
"""Time to gather one input, as a number of products, where rows of positions are not contiguous."""
FULL_TAIL = 9
"""Sixteenths of a vector of positions from which a full vector is cheaper than its single positions."""
TASKS_PER_THREAD = 32
"""Number of parts into which a thread's work is divided, so that all threads finish together."""
PACKED_BYTES = 1 << 14
"""Upper bound on the bytes of a block's packed tiles, which share a first-level cache with the weights: with few
channels, outputs are then written in long rows."""
FEWEST_BLOCKS = 8
"""Minimum number of blocks per thread."""
BLOCK_BYTES = 1 << 17
"""Bytes of a block of positions with contiguous channels, which stays in a second-level cache for all outputs."""
SERIAL_WEIGHTS = 40_000
"""Number of weights below which one thread has packed them before a second one has started."""
PACK_STEPS, PACK_SECONDS = 40.0, 15e-6
"""Time to pack one weight, as a number of products; and fixed time of packing."""
PACKED_CHANNELS = 64
"""Number of input channels that are packed at a time."""
LAYOUTS = 256
"""Number of specs whose blocks are cached."""
AT = ARGUMENTS.at
X, WEIGHT, BIAS, Y, SCRATCH = (AT[n] for n in ("x", "weight", "bias", "y", "scratch"))


class ChannelsLast(NamedTuple):
    """Preparation for inputs with contiguous channels, which every input with a single position has."""

    strides: tuple[int, ...]
    """Strides of such an x, or an empty tuple."""
    shape: tuple[int, ...]
    """Shape of the result, with the channels last."""
    template: array[int]
    scratch_bytes: int


class Generated(NamedTuple):
    """Spec, weights in panels, and code for contiguous positions; code for contiguous channels is made when needed."""

    spec: ConvSpec
    shape: tuple[int, ...]
    """Shape of the result."""
    last: ChannelsLast
    target: Target
    recipe: PointwiseRecipe
    weight: torch.Tensor
    no_bias: torch.Tensor
    template: array[int]
    region: Routine
    threads: int
    scratch_bytes: int


class Multiplied(NamedTuple):
    """Spec, and the kernel as a (groups, out/groups, in/groups) matrix for torch."""

    spec: ConvSpec
    matrix: torch.Tensor


class Pointwise(GeneratedEngine[Generated | Multiplied]):
    """Engine of 1x1 kernels."""

    name = "pointwise"

    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Return a reason for all but unpadded kernels of one tap."""
        if spec.transposed:
            return TRANSPOSED
        if spec.taps > 1:
            return f"kernel_size {'x'.join(map(str, spec.kernel_size))} is not 1"
        if any(map(any, spec.padding)):
            return "padding around a kernel of a single tap"
        return None

    def keeps_nonfinite_local(self, spec: ConvSpec) -> bool:
        """Return True except for complex numbers, whose real and imaginary parts mix."""
        return spec.out_dtype not in COMPLEX

    def note(self, spec: ConvSpec) -> str:
        """Describe the matrix product."""
        rows, columns = spec.out_channels // spec.groups, spec.in_channels // spec.groups
        return f"{rows}x{columns} matrix product" + (f", {spec.groups} groups" if spec.groups > 1 else "")

    def work(self, spec: ConvSpec) -> Work:
        """Count the layer's products, and the copies of inputs that are strided or converted for torch."""
        layer = layer_work(spec)
        memory = layer.memory.forward
        item = working_dtype(spec).itemsize
        read = spec.batch * spec.in_channels * prod(spec.output_size) * item
        copied = read if not is_generated(spec) and (max(spec.stride) > 1 or item != ITEMSIZE[spec.dtype]) else 0
        forward = Count(layer.forward.multiplications, layer.forward.additions, memory.bytes + 2 * copied)
        prepared = prod(spec.kernel_shape) * item * (item != ITEMSIZE[spec.kernel_dtype])
        if is_generated(spec):
            rows, shape = panel_rows(host()), channel_tile(host(), PointwiseRecipe(spec.dtype, 1).lanes(host()))
            panels = _panels(spec.out_channels // spec.groups, rows, shape.panels)
            prepared = panels * rows * spec.in_channels * item
        terms = ForwardMemory(memory.input, memory.parameters, memory.output, copied, prepared)
        return Work(forward=forward, memory=Memory(terms))

    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of the products in whole tiles, or of the memory traffic if that is longer."""
        forward = self.work(spec).forward
        rate, moving = limits.products_per_second(sum_dtype_name(spec)), limits.moving_seconds(forward.bytes)
        if not is_generated(spec):
            return 2 * limits.call_seconds + forward.multiplications / (rate * TORCH_EFFICIENCY) + moving
        target, threads = host(), thread_count()
        outs, ins, positions = spec.out_channels // spec.groups, spec.in_channels // spec.groups, prod(spec.output_size)
        lanes = PointwiseRecipe(spec.dtype, 1).lanes(target)
        vectors, rest = _vectors(positions, lanes)
        per_image = vectors * lanes * max(outs, FEWEST_ROWS) + rest * ceil(outs / (2 * lanes)) * 2 * lanes
        products = spec.batch * spec.groups * per_image * (ins + STARTING_CHANNELS)
        gathered = 0 if max(spec.stride) == 1 else spec.batch * spec.in_channels * positions
        busy = 1 if prod(spec.output_shape) * ins < SERIAL_PRODUCTS else threads
        computing = (
            (
                products / (rate * PRODUCT_EFFICIENCY[target.vector_registers > 16])
                + gathered * GATHERING_PRODUCTS / rate
            )
            * threads
            / busy
        )
        return limits.call_seconds + max(computing, moving)

    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time to read the kernel and write the panels, number by number; 0 where torch multiplies."""
        if not is_generated(spec):
            return 0.0
        busy = 1 if prod(spec.kernel_shape) < SERIAL_WEIGHTS else thread_count()
        packing = prod(spec.kernel_shape) * PACK_STEPS / limits.products_per_second(spec.dtype)
        moving = limits.moving_seconds(2 * prod(spec.kernel_shape) * ITEMSIZE[spec.dtype])
        return PACK_SECONDS + max(packing, moving) * thread_count() / busy

    def prepare_for(
        self, target: Target, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False
    ) -> Generated | Multiplied:
        """Prepare the kernel and the code for any processor."""
        if not is_generated(spec):
            kernel = turned(spec, kernel) if adjoint else kernel
            matrix = (spec.groups, spec.out_channels // spec.groups, spec.in_channels // spec.groups)
            return Multiplied(spec, to_working(kernel, working_dtype(spec)).reshape(matrix))
        return ready(target, spec, thread_count())._replace(weight=packed(target, spec, kernel, adjoint=adjoint))

    def resized(self, state: Generated | Multiplied, spec: ConvSpec) -> Generated | Multiplied | None:
        """Share the packed weights, whose layout depends on channels alone."""
        if isinstance(state, Multiplied):
            return state._replace(spec=spec)
        return ready(host(), spec, thread_count())._replace(weight=state.weight)

    def apply(
        self, state: Generated | Multiplied, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the matrix product, by generated code or by torch."""
        if isinstance(state, Multiplied):
            return _multiplied(state, x, bias, out)
        if x.stride() == state.last.strides or (max(state.spec.stride) == 1 and channels_are_last(x)):
            return _apply_last(state, x, bias, out)
        slots = state.template[:]
        if not x.is_contiguous():
            ARGUMENTS.update(slots, _layout(state.spec, x.stride(), slots[AT["panels"]]))
        y = out if out is not None and out.is_contiguous() else empty(state.shape, x.dtype)
        run(state, state.region, slots, x, bias, y, state.scratch_bytes)
        return y if out is None or out is y else out.copy_(y)

    def steps(self, state: Generated | Multiplied, layout: Layout, after: Finish) -> Steps | None:
        """Return one step, for contiguous planes of positions."""
        return None if isinstance(state, Multiplied) else Steps((step_of(state, layout, after),), state.scratch_bytes)


pointwise = Pointwise()


def step_of(state: Generated, layout: Layout, after: Finish) -> Step:
    """Return the step that multiplies contiguous planes of positions."""
    values = state.template[:]
    ARGUMENTS.update(values, {"x_image": layout.x_image, "y_image": layout.y_image})
    region = routine(write, state.target, state.recipe._replace(tail=after.tail))
    tensors = {"weight": state.weight, **after.tensors(state.no_bias.numel(), state.spec.dtype)}
    places = {"x": 0, "y": OUTPUT}
    return Step(region, ARGUMENTS, values, places, tensors, {"scratch": 0}, state.threads, after.residual)


def is_generated(spec: ConvSpec) -> bool:
    """Return whether input and kernel have one dtype for which code is generated."""
    return spec.dtype == spec.kernel_dtype and spec.dtype in ("float32", "float64")


@lru_cache(maxsize=LAYOUTS)
def ready(target: Target, spec: ConvSpec, threads: int, step: int | None = None) -> Generated:
    """Prepare everything except the packed weights: the code and the blocks.

    Args:
        target, spec, threads: the processor, the layer, the threads.
        step: distance of adjacent inputs, 0 if it is over 2, where channels have several taps; None for a single tap.
    """
    ins = spec.in_channels // spec.groups
    recipe = PointwiseRecipe(spec.dtype, (spec.out_channels // spec.groups - 1) % panel_rows(target) + 1)
    if step is not None:
        recipe = recipe._replace(taps=True, step=step)
    lanes = recipe.lanes(target)
    shape = channel_tile(target, lanes)
    products = prod(spec.output_shape) * ins
    threads = 1 if products < SERIAL_PRODUCTS else threads
    slots = _slots(spec, target, recipe, threads)
    template = ARGUMENTS.new(slots, counters=threads + 2)
    no_bias = torch.from_numpy(np.zeros(spec.out_channels + shape.vectors * lanes, spec.dtype))
    return Generated(
        spec,
        spec.output_shape,
        _channels_last(spec, target, recipe, template, threads),
        target,
        recipe,
        no_bias,
        no_bias,
        template,
        routine(write, target, recipe),
        threads,
        slots["thread_elements"] * threads * torch_dtype(spec.dtype).itemsize,
    )


def _panels(outs: int, rows: int, multiple: int) -> int:
    """Return the number of panels, a multiple of `multiple`, that hold all output channels of a group."""
    return ceil(outs / (rows * multiple)) * multiple


def packed(target: Target, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool) -> torch.Tensor:
    """Pack weights into panels, (groups, panels, in_channels, rows), with zeros for absent output channels."""
    region, values, threads, _ = packing(target, spec, adjoint=adjoint)
    panelled = empty((spec.groups, values["panels"], values["in_channels"], panel_rows(target)), kernel.dtype)
    kernel = kernel.contiguous()
    addresses = {"kernel": kernel.data_ptr(), "packed": panelled.data_ptr()}
    emit_packing.ARGUMENTS.run(region, emit_packing.ARGUMENTS.new(values | addresses), threads)
    return panelled


def packing(target: Target, spec: ConvSpec, *, adjoint: bool) -> tuple[Routine, dict[str, int], int, int]:
    """Return the region that packs weights, its arguments without addresses, its threads, and the bytes of panels."""
    outs, ins, rows = spec.out_channels // spec.groups, spec.in_channels // spec.groups, panel_rows(target)
    panels = _panels(outs, rows, channel_tile(target, PointwiseRecipe(spec.dtype, 1).lanes(target)).panels)
    steps = {"out_step": 1, "in_step": outs} if adjoint else {"out_step": ins, "in_step": 1}
    chunks = ceil(ins / PACKED_CHANNELS)
    values = steps | {
        "tasks": spec.groups * panels * chunks,
        "in_channels": ins,
        "out_channels": outs,
        "panels": panels,
        "kernel_group": outs * ins,
        "chunk": PACKED_CHANNELS,
        "chunks": chunks,
    }
    threads = 1 if prod(spec.kernel_shape) < SERIAL_WEIGHTS else thread_count()
    region = routine(emit_packing.write, target, emit_packing.PackingRecipe(spec.dtype, rows))
    return region, values, threads, spec.groups * panels * ins * rows * ITEMSIZE[spec.dtype]


def _slots(spec: ConvSpec, target: Target, recipe: PointwiseRecipe, threads: int) -> dict[str, int]:
    """Return the sizes among a region's arguments, for a contiguous x."""
    outs, ins, positions = spec.out_channels // spec.groups, spec.in_channels // spec.groups, prod(spec.output_size)
    lanes, rows = recipe.lanes(target), panel_rows(target)
    shape = channel_tile(target, lanes)
    vectors, rest = _vectors(positions, lanes)
    threes, remaining = divmod(vectors, VECTORS)
    if remaining == 1 and threes:  # two tiles of two rather than one of three and one of one
        threes, remaining = threes - 1, 4
    twos = remaining // 2
    tiles = threes + twos + remaining % 2
    panels = ceil(outs / rows)
    wanted = threads * TASKS_PER_THREAD
    packed_bytes = ins * VECTORS * lanes * torch_dtype(spec.dtype).itemsize
    block_tiles = max(
        1, min(PACKED_BYTES // packed_bytes, spec.groups * spec.batch * tiles // (threads * FEWEST_BLOCKS))
    )
    blocks = ceil(tiles / block_tiles)
    units = spec.groups * spec.batch * blocks
    splits = max(1, min(ceil(wanted / max(units, 1)), panels // 2))
    rest_tiles = ceil(spec.batch * rest / shape.positions)
    rest_units = spec.groups * rest_tiles
    most = ceil(outs / (shape.vectors * lanes))
    rest_splits = max(1, min(ceil(wanted / 4 / max(rest_units, 1)), most))
    room = ins * VECTORS * lanes * block_tiles + shape.positions * shape.vectors * lanes
    return {
        "threads": threads,
        "batch": spec.batch,
        "in_channels": ins,
        "out_channels": outs,
        "panels": panels,
        "weight_group": ceil(panels / shape.panels) * shape.panels * ins * rows,
        "y_image": spec.out_channels * positions,
        "y_channel": positions,
        "positions": positions,
        "threes": threes,
        "twos": twos,
        "tiles": max(tiles, 1),
        "blocks": max(blocks, 1),
        "block_tiles": block_tiles,
        "splits": splits,
        "tasks": units * splits,
        "chunk": max(1, units * splits // (4 * wanted)),
        "rest": max(rest, 1),
        "rest_tiles": max(rest_tiles, 1),
        "rest_splits": rest_splits,
        "rest_tasks": rest_units * rest_splits if rest else 0,
        "thread_elements": ceil(room / 1024) * 1024,
        **_layout(spec, torch.empty(spec.input_shape, device="meta").stride(), panels),
    }


def _vectors(positions: int, lanes: int) -> tuple[int, int]:
    """Return the vectors of an image's positions (the last may overlap the one before it), and remaining positions."""
    vectors, rest = divmod(positions, lanes)
    return (vectors + 1, 0) if vectors and 16 * rest >= FULL_TAIL * lanes else (vectors, rest)


def _layout(spec: ConvSpec, strides: tuple[int, ...], panels: int) -> dict[str, int]:
    """Return the arguments that depend on the layout of x: strides, and how rows of positions are read."""
    ones = (0,) * (3 - spec.axes)
    steps = (*ones, *(s * n for s, n in zip(strides[2:], spec.stride, strict=True)))
    sizes = (*(1,) * (3 - spec.axes), *spec.output_size)
    flat, expected = True, 1
    for step, size in zip(reversed(steps), reversed(sizes), strict=True):
        flat = flat and (size == 1 or step == expected)
        expected *= size
    if flat:
        steps, sizes = (0, 0, 1), (1, 1, expected)
    return {
        "x_image": strides[0],
        "x_channel": strides[1],
        "x_group": spec.in_channels // spec.groups * strides[1],
        "x_depth": steps[0],
        "x_row": steps[1],
        "x_column": steps[2],
        "out_height": sizes[1],
        "out_width": sizes[2],
        "reading": GATHERS if not flat else PACKS if panels > 1 else IN_PLACE,
    }


def _apply_last(state: Generated, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None) -> torch.Tensor:
    """Compute the product of inputs with contiguous channels; the result has contiguous channels too."""
    last = state.last
    region = routine(write_last, state.target, state.recipe)
    y = empty(last.shape, x.dtype) if out is None or not out.movedim(1, -1).is_contiguous() else out
    run(state, region, last.template[:], x, bias, y, last.scratch_bytes)
    if out is y:
        return y
    y = y.movedim(-1, 1)
    return y if out is None else out.copy_(y)


def _channels_last(
    spec: ConvSpec, target: Target, recipe: PointwiseRecipe, template: array[int], threads: int
) -> ChannelsLast:
    """Plan the blocks of positions with contiguous channels."""
    lanes, slots, item = recipe.lanes(target), template[:], torch_dtype(spec.dtype).itemsize
    shape = channel_tile(target, lanes)
    outs, most = shape.vectors * lanes, shape.positions
    positions, tile_bytes = spec.batch * prod(spec.output_size), slots[AT["in_channels"]] * item * most
    wanted = threads * TASKS_PER_THREAD
    block = max(1, min(BLOCK_BYTES // tile_bytes, positions // (most * wanted))) * most
    units = ceil(positions / block) * spec.groups
    splits = max(1, min(ceil(wanted / units), ceil(slots[AT["out_channels"]] / outs)))
    room = ceil(block * outs / 1024) * 1024
    sizes = {"positions": positions, "tiles": ceil(positions / block), "splits": splits, "tasks": units * splits}
    sizes |= {"block_positions": block, "x_column": spec.in_channels, "y_image": spec.out_channels, "chunk": 1}
    ARGUMENTS.update(slots, sizes | {"thread_elements": room})
    strides: tuple[int, ...] = ()
    if prod(spec.size) == 1:
        strides = torch.empty(spec.input_shape, device="meta").stride()
    elif max(spec.stride) == 1 and spec.in_channels > 1:  # a single channel has both layouts and counts as contiguous
        strides = torch.empty((spec.batch, *spec.size, spec.in_channels), device="meta").movedim(-1, 1).stride()
    return ChannelsLast(strides, (spec.batch, *spec.output_size, spec.out_channels), slots, room * item * threads)


def run(
    state: Generated,
    region: Routine,
    slots: array[int],
    x: torch.Tensor,
    bias: torch.Tensor | None,
    y: torch.Tensor,
    scratch_bytes: int,
) -> None:
    """Fill in the addresses and run the threads."""
    added, room = state.no_bias, scratch(scratch_bytes)
    if bias is not None:
        added = added.clone()
        added[: state.spec.out_channels] = bias
    slots[X], slots[WEIGHT], slots[BIAS] = x.data_ptr(), state.weight.data_ptr(), added.data_ptr()
    slots[Y], slots[SCRATCH] = y.data_ptr(), room.data_ptr()
    ARGUMENTS.run(region, slots, state.threads)


def _multiplied(
    state: Multiplied, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None
) -> torch.Tensor:
    """Compute torch's matrix product; strides are applied by slicing."""
    spec, matrix = state
    x = x[:, :, *(slice(None, None, s) for s in spec.stride)]
    x = to_working(x, matrix.dtype)
    if spec.groups == 1 and channels_are_last(x):
        y = torch.matmul(x.movedim(1, -1), matrix[0].T).movedim(-1, 1)
    else:
        y = torch.matmul(matrix, x.reshape(spec.batch, spec.groups, matrix.shape[2], prod(spec.output_size)))
    return deliver(y.reshape(spec.output_shape), bias, spec, out)


def channels_are_last(x: torch.Tensor) -> bool:
    """Return whether x is contiguous with its channels last, and not contiguous in its own order."""
    return not x.is_contiguous() and x.movedim(1, -1).is_contiguous()
