"""Tiles of the Fourier engine: the choice of the tiles with the fewest operations, and the bytes that they move.

A tile is an image of rows by columns; the tile of a signal is such an image read row by row, and gives whole rows of
outputs. Volumes are tiled slice by slice.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, log2
from typing import NamedTuple

from convolith.engines.fft.emit_transforms import passes
from convolith.jit import thread_count
from convolith.spec import ConvSpec
from convolith.tensors import working_dtype

MULTIPLE = 16
"""Divisor of all lengths: rows and columns are transposed in blocks of as many as vectors have lanes."""
LENGTHS = tuple(n for n in range(MULTIPLE, 1 << 13, MULTIPLE) if passes(n))
"""Tile lengths that can be split into passes."""
LARGEST_SIDE = 512
"""Upper bound on a side unless the kernel needs more: two such tiles still fit a second-level cache of some MB."""
OVERHEAD = 7.0
"""Cost of reading, transposing, multiplying and writing a tile, as a number of log2 steps of its transforms."""
OPERATIONS_PER_POINT = 5.0
"""Additions and multiplications of a complex transform of N points, divided by N log2 N."""
WORKSPACE_BYTES = 8 << 20
"""Upper bound on the bytes of a block of transformed tiles where channels are summed."""
SCRATCH_BYTES = 48 << 20
"""Upper bound on the bytes of all threads' tiles and one spectrum."""
WORTH_MEMORY = 2.0
"""Largest slowdown, relative to larger tiles, that is accepted to stay within SCRATCH_BYTES."""
LARGE_TILE_BYTES, LARGE_TILE_COST = 4 << 20, 1.4
"""Bytes of transformed tiles that exceed the cache of a core, and the slowdown of such tiles."""
MOST_WAITING = 1.25
"""Largest slowdown by waiting for which threads get their own blocks: moving data between caches costs as much."""
OFTEN = 4
"""Largest size of the spectra, relative to a block's tiles, for which every thread reads all of them."""
TILE_COPIES = 5
"""Scratch elements per point of a pair of tiles: before and after the transposition, and for the rows."""
SPECTRUM_MOVES = 6.0
"""Number of operations in the time in which one number of a spectrum arrives from a shared cache."""


class Tiling(NamedTuple):
    """Size of a tile, the outputs that it gives, and the number of tiles down and across."""

    rows: int
    columns: int
    step_rows: int
    step_columns: int
    down: int
    across: int

    @property
    def points(self) -> int:
        """Number of complex points of a pair of tiles."""
        return self.rows * self.columns

    @property
    def pairs(self) -> int:
        """Number of pairs of tiles of an image."""
        return ceil(self.down * self.across / 2)


