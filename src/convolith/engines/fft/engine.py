"""Large kernels by the Fourier transform: overlap-save tiles in generated code, with a precomputed kernel spectrum.

A tile of T inputs gives T - extent + 1 outputs: it is transformed, multiplied by the conjugate spectrum of the kernel
and transformed back, without the part that wraps around (Stockham 1966; Oppenheim and Schafer, Discrete-Time Signal
Processing, section 8.7.3). `tiling` chooses the tiles, `emit_transforms` and `emit` generate the transforms, and
`emit_products` sums over channels. The workspace is bounded by a few tiles for any image size; where channels are
summed, by a pair of tiles of all channels (and of all slices of a volume).
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from math import ceil, frexp, isfinite, log2, prod
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.dtypes import COMPLEX, HALVES, dtype_name, half_ulp, is_float
from convolith.engines.base import TRANSPOSED, GeneratedEngine, deliver, turned
from convolith.engines.buffers import empty, empty_array
from convolith.engines.elementwise import NO_TAIL
from convolith.engines.fft import emit
from convolith.engines.fft.emit_products import panel_of
from convolith.engines.fft.emit_transforms import passes, rotations
from convolith.engines.fft.tiling import (
    OPERATIONS_PER_POINT,
    OVERHEAD,
    Tiling,
    block_of,
    depth_taps,
    fits,
    meeting,
    operations,
    pair_numbers,
    tiling_of,
    work_bytes,
)
from convolith.engines.machine_limits import MachineLimits, sum_dtype_name
from convolith.engines.padding import padded_size, source_tables
from convolith.engines.steps import OUTPUT, Finish, Layout, Step, Steps
from convolith.jit import Routine, Target, host, routine, scratch, thread_count
from convolith.jit.builder import itemsize
from convolith.jit.conversions import STORED
from convolith.jit.threads import KEPT_SCRATCH
from convolith.spec import ConvSpec
from convolith.tensors import to_working, torch_dtype, working_dtype
from convolith.work import Count, ForwardMemory, Memory, Work, layer_work

PRODUCT_EFFICIENCY = 0.75
"""Fraction of the peak product rate that the sums over channels reach."""
SETUP_SECONDS = 6e-6
"""Time to fill in the arguments, in addition to a call."""
PREPARE_SECONDS = 5e-5
"""Time to compute the spectra of the smallest kernel."""
SPECTRUM_STEPS = 2.0
"""Time of the spectrum of one kernel plane, relative to the transform of a pair of tiles."""
LAYOUTS = 128
"""Number of specs whose tables are cached."""
LARGEST_SPECTRA = 1 << 28
"""Upper bound on the bytes of a kernel's spectra, beyond which the engine is not worth its memory."""
MOST_STEPS = 60
"""Largest number of steps of a program that a layer may become."""
CHUNKS = 16
"""Number of pieces into which a thread's share of the products is divided."""
AT = emit.ARGUMENTS.at
X, Y, BIAS, SPECTRUM = (AT[slot] for slot in ("x", "y", "bias", "spectrum"))


class State(NamedTuple):
    """Everything that is prepared before an input is known."""

    spec: ConvSpec
    inner: ConvSpec
    """Spec without axes that have a single position."""
    tiling: Tiling
    lanes: int
    spectra: torch.Tensor
    tables: dict[str, torch.Tensor]
    """Passes, rotations and zeros, by argument name."""
    no_bias: torch.Tensor
    template: array[int]
    region: Routine


