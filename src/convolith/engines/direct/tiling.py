"""Blocks of the direct engine: the division of an output for threads and caches, and the scratch of a block."""

from __future__ import annotations

from math import ceil, prod
from typing import NamedTuple

from convolith.dtypes import ITEMSIZE
from convolith.engines.direct import emit
from convolith.engines.direct.emit_tile import UNROLLED_TAPS, DirectRecipe, lanes_of, line_of, taps_of
from convolith.jit import Target, thread_count
from convolith.spec import ConvSpec

PACKED_BYTES = 1 << 17
"""Upper bound on the bytes of a block's packed inputs: a quarter of a 512 KiB L2 cache, which its outputs share."""
LONG_ROW = 768
"""Number of columns of a block that is read in place: long, for hardware prefetching, but short enough to keep its rows
in a first-level cache until the next row of tiles has read them again."""
WIDE, LONG_PACKED_ROW, SHORT_PACKED_ROW = 1500, 384, 72
"""Output width from which images are wide, and columns of a block in wide and in other images, where some blocks are
packed: only blocks at a border are copied, so short blocks copy less."""
FEW_BLOCKS = 3
"""Number of short blocks across a padded image below which the image is not divided into columns."""
TALL_BLOCK = 64
"""Upper bound on the rows of a packed block: whole small planes, whose surrounding zeros are written once."""
TASKS_PER_THREAD = 4
STRIP_ROWS = 128
"""Upper bound on the rows of a strip of rolling sums; shorter images are divided only to occupy all threads."""
ROWS_PER_WAITING = 8
"""Minimum rows of a strip per kernel row after the first: the strip below reads the inputs of those rows again."""
FOLLOWED_PAGES = 60
"""Number of pages of inputs and outputs that a strip of a large image may cross: hardware prefetching follows about as
many. Where a row has few products, the processor itself looks ahead."""
LARGE_BYTES = 1 << 23
"""Bytes of outputs from which their next reader finds few of them in a cache."""
STATIC_SHARE = 0.75
"""Fraction of the tasks that is assigned to threads in advance, so that a thread finds the data of its last call in its
caches; free threads take the other tasks."""
CROWDED_ROWS = 6
"""Upper bound on the input rows in one set of a first-level cache of eight ways, which also holds outputs."""
WIDE_FOR_MASKS = 3
"""Number of vectors in an output row, per kernel column, from which masks in vectors cost less than packing."""
PACKED_FOR = 8
"""Number of times that a tile is read from which packing pays."""
CONVERTED_FOR = 2
"""Number of products per loaded vector from which conversion at every load is cheaper than a converted copy."""
MANY_ROWS = 64
"""Number of input rows, each on its own page, above which a tile is packed: first-level TLBs have 64 entries."""
SPLIT_STRIDE = 2
"""Stride along rows whose columns may be taken out of two vectors as they are loaded."""
PAGE = 4096
CACHE_PERIOD = 4096
"""Distance in bytes between addresses that share a set of a first-level cache."""
WINDOW_BYTES = 20 << 10
"""Bytes of a row of tiles' inputs that stay in a first-level cache of 32 KiB during the loop over output channels."""


class Layer(NamedTuple):
    """Sizes of a spec on three axes, for one group."""

    planes: int
    """Number of output planes, one per depth, group and image."""
    ins: int
    outs: int
    size: tuple[int, ...]
    output_size: tuple[int, ...]
    before: tuple[int, ...]
    """Number of zeros before the first input of each axis."""
    padded: bool
    """Whether rows have zeros at their ends."""


class Block(NamedTuple):
    """Rows and columns of outputs that form one task."""

    rows: int
    columns: int


def plan_blocks(spec: ConvSpec, recipe: DirectRecipe, target: Target) -> tuple[dict[str, int], int]:
    """Return the sizes among a region's arguments, and the elements of scratch for all threads."""
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
    output_size = (*ones, *spec.output_size)
    return Layer(
        spec.batch * spec.groups * output_size[0],
        spec.in_channels // spec.groups,
        spec.out_channels // spec.groups,
        (*ones, *spec.size),
        output_size,
        (0,) * (3 - spec.axes) + tuple(before for before, _ in spec.padding),
        any(spec.padding[-1]),
    )


