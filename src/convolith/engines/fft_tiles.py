"""The tiles of the Fourier engine: the ones that take the fewest operations, and what they move.

A tile is an image of rows by columns; a signal's tile is such an image read row after row, and gives whole rows of
outputs. Volumes are tiled slice by slice.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, log2
from typing import NamedTuple

from convolith.engines.fft_transform import passes
from convolith.engines.protocol import working_dtype
from convolith.jit import thread_count
from convolith.spec import ConvSpec

MULTIPLE = 16
"""Lengths are multiples of it: rows and columns are transposed in blocks of as many as vectors have lanes."""
LENGTHS = tuple(n for n in range(MULTIPLE, 1 << 13, MULTIPLE) if passes(n))
"""Lengths that have passes."""
LARGEST_SIDE = 512
"""Of a tile, where the kernel does not need more: two such tiles still fit a second-level cache of some MB."""
OVERHEAD = 7.0
"""Steps of log2 that reading, transposing, multiplying and writing a tile take beside its transforms."""
OPERATIONS_PER_POINT = 5.0
"""Additions and multiplications of a complex transform of N points, over N log2 N."""
WORKSPACE_BYTES = 8 << 20
"""What a block of transformed tiles may take where channels meet."""
SCRATCH_BYTES = 48 << 20
"""What all threads may take for their tiles, with one spectrum, if any tile is that small."""
TILE_COPIES = 5
"""Numbers of scratch for each point of a pair of tiles: before and after it is transposed, and what rows need."""
SPECTRUM_MOVES = 6.0
"""Operations in the time that one number of a spectrum takes to come from a cache that is shared."""


class Tiling(NamedTuple):
    """The size of a tile, the outputs that it gives, and the number of tiles down and across."""

    rows: int
    columns: int
    step_rows: int
    step_columns: int
    down: int
    across: int

    @property
    def points(self) -> int:
        """Complex numbers of a pair of tiles."""
        return self.rows * self.columns

    @property
    def pairs(self) -> int:
        """Tiles of an image, by twos."""
        return ceil(self.down * self.across / 2)


def tiling_of(spec: ConvSpec) -> Tiling:
    """The tiles that take the least time."""
    single = spec.in_channels == spec.groups and spec.axes < 3
    taps = spec.kernel_size[0] if spec.axes == 3 else 1
    return _best(
        spec.extent[-2:],
        spec.output_size[-2:],
        *(spec.batch * (1 if spec.axes < 3 else spec.output_size[0]), spec.groups),
        *(spec.in_channels // spec.groups, spec.out_channels // spec.groups, taps, thread_count() if single else 1),
        working_dtype(spec).itemsize,
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
        tasks = images * groups * tiling.pairs
        waiting = ceil(tasks / threads) * threads / max(tasks, 1)
        spectra = 2 * tiling.points * groups * ins * outs * taps * SPECTRUM_MOVES
        return transforms * waiting + products / 2 + (spectra if ins > 1 or taps > 1 else 0)

    tilings = _tilings(extent, output)
    small = [t for t in tilings if t.points * (TILE_COPIES * threads + 2) * item <= SCRATCH_BYTES]
    return min(small or [min(tilings, key=lambda t: t.points)], key=cost)


def _tilings(extent: tuple[int, ...], output: tuple[int, ...]) -> list[Tiling]:
    if len(extent) == 2:
        found = []
        for rows in _lengths(extent[0], output[0]):
            for columns in _lengths(extent[1], output[1]):
                steps = rows - extent[0] + 1, columns - extent[1] + 1
                found.append(Tiling(rows, columns, *steps, *(ceil(n / s) for n, s in zip(output, steps, strict=True))))
        return found
    (reach,), (outputs,) = extent, output
    found = []
    for columns in (n for n in LENGTHS if n <= LARGEST_SIDE or n * n < 8 * reach):
        for rows in LENGTHS:
            step = (rows * columns - reach + 1) // columns
            if step < 1:
                continue
            down = ceil(ceil(outputs / columns) / step)
            found.append(Tiling(rows, columns, step, columns, down, 1))
            if down == 1 or rows > 4 * columns:
                break
    return found


def _lengths(extent: int, output: int) -> list[int]:
    """Lengths of tiles on one axis, from somewhat more than the kernel to all that there is."""
    whole = next(n for n in LENGTHS if n >= min(output + extent - 1, LENGTHS[-1]))
    least = min(whole, next((n for n in LENGTHS if n >= extent + extent // 4), LENGTHS[-1]))
    most = min(whole, max(LARGEST_SIDE, 2 * least))
    return [n for n in LENGTHS if least <= n <= most]


def fits(spec: ConvSpec) -> bool:
    """Whether there are tiles longer than the kernel."""
    longest = LENGTHS[-1]
    return spec.extent[0] < longest**2 // 2 if spec.axes == 1 else max(spec.extent[-2:]) <= longest


def operations(spec: ConvSpec, tiling: Tiling) -> tuple[float, float]:
    """Of the transforms, and of the products where channels meet."""
    images = spec.batch * (1 if spec.axes < 3 else spec.output_size[0])
    taps = spec.kernel_size[0] if spec.axes == 3 else 1
    ins, outs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    return _operations(tiling, images, spec.groups, ins, outs, taps)


def _operations(tiling: Tiling, images: int, groups: int, ins: int, outs: int, taps: int) -> tuple[float, float]:
    pairs, points = images * groups * tiling.pairs, tiling.points
    transforms = pairs * (ins + outs) * OPERATIONS_PER_POINT * points * (log2(points) + OVERHEAD)
    return transforms, pairs * points * 8.0 * ins * outs * taps


def together_of(spec: ConvSpec, tiling: Tiling) -> int:
    """Pairs of tiles (of all slices of a volume) in a block, where channels meet: as many as the workspace holds."""
    return max(1, min(spec.batch * tiling.pairs, WORKSPACE_BYTES // _pair_bytes(spec, tiling)))


def _pair_bytes(spec: ConvSpec, tiling: Tiling) -> int:
    """Transformed inputs and outputs of a pair of tiles, all channels and slices."""
    out_slices = spec.output_size[0] if spec.axes == 3 else 1
    slices = out_slices + (spec.extent[0] - 1 if spec.axes == 3 else 0)
    numbers = 2 * tiling.points * (spec.in_channels * slices + spec.out_channels * out_slices)
    return int(numbers * working_dtype(spec).itemsize)


def work_bytes(spec: ConvSpec, tiling: Tiling) -> tuple[int, int]:
    """Bytes moved between the stages, and the workspace."""
    item = working_dtype(spec).itemsize
    scratch = TILE_COPIES * tiling.points * item * thread_count()
    if spec.in_channels == spec.groups and spec.axes < 3:
        return 0, scratch
    pair = _pair_bytes(spec, tiling)
    return 2 * pair * spec.batch * tiling.pairs, scratch + pair * together_of(spec, tiling)
