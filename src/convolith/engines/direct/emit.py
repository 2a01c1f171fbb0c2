"""Generated code of the direct engine: one loop nest, specialised on the kernel, generic in the sizes.

A task is a block of output rows and columns of one image and group. Its inputs are read in place, with masks at
borders; if the processor has no masks, or inputs must be converted, strides split or the image padded with anything but
zeros, they are first copied to scratch memory (`emit_pack`). Then register tiles run over the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from llvmlite import ir

from convolith.engines.direct.emit_pack import NOWHERE, write_pack
from convolith.engines.direct.emit_rolling import write_strip
from convolith.engines.direct.emit_tile import (
    Bounds,
    DirectRecipe,
    Finisher,
    Place,
    Tile,
    bias_kind,
    lanes_of,
    line_of,
    taps_of,
    write_tile,
)
from convolith.engines.elementwise import TAIL_ARGUMENTS
from convolith.engines.emit_rounded import Rounding
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import I32, FunctionBuilder, Int, Number, Pointer, zero
from convolith.jit.conversions import STORED
from convolith.jit.denormals import flush_denormals, restore_control
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("x", "weight", "bias", "y", "scratch", "counters"),
    *("tasks", "groups", "in_channels", "out_channels", "depth", "height", "width"),
    *("out_depth", "out_height", "out_width", "pad_depth", "pad_height", "pad_width"),
    *("x_image", "x_channel", "x_plane", "x_row", "y_image", "y_channel"),
    *("shares", "share", "chunk", "block_rows", "block_columns", "row_blocks", "column_blocks", "direct"),
    "streams",
    *("thread_elements", "phase_pitch", "row_pitch", "plane_pitch", "channel_pitch"),
    *("depth_sources", "height_sources", "width_sources", "outside", "counts", *TAIL_ARGUMENTS),
)
"""Arguments of a region: addresses, counts, strides in elements. Channels are per group."""


def slack(recipe: DirectRecipe, target: Target) -> int:
    """Return the number of elements that tiles read after the last row of a thread's scratch."""
    return (max(recipe.tiles(target)) + 1) * target.lanes(4)


def write(module: ir.Module, target: Target, recipe: DirectRecipe) -> None:
    """Generate the region: compute blocks until none remains."""
    pack = None if recipe.masked else write_pack(module, target, recipe, ARGUMENTS)
    wide = STORED[recipe.sum_dtype]
    kinds = {"x": STORED[recipe.x_dtype], "weight": wide, "y": STORED[recipe.stored], "scratch": wide}
    kinds |= dict.fromkeys(TAIL_ARGUMENTS[1:], STORED[recipe.out_dtype])
    code, s = ARGUMENTS.begin(module, kinds | {"bias": bias_kind(recipe), "counts": I32})
    before = flush_denormals(code, target)
    thread = code.fetch_add(s["counters"] + 8)
    scratch = s["scratch"] + thread * s["thread_elements"]
    rounding = Rounding.begin(code, recipe.rounded, lanes_of(recipe, target)) if recipe.rounded else None
    seen = Pointer(code, code.ir.alloca(ir.IntType(64), size=5), ir.IntType(64))  # start of the last packed block
    if recipe.masked:
        none = zero(ir.VectorType(wide, lanes_of(recipe, target)))
        with code.loop(0, s["thread_elements"], none.type.count) as t:
            (scratch + t.index).store(none)
    else:
        for number in range(5):
            (seen + number).store(code.integer(NOWHERE).value)
    with code.tasks(s["counters"], s["tasks"], s["chunk"], shares=s["shares"], share=s["share"]) as task:
        _block(code, target, recipe, s, task, scratch, seen, pack, rounding)
    if rounding is not None:
        rounding.finish(s["counts"], thread)
    if recipe.rolled:
        code.fence()
    restore_control(code, before)
    code.finish()


