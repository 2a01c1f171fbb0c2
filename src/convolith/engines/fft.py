"""Large kernels by the Fourier transform: overlap-save tiles, the kernel's spectrum prepared once.

A tile of T inputs gives T - extent + 1 outputs: `irfft(rfft(tile) * conj(rfft(kernel)))` without the part that wraps
around (Stockham 1966; Oppenheim and Schafer, Discrete-Time Signal Processing, section 8.7.3). Tiles are transformed in
batches that fit a fixed workspace, whatever the size of the image; channels meet in a complex matrix product.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import ceil, log2, prod
from typing import NamedTuple

import torch

from convolith.dtypes import COMPLEX, HALVES, half_ulp, is_float
from convolith.engines.limits import Limits, sum_dtype_name
from convolith.engines.memory import empty
from convolith.engines.padding import pad
from convolith.engines.protocol import deliver, to_working, torch_dtype, working_dtype
from convolith.geometry import Pairs
from convolith.spec import ConvSpec
from convolith.work import Count, ForwardMemory, Memory, Work, layer_work

name = "fft"

WORKSPACE_BYTES = 24 << 20
"""What a batch of tiles may take: large enough to keep the threads busy, small beside an image."""
LARGEST_TILE = 1024
"""Elements of a tile along one axis (more where the kernel needs them, and for signals)."""
LARGEST_SIGNAL_TILE = 1 << 16
LARGEST_TILE_BYTES = 28 << 20
"""What one tile of all channels may take, if any tile is that small."""
COPIES = 3
"""Copies of the transformed tiles that live at once: before, during and after a transform."""
FACTORS = (2, 3, 5)
"""Primes of the lengths for which transforms are fast."""
PRODUCT_SHARE = {True: 0.1, False: 0.15}
"""The share of the machine's products that small complex matrices reach, and rows of complex numbers."""
TURNED = 12.0
"""How many times as long as a copy it takes to turn frequencies outside for the matrices, there and back."""
CALLS = 10
"""Calls of torch's operators for a batch of tiles."""
OPERATIONS_PER_POINT = 2.5
"""Additions and multiplications of a real transform of N points, over N log2 N (half of a complex one's 5)."""


class State(NamedTuple):
    """The spec, its tile and the conjugate spectrum, ready for the kind of product that the channels need."""

    spec: ConvSpec
    tile: tuple[int, ...]
    spectrum: torch.Tensor