def tiling_of(spec: ConvSpec) -> Tiling:
    """Return the tiles that take the least time."""
    return _best(
        spec.extent[-2:],
        spec.output_size[-2:],
        *(spec.batch * (1 if spec.axes < 3 else spec.output_size[0]), spec.groups),
        *(spec.in_channels // spec.groups, spec.out_channels // spec.groups, depth_taps(spec)),
        *(thread_count(), working_dtype(spec).itemsize),
    )


@lru_cache(maxsize=4096)
def _best(
    extent: tuple[int, ...],
    output: tuple[int, ...],
    images: int,
    groups: int,
    ins: int,
    outs: int,
    taps: int,
    threads: int,
    item: int,
) -> Tiling:
    def cost(tiling: Tiling) -> float:
        transforms, products = _operations(tiling, images, groups, ins, outs, taps)
        if 2 * tiling.points * item > LARGE_TILE_BYTES:
            transforms *= LARGE_TILE_COST
        if ins > 1 or taps > 1:
            return transforms + products / 2 + 2 * tiling.points * groups * ins * outs * taps * SPECTRUM_MOVES
        tasks = images * groups * tiling.pairs
        return transforms * ceil(tasks / threads) * threads / max(tasks, 1)

    tilings = _tilings(extent, output)
    best = min(tilings, key=cost)
    small = [t for t in tilings if t.points * (TILE_COPIES * threads + 2) * item <= SCRATCH_BYTES]
    bounded = min(small, key=cost, default=best)
    return bounded if cost(bounded) <= WORTH_MEMORY * cost(best) else best


def _tilings(extent: tuple[int, ...], output: tuple[int, ...]) -> list[Tiling]:
    if len(extent) == 2:
        tiles = []
        for rows in _lengths(extent[0], output[0]):
            for columns in _lengths(extent[1], output[1]):
                steps = rows - extent[0] + 1, columns - extent[1] + 1
                tiles.append(Tiling(rows, columns, *steps, *(ceil(n / s) for n, s in zip(output, steps, strict=True))))
        return tiles
    (reach,), (outputs,) = extent, output
    tiles = []
    for columns in (n for n in LENGTHS if n <= LARGEST_SIDE or n * n < 8 * reach):
        for rows in LENGTHS:
            step = (rows * columns - reach + 1) // columns
            if step < 1:
                continue
            down = ceil(ceil(outputs / columns) / step)
            tiles.append(Tiling(rows, columns, step, columns, down, 1))
            if down == 1 or rows > 4 * columns:
                break
    return tiles


def _lengths(extent: int, output: int) -> list[int]:
    """Return candidate tile lengths on one axis, from somewhat more than the kernel to the whole axis."""
    whole = next(n for n in LENGTHS if n >= min(output + extent - 1, LENGTHS[-1]))
    least = min(whole, next((n for n in LENGTHS if n >= extent + extent // 4), LENGTHS[-1]))
    most = min(whole, max(LARGEST_SIDE, 2 * least))
    return [n for n in LENGTHS if least <= n <= most]


def fits(spec: ConvSpec) -> bool:
    """Return whether tiles longer than the kernel exist."""
    longest = LENGTHS[-1]
    return spec.extent[0] < longest**2 // 2 if spec.axes == 1 else max(spec.extent[-2:]) <= longest


def operations(spec: ConvSpec, tiling: Tiling) -> tuple[float, float]:
    """Return the operations of the transforms, and of the products where channels are summed."""
    images = spec.batch * (1 if spec.axes < 3 else spec.output_size[0])
    ins, outs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    return _operations(tiling, images, spec.groups, ins, outs, depth_taps(spec))


def _operations(tiling: Tiling, images: int, groups: int, ins: int, outs: int, taps: int) -> tuple[float, float]:
    pairs, points = images * groups * tiling.pairs, tiling.points
    transforms = pairs * (ins + outs) * OPERATIONS_PER_POINT * points * (log2(points) + OVERHEAD)
    return transforms, pairs * points * 8.0 * ins * outs * taps


def block_of(spec: ConvSpec, tiling: Tiling) -> tuple[int, bool]:
    """Return the pairs of tiles in a block where channels are summed, and whether each thread has its own block.

    Threads have their own blocks if they then wait little for each other and the spectra are small enough for each
    thread to read: no thread then reads data that another one writes.
    """
    pairs, threads, item = spec.batch * tiling.pairs, thread_count(), working_dtype(spec).itemsize
    if not meeting(spec) or not pairs:
        return 0, False
    pair_bytes = pair_numbers(spec, tiling) * item
    most = max(1, min(pairs, WORKSPACE_BYTES // pair_bytes))
    own = max(1, min(ceil(pairs / threads), most // threads))
    rounds = ceil(ceil(pairs / own) / threads)
    spectra = spec.out_channels * spec.in_channels // spec.groups * depth_taps(spec) * tiling.points * 2 * item
    waiting = rounds * own * threads / pairs
    if waiting <= MOST_WAITING and spectra <= OFTEN * own * pair_bytes:
        return own, True
    return most, False


def meeting(spec: ConvSpec) -> bool:
    """Return whether several channels, or slices, are summed in the frequency domain."""
    return spec.in_channels > spec.groups or spec.axes == 3


def pair_numbers(spec: ConvSpec, tiling: Tiling) -> int:
    """Return the real numbers in the transformed inputs and outputs of a pair of tiles, all channels and slices."""
    out_slices = spec.output_size[0] if spec.axes == 3 else 1
    slices = out_slices + (spec.extent[0] - 1 if spec.axes == 3 else 0)
    return 2 * tiling.points * (spec.in_channels * slices + spec.out_channels * out_slices)


def work_bytes(spec: ConvSpec, tiling: Tiling) -> tuple[int, int]:
    """Return the bytes moved between the stages, and the workspace."""
    item, threads = working_dtype(spec).itemsize, thread_count()
    scratch = TILE_COPIES * tiling.points * item * threads
    if not meeting(spec):
        return 0, scratch
    block, alone = block_of(spec, tiling)
    pair = pair_numbers(spec, tiling) * item
    return 2 * pair * spec.batch * tiling.pairs, scratch + pair * block * (threads if alone else 1)


def depth_taps(spec: ConvSpec) -> int:
    """Return the taps along the depth, which are summed like channels."""
    return spec.kernel_size[0] if spec.axes == 3 else 1
