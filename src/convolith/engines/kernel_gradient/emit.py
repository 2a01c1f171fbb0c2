"""Generated code of the kernel gradient for few channels: products of the output gradient with shifted inputs.

`dk[o, c, t] = sum over n, p of g[n, o, p] x[n, c, p + t*dilation - padding]`. A band of rows of x, with its padding,
and a band of g are copied to rows of equal pitch, so that a tap is one shift of the flat band; the gaps between the
rows of g are zeros. A tile of rows by columns of taps stays in registers during the loop over a band.
"""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import I64, FunctionBuilder, Int, Pointer, zero
from convolith.jit.conversions import STORED
from convolith.jit.denormals import flush_denormals, restore_control
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("x", "g", "out", "scratch", "shifts", "counters", "tasks", "groups", "bands", "band_rows", "ins", "outs"),
    *("height", "width", "out_height", "out_width", "pad_height", "pad_width", "reach", "pitch"),
    *("x_image", "x_channel", "x_row", "g_image", "g_channel", "g_row", "row_blocks", "column_blocks", "step"),
    *("x_band", "g_band", "thread_elements"),
)
"""Arguments of a region; `shifts` is a table of the shift of each row of taps."""


class KernelGradientRecipe(NamedTuple):
    """Parameters of the generated code: the type of all numbers, and the rows and columns of a tile of taps."""

    dtype: str
    rows: int
    columns: int


def write(module: ir.Module, target: Target, recipe: KernelGradientRecipe) -> None:
    """Generate the region: sum bands of every image and group until none remains."""
    lanes = target.lanes({"float32": 4, "float64": 8}[recipe.dtype])
    kinds = dict.fromkeys(("x", "g", "out", "scratch"), STORED[recipe.dtype])
    code, s = ARGUMENTS.begin(module, kinds | {"shifts": I64})
    before = flush_denormals(code, target)
    xs = s["scratch"] + code.fetch_add(s["counters"] + 8) * s["thread_elements"]
    gs = xs + s["ins"] * s["x_band"]
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        group, rest = task % s["groups"], task // s["groups"]
        first, image = rest % s["bands"] * s["band_rows"], rest // s["bands"]
        rows = code.minimum(s["band_rows"], s["out_height"] - first)
        with code.loop(0, s["ins"]) as c:
            source = s["x"] + image * s["x_image"] + (group * s["ins"] + c.index) * s["x_channel"]
            _copy_inputs(code, s, (source, xs + c.index * s["x_band"]), first - s["pad_height"], rows, lanes)
        with code.loop(0, s["outs"]) as o:
            source = s["g"] + image * s["g_image"] + (group * s["outs"] + o.index) * s["g_channel"] + first * s["g_row"]
            _copy_gradient(code, s, (source, gs + o.index * s["g_band"]), rows, lanes)
        with code.loop(0, s["outs"]) as o, code.loop(0, s["ins"]) as c:
            taps = s["row_blocks"] * s["column_blocks"] * (recipe.rows * recipe.columns)
            goal = s["out"] + ((task * s["outs"] + o.index) * s["ins"] + c.index) * taps
            places = gs + o.index * s["g_band"], xs + c.index * s["x_band"], goal
            _sum(code, s, recipe, places, rows * s["pitch"], lanes)
    restore_control(code, before)
    code.finish()


def _copy_inputs(
    code: FunctionBuilder, s: dict[str, Int], places: tuple[Pointer, Pointer], first: Int, rows: Int, lanes: int
) -> None:
    """Copy a band of x, starting at a row that may lie in the padding, with zeros in place of the padding."""
    source, goal = places
    nothing = zero(ir.VectorType(goal.element, lanes))
    with code.loop(0, rows + s["reach"]) as row:
        line = goal + row.index * s["pitch"]
        with code.loop(0, s["pitch"], lanes) as column:
            (line + column.index).store(nothing)
        with code.when((first + row.index).below(s["height"])):
            _copy_row(code, source + (first + row.index) * s["x_row"], line + s["pad_width"], s["width"], lanes)
    end = goal + (rows + s["reach"]) * s["pitch"]
    with code.loop(0, s["x_band"] - (rows + s["reach"]) * s["pitch"] - lanes, lanes) as column:
        (end + column.index).store(nothing)


def _copy_gradient(
    code: FunctionBuilder, s: dict[str, Int], places: tuple[Pointer, Pointer], rows: Int, lanes: int
) -> None:
    """Copy a band of g, with zeros between its rows and after the last one."""
    source, goal = places
    nothing = zero(ir.VectorType(goal.element, lanes))
    with code.loop(0, rows) as row:
        line = goal + row.index * s["pitch"]
        _copy_row(code, source + row.index * s["g_row"], line, s["out_width"], lanes)
        with code.loop(s["out_width"], s["pitch"], lanes) as column:
            (line + column.index).store(nothing)
    (goal + rows * s["pitch"]).store(nothing)


def _copy_row(code: FunctionBuilder, source: Pointer, goal: Pointer, count: Int, lanes: int) -> None:
    """Copy the elements of a row; an incomplete last vector is filled with zeros."""
    whole = count // lanes * lanes
    with code.loop(0, whole, lanes) as column:
        (goal + column.index).store((source + column.index).vector(lanes))
    with code.when((whole + 1) <= count):
        (goal + whole).store((source + whole).masked_vector(lanes, code.lanes_below(count - whole, lanes)))


def _sum(
    code: FunctionBuilder,
    s: dict[str, Int],
    recipe: KernelGradientRecipe,
    places: tuple[Pointer, Pointer, Pointer],
    length: Int,
    lanes: int,
) -> None:
    """Sum all taps of a pair of channels over a band, tile by tile."""
    g, x, goal = places
    count = recipe.rows * recipe.columns
    with code.loop(0, s["row_blocks"]) as down, code.loop(0, s["column_blocks"]) as across:
        shifts = s["shifts"] + down.index * recipe.rows
        ahead = across.index * s["step"] * recipe.columns
        lines = [x + (shifts + row).integer() + ahead for row in range(recipe.rows)]
        steps = [s["step"] * column for column in range(recipe.columns)]
        starts: list[ir.Value] = [zero(ir.VectorType(g.element, lanes))] * count
        with code.loop(0, length, lanes, values=starts) as turn:
            ours, sums = (g + turn.index).vector(lanes), list(turn.values)
            for number in range(count):
                place = lines[number // recipe.columns] + turn.index + steps[number % recipe.columns]
                sums[number] = code.multiply_add(ours, place.vector(lanes), sums[number])
            turn.carry(sums)
        sink = goal + (down.index * s["column_blocks"] + across.index) * count
        for number, value in enumerate(turn.values):
            (sink + number).store(_folded(code, value))


def _folded(code: FunctionBuilder, vector: ir.Value) -> ir.Value:
    """Return the sum of a vector's lanes, adding one half to the other until one lane remains."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        low, high = (code.shuffle(vector, vector, range(start, start + lanes)) for start in (0, lanes))
        vector = code.ir.fadd(low, high)
    return code.ir.extract_element(vector, ir.Constant(ir.IntType(32), 0))