def _block(
    code: FunctionBuilder,
    target: Target,
    recipe: DirectRecipe,
    s: dict[str, Any],
    task: Int,
    scratch: Pointer,
    seen: Pointer,
    pack: FunctionBuilder | None,
    rounding: Rounding | None,
) -> None:
    lanes = lanes_of(recipe, target)
    column_block, rest = task % s["column_blocks"], task // s["column_blocks"]
    row_block, rest = rest % s["row_blocks"], rest // s["row_blocks"]
    plane, rest = rest % s["out_depth"], rest // s["out_depth"]
    group, image = rest % s["groups"], rest // s["groups"]
    row, column = row_block * s["block_rows"], column_block * s["block_columns"]
    rows = code.minimum(s["block_rows"], s["out_height"] - row)
    columns = code.minimum(s["block_columns"], s["out_width"] - column)
    top = row * recipe.stride[1] - s["pad_height"]
    left = column * recipe.stride[2] - s["pad_width"]
    front = plane * recipe.stride[0] - s["pad_depth"]
    x = s["x"] + image * s["x_image"] + group * s["in_channels"] * s["x_channel"]
    y = s["y"] + image * s["y_image"] + group * s["out_channels"] * s["y_channel"]
    y = y + (plane * s["out_height"] + row) * s["out_width"] + column
    weight = s["weight"] + group * s["out_channels"] * s["in_channels"] * taps_of(recipe)
    bias = s["bias"] + group * s["out_channels"]
    after = Finisher.of(code, recipe, s, group * s["out_channels"])
    source = x + front * s["x_plane"] + top * s["x_row"] + left
    parts = {"row": s["x_row"], "plane": s["x_plane"] * recipe.dilation[0], "channel": s["x_channel"]}
    if pack is not None:
        packed = scratch + (0 - code.maximum(0 - left, 0)) % line_of(recipe)  # a row's inputs begin at a cache line
        inside = code.every(s["direct"] >= 1, *_inside(code, target, recipe, s, (front, top, left), rows, columns))
        with code.when(code.ir.not_(inside)):
            code.call(pack, code.argument(0, ir.IntType(64)), x, packed, seen, front, top, left, rows, columns)
        pitches = {"row": s["row_pitch"], "plane": s["plane_pitch"], "channel": s["channel_pitch"]}
        if recipe.x_dtype == recipe.sum_dtype and recipe.stride[2] == 1:
            source = code.choose(inside, source, packed)
            parts = {part: code.choose(inside, parts[part], pitch) for part, pitch in pitches.items()}
        else:
            source, parts = packed, pitches

    def one(tile: Tile, column: Number, begin: Int, channel: Number, first_row: Number = 0) -> None:
        """Generate the tile at a row and a column of the block, for some output channels."""
        last, wanted = code.integer(0), code.integer(column)
        if tile.vectors == 1:  # fewer columns than one vector are stored under a mask
            column = code.maximum(code.minimum(column, columns - lanes), 0)
        else:
            last = code.minimum(column + (tile.vectors - 1) * lanes, columns - lanes) - column
        repeated = (tile.vectors - 1) * lanes + wanted - last - column
        origin = source + begin * recipe.stride[1] * parts["row"] + column * recipe.step
        first = y + begin * s["out_width"] + column
        place = Place(
            origin,
            weight,
            bias,
            first,
            code.integer(last),
            rows - begin,
            columns,
            None,
            edge=False,
            after=after,
            rounding=rounding,
            first_column=repeated,
            first_row=first_row,
        )
        write: Callable[[Place], None]
        if recipe.rolled:
            write = partial(write_strip, code, target, recipe, tile.vectors, s=s | parts)
        else:
            write = partial(write_tile, code, recipe, tile, lanes, channel=channel, s=s | parts)
        if not recipe.masked:
            write(place)
            return
        line, start = begin * recipe.stride[1] + top, code.integer(column * recipe.step) + left
        sizes = (s["depth"], s["height"], s["width"])
        bounds = Bounds(front, line, start, *sizes, scratch.cast(STORED[recipe.x_dtype]))
        single = partial(one, tile._replace(vectors=1), begin=begin, channel=channel, first_row=first_row)
        _at_borders(code, recipe, tile, lanes, place, bounds, write, lambda moved: single(column + moved))

    def run(tile: Tile, start: Number, count: Number) -> None:
        """Generate the tiles of one width, row by row down the block, with all output channels of each row or tile."""
        width = tile.vectors * lanes
        if recipe.rolled:
            with code.loop(0, count) as across:
                one(tile, across.index * width + start, code.integer(0), 0)
            return
        with code.loop(0, rows, tile.rows) as down:
            begin = code.maximum(code.minimum(down.index, rows - tile.rows), 0)
            if not recipe.many_outputs:
                with code.loop(0, count) as across:
                    one(tile, across.index * width + start, begin, 0, down.index - begin)
            elif recipe.deep:
                with code.loop(0, count) as across, code.loop(0, s["out_channels"], recipe.channels) as out:
                    one(tile, across.index * width + start, begin, out.index)
            else:
                with code.loop(0, s["out_channels"], recipe.channels) as out, code.loop(0, count) as across:
                    one(tile, across.index * width + start, begin, out.index)

    vectors = (columns + (lanes - 1)) // lanes
    for tile, start, count in _across(code, target, recipe, vectors):
        run(tile, start, count)