class Fft(GeneratedEngine[State]):
    """Engine of overlap-save tiles."""

    name = "fft"

    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Return a reason for all but real floating-point layers with stride 1 and spectra of moderate size."""
        if spec.transposed:
            return TRANSPOSED
        if spec.out_dtype in COMPLEX:
            return "not for complex numbers"
        if not is_float(spec.out_dtype):
            return "inexact, but integer results must be exact"
        if max(spec.stride) > 1:
            return "stride over 1: most computed outputs would be discarded"
        if spec.taps == 1:
            return "the kernel has a single tap"
        if not isfinite(spec.padding_value):
            return "padding that is not finite would spread over tiles"
        spec = spec.squeezed()
        if not fits(spec):
            return "the kernel is larger than the largest tile"
        needed = _spectra_bytes(spec)
        if needed > LARGEST_SPECTRA:
            return f"the transformed kernel takes {needed / 1e9:.1f} GB, over {LARGEST_SPECTRA / 1e9:.1f}"
        return None

    def keeps_nonfinite_local(self, spec: ConvSpec) -> bool:
        """Return False: NaN and infinity spread over the tiles that read them, and over tiles in the same transform."""
        return False

    def note(self, spec: ConvSpec) -> str:
        """Describe the tile, and the values that spread beyond their windows."""
        spec = spec.squeezed()
        tiling = tiling_of(spec)
        shape = f"{tiling.points}" if spec.axes == 1 else f"{tiling.rows}x{tiling.columns}"
        wide = "float32" if spec.out_dtype in HALVES else spec.out_dtype
        largest = torch.finfo(torch_dtype(wide)).max / tiling.points
        return f"tiles of {shape}, two at a time; spreads NaN, infinity and values over {largest:.0e}"

    def work(self, spec: ConvSpec) -> Work:
        """Count transforms and products of spectra, half of them multiplications, and moved spectra and tiles."""
        spec = spec.squeezed()
        memory = layer_work(spec).memory.forward
        half = ceil(sum(operations(spec, tiling_of(spec))) / 2)
        copied = _copied_bytes(spec)
        moved, workspace = work_bytes(spec, tiling_of(spec))
        spectra = _spectra_bytes(spec)
        forward = Count(half, half, memory.bytes + 2 * copied + spectra + moved)
        terms = ForwardMemory(memory.input, memory.parameters, memory.output, workspace + copied, spectra)
        return Work(forward=forward, memory=Memory(terms))

    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of transforms and products, with waiting threads, and of moving data, which may overlap."""
        spec = spec.squeezed()
        tiling = tiling_of(spec)
        transforms, products = operations(spec, tiling)
        rate, threads = limits.products_per_second(sum_dtype_name(spec)), thread_count()
        tasks = 0 if meeting(spec) else spec.batch * spec.groups * tiling.pairs
        waiting = ceil(tasks / threads) * threads / tasks if tasks else 1
        slower = 1 if sum_dtype_name(spec) == "float32" else 2
        computing = transforms * waiting * slower / limits.fft_operations_per_second + products / (
            2 * rate * PRODUCT_EFFICIENCY
        )
        between = work_bytes(spec, tiling)[0]  # blocks of tiles stay in a cache
        moving = (
            limits.moving_seconds(self.work(spec).forward.bytes - between) + between / limits.cache_bytes_per_second
        )
        taken = computing + moving if meeting(spec) else max(computing, moving)  # separate stages, or all at once
        copying = limits.moving_seconds(2 * _copied_bytes(spec))
        return limits.call_seconds + SETUP_SECONDS + taken + copying

    def error_bound(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> float:
        """Bound the error: each transform step loses half a unit of its norm (Schatzman 1996), and channels add up."""
        wide = "float32" if spec.out_dtype in HALVES else spec.out_dtype
        spec = spec.squeezed()
        summed = spec.in_channels / spec.groups * depth_taps(spec)
        return half_ulp(wide) * (4 + 2 * (tiling_of(spec).points - 1).bit_length() + summed / 4)

    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time to transform every plane of the kernel, or to move the spectra if that is longer."""
        planes, points = prod(spec.kernel_shape[: max(2, spec.axes)]), tiling_of(spec.squeezed()).points
        slower = 1 if sum_dtype_name(spec) == "float32" else 2
        transforms = planes * OPERATIONS_PER_POINT * points * (log2(points) + OVERHEAD) * slower
        computing = SPECTRUM_STEPS * transforms / limits.fft_operations_per_second
        return PREPARE_SECONDS + max(computing, limits.moving_seconds(2 * _spectra_bytes(spec.squeezed())))

    def prepare_for(self, target: Target, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
        """Prepare the code, the tables and the spectra for any processor."""
        inner = spec.squeezed()
        tiling = tiling_of(inner)
        ready = _ready(target, spec, tiling, (thread_count(), *block_of(inner, tiling)))
        kernel = to_working(turned(spec, kernel) if adjoint else kernel, ready.no_bias.dtype)
        weights, power = _normalised(kernel.numpy().reshape(inner.kernel_shape))
        scale = torch.from_numpy(np.array([1 / tiling.points, 2.0**power], weights.dtype))
        tables = ready.tables | {"scale": scale}
        panel = panel_of(target) if meeting(inner) else 1
        spectra = _spectra(inner, tiling, _at_addresses(ready.template, tables), ready.region, weights, panel)
        return ready._replace(spectra=spectra, tables=tables)

    def resized(self, state: State, spec: ConvSpec) -> State | None:
        """Share the spectra, if the tiles are as large."""
        inner = spec.squeezed()
        tiling = tiling_of(inner)
        if (tiling.rows, tiling.columns) != (state.tiling.rows, state.tiling.columns) or inner.axes != state.inner.axes:
            return None
        ready = _ready(host(), spec, tiling, (thread_count(), *block_of(inner, tiling)))
        return ready._replace(spectra=state.spectra, tables=ready.tables | {"scale": state.tables["scale"]})

    def apply(
        self, state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Convolve all pairs of tiles, each separately, or block by block where channels are summed."""
        spec, inner, working = state.spec, state.inner, state.no_bias.dtype
        x = to_working(x, working)
        x = x.reshape(inner.input_shape) if inner is not spec else x
        if x.stride(-1) != 1:
            x = x.contiguous()
        straight = out is not None and out.dtype is working and out.is_contiguous()
        y = out if straight and out is not None else empty(spec.output_shape, working)
        added = state.no_bias if bias is None else to_working(bias, working).contiguous()
        slots = _at_addresses(state.template, state.tables)
        image, channel, *rest = x.stride()
        plane, row, _ = (0,) * (3 - len(rest)) + tuple(rest)
        slots[X], slots[Y], slots[BIAS], slots[SPECTRUM] = (t.data_ptr() for t in (x, y, added, state.spectra))
        slots[AT["x_image"]], slots[AT["x_channel"]], slots[AT["x_plane"]], slots[AT["x_row"]] = (
            image,
            channel,
            plane,
            row,
        )
        if not meeting(inner):
            tasks = inner.batch * inner.groups * state.tiling.pairs
            _run(state.region, slots, emit.FILTER, tasks, working.itemsize)
        else:
            _in_blocks(state, slots)
        if straight or (out is None and working is torch_dtype(spec.out_dtype)):
            return y
        return deliver(y, None, spec, out)

    def steps(self, state: State, layout: Layout, after: Finish) -> Steps | None:
        """Return the stages as steps: one for all tiles, or for each block of tiles one per stage."""
        spec, tiling, plain = state.inner, state.tiling, state.no_bias
        if after.tail != NO_TAIL or after.residual is not None or plain.dtype is not torch_dtype(state.spec.out_dtype):
            return None
        slots, item, pairs = state.template[:], plain.itemsize, spec.batch * tiling.pairs
        plane, row = ((0, 0, *(prod(spec.size[axis + 1 :]) for axis in range(spec.axes))))[-3:-1]
        emit.ARGUMENTS.update(slots, {"x_image": layout.x_image, "x_channel": prod(spec.size), "x_plane": plane})
        emit.ARGUMENTS.update(slots, {"x_row": row, "y_image": layout.y_image})
        tensors = state.tables | {"spectrum": state.spectra} | after.tensors(spec.out_channels, dtype_name(plain.dtype))
        per_thread, most = slots[AT["thread_elements"]] * item, slots[AT["block_pairs"]]
        tiles = ceil(per_thread * thread_count() / 64) * 64
        scratch, extra = {"scratch": 0}, 0
        runs: list[tuple[int, int, dict[str, int]]] = []
        if not meeting(spec):
            runs = [(emit.FILTER, spec.batch * spec.groups * tiling.pairs, {})]
        elif slots[AT["thread_elements"]] > slots[AT["meet_offset"]]:  # threads have their own blocks
            runs = [(emit.TOGETHER, ceil(pairs / most), {})]
        else:
            ins, outs = slots[AT["slices"]] * spec.in_channels, slots[AT["out_depth"]] * spec.out_channels
            v, m = (ceil(most * planes * tiling.points * 2 * item / 64) * 64 for planes in (ins, outs))
            scratch, extra = scratch | {"v": tiles, "m": tiles + v}, v + m
            for first in range(0, pairs, most):
                block = {"first_pair": first, "block_pairs": min(most, pairs - first)}
                count = block["block_pairs"]
                runs.append((emit.FORWARD, count * ins, block))
                runs.append((emit.PRODUCTS, spec.groups * tiling.points // state.lanes, block))
                runs.append((emit.BACK, count * outs, block))
        if len(runs) > MOST_STEPS:
            return None
        steps = []
        for stage, tasks, values in runs:
            threads, own = min(thread_count(), tasks), slots[:]
            chunk = max(1, tasks // (threads * CHUNKS)) if stage == emit.PRODUCTS else 1
            emit.ARGUMENTS.update(own, values | {"stage": stage, "tasks": tasks, "chunk": chunk})
            places = {"x": 0, "y": OUTPUT}
            steps.append(Step(state.region, emit.ARGUMENTS, own, places, tensors, scratch, threads))
        return Steps(tuple(steps), tiles + extra)


fft = Fft()


def _spectra_bytes(spec: ConvSpec) -> int:
    return prod(spec.kernel_shape[: max(2, spec.axes)]) * tiling_of(spec).points * 2 * working_dtype(spec).itemsize


def _copied_bytes(spec: ConvSpec) -> int:
    """Return the bytes of inputs and outputs that are converted to and from the working dtype."""
    item, converted = working_dtype(spec).itemsize, working_dtype(spec) is not torch_dtype(spec.out_dtype)
    return converted * (prod(spec.input_shape) + prod(spec.output_shape)) * item


@lru_cache(maxsize=LAYOUTS)
def _ready(target: Target, spec: ConvSpec, tiling: Tiling, blocks: tuple[int, ...]) -> State:
    """Prepare everything except the spectra: the code and the tables."""
    original, spec, working = spec, spec.squeezed(), working_dtype(spec)
    dtype = str(working).removeprefix("torch.")
    plain = np.dtype(dtype)
    lanes = target.lanes(itemsize(STORED[dtype]))
    tables: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for axis, length in (("column", tiling.rows), ("row", tiling.columns)):
        factors, starts = rotations(length)
        steps = passes(length) or ()
        tables[f"{axis}_rotations"] = factors.astype(plain)
        tables[f"{axis}_passes"] = np.array([(*p, s) for p, s in zip(steps, starts, strict=True)], np.int64)
        counts[f"{axis}_count"] = len(steps)
    tables["zeros"] = np.zeros(tiling.columns + lanes, plain)
    if spec.axes == 1:
        tables["between"] = _between(tiling, lanes).astype(plain)
    template = emit.ARGUMENTS.new(counts | _slots(spec, tiling, lanes, plain.itemsize))
    shared = {name: torch.from_numpy(table) for name, table in tables.items()}
    if spec.pads_beyond_zeros:
        sources = source_tables(spec)
        shared |= sources | {"outside": sources["outside"].to(working)}
    region = routine(emit.write, target, emit.FftRecipe(dtype, meeting(spec), spec.pads_beyond_zeros))
    no_bias = torch.from_numpy(np.zeros(spec.out_channels, plain))
    return State(original, spec, tiling, lanes, no_bias, shared, no_bias, template, region)


def _normalised(kernel: np.ndarray) -> tuple[np.ndarray, int]:
    """Divide the kernel by a power of two, and return its exponent too: spectra near one do not over- or underflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        size = float(np.abs(kernel).reshape(len(kernel), -1).sum(1, dtype=np.float64).max())
    limits = np.finfo(kernel.dtype)
    power = min(max(frexp(size)[1], limits.minexp + 1), limits.maxexp - 2) if 0 < size < np.inf else 0
    return np.ldexp(kernel, -power), power


def _at_addresses(template: array[int], tables: dict[str, torch.Tensor]) -> array[int]:
    """Return the arguments with the addresses of the tables."""
    slots = template[:]
    emit.ARGUMENTS.update(slots, {name: table.data_ptr() for name, table in tables.items()})
    return slots


def _between(tiling: Tiling, lanes: int) -> np.ndarray:
    """Return the rotations between the axes of a signal, in the layout of V: (vector of rows, column, part, lane)."""
    turns = np.outer(np.arange(tiling.rows), np.arange(tiling.columns)) % tiling.points
    angles = -2 * np.pi * turns[_frequency_order(tiling.rows)] / tiling.points
    blocks = angles.reshape(-1, lanes, tiling.columns).swapaxes(1, 2)
    return np.ascontiguousarray(np.stack([np.cos(blocks), np.sin(blocks)], 2))


def _frequency_order(length: int) -> np.ndarray:
    """Return the frequency that a forward transform writes to each position."""
    order = np.zeros(1, np.int64)
    done = 1
    for radix, _, _ in passes(length) or ():
        order = (order[:, None] + done * np.arange(radix)).reshape(-1)
        done *= radix
    return order


def _slots(spec: ConvSpec, tiling: Tiling, lanes: int, item: int) -> dict[str, int]:
    """Return the sizes among a region's arguments, for a contiguous y."""
    flat = spec.axes == 1
    depth, height, width = (1,) * (3 - spec.axes) + spec.size
    out_depth, out_height, out_width = (1,) * (3 - spec.axes) + spec.output_size
    pads = (0,) * (3 - spec.axes) + tuple(before for before, _ in spec.padding)
    padded_height, padded_width = (1, *padded_size(spec))[-2:]
    outs = out_depth * out_height * out_width
    tile = tiling.points * 2 + 2 * lanes  # no two buffers begin in one cache set
    offsets = {"v_offset": tile, "m_offset": 2 * tile}
    offsets["table_offset"] = offsets["m_offset"] + 2 * lanes * tiling.columns
    offsets["edge_offset"] = offsets["table_offset"] + 2 * tiling.rows * 8 // item
    offsets["meet_offset"] = ceil((offsets["edge_offset"] + 7 * tiling.columns + lanes) / 64) * 64
    block, alone = block_of(spec, tiling)
    per_thread = offsets["meet_offset"] + alone * block * pair_numbers(spec, tiling)
    return offsets | {
        "groups": spec.groups,
        "in_channels": spec.in_channels // spec.groups,
        "out_channels": spec.out_channels // spec.groups,
        "depth": depth,
        "height": height,
        "width": width,
        "out_depth": out_depth,
        "out_height": ceil(out_width / tiling.columns) if flat else out_height,
        "out_width": out_width,
        "pad_depth": pads[0],
        "pad_height": pads[1],
        "pad_width": pads[2],
        "padded_height": padded_height,
        "padded_width": padded_width,
        "y_image": spec.out_channels * outs,
        "y_channel": outs,
        "y_plane": out_height * out_width,
        "y_row": out_width,
        "slices": out_depth + (spec.extent[0] - 1 if spec.axes == 3 else 0),
        "rows": tiling.rows,
        "columns": tiling.columns,
        "step_rows": tiling.step_rows,
        "step_columns": tiling.step_columns,
        "tiles": tiling.down * tiling.across,
        "tiles_across": tiling.across,
        "pairs": tiling.pairs,
        "all_pairs": spec.batch * tiling.pairs,
        "block_pairs": block,
        "taps": depth_taps(spec),
        "dilation": spec.dilation[0] if spec.axes == 3 else 1,
        "turned": int(flat),
        "chunk": 1,
        "thread_elements": ceil(per_thread / 64) * 64,
    }


def _spectra(
    spec: ConvSpec, tiling: Tiling, slots: array[int], region: Routine, kernel: np.ndarray, panel: int
) -> torch.Tensor:
    """Compute the conjugate spectra of all planes of a kernel, spread by its dilation (but not along the depth)."""
    spread = spec.dilation[1:] if spec.axes == 3 else spec.dilation
    axes = len(spread)
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel.shape[-axes:], spread, strict=True))
    wide = empty_array((*kernel.shape[:-axes], *extent), kernel.dtype)
    wide[...] = 0
    places: tuple[Any, ...] = (..., *(slice(None, None, d) for d in spread))
    wide[places] = kernel
    planes = prod(kernel.shape[:-axes])
    spectra = empty((planes * tiling.points * 2,), torch_dtype(str(kernel.dtype)))
    taps = depth_taps(spec)
    height, width = (1, *extent)[-2:]
    sizes = {"x": wide.ctypes.data, "y": spectra.data_ptr(), "panel": panel}
    sizes |= {"height": height, "width": width, "in_channels": spec.in_channels // spec.groups * taps}
    if not meeting(spec):  # each plane separately
        sizes |= {"in_channels": 1, "out_channels": 1}
    sizes |= {"pad_height": 0, "pad_width": 0, "x_row": width, "x_channel": height * width}
    sizes |= {"tiles": 1, "tiles_across": 1}
    emit.ARGUMENTS.update(slots, sizes)
    _run(region, slots, emit.SPECTRA, planes, kernel.itemsize)
    return spectra


def _run(region: Routine, slots: array[int], stage: int, tasks: int, item: int, room: int = 0) -> None:
    """Run one stage of the region, with its own counters, in scratch of its own or at an address."""
    threads = min(thread_count(), tasks)
    own = scratch(slots[AT["thread_elements"]] * threads * item) if not room else None
    slots[AT["scratch"]] = room if own is None else own.data_ptr()
    slots[AT["stage"]], slots[AT["tasks"]] = stage, tasks
    slots[AT["chunk"]] = max(1, tasks // (threads * CHUNKS)) if stage == emit.PRODUCTS else 1
    emit.ARGUMENTS.restart(slots)
    emit.ARGUMENTS.run(region, slots, threads)


def _in_blocks(state: State, slots: array[int]) -> None:
    """Run the stages on one block of tile pairs per thread, or on one block after the other with all threads."""
    spec, tiling, item, region = state.inner, state.tiling, state.no_bias.itemsize, state.region
    slices, out_slices, number = slots[AT["slices"]], slots[AT["out_depth"]], slots[AT["all_pairs"]]
    most, alone = slots[AT["block_pairs"]], slots[AT["thread_elements"]] > slots[AT["meet_offset"]]
    if alone:
        _run(region, slots, emit.TOGETHER, ceil(number / most), item)
        return
    ins, outs = slices * spec.in_channels, out_slices * spec.out_channels
    v, m = (ceil(most * planes * tiling.points * 2 * item / 64) * 64 for planes in (ins, outs))
    needed = v + m + slots[AT["thread_elements"]] * thread_count() * item
    buffer = scratch(needed) if needed <= KEPT_SCRATCH else empty((needed + 64,), torch.uint8)
    slots[AT["v"]] = -(-buffer.data_ptr() // 64) * 64
    slots[AT["m"]], room = slots[AT["v"]] + v, slots[AT["v"]] + v + m
    for first in range(0, number, most):
        block = min(most, number - first)
        slots[AT["first_pair"]], slots[AT["block_pairs"]] = first, block
        _run(region, slots, emit.FORWARD, block * ins, item, room)
        _run(region, slots, emit.PRODUCTS, spec.groups * tiling.points // state.lanes, item, room)
        _run(region, slots, emit.BACK, block * outs, item, room)
