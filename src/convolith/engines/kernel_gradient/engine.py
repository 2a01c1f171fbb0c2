"""Kernel gradient for few channels per group: depthwise layers, one-channel images, few channels in or out.

Torch sums such gradients over whole images tap by tap; here a band of an image stays in the cache for all its taps.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from math import ceil, prod
from typing import NamedTuple

import numpy as np
import torch

from convolith.dtypes import half_ulp
from convolith.engines.buffers import empty_array
from convolith.engines.kernel_gradient.emit import ARGUMENTS, KernelGradientRecipe, write
from convolith.engines.machine_limits import SERIAL_PRODUCTS, MachineLimits
from convolith.jit import Routine, Target, host, routine, scratch, thread_count
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype

AT = ARGUMENTS.at
BAND_ELEMENTS = 3600
"""Number of elements in a band of one channel: with its gradient, it fills a 32 KiB first-level cache in float32."""
GROUP_BYTES = 1 << 18
"""Upper bound on the bytes of the bands of all channels of a group: half of a second-level cache of 512 KiB."""
LARGEST_BAND_BYTES = 1 << 22
"""Upper bound on the bytes of a thread's smallest bands; larger bands exceed every cache of a core."""
PRODUCT_EFFICIENCY = 0.4
"""Fraction of the peak product rate that a tile reaches, where each vector of inputs is used once."""
TILE_PRODUCTS = 12
"""Overhead of starting a tile and summing its lanes, as a number of vectors of products per tap."""
COPY_STEPS = 1.0
"""Time to copy one element of a band, as a number of products."""
SETUP_SECONDS = 3e-5
"""Time to fill in the arguments and to sum the bands, in addition to a call."""
LAYOUTS = 512
"""Number of specs whose bands are cached."""


class Layout(NamedTuple):
    """Tile of taps, arguments without addresses, shifts of the rows of taps, and the code."""

    spec: ConvSpec
    recipe: KernelGradientRecipe
    template: array[int]
    shifts: array[int]
    shape: tuple[int, ...]
    """Shape of all sums: (images * bands, out_channels, in_channels/groups, row blocks, column blocks, tile)."""
    region: Routine
    threads: int
    scratch_bytes: int


def refuse(spec: ConvSpec) -> str | None:
    """Return why the kernel gradient of a layer cannot be computed here, or None if it can."""
    if spec.transposed or spec.pads_beyond_zeros:
        return "transposed" if spec.transposed else f"padding_mode {spec.padding_mode}"
    if max(spec.stride) > 1:
        return "stride"
    if spec.dtype != spec.kernel_dtype or spec.dtype not in ("float32", "float64"):
        return f"{spec.dtype} with {spec.kernel_dtype}"
    inner = spec.squeezed()
    if inner.axes > 2:
        return "three axes"
    needed = _band_elements(inner, 1)[2] * torch_dtype(spec.dtype).itemsize
    if needed > LARGEST_BAND_BYTES:
        return f"a row of its bands takes {needed / 1e6:.0f} MB"
    return None


