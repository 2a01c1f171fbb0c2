"""Generated code that packs weights into panels: a few adjacent output channels, input channel by input channel."""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import I32, FunctionBuilder, Pointer, zero
from convolith.jit.conversions import STORED
from convolith.jit.target import Target

ARGUMENTS = ArgumentBlock(
    *("kernel", "packed", "counters", "tasks", "in_channels", "out_channels", "panels", "out_step", "in_step"),
    *("kernel_group", "chunk", "chunks"),
)
"""Arguments of a region; steps are elements from one channel of the kernel to the next."""


class PackingRecipe(NamedTuple):
    """Parameters that the code is specialised on: the type of all numbers, and the output channels of a panel."""

    dtype: str
    rows: int


def write(module: ir.Module, target: Target, recipe: PackingRecipe) -> None:
    """Generate the region: pack panels by chunks of input channels; absent output channels are zero."""
    rows, element = recipe.rows, STORED[recipe.dtype]
    code, s = ARGUMENTS.begin(module, {"kernel": element, "packed": element})
    with code.tasks(s["counters"], s["tasks"], 1) as task:
        panel, chunk = task // s["chunks"], task % s["chunks"]
        group, within = panel // s["panels"], panel % s["panels"]
        first = within * rows
        start = chunk * s["chunk"]
        stop = code.minimum(start + s["chunk"], s["in_channels"])
        source = s["kernel"] + group * s["kernel_group"]
        goal = s["packed"] + panel * s["in_channels"] * rows
        present = code.lanes_below(s["out_channels"] - first, rows)
        whole = code.every(s["out_step"].equals(1), (first + rows) <= s["out_channels"])
        with code.ir.if_else(whole) as (side_by_side, apart):
            with side_by_side, code.loop(start, stop) as c:
                (goal + c.index * rows).store((source + first + c.index * s["in_step"]).vector(rows))
            with apart:
                last = code.maximum(s["out_channels"] - 1, 0)
                lanes = [source + code.minimum(first + row, last) * s["out_step"] for row in range(rows)]
                with code.loop(start, stop) as c:
                    vector = gathered(code, [lane + c.index * s["in_step"] for lane in lanes])
                    (goal + c.index * rows).store(code.ir.select(present, vector, zero(vector.type)))
    code.finish()


def gathered(code: FunctionBuilder, places: list[Pointer]) -> ir.Value:
    """Load one element from each address into a vector."""
    vector = ir.Constant(ir.VectorType(places[0].element, len(places)), ir.Undefined)
    for lane, place in enumerate(places):
        vector = code.ir.insert_element(vector, place.load(), ir.Constant(I32, lane))
    return vector
