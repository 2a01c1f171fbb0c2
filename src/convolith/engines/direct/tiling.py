"""The blocks of the direct engine: how an output is divided among threads and caches, and the scratch of a block."""

from __future__ import annotations

from math import ceil, prod
from typing import NamedTuple

from convolith.dtypes import ITEMSIZE
from convolith.engines.direct import emit
from convolith.engines.direct.emit_tile import UNROLLED_TAPS, DirectRecipe, lanes_of, line_of, taps_of
from convolith.jit import Target, thread_count
from convolith.spec import ConvSpec

PACKED_BYTES = 1 << 17
"""What a block's packed inputs may take: a quarter of a second-level cache of 512 KiB, which its outputs share."""
LONG_ROW = 768
"""Columns of a block that is read in place: long, for the memory's prefetching, and with its rows in a first-level
cache until the next row of tiles has read them again."""
WIDE, LONG_PACKED_ROW, SHORT_PACKED_ROW = 1500, 384, 72
"""Columns of a block where some are packed: short in images that are not wide, for only the blocks that touch a border
are copied."""
FEW_BLOCKS = 3
"""Blocks across an image up to which it is not divided."""
TALL_BLOCK = 64
"""Rows of a block that is packed: whole planes where they are small, so that the zeros around are written once."""
TASKS_PER_THREAD = 4
STRIP_ROWS = 128
"""Rows up to which strips of rolling sums are not divided but for the threads."""
ROWS_PER_WAITING = 8
"""Rows of such a strip at least for each that waits: the strip below reads the inputs of those again."""
FOLLOWED_PAGES = 60
"""Pages of inputs and outputs that a strip of a large image may run through: the memory's prefetching follows about as
many. Where a row has few products, the processor looks ahead by itself."""
LARGE_BYTES = 1 << 24
"""Outputs from which on whoever reads them next finds few in a cache."""
STATIC_SHARE = 0.75
"""The part of the tasks that is divided beforehand, so that a thread finds in its caches what it worked on in the
last call; the rest goes to whoever is free."""
CROWDED_ROWS = 6
"""Rows that one set of a first-level cache of eight ways may hold beside the outputs."""
WIDE_FOR_MASKS = 3
"""Vectors in a row of outputs for each kernel column from which masks that are vectors cost less than packing."""
PACKED_FOR = 8
"""Times that a tile is read, from which packing it pays."""
CONVERTED_FOR = 2
"""Products for a loaded vector from which converting it at every load is cheaper than copying it converted."""
MANY_ROWS = 64
"""Rows of inputs, each on a page of its own, above which a tile is packed: first-level TLBs have 64 entries."""
PAGE = 4096
CACHE_PERIOD = 4096
"""Bytes after which addresses fall into the same set of a first-level cache again."""
WINDOW_BYTES = 20 << 10
"""Inputs of a row of tiles that stay in a first-level cache of 32 KiB while the output channels go by."""


class Layer(NamedTuple):
    """A spec's sizes on three axes, those of one group."""

    planes: int
    """Output planes, each a depth, group and image of its own."""
    ins: int
    outs: int
    size: tuple[int, ...]
    output_size: tuple[int, ...]
    before: tuple[int, ...]
    """Zeros before the first input of an axis."""
    padded: bool
    """Whether there are zeros at the ends of rows."""


class Block(NamedTuple):
    """Rows and columns of outputs that are one task."""

    rows: int
    columns: int


