"""Generated code that transforms kernels for the Winograd engine: `U = G k G'` of every pair of channels.

Lanes are output channels of a panel, for several input channels at a time if a vector holds more. A few input channels
are transformed into a buffer that stays in the first-level cache, and copied from there point by point: written
directly, the points of one channel would have a stride of a power of two, in one set of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from convolith.engines.winograd.emit import PAIR, WinogradRecipe, panel_rows
from convolith.engines.winograd.transforms import transform_kernel
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import FunctionBuilder, Int, Pointer
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("kernel", "u", "scratch", "counters", "tasks", "in_channels", "out_channels"),
    *("out_step", "in_step", "reversed", "chunks"),
)
"""Arguments of a region; steps are elements from one channel of the kernel to the next."""
CHUNK = 16
"""Number of input channels that are transformed before they are written out."""
KERNEL_TAPS = 9


def write(module: ir.Module, target: Target, recipe: WinogradRecipe) -> None:
    """Generate the region: transform panels of output channels by chunks of input channels."""
    code, s = ARGUMENTS.begin(module, dict.fromkeys(("kernel", "u", "scratch"), recipe.element))
    rows = panel_rows(target)
    points, together = recipe.points**2, max(1, recipe.lanes(target) // rows)
    buffer = s["scratch"] + code.fetch_add(s["counters"] + 8) * (points * CHUNK * rows)
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        panel, chunk = task // s["chunks"], task % s["chunks"]
        first = chunk * CHUNK
        count = code.minimum(s["in_channels"] - first, CHUNK)
        sources = [
            s["kernel"] + code.minimum(panel * rows + row, s["out_channels"] - 1) * s["out_step"] + first * s["in_step"]
            for row in range(rows)
        ]
        present = code.lanes_below(s["out_channels"] - panel * rows, rows)
        whole = count // together * together
        for start, stop, step in ((0, whole, together), (whole, count, 1)):
            if step == together or together > 1:
                with code.loop(start, stop, step) as c:
                    _transform(code, recipe, (sources, c.index, s), buffer, present, step)
        _write_out(code, s, buffer, (panel, first, count), rows, points)
    code.finish()


def _transform(
    code: FunctionBuilder,
    recipe: WinogradRecipe,
    place: tuple[Sequence[Pointer], Int, dict[str, Int]],
    buffer: Pointer,
    present: ir.Value,
    together: int,
) -> None:
    """Transform the taps of some input channels of a panel, as vectors along both axes, into the buffer."""
    sources, channel, s = place
    rows = len(sources)
    backwards = s["reversed"].equals(1)
    step = code.choose(backwards, -1, 1)
    start = channel * s["in_step"] + code.choose(backwards, KERNEL_TAPS - 1, 0)
    kind = ir.VectorType(recipe.element, rows * together)
    taps: list[ir.Value] = []
    for tap in range(KERNEL_TAPS):
        vector = ir.Constant(kind, ir.Undefined)
        for lane in range(rows * together):
            offset = start + s["in_step"] * (lane // rows) + step * tap
            number = (sources[lane % rows] + offset).load()
            vector = code.ir.insert_element(vector, number, ir.Constant(ir.IntType(32), lane))
        mask = present if together == 1 else code.shuffle(present, present, [*range(rows)] * together)
        taps.append(code.ir.select(mask, vector, ir.Constant(kind, None)))
    columns = [transform_kernel(code, recipe.outputs, taps[n::3]) for n in range(3)]  # down each column
    for down in range(recipe.points):
        made = transform_kernel(code, recipe.outputs, [column[down] for column in columns])
        for across, value in enumerate(made):
            point = down * recipe.points + across
            (buffer + point * CHUNK * rows + channel * rows).store(value)


def _write_out(
    code: FunctionBuilder, s: dict[str, Int], buffer: Pointer, place: tuple[Int, Int, Int], rows: int, points: int
) -> None:
    """Copy the buffer to the layout of the products: (pairs of panels, points, PAIR, in_channels, rows)."""
    panel, first, count = place
    pair, second = panel // PAIR, panel % PAIR
    pitch = PAIR * s["in_channels"] * rows
    goal = s["u"] + (pair * (PAIR * points) + second) * s["in_channels"] * rows + first * rows
    with code.loop(0, points) as point:
        source, sink = buffer + point.index * (CHUNK * rows), goal + point.index * pitch
        with code.loop(0, count) as c:
            (sink + c.index * rows).store((source + c.index * rows).vector(rows))