def refuse(spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
    """Real floating-point layers whose windows move one by one."""
    if spec.transposed:
        return "transposed"
    if spec.out_dtype in COMPLEX:
        return "complex numbers"
    if not is_float(spec.out_dtype):
        return "rounds, and integers are exact"
    if max(spec.stride) > 1:
        return "stride: most of what it computes would be thrown away"
    if spec.taps == 1:
        return "a single tap"
    return None


def sums_directly(spec: ConvSpec) -> bool:
    """It does not: a NaN or an infinity spreads over its tile."""
    return False


def note(spec: ConvSpec) -> str:
    """The tile."""
    return f"tiles of {'x'.join(map(str, tile_of(spec)))}; spreads NaN and infinity"


def tile_of(spec: ConvSpec) -> tuple[int, ...]:
    """The tile that takes the fewest operations."""
    item = working_dtype(spec).itemsize
    return _best_tile(spec.extent, spec.output_size, spec.in_channels, spec.out_channels, spec.groups, item)


@lru_cache(maxsize=4096)
def _best_tile(
    extent: tuple[int, ...], output: tuple[int, ...], ins: int, outs: int, groups: int, item: int
) -> tuple[int, ...]:
    choices = [_lengths(e, n, len(extent)) for e, n in zip(extent, output, strict=True)]
    tiles = list(product(*choices))
    small = [tile for tile in tiles if (ins + outs) * prod(tile) * item * COPIES <= LARGEST_TILE_BYTES]
    return min(small or [min(tiles)], key=lambda tile: sum(_operations(tile, extent, output, ins, outs, groups)))


def _lengths(extent: int, output: int, axes: int) -> list[int]:
    """Fast lengths of tiles on one axis, from twice the kernel to all that there is."""
    whole = output + extent - 1
    limit = LARGEST_SIGNAL_TILE if axes == 1 else LARGEST_TILE
    longest = min(whole, max(4 * extent, limit))
    wanted = {longest} | {n for n in (2**b * m for b in range(20) for m in (16, 20, 24, 30)) if n < longest}
    found = sorted({_fast_length(n) for n in wanted if n >= min(longest, extent + max(extent // 4, 1))})
    return found if axes < 3 else found[-4:]


@lru_cache(maxsize=4096)
def _fast_length(n: int) -> int:
    """The smallest even number from n on without other primes than the fast ones (halves of it are transformed)."""
    while True:
        rest = n
        for factor in FACTORS:
            while rest % factor == 0:
                rest //= factor
        if rest == 1 and n % 2 == 0:
            return n
        n += 1


def _operations(
    tile: tuple[int, ...], extent: tuple[int, ...], output: tuple[int, ...], ins: int, outs: int, groups: int
) -> tuple[float, float]:
    """Of the transforms and of the products with the spectrum, for one image."""
    points = prod(tile)
    tiles = prod(ceil(n / (t - e + 1)) for n, t, e in zip(output, tile, extent, strict=True))
    transforms = tiles * (ins + outs) * OPERATIONS_PER_POINT * points * log2(points)
    return transforms, tiles * (points / 2 + points / tile[-1]) * 8 * ins * outs / groups


def work(spec: ConvSpec) -> Work:
    """Transforms and spectral products, half of them multiplications; the tiles are copied in and out."""
    memory = layer_work(spec).memory.forward
    tile = tile_of(spec)
    transforms, products = _operations(
        tile, spec.extent, spec.output_size, spec.in_channels, spec.out_channels, spec.groups
    )
    half = ceil(spec.batch * (transforms + products) / 2)
    step = [t - e + 1 for t, e in zip(tile, spec.extent, strict=True)]
    tiles = spec.batch * prod(ceil(n / s) for n, s in zip(spec.output_size, step, strict=True))
    item = working_dtype(spec).itemsize
    copied = tiles * (spec.in_channels + spec.out_channels) * prod(tile) * item * COPIES
    forward = Count(half, half, memory.bytes + copied)
    workspace = min(copied, max(WORKSPACE_BYTES, _tile_bytes(spec, tile)))
    terms = ForwardMemory(memory.input, memory.parameters, memory.output, workspace)
    return Work(forward=forward, memory=Memory(terms))


def seconds(spec: ConvSpec, limits: Limits) -> float:
    """Transforms and copies, the products at the rate of complex matrices, and a call for every batch of tiles."""
    tile = tile_of(spec)
    transforms, products = _operations(
        tile, spec.extent, spec.output_size, spec.in_channels, spec.out_channels, spec.groups
    )
    forward = work(spec).forward
    meeting = spec.in_channels > spec.groups
    rate = 2 * PRODUCT_SHARE[meeting] * limits.products_per_second(sum_dtype_name(spec))
    slower = 1 if sum_dtype_name(spec) == "float32" else 2
    batches = ceil(forward.bytes / COPIES / WORKSPACE_BYTES)
    computing = spec.batch * (transforms * slower / limits.fft_operations_per_second + products / rate)
    moved = forward.bytes * (TURNED if meeting else 1)
    return batches * CALLS * limits.call_seconds + computing + limits.moving_seconds(moved)


def _tile_bytes(spec: ConvSpec, tile: tuple[int, ...]) -> int:
    return (spec.in_channels + spec.out_channels) * prod(tile) * working_dtype(spec).itemsize * COPIES


def error_bound(spec: ConvSpec, kernel: torch.Tensor | None = None) -> float:
    """Each step of a transform loses half a unit of its norm (Schatzman 1996); channels add up as direct sums do."""
    wide = "float32" if spec.out_dtype in HALVES else spec.out_dtype
    return half_ulp(wide) * (4 + 2 * log2(prod(tile_of(spec))) + spec.in_channels / spec.groups / 4)


def _is_single(spec: ConvSpec, tile: tuple[int, ...]) -> bool:
    """Whether one tile holds an image, what is padded around it included."""
    return all(t >= n + e - 1 for t, n, e in zip(tile, spec.output_size, spec.extent, strict=True))


def _own_padding(spec: ConvSpec) -> Pairs:
    """The zeros that it pads by itself; other modes are padded first."""
    return spec.padding if spec.padding_mode == "zeros" else ((0, 0),) * spec.axes


def prepare(spec: ConvSpec, kernel: torch.Tensor) -> State:
    """The conjugate spectrum of the kernel, spread by its dilation, at the tile's frequencies."""
    tile, axes = tile_of(spec), tuple(range(2, 2 + spec.axes))
    kernel = to_working(kernel, working_dtype(spec))
    if max(spec.dilation) > 1:
        spread = kernel.new_zeros(*kernel.shape[:2], *spec.extent)
        taken = spread
        for axis, dilation in enumerate(spec.dilation, start=2):
            taken = taken[(slice(None),) * axis + (slice(None, None, dilation),)]
        taken.copy_(kernel)
        kernel = spread
    if _is_single(
        spec, tile
    ):  # placed so that outputs begin where inputs do, and the zeros behind them serve both ends
        amounts = [amount for t, e in zip(reversed(tile), reversed(spec.extent), strict=True) for amount in (0, t - e)]
        shifts = [-before for before, _ in _own_padding(spec)]
        kernel = torch.nn.functional.pad(kernel, amounts).roll(shifts, axes)
    spectrum = torch.fft.rfftn(kernel, tile, dim=axes).conj().resolve_conj()
    ins, outs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    spectrum = spectrum.reshape(spec.groups, outs, ins, -1)
    if ins > 1:  # (frequencies, groups, ins, outs), for products of matrices
        spectrum = spectrum.permute(3, 0, 2, 1).contiguous()
    return State(spec, tile, spectrum)


def apply(state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None) -> torch.Tensor:
    """Batch after batch of tiles, cut out of x and written into the result."""
    spec, tile, spectrum = state
    working = working_dtype(spec)
    x = to_working(x, working)
    padding, axes = _own_padding(spec), tuple(range(-spec.axes, 0))
    if spec.padding_mode != "zeros":
        x = pad(x, spec.padding, spec.padding_mode)
    straight = out is not None and out.dtype is working and out.is_contiguous()
    y = out if straight and out is not None else empty(spec.output_shape, working)
    step = tuple(t - e + 1 for t, e in zip(tile, spec.extent, strict=True))
    counts = tuple(ceil(n / s) for n, s in zip(spec.output_size, step, strict=True))
    images, block = _batch(spec, tile, counts)
    for first in range(0, spec.batch, images):
        if _is_single(spec, tile):
            transformed = torch.fft.rfftn(x[first : first + images], tile, dim=axes)
            _multiply_back(transformed, counts, spectrum, spec, tile, spec.output_size, y[first : first + images])
            continue
        for corner in product(*(range(0, n, b) for n, b in zip(counts, block, strict=True))):
            taken = [min(b, n - c) for b, n, c in zip(block, counts, corner, strict=True)]
            begin = [c * s for c, s in zip(corner, step, strict=True)]
            region = _region(x[first : first + images], begin, taken, step, tile, padding)
            goal = y[first : first + images]
            for axis, (b, n, s) in enumerate(zip(begin, taken, step, strict=True), start=2):
                goal = goal.narrow(axis, b, min(n * s, y.shape[axis] - b))
            _multiply_back(torch.fft.rfftn(region, dim=axes), tuple(taken), spectrum, spec, tile, step, goal)
    if bias is not None:
        y += to_working(bias, working).reshape(-1, *[1] * spec.axes)
    if straight or (out is None and working is torch_dtype(spec.out_dtype)):
        return y
    return deliver(y, None, spec, out)


def _batch(spec: ConvSpec, tile: tuple[int, ...], counts: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """How many images, and tiles along each axis, are transformed at once: the last axis grows first."""
    room = max(1, WORKSPACE_BYTES // _tile_bytes(spec, tile))
    block = [1] * len(counts)
    for axis in reversed(range(len(counts))):
        block[axis] = min(counts[axis], room)
        room //= block[axis]
        if block[axis] < counts[axis]:
            room = 1
    return min(max(spec.batch, 1), max(room, 1)), tuple(block)


def _region(
    x: torch.Tensor,
    begin: list[int],
    taken: list[int],
    step: tuple[int, ...],
    tile: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
) -> torch.Tensor:
    """The overlapping tiles of a block, (images, channels, *tiles, *tile), zero beyond the image."""
    around = []
    for axis, (b, n, s, t, (before, _)) in enumerate(zip(begin, taken, step, tile, padding, strict=True), start=2):
        start, stop = b - before, b - before + (n - 1) * s + t
        low, high = max(start, 0), min(stop, x.shape[axis])
        x = x.narrow(axis, min(low, x.shape[axis]), max(high - low, 0))
        if high <= low:
            around.append((stop - start, 0))
        else:
            around.append((low - start, stop - high))
    x = pad(x, tuple(around), "zeros")
    for axis, (t, s) in enumerate(zip(tile, step, strict=True), start=2):
        x = x.unfold(axis, t, s)
    return x


def _multiply_back(
    transformed: torch.Tensor,
    counts: tuple[int, ...],
    spectrum: torch.Tensor,
    spec: ConvSpec,
    tile: tuple[int, ...],
    step: tuple[int, ...],
    goal: torch.Tensor,
) -> None:
    """Multiply, transform back; what did not wrap around goes to its place in the result."""
    images, axes = transformed.shape[0], tuple(range(-spec.axes, 0))
    shape = transformed.shape[-spec.axes :]
    ins, outs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    number = prod(counts)
    if ins == 1:
        flat = transformed.reshape(images, spec.groups, 1, number, -1)
        mixed = flat * spectrum.reshape(spec.groups, outs, 1, -1)
    else:
        flat = transformed.reshape(images, spec.groups, ins, number, -1)
        rows = flat.permute(4, 1, 0, 3, 2).reshape(-1, spec.groups, images * number, ins)
        made = torch.matmul(rows, spectrum)
        mixed = made.reshape(-1, spec.groups, images, number, outs).permute(2, 1, 4, 3, 0)
    mixed = mixed.reshape(images, spec.out_channels, *counts, *shape)
    found = torch.fft.irfftn(mixed, tile, dim=axes)
    kept = found[(..., *(slice(0, s) for s in step))]
    order = [0, 1, *(axis + 2 + half * spec.axes for axis in range(spec.axes) for half in range(2))]
    sizes = [c * s for c, s in zip(counts, step, strict=True)]
    whole = kept.permute(order).reshape(images, spec.out_channels, *sizes)
    goal.copy_(whole[(..., *(slice(0, n) for n in goal.shape[2:]))])