def plan_blocks(spec: ConvSpec, recipe: DirectRecipe, target: Target) -> tuple[dict[str, int], int]:
    """The sizes among a region's arguments, and the elements of scratch for all threads."""
    layer = _layer(spec)
    large = prod(spec.output_shape) * ITEMSIZE[spec.out_dtype] >= LARGE_BYTES
    block = _strips(layer, recipe, large=large) if recipe.rolled and recipe.masked else _block(layer, recipe, target)
    row_blocks, column_blocks = (ceil(n / b) for n, b in zip(layer.output_size[1:], block, strict=True))
    tasks = layer.planes * row_blocks * column_blocks
    threads = thread_count()
    share = int(tasks * STATIC_SHARE) // threads
    pitches = _pitches(recipe, target, block)
    per_thread = _zeros(recipe, target) if recipe.masked else _scratch(layer, recipe, target, pitches)
    slots = {
        "tasks": tasks,
        "shares": threads,
        "share": share,
        "chunk": max(1, tasks // (threads * TASKS_PER_THREAD * 4)),
        "groups": spec.groups,
        "in_channels": layer.ins,
        "out_channels": layer.outs,
        "y_image": spec.out_channels * prod(spec.output_size),
        "y_channel": prod(spec.output_size),
        "block_rows": block.rows,
        "block_columns": block.columns,
        "row_blocks": row_blocks,
        "column_blocks": column_blocks,
        "thread_elements": per_thread,
        "streams": int(recipe.rolled and large and _whole_vectors(spec, recipe, target)),
    }
    for axis, one in enumerate(("depth", "height", "width")):
        slots |= {one: layer.size[axis], f"out_{one}": layer.output_size[axis], f"pad_{one}": layer.before[axis]}
    slots |= dict(zip(("phase_pitch", "row_pitch", "plane_pitch", "channel_pitch"), pitches, strict=True))
    return slots, per_thread * threads


def _layer(spec: ConvSpec) -> Layer:
    ones = (1,) * (3 - spec.axes)
    padding, size = spec.padding, spec.size
    if spec.padding_mode != "zeros":  # padded ahead
        size = tuple(n + sum(pair) for n, pair in zip(size, padding, strict=True))
        padding = ((0, 0),) * spec.axes
    output_size = (*ones, *spec.output_size)
    return Layer(
        spec.batch * spec.groups * output_size[0],
        spec.in_channels // spec.groups,
        spec.out_channels // spec.groups,
        (*ones, *size),
        output_size,
        (0,) * (3 - spec.axes) + tuple(before for before, _ in padding),
        any(padding[-1]),
    )


def _block(layer: Layer, recipe: DirectRecipe, target: Target) -> Block:
    """As large as the caches allow, unless there would be too few for the threads."""
    _, out_height, out_width = layer.output_size
    lanes = lanes_of(recipe, target)
    tiles = recipe.tiles(target)
    narrowest = max(tiles) * lanes
    columns = _even(out_width, _columns(layer, recipe, narrowest), lanes)
    fewest_rows = max(tile.rows for tile in tiles.values())
    if recipe.masked:
        fewest_rows = tiles[max((n for n in tiles if n * lanes <= columns), default=1)].rows
    block = Block(out_height if recipe.masked else min(out_height, TALL_BLOCK), columns)
    budget = PACKED_BYTES // ITEMSIZE[recipe.sum_dtype]

    while (
        not recipe.masked
        and layer.ins * _pitches(recipe, target, block)[3] > budget
        and block != (smaller := _halved(block, fewest_rows, narrowest, lanes))
    ):
        block = smaller
    wanted = thread_count() * TASKS_PER_THREAD
    while layer.planes * ceil(out_height / block.rows) * ceil(out_width / block.columns) < wanted and block != (
        smaller := _halved(block, fewest_rows, narrowest, lanes)
    ):
        block = smaller
    return block


def _strips(layer: Layer, recipe: DirectRecipe, *, large: bool) -> Block:
    """Whole rows, divided so that each thread has some blocks."""
    _, out_height, out_width = layer.output_size
    waiting, most = recipe.kernel_size[1] - 1, STRIP_ROWS
    if large and taps_of(recipe) > UNROLLED_TAPS:
        row_bytes = layer.size[2] * ITEMSIZE[recipe.x_dtype]
        most = min(most, (FOLLOWED_PAGES * max(1, PAGE // row_bytes) - waiting) // 2)
    least = ceil(thread_count() * TASKS_PER_THREAD / max(1, layer.planes))  # blocks
    blocks = max(ceil(out_height / most), min(least, out_height // (ROWS_PER_WAITING * waiting)))
    return Block(ceil(out_height / blocks), out_width)


def _whole_vectors(spec: ConvSpec, recipe: DirectRecipe, target: Target) -> bool:
    """Whether every output row begins at a multiple of a vector's bytes, as stores past the caches must."""
    size = ITEMSIZE[spec.out_dtype]
    return spec.output_size[-1] * size % min(64, lanes_of(recipe, target) * size) == 0


def _columns(layer: Layer, recipe: DirectRecipe, narrowest: int) -> int:
    """The columns that a block would best have."""
    if (
        recipe.many_outputs and not recipe.deep
    ):  # as long as the inputs of an output row stay in the cache for all of them
        rows = layer.ins * recipe.kernel_size[0] * recipe.kernel_size[1]
        return max(narrowest, WINDOW_BYTES // (rows * recipe.stride[2] * ITEMSIZE[recipe.sum_dtype]))
    out_width = layer.output_size[2]
    if recipe.masked:
        return LONG_ROW
    if layer.padded and out_width < FEW_BLOCKS * SHORT_PACKED_ROW:  # most blocks would touch a border
        return out_width
    return LONG_PACKED_ROW if out_width >= WIDE else SHORT_PACKED_ROW


def _even(size: int, wanted: int, multiple: int) -> int:
    """The length of pieces of a size, as near the wanted one as equal pieces of a multiple of a number come."""
    return ceil(size / max(1, round(size / wanted)) / multiple) * multiple


def _halved(block: Block, fewest_rows: int, narrowest: int, lanes: int) -> Block:
    """Half the rows, or half the columns where there are few rows; the same block where there are few of both."""
    if block.rows > fewest_rows:
        return block._replace(rows=ceil(block.rows / 2 / fewest_rows) * fewest_rows)
    return block._replace(columns=max(min(block.columns, narrowest), ceil(block.columns / 2 / lanes) * lanes))


def _zeros(recipe: DirectRecipe, target: Target) -> int:
    """Elements of the row of zeros that stands for rows outside the image."""
    reach = max(recipe.tiles(target)) * lanes_of(recipe, target) + (recipe.kernel_size[2] - 1) * recipe.dilation[2]
    return ceil(reach / 64) * 64


def _scratch(layer: Layer, recipe: DirectRecipe, target: Target, pitches: tuple[int, int, int, int]) -> int:
    """Elements of a block's packed inputs, a row before it is split, and what tiles read beyond."""
    phase, row, _, channel = pitches
    line = row + recipe.stride[2] * (phase + 4 * lanes_of(recipe, target))
    return ceil((layer.ins * channel + line + emit.slack(recipe, target)) / 64) * 64


def _pitches(recipe: DirectRecipe, target: Target, block: Block) -> tuple[int, int, int, int]:
    """Of phases, rows, planes and channels in the scratch of a block."""
    reach = (block.columns - 1) * recipe.stride[2] + (recipe.kernel_size[2] - 1) * recipe.dilation[2] + 1
    line = line_of(recipe)
    phase = ceil((ceil(reach / recipe.stride[2]) + lanes_of(recipe, target)) / line) * line
    row = phase * recipe.stride[2] + (line if phase * recipe.stride[2] // line % 2 == 0 else 0)  # no rows in one set
    rows = max(block.rows, *(tile.rows for tile in recipe.tiles(target).values()))
    tall = (rows - 1) * recipe.stride[1] + (recipe.kernel_size[1] - 1) * recipe.dilation[1] + 1
    return phase, row, row * tall, row * tall * recipe.kernel_size[0]


def masked(recipe: DirectRecipe, target: Target, spec: ConvSpec) -> bool:
    """Whether all is read where it is, borders under masks: where the processor has them and no stride is split.

    Elements are converted as often as they are loaded, hence only where what is loaded serves several products. Masks
    that are vectors themselves (before AVX-512) are made anew for every kernel column, and pay in wide images only.
    """
    ins, outs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    if ITEMSIZE[recipe.x_dtype] < target.masked_bytes or recipe.stride[2] > 1 or _read_often(recipe, ins, outs):
        return False
    if target.masked_bytes > 1 and any(spec.padding[-1]):
        vectors = spec.output_size[-1] / lanes_of(recipe, target)
        if recipe.many_channels or recipe.many_outputs or vectors < WIDE_FOR_MASKS * recipe.kernel_size[2]:
            return False
    tile, taps = next(iter(recipe.tiles(target).values())), recipe.kernel_size[1]
    products = taps if recipe.rolled else tile.channels * tile.rows * taps / (tile.rows + taps - 1)
    return recipe.x_dtype == recipe.sum_dtype or products >= CONVERTED_FOR


def _read_often(recipe: DirectRecipe, ins: int, outs: int) -> bool:
    """Whether the inputs of a tile lie on many pages and are read many times, so that packing them pays."""
    return outs / recipe.channels >= PACKED_FOR and ins * recipe.kernel_size[0] * recipe.kernel_size[1] > MANY_ROWS


def reads_in_place(recipe: DirectRecipe, ins: int, outs: int, row_bytes: int) -> bool:
    """Whether inner blocks are read where they are: no conversion, no stride, and rows that do not evict each other."""
    if recipe.x_dtype != recipe.sum_dtype or recipe.stride[2] > 1 or _read_often(recipe, ins, outs):
        return False
    sets = 1
    while row_bytes % CACHE_PERIOD and sets < 8:
        row_bytes, sets = 2 * row_bytes, 2 * sets
    return (recipe.kernel_size[1] + 3) / sets <= CROWDED_ROWS