def _across(
    code: FunctionBuilder, target: Target, recipe: DirectRecipe, vectors: Int
) -> Iterator[tuple[Tile, Number, Number]]:
    """Yield the tiles across a block, widest first, with the first column and the number of tiles of each width."""
    lanes, tiles, done = lanes_of(recipe, target), recipe.tiles(target), code.integer(0)
    for number, tile in tiles.items():
        left_over = vectors - done
        count = left_over // number
        if number == max(tiles) > 1 and not (recipe.flat or recipe.deep):  # avoid a last tile of a single vector
            count = code.choose((left_over % number).equals(1), code.maximum(count - 1, 0), count)
        yield tile, done * lanes, count
        done = count * number + done


def _at_borders(
    code: FunctionBuilder,
    recipe: DirectRecipe,
    tile: Tile,
    lanes: int,
    place: Place,
    bounds: Bounds,
    write: Callable[[Place], None],
    single: Callable[[Number], None],
) -> None:
    """Generate a tile whose columns may lie outside the image: without masks if all are inside, otherwise with masks.

    A strip of rolling sums masks its first and last vector; if other vectors need masks, it runs vector by vector.
    """
    start, width = code.integer(bounds.column), bounds.width
    place = place._replace(bounds=bounds)
    step, span = recipe.step, (recipe.kernel_size[2] - 1) * recipe.dilation[2]
    reach = step * lanes + span
    with code.ir.if_else(code.every(start >= 0, start + place.last * step + reach <= width)) as (inner, edge):
        with inner:
            write(place)
        with edge:
            if not recipe.rolled or tile.vectors < 3:
                write(place._replace(edge=True))
                return
            at_ends = code.every(start + lanes >= 0, start + (tile.vectors - 2) * lanes + reach <= width)
            with code.ir.if_else(at_ends) as (ends, anywhere):
                with ends:
                    write(place._replace(edge=True))
                with anywhere, code.loop(0, tile.vectors * lanes, lanes) as column:
                    single(column.index)


def _inside(
    code: FunctionBuilder,
    target: Target,
    recipe: DirectRecipe,
    s: dict[str, Any],
    starts: tuple[Number, Number, Number],
    rows: Int,
    columns: Int,
) -> list[ir.Value]:
    """Return the conditions under which all reads of a block's tiles lie inside the image."""
    most_rows = max(tile.rows for tile in recipe.tiles(target).values())
    conditions = [rows >= most_rows, columns >= lanes_of(recipe, target)]
    for axis, (start, name, count) in enumerate(
        zip(starts, ("depth", "height", "width"), (1, rows, columns), strict=True)
    ):
        reach = (
            (code.integer(count) - 1) * recipe.stride[axis] + (recipe.kernel_size[axis] - 1) * recipe.dilation[axis] + 1
        )
        conditions += [code.integer(start) >= 0, code.integer(start) + reach <= s[name]]
    return conditions