def _block(layer: Layer, recipe: DirectRecipe, target: Target) -> Block:
    """Return a block as large as the caches allow, but small enough to give all threads work."""
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
    """Return blocks of whole rows, enough of them for all threads."""
    _, out_height, out_width = layer.output_size
    waiting, most = recipe.kernel_size[1] - 1, STRIP_ROWS
    if large and taps_of(recipe) > UNROLLED_TAPS:
        row_bytes = layer.size[2] * ITEMSIZE[recipe.x_dtype]
        most = min(most, (FOLLOWED_PAGES * max(1, PAGE // row_bytes) - waiting) // 2)
    least = ceil(thread_count() * TASKS_PER_THREAD / max(1, layer.planes))  # blocks
    blocks = max(ceil(out_height / most), min(least, out_height // (ROWS_PER_WAITING * waiting)))
    return Block(ceil(out_height / blocks), out_width)


def _whole_vectors(spec: ConvSpec, recipe: DirectRecipe, target: Target) -> bool:
    """Return whether every output row begins at a multiple of a vector's bytes, as stores past the caches require."""
    size = ITEMSIZE[spec.out_dtype]
    return spec.output_size[-1] * size % min(64, lanes_of(recipe, target) * size) == 0


def _columns(layer: Layer, recipe: DirectRecipe, narrowest: int) -> int:
    """Return the preferred number of columns of a block."""
    if (
        recipe.many_outputs and not recipe.deep
    ):  # as many as keep an output row's inputs in the cache for all output channels
        rows = layer.ins * recipe.kernel_size[0] * recipe.kernel_size[1]
        return max(narrowest, WINDOW_BYTES // (rows * recipe.stride[2] * ITEMSIZE[recipe.sum_dtype]))
    out_width = layer.output_size[2]
    if recipe.masked:
        return LONG_ROW
    if layer.padded and out_width < FEW_BLOCKS * SHORT_PACKED_ROW:  # most blocks would touch a border
        return out_width
    return LONG_PACKED_ROW if out_width >= WIDE else SHORT_PACKED_ROW


def _even(size: int, wanted: int, multiple: int) -> int:
    """Return the length of equal pieces of a size, near the wanted length and a multiple of `multiple`."""
    return ceil(size / max(1, round(size / wanted)) / multiple) * multiple


def _halved(block: Block, fewest_rows: int, narrowest: int, lanes: int) -> Block:
    """Return the block with half its rows, or half its columns if it has few rows; unchanged if it has few of both."""
    if block.rows > fewest_rows:
        return block._replace(rows=ceil(block.rows / 2 / fewest_rows) * fewest_rows)
    return block._replace(columns=max(min(block.columns, narrowest), ceil(block.columns / 2 / lanes) * lanes))


def _zeros(recipe: DirectRecipe, target: Target) -> int:
    """Return the elements of the row of zeros that replaces rows outside the image."""
    columns = max(recipe.tiles(target)) * lanes_of(recipe, target) * recipe.stride[2]
    return ceil((columns + (recipe.kernel_size[2] - 1) * recipe.dilation[2]) / 64) * 64


def _scratch(layer: Layer, recipe: DirectRecipe, target: Target, pitches: tuple[int, int, int, int]) -> int:
    """Return the elements of a block's packed inputs, of a row before it is split, and of reads beyond the end."""
    phase, row, _, channel = pitches
    line = row + recipe.stride[2] * (phase + 4 * lanes_of(recipe, target))
    return ceil((layer.ins * channel + line + emit.slack(recipe, target)) / 64) * 64


def _pitches(recipe: DirectRecipe, target: Target, block: Block) -> tuple[int, int, int, int]:
    """Return the pitches of phases, rows, planes and channels in the scratch of a block."""
    reach = (block.columns - 1) * recipe.stride[2] + (recipe.kernel_size[2] - 1) * recipe.dilation[2] + 1
    line = line_of(recipe)
    phase = ceil((ceil(reach / recipe.stride[2]) + lanes_of(recipe, target)) / line) * line
    row = phase * recipe.stride[2] + (line if phase * recipe.stride[2] // line % 2 == 0 else 0)  # no rows in one set
    rows = max(block.rows, *(tile.rows for tile in recipe.tiles(target).values()))
    tall = (rows - 1) * recipe.stride[1] + (recipe.kernel_size[1] - 1) * recipe.dilation[1] + 1
    return phase, row, row * tall, row * tall * recipe.kernel_size[0]


def masked(recipe: DirectRecipe, target: Target, spec: ConvSpec) -> bool:
    """Return whether all inputs are read in place, with masks at borders, where the processor has masks.

    A stride along rows may be 2 if there is one output channel, and only zeros may be padded. Elements are converted at
    every load, which pays only if a load serves several products. Masks in vectors (before AVX-512) are computed for
    every kernel column, which pays only in wide images.
    """
    ins, outs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    if ITEMSIZE[recipe.x_dtype] < target.masked_bytes or _read_often(recipe, ins, outs) or recipe.repeats:
        return False
    apart = recipe.stride[2] == SPLIT_STRIDE and not (recipe.rolled or recipe.many_outputs)
    if recipe.stride[2] > 1 and (not apart or target.masked_bytes > 1):
        return False
    if target.masked_bytes > 1 and any(spec.padding[-1]):
        vectors = spec.output_size[-1] / lanes_of(recipe, target)
        if recipe.many_channels or recipe.many_outputs or vectors < WIDE_FOR_MASKS * recipe.kernel_size[2]:
            return False
    tile, taps = next(iter(recipe.tiles(target).values())), recipe.kernel_size[1]
    products = taps if recipe.rolled else tile.channels * tile.rows * taps / (tile.rows + taps - 1)
    return recipe.x_dtype == recipe.sum_dtype or products >= CONVERTED_FOR


def _read_often(recipe: DirectRecipe, ins: int, outs: int) -> bool:
    """Return whether a tile's inputs lie on many pages and are read many times, so that packing pays."""
    return outs / recipe.channels >= PACKED_FOR and ins * recipe.kernel_size[0] * recipe.kernel_size[1] > MANY_ROWS


def reads_in_place(recipe: DirectRecipe, ins: int, outs: int, row_bytes: int) -> bool:
    """Return whether inner blocks are read in place: no conversion, no stride, and no rows that evict each other."""
    if recipe.x_dtype != recipe.sum_dtype or recipe.stride[2] > 1 or _read_often(recipe, ins, outs):
        return False
    sets = 1
    while row_bytes % CACHE_PERIOD and sets < 8:
        row_bytes, sets = 2 * row_bytes, 2 * sets
    return (recipe.kernel_size[1] + 3) / sets <= CROWDED_ROWS