def seconds(spec: ConvSpec, limits: MachineLimits) -> float:
    """Estimate the time of the products in padded rows and whole tiles, and of copying and summing the bands."""
    layout = _layout(host(), spec, thread_count())
    slots, tile = layout.template, layout.recipe.rows * layout.recipe.columns
    pairs = spec.batch * spec.out_channels * (spec.in_channels // spec.groups)
    taps = slots[AT["row_blocks"]] * slots[AT["column_blocks"]] * tile
    lanes = host().lanes(torch_dtype(spec.dtype).itemsize)
    positions = slots[AT["out_height"]] * slots[AT["pitch"]]
    rate = limits.products_per_second(spec.dtype)
    products = pairs * taps * (positions / PRODUCT_EFFICIENCY + slots[AT["bands"]] * TILE_PRODUCTS * lanes)
    copied = spec.batch * (spec.in_channels + spec.out_channels) * positions
    computing = (products + copied * COPY_STEPS) / rate * thread_count() / layout.threads
    moved = (prod(spec.input_shape) + prod(spec.output_shape)) * torch_dtype(spec.dtype).itemsize
    sums = limits.moving_seconds(2 * prod(layout.shape) * torch_dtype(spec.dtype).itemsize)
    return limits.call_seconds + SETUP_SECONDS + max(computing, limits.moving_seconds(moved)) + sums


def scratch_bytes(spec: ConvSpec) -> tuple[int, int]:
    """Return the bytes held in addition to operands and result: the bands of all threads, and their sums."""
    layout = _layout(host(), spec, thread_count())
    return layout.scratch_bytes, prod(layout.shape) * torch_dtype(spec.dtype).itemsize


def error_bound(spec: ConvSpec) -> float:
    """Bound the error of sums in lanes and bands, relative to max|x| times the largest sum of |g| of a channel."""
    layout = _layout(host(), spec, thread_count())
    lanes = host().lanes(torch_dtype(spec.dtype).itemsize)
    longest = layout.template[AT["band_rows"]] * layout.template[AT["pitch"]] / lanes
    return half_ulp(spec.dtype) * (4 + (longest + layout.shape[0] + lanes.bit_length()) / 4)


def compute(spec: ConvSpec, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Compute the gradient of a layer's kernel from its input and the gradient of its output."""
    return compute_for(host(), spec, x, grad)


def compute_for(target: Target, spec: ConvSpec, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Compute the gradient of a layer's kernel with code for any processor."""
    layout = _layout(target, spec, thread_count())
    inner = layout.spec
    if inner.axes != spec.axes:  # without axes of one position, a contiguous array is unchanged
        x, grad = (t.contiguous().reshape(shape) for t, shape in ((x, inner.input_shape), (grad, inner.output_shape)))
    x, grad = (t if t.stride(-1) == 1 else t.contiguous() for t in (x, grad))
    sums = empty_array(layout.shape, spec.dtype)
    room, slots = scratch(layout.scratch_bytes), layout.template[:]
    for name, tensor in (("x", x), ("g", grad)):
        image, channel, *rows = tensor.stride()
        slots[AT[name]] = tensor.data_ptr()
        slots[AT[f"{name}_image"]], slots[AT[f"{name}_channel"]] = image, channel
        slots[AT[f"{name}_row"]] = rows[-2] if len(rows) > 1 else 0
    slots[AT["out"]], slots[AT["scratch"]] = sums.ctypes.data, room.data_ptr()
    slots[AT["shifts"]] = layout.shifts.buffer_info()[0]
    ARGUMENTS.run(layout.region, slots, layout.threads)
    total = sums[0] if len(sums) == 1 else np.add.reduce(sums, axis=0)
    down, across = layout.shape[3:5]
    tiles = total.reshape(*layout.shape[1:5], layout.recipe.rows, layout.recipe.columns).swapaxes(-3, -2)
    taps = tiles.reshape(*layout.shape[1:3], down * layout.recipe.rows, across * layout.recipe.columns)
    kernel_rows, kernel_columns = _two(inner.kernel_size)
    wanted = np.ascontiguousarray(taps[:, :, :kernel_rows, :kernel_columns])
    return torch.from_numpy(wanted.reshape(spec.kernel_shape))


def _two(values: tuple[int, ...]) -> tuple[int, int]:
    """Return one number for each of two axes; a signal has one row."""
    return (1, values[0]) if len(values) == 1 else (values[0], values[1])


def _tile(kernel_size: tuple[int, ...], target: Target) -> tuple[int, int]:
    """Return the rows and columns of taps that are summed together: as many as registers allow, with little waste."""
    rows, columns = _two(kernel_size)
    most = target.accumulators
    wide = ceil(columns / ceil(columns / most))
    return ceil(rows / ceil(rows / max(1, most // wide))), wide


def _band_elements(spec: ConvSpec, rows: int) -> tuple[int, int, int]:
    """Return the elements of a band of `rows` rows: of one channel of x, of one of g, and of a group's channels."""
    (_, width), (extent_rows, extent_columns) = _two(spec.output_size), _two(spec.extent)
    slack = 2 * 64 + extent_columns * 2 + 16 * _two(spec.dilation)[1]  # whole vectors, and surplus columns of a tile
    pitch = width + extent_columns - 1
    x, g = (rows + extent_rows - 1) * pitch + slack, rows * pitch + 2 * 64
    return x, g, spec.in_channels // spec.groups * x + spec.out_channels // spec.groups * g


@lru_cache(maxsize=LAYOUTS)
def _layout(target: Target, spec: ConvSpec, threads: int) -> Layout:
    """Prepare the bands and the code of a layer's kernel gradient."""
    inner = spec.squeezed()
    item = torch_dtype(spec.dtype).itemsize
    (rows, columns), (height, width) = _tile(inner.kernel_size, target), _two(inner.size)
    (out_height, out_width), (extent_rows, extent_columns) = _two(inner.output_size), _two(inner.extent)
    kernel_rows, kernel_columns = _two(inner.kernel_size)
    padding = ((0, 0), *inner.padding)[-2:]
    pitch = out_width + extent_columns - 1
    band_rows = max(1, min(out_height, BAND_ELEMENTS // pitch))
    while band_rows > 1 and _band_elements(inner, band_rows)[2] * item > GROUP_BYTES:
        band_rows = ceil(band_rows / 2)
    tasks = inner.batch * inner.groups
    if tasks * ceil(out_height / band_rows) < 2 * threads:
        band_rows = ceil(out_height / min(out_height, ceil(2 * threads / tasks)))
    bands = ceil(out_height / band_rows)
    band_rows = ceil(out_height / bands)
    x_band, g_band, elements = _band_elements(inner, band_rows)
    ins, outs = inner.in_channels // inner.groups, inner.out_channels // inner.groups
    row_blocks, column_blocks = ceil(kernel_rows / rows), ceil(kernel_columns / columns)
    products = inner.batch * outs * inner.in_channels * inner.taps * out_height * out_width
    dilation_rows, step = _two(inner.dilation)
    shifts = [min(row, kernel_rows - 1) * dilation_rows * pitch for row in range(row_blocks * rows)]
    thread_elements = ceil(elements / 64) * 64
    values = {
        "tasks": tasks * bands,
        "groups": inner.groups,
        "bands": bands,
        "band_rows": band_rows,
        "ins": ins,
        "outs": outs,
        "height": height,
        "width": width,
        "out_height": out_height,
        "out_width": out_width,
        "pad_height": padding[0][0],
        "pad_width": padding[1][0],
        "reach": extent_rows - 1,
        "pitch": pitch,
        "row_blocks": row_blocks,
        "column_blocks": column_blocks,
        "step": step,
        "x_band": x_band,
        "g_band": g_band,
        "thread_elements": thread_elements,
    }
    recipe = KernelGradientRecipe(spec.dtype, rows, columns)
    threads = 1 if products < SERIAL_PRODUCTS else min(threads, tasks * bands)
    return Layout(
        inner,
        recipe,
        ARGUMENTS.new(values),
        array("q", shifts),
        (inner.batch * bands, inner.out_channels, ins, row_blocks, column_blocks, rows * columns),
        routine(write, target, recipe),
        threads,
        thread_elements * threads * item,
    )
