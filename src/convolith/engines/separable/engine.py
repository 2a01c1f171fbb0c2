"""Low-rank kernels along the rows and down the columns: `k = sum over r of column_r row_r'`, by singular values.

A kernel of rank r with n x m taps takes r (n + m) products instead of n m; a Gaussian has rank one. The error bound
includes the truncation of the decomposition; kernels of high rank are refused. Generated code does both in one pass.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from math import ceil, prod
from typing import NamedTuple

import numpy as np
import torch

from convolith.dtypes import ITEMSIZE, dtype_name, half_ulp, is_float
from convolith.engines.base import (
    NEEDS_KERNEL,
    TRANSPOSED,
    Changed,
    GeneratedEngine,
    mixed_channels,
    turned,
    unsupported,
)
from convolith.engines.buffers import empty
from convolith.engines.elementwise import NO_TAIL
from convolith.engines.emit_rounded import KINDS
from convolith.engines.error_bounds import direct_sum_bound
from convolith.engines.machine_limits import SERIAL_PRODUCTS, MachineLimits
from convolith.engines.padding import source_tables
from convolith.engines.separable import emit
from convolith.engines.separable.emit import ARGUMENTS, SUMS, TILE_ROWS, SeparableRecipe, lanes_of
from convolith.engines.steps import OUTPUT, Finish, Layout, Step, Steps
from convolith.jit import Target, host, routine, scratch, thread_count
from convolith.spec import ConvSpec
from convolith.tensors import to_working, torch_dtype
from convolith.work import Count, ForwardMemory, Memory, Work, layer_work

DROPPED = {"float32": 1e-6, "float64": 2e-15}
"""Upper bound on the truncation error, relative to the sum of |k|: below the tolerance of every accuracy class."""
DECOMPOSITION_STEPS, DECOMPOSITION_SECONDS = 200, 1e-5
"""Products per tap and singular value of a decomposition, and the fixed time of a decomposition in seconds."""
MOST_INTEGER = 2.0**64
"""Bound on an element of an integer picture."""
PIVOT = 2.0**-20
"""Least size of the element that the factors of rank one go through, relative to the largest: they stay near 1."""
WINDOW_BYTES = 1 << 17
"""Upper bound on the bytes of all windows: a quarter of a 512 KiB L2 cache."""
GROUP_ROWS = 16
"""Least number of output rows computed from one position of the window, if the image has as many."""
STRIP_REACHES = 4
"""Least height of a strip, in heights of the kernel: the rows at its top are filtered by the strip above too."""
TASKS_PER_THREAD = 4
MOST_BYTES = 1 << 22
"""Bytes of a thread's windows above which they leave the caches."""
EFFICIENCY, STARTING_TAPS = 0.65, 6.0
"""Fraction of the peak product rate with many taps, and overhead of an output as a number of products."""


AT = ARGUMENTS.at
X, DOWN, ACROSS, BIAS, Y = (AT[name] for name in ("x", "down", "across", "bias", "y"))
SCRATCH, COUNTED = AT["scratch"], AT["counts"]
LARGEST_INTERMEDIATE = 1e30
"""Bound on sums of integers from which they may overflow on the way, and be NaN."""


class Blocks(NamedTuple):
    """Division of a layer into tasks, and the scratch of a thread in elements."""

    strip_rows: int
    block_columns: int
    group_rows: int
    phase_pitch: int
    pitch: int
    line: int
    window: int


class State(NamedTuple):
    """Everything that is prepared before an input is known."""

    spec: ConvSpec
    shape: tuple[int, ...]
    recipe: SeparableRecipe
    down: torch.Tensor
    across: torch.Tensor
    no_bias: torch.Tensor
    sources: dict[str, torch.Tensor]
    template: array[int]
    """Arguments without addresses, for a contiguous x."""
    target: Target
    threads: int
    scratch_bytes: int


class Factors(NamedTuple):
    """Columns of a kernel, (channels, rank, height), and its rows, (channels, rank, width)."""

    down: torch.Tensor
    across: torch.Tensor

    @property
    def rank(self) -> int:
        """Number of terms of the sum, equal for all channels."""
        return self.across.shape[1]


class Separable(GeneratedEngine[State]):
    """Engine of low-rank kernels.

    Attributes:
        rank: rank of the kernel that estimates hold for; None where the kernel is unknown, which counts as rank one.
    """

    name = "separable"

    def __init__(self, rank: int | None = None) -> None:
        self.rank = rank

    def for_kernel(self, spec: ConvSpec, kernel: torch.Tensor) -> Separable:
        """Return the engine whose estimates hold for the rank of a kernel."""
        if self.refuse(spec) != NEEDS_KERNEL or not bool(kernel.isfinite().all()):
            return self
        return Separable(factors(kernel).rank)

    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Return a reason for all but 2-D kernels of one channel per group whose low rank saves products."""
        if _kernel_axes(spec) != 2 or min(spec.kernel_size[:2]) < 2:
            return "not a 2-D kernel with at least 2 taps per axis"
        if spec.in_channels > spec.groups or spec.out_channels > spec.groups or spec.transposed:
            return TRANSPOSED if spec.transposed else mixed_channels(spec)
        if spec.kernel_dtype not in DROPPED or spec.out_dtype != spec.kernel_dtype:
            return unsupported(spec)
        if spec.dtype == "float16" and not host().halves:
            return "this processor does not convert float16"
        over = [s for s, e, n in zip(spec.stride, spec.extent, spec.output_size, strict=True) if n > 1 and s > e]
        if over:
            return f"stride {max(over)} is over the size of the kernel"
        if kernel is None:
            return NEEDS_KERNEL
        if not bool(kernel.isfinite().all()):
            return "a kernel with NaN or infinity has no factors"
        rank = self.rank or factors(kernel).rank
        if rank * sum(spec.kernel_size[:2]) >= spec.taps:
            return f"rank {rank}: no fewer products"
        needed = _thread_bytes(blocks_of(host(), spec.plane(), rank, thread_count()), spec, rank)
        if needed > MOST_BYTES:
            return f"rank {rank}: a thread's rows take {needed / 1e6:.0f} MB, more than fits a cache"
        return None

    def sums_directly(self, spec: ConvSpec) -> bool:
        """Return False: rows are summed first."""
        return False

    def note(self, spec: ConvSpec) -> str:
        """Describe the rank, if it is known, and the order."""
        known = "" if self.rank is None else f"rank {self.rank}: "
        return f"{known}rows, then columns, {lanes_of(host(), recipe_of(spec))} x {spec.out_dtype}"

    def work(self, spec: ConvSpec) -> Work:
        """Count the products of both directions for all terms, and the windows of all threads."""
        layer, rank = layer_work(spec), self.rank or 1
        given = layer.memory.forward
        products = prod(spec.output_shape) * rank * sum(spec.kernel_size[:2])
        additions = products - (0 if spec.bias else 1) * prod(spec.output_shape)
        blocks = blocks_of(host(), spec.plane(), rank, thread_count())
        workspace = thread_count() * _thread_bytes(blocks, spec, rank)
        factors_bytes = spec.groups * rank * sum(spec.kernel_size[:2]) * ITEMSIZE[spec.kernel_dtype]
        terms = ForwardMemory(given.input, given.parameters, given.output, workspace, factors_bytes)
        forward = Count(products, additions, layer.forward.bytes)
        return Work(forward=forward, memory=Memory(terms))

    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of the products of all terms, or of the memory traffic if that is longer."""
        (height, width), rank = spec.kernel_size[:2], self.rank or 1
        plane, threads = spec.plane(), thread_count()
        blocks = blocks_of(host(), plane, rank, threads)
        reach = plane.extent[0]
        # input rows that are filtered, for each output row, and columns, for each output column
        rows = plane.stride[0] * (1 + (reach - 1) / (blocks.strip_rows * plane.stride[0]))
        lanes = lanes_of(host(), recipe_of(spec))
        columns = ceil(plane.output_size[1] / lanes) * lanes / plane.output_size[1]
        outputs = prod(spec.output_shape) * columns
        products = outputs * (rank * (width * rows + height) + STARTING_TAPS)
        busy = 1 if products < SERIAL_PRODUCTS else threads
        rate = EFFICIENCY * limits.products_per_second(spec.out_dtype)
        return limits.call_seconds + max(
            products / rate * threads / busy, limits.moving_seconds(self.work(spec).forward.bytes)
        )

    def error_bound(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> float:
        """Bound the errors of both directions, of rounding the factors and of the truncation."""
        both = sum(direct_sum_bound(spec, taps) for taps in spec.kernel_size[:2])
        return 2 * both + 4 * half_ulp(spec.out_dtype) + DROPPED[spec.out_dtype]

    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of the decompositions of all channels."""
        height, width = spec.kernel_size[:2]
        steps = spec.groups * height * width * min(height, width) * DECOMPOSITION_STEPS
        return DECOMPOSITION_SECONDS * spec.groups + steps / limits.float64_products_per_second

    def prepare_for(self, target: Target, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
        """Decompose the kernel, and prepare the code and the blocks for any processor."""
        low_rank = factors(turned(spec, kernel) if adjoint else kernel)
        ready = _ready(target, spec, low_rank.rank, thread_count())
        largest = low_rank.down.double().abs().sum((1, 2)).max() * MOST_INTEGER
        may_miss = is_float(spec.dtype) or not float(largest) < LARGEST_INTERMEDIATE
        recipe = ready.recipe._replace(may_miss=may_miss)
        return ready._replace(down=low_rank.down, across=low_rank.across, recipe=recipe)

    def resized(self, state: State, spec: ConvSpec) -> State | None:
        """Share the factors."""
        ready = _ready(state.target, spec, state.down.shape[1], thread_count())
        return ready._replace(down=state.down, across=state.across, recipe=state.recipe)

    def apply(
        self, state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Fill in the arguments and run the region."""
        y = out if out is not None and out.is_contiguous() else empty(state.shape, torch_dtype(state.recipe.out_dtype))
        _run(state, state.recipe, x, bias, y)
        return y if out is None or out is y else out.copy_(y)

    def apply_rounded(self, state: State, x: torch.Tensor, out: torch.Tensor) -> Changed | None:
        """Run the region that rounds, and add up what its threads counted."""
        if not out.is_contiguous():
            return None
        recipe = state.recipe._replace(out_dtype=dtype_name(out.dtype))
        counts = np.zeros((state.threads, KINDS, lanes_of(state.target, recipe)), np.int32)
        _run(state, recipe, x, None, out, counts.ctypes.data)
        clipped, missing = counts.sum((0, 2))
        return Changed(int(clipped), int(missing))

    def steps(self, state: State, layout: Layout, after: Finish) -> Steps | None:
        """Return one step, for contiguous images in the result."""
        spec, recipe = state.spec, state.recipe
        dense = spec.batch == 1 or layout.y_image == prod(spec.output_shape[1:])
        if after.tail != NO_TAIL or after.residual is not None or not dense or not is_float(recipe.x_dtype):
            return None
        values = state.template[:]
        ARGUMENTS.update(values, {"x_image": layout.x_image})
        tensors = {"down": state.down, "across": state.across, **state.sources}
        tensors |= after.tensors(spec.out_channels, recipe.sum_dtype)
        region, places = routine(emit.write, state.target, recipe), {"x": 0, "y": OUTPUT}
        step = Step(region, ARGUMENTS, values, places, tensors, {"scratch": 0}, state.threads)
        return Steps((step,), state.scratch_bytes)


separable = Separable()


def recipe_of(spec: ConvSpec) -> SeparableRecipe:
    """Return the parameters of the code for a spec."""
    plane = spec.plane()
    return SeparableRecipe(
        spec.dtype, spec.out_dtype, spec.out_dtype, plane.stride[1] if plane.output_size[1] > 1 else 1
    )


@lru_cache(maxsize=1024)
def blocks_of(target: Target, plane: ConvSpec, rank: int, threads: int) -> Blocks:
    """Divide a plane's layer into strips of rows and blocks of columns that occupy all threads and fit a cache."""
    recipe = recipe_of(plane)
    lanes = lanes_of(target, recipe)
    (height, width), (stride, _) = plane.output_size, plane.stride
    reach = plane.extent[0]
    group = min(height, max(GROUP_ROWS, ceil(reach / 2 / TILE_ROWS) * TILE_ROWS))
    rows = (group - 1) * stride + reach
    budget = WINDOW_BYTES // ITEMSIZE[plane.out_dtype] // (rows * rank)
    count = max(1, round(width / max(budget, SUMS * lanes)))
    columns = ceil(width / count / lanes) * lanes
    planes = plane.batch * plane.out_channels
    wanted = ceil(threads * TASKS_PER_THREAD / max(1, planes * ceil(width / columns)))
    least = max(group, ceil(STRIP_REACHES * reach / stride))
    strips = max(1, min(wanted, height // least))
    strip = ceil(ceil(height / strips) / group) * group
    taken = (columns - 1) * recipe.stride + (plane.kernel_size[1] - 1) * plane.dilation[1] + 1
    phase = ceil((ceil(taken / recipe.stride) + lanes) / 16) * 16
    line = phase * recipe.stride * (1 if recipe.stride == 1 else 2) + 4 * lanes
    pitch = ceil(columns / 16) * 16 + 16  # an odd number of cache lines: no rows in one set
    pitch += 16 * (pitch // 16 % 2 == 0)
    return Blocks(strip, columns, group, phase, pitch, ceil(line / 16) * 16, ceil((rows * pitch + lanes) / 16) * 16)


def _thread_bytes(blocks: Blocks, spec: ConvSpec, rank: int) -> int:
    """Return the bytes of one thread's row and windows."""
    return (blocks.line + rank * blocks.window) * ITEMSIZE[spec.out_dtype]


@lru_cache(maxsize=1024)
def _ready(target: Target, spec: ConvSpec, rank: int, threads: int) -> State:
    """Prepare everything except the kernel: the code and the blocks."""
    shape, pixel, plane = spec.output_shape, spec.interleaved, spec.plane()
    blocks, recipe = blocks_of(target, plane, rank, threads), recipe_of(plane)
    strips, across = (ceil(n / b) for n, b in zip(plane.output_size, blocks[:2], strict=True))
    tasks = plane.batch * plane.out_channels * strips * across
    products = prod(shape) * sum(plane.kernel_size) * rank
    threads = 1 if products < SERIAL_PRODUCTS else min(threads, tasks)
    strides = torch.empty((1, plane.in_channels, *plane.size), device="meta").stride()
    template = ARGUMENTS.new(
        {
            "tasks": tasks,
            "channels": plane.out_channels,
            **dict(zip(("height", "width"), plane.size, strict=True)),
            **dict(zip(("out_height", "out_width"), plane.output_size, strict=True)),
            **dict(zip(("pad_height", "pad_width"), (before for before, _ in plane.padding), strict=True)),
            **dict(zip(("x_image", "x_channel", "x_row"), strides, strict=False)),
            "rank": rank,
            **dict(zip(("taps_down", "taps_across"), plane.kernel_size, strict=True)),
            **dict(zip(("step_down", "step_across"), plane.dilation, strict=True)),
            "stride_down": plane.stride[0],
            "strips": strips,
            "strip_rows": blocks.strip_rows,
            "blocks": across,
            "block_columns": blocks.block_columns,
            "group_rows": blocks.group_rows,
            "again": max(plane.extent[0] - plane.stride[0], 0),
            "thread_elements": blocks.line + rank * blocks.window,
            "line_elements": blocks.line,
            "phase_pitch": blocks.phase_pitch,
            "pitch": blocks.pitch,
            "window_elements": blocks.window,
        }
    )
    none = torch.from_numpy(np.zeros(plane.out_channels, recipe.sum_dtype))
    scratch_bytes = threads * _thread_bytes(blocks, plane, rank)
    sources = {name: table for name, table in source_tables(plane, pixel).items() if name in ARGUMENTS.at}
    return State(plane, shape, recipe, none, none, none, sources, template, target, threads, scratch_bytes)


def _run(
    state: State, recipe: SeparableRecipe, x: torch.Tensor, bias: torch.Tensor | None, y: torch.Tensor, counts: int = 0
) -> None:
    """Run the region of a recipe, which writes y, and counts at an address if it rounds."""
    slots = state.template[:]
    if x.ndim != state.spec.axes + 2:
        x = x.contiguous()  # its last axes are merged
    elif not x.is_contiguous():
        if x.stride(-1) != 1:
            x = x.contiguous()
        ARGUMENTS.update(slots, dict(zip(("x_image", "x_channel", "x_row"), x.stride(), strict=False)))
    added = state.no_bias if bias is None else to_working(bias, state.no_bias.dtype).contiguous()
    room = scratch(state.scratch_bytes)
    slots[X], slots[BIAS], slots[Y] = x.data_ptr(), added.data_ptr(), y.data_ptr()
    slots[DOWN], slots[ACROSS] = state.down.data_ptr(), state.across.data_ptr()
    slots[SCRATCH], slots[COUNTED] = room.data_ptr(), counts
    for name, table in state.sources.items():
        slots[AT[name]] = table.data_ptr()
    ARGUMENTS.run(routine(emit.write, state.target, recipe), slots, state.threads)


def factors(kernel: torch.Tensor) -> Factors:
    """Decompose every channel's kernel, with the smallest rank whose truncation error is within DROPPED."""
    planes = kernel[:, 0].reshape(len(kernel), *kernel.shape[2:4]).double()
    limit = DROPPED[str(kernel.dtype).removeprefix("torch.")] * planes.abs().sum((1, 2))

    def close(down: torch.Tensor, across: torch.Tensor) -> bool:
        stored = [part.to(kernel.dtype).double() for part in (down, across)]
        there, along = (torch.where(part.abs() < torch.finfo(kernel.dtype).tiny, 0.0, part) for part in stored)
        return bool(((planes - there @ along).abs().sum((1, 2)) <= limit).all())

    down, across = _of_rank_one(planes)
    if not close(down, across):
        left, values, right = torch.linalg.svd(planes, full_matrices=False)
        dropped = values.square().flip(1).cumsum(1).sqrt().flip(1)  # the least error of each rank (Eckart and Young)
        least = int((dropped > limit[:, None]).sum(1).max())
        for rank in range(max(least, 1), values.shape[1] + 1):
            down, across = left[:, :, :rank] * values[:, None, :rank], right[:, :rank]
            if close(down, across):
                break
    return Factors(down.transpose(1, 2).to(kernel.dtype).contiguous(), across.to(kernel.dtype).contiguous())


def _of_rank_one(planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the column and the row through a small element of each plane, as if it were of rank one.

    The column is relative to that element: kernels of small whole numbers over a power of two, such as the binomial
    ones and Sobel's, then have exact factors, unlike singular vectors. The row is scaled so that its sums are no larger
    than x.
    """
    count, _, width = planes.shape
    size = planes.abs()
    fair = size > PIVOT * size.amax((1, 2), keepdim=True)
    least = torch.where(fair, size, torch.inf).reshape(count, -1).argmin(1)
    every, row, column = torch.arange(count, device=planes.device), least // width, least % width
    pivot = planes[every, row, column]
    across = planes[every, row, :]
    scale = torch.exp2(torch.frexp(across.abs().sum(1))[1].double())  # a power of two, which rounds nothing
    down = planes[every, :, column] * (scale / torch.where(pivot == 0, 1.0, pivot))[:, None]
    return down[:, :, None], (across / scale[:, None])[:, None]


def _kernel_axes(spec: ConvSpec) -> int:
    """Return the number of axes that the kernel runs along, not counting interleaved channels."""
    return spec.axes - (spec.interleaved > 1)
