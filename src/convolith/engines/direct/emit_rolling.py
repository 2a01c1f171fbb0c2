"""Rolling sums of the direct engine: one input channel per output channel, row by row down a strip of columns.

Every input row is read once. The sums of the incomplete output rows, as many as the kernel has rows, stay in registers;
after each input row, the oldest output row is complete and is stored. Memory is read and written sequentially, which
suits hardware prefetching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from convolith.engines.direct.emit_tile import (
    UNROLLED_TAPS,
    DirectRecipe,
    Place,
    bias_kind,
    deliver,
    keeps_weights,
    lanes_of,
    taps_of,
)
from convolith.jit.builder import FunctionBuilder, Int, Number, Pointer, zero
from convolith.jit.conversions import STORED, to_sum
from convolith.jit.target import Target

CHAINS = 8
"""Number of multiply-adds that a processor executes at once: two per cycle with a latency of four cycles."""


def waits_for_itself(recipe: DirectRecipe, vectors: int) -> bool:
    """Return whether adding each product to the sums of the row before would wait for the latency of multiply-adds.

    The products of a row are then summed from zero, independently of the rows before, and added at once.
    """
    _, height, width = recipe.kernel_size
    return vectors * height * (width + 1) < CHAINS * width


def write_strip(
    code: FunctionBuilder, target: Target, recipe: DirectRecipe, vectors: int, place: Place, s: dict[str, Any]
) -> None:
    """Generate all outputs of a strip of some vectors of columns, `place.rows` rows high."""
    lanes, waiting = lanes_of(recipe, target), recipe.kernel_size[1] - 1
    kept = keeps_weights(recipe.kernel_size, vectors, target.vector_registers - 1)
    bias, late_bias = code.splat(place.bias.load(), lanes), None
    if bias_kind(recipe) != STORED[recipe.sum_dtype]:
        bias, late_bias = zero(ir.VectorType(STORED[recipe.sum_dtype], lanes)), bias
    strip = _Strip(code, recipe, vectors, lanes, place, s, kept, late_bias)
    steps = place.rows + waiting
    begin, end = strip.existing(steps)
    first = place.y - waiting * s["out_width"]
    values = [place.x.value, first.value, *[bias] * (waiting * vectors)]
    for start, stop, exists in ((0, begin, False), (begin, end, True), (end, steps, False)):
        if isinstance(start, int) and isinstance(stop, int) and start == stop:
            continue
        with code.loop(start, stop, values=values) as row:
            x, y = Pointer(code, row.values[0], place.x.element), Pointer(code, row.values[1], place.y.element)
            made = [bias] * vectors + row.values[2:]
            if exists and waits_for_itself(recipe, vectors):
                apart = strip.row(x, [zero(bias.type)] * len(made))
                made = [code.add(a, b) for a, b in zip(made, apart, strict=True)]
            elif exists:
                made = strip.row(x, made)
            with code.when(row.index >= waiting):
                strip.store(made[waiting * vectors :], y)
            row.carry([(x + s["row"]).value, (y + s["out_width"]).value, *made[: waiting * vectors]])
        values = row.values


@dataclass
class _Strip:
    code: FunctionBuilder
    recipe: DirectRecipe
    vectors: int
    lanes: int
    place: Place
    s: dict[str, Any]
    kept: bool
    """Whether the weights stay in registers."""
    late_bias: ir.Value | None
    """Bias that is added after the conversion."""

    def __post_init__(self) -> None:
        recipe, place = self.recipe, self.place
        self.offsets = [q * self.lanes for q in range(self.vectors - 1)] + [place.last]
        if self.kept:
            self.weights = [self.weight(place.weight + tap) for tap in range(taps_of(recipe))]
        reach = self.lanes + (recipe.kernel_size[2] - 1) * recipe.dilation[2]
        self.bits: dict[int, Int] = {}
        if place.bounds is not None and place.edge and reach <= 64:
            for q in self.ends():  # all columns that a vector reads, one bit each
                start = self.code.integer(place.bounds.column) + self.offsets[q]
                self.bits[q] = self.code.bits_between(0 - start, place.bounds.width - start)

    def ends(self) -> list[int]:
        """Return the vectors whose columns may lie outside the image."""
        return sorted({0, self.vectors - 1})

    def weight(self, at: Pointer) -> ir.Value:
        """Load a weight into every lane."""
        return self.code.splat(at.load(), self.lanes)

    def existing(self, steps: Int) -> tuple[Number, Number]:
        """Return the first input row inside the image, and the first row after it that is outside."""
        bounds = self.place.bounds
        if bounds is None:
            return 0, steps
        height: Number = bounds.height
        if self.recipe.kernel_size[0] == 1:  # the only plane may be padding
            height = self.code.choose(self.code.integer(bounds.plane).below(bounds.depth), height, 0)
        begin = self.code.minimum(self.code.maximum(0 - self.code.integer(bounds.row), 0), steps)
        end = self.code.minimum(height - bounds.row, steps)
        return begin, self.code.maximum(end, begin)

    def row(self, x: Pointer, sums: list[ir.Value]) -> list[ir.Value]:
        """Generate the products of one input row in all planes."""
        depth, height, width = self.recipe.kernel_size
        if depth == 1:
            return self.columns(x, self.place.weight, sums)
        begin, end = self.planes()
        with self.code.loop(begin, end, values=sums) as plane:
            here = self.place.weight + plane.index * (height * width)
            plane.carry(self.columns(x + plane.index * self.s["plane"], here, plane.values))
        return plane.values

    def planes(self) -> tuple[Number, Number]:
        """Return the first plane inside the image, and the first plane after it that is outside."""
        bounds, depth, step = self.place.bounds, self.recipe.kernel_size[0], self.recipe.dilation[0]
        if bounds is None:
            return 0, depth
        front = self.code.integer(bounds.plane)
        begin = (self.code.maximum(0 - front, 0) + (step - 1)) // step
        return begin, self.code.minimum((self.code.maximum(bounds.depth - front, 0) + (step - 1)) // step, depth)

    def columns(self, x: Pointer, weight: Pointer, sums: list[ir.Value]) -> list[ir.Value]:
        """Generate the products of one row: few kernel columns are unrolled, many are a loop."""
        _, height, width = self.recipe.kernel_size
        if height * width <= UNROLLED_TAPS:
            for v in range(width):
                sums = self.products(x, weight, v, sums)
            return sums
        with self.code.loop(0, width, values=sums) as column:
            column.carry(self.products(x, weight, column.index, column.values))
        return column.values

    def products(self, x: Pointer, weight: Pointer, column: Number, sums: Sequence[ir.Value]) -> list[ir.Value]:
        """Generate the products of one row and one kernel column: vector by vector if all weights are in registers."""
        _, height, width = self.recipe.kernel_size
        made = list(sums)
        self.code.keep_order()
        if self.kept:
            for q in range(self.vectors):
                vector = self.load(x, q, column)
                for u in range(height):
                    at = u * self.vectors + q
                    made[at] = self.code.multiply_add(vector, self.weights[u * width + column], made[at])
            return made
        vectors = [self.load(x, q, column) for q in range(self.vectors)]
        for u in range(height):
            tap = self.weight(weight + column + u * width)
            for q, vector in enumerate(vectors):
                at = u * self.vectors + q
                made[at] = self.code.multiply_add(vector, tap, made[at])
        return made

    def load(self, x: Pointer, q: int, column: Number) -> ir.Value:
        """Load the inputs of a vector of outputs for a kernel column; inputs outside the image are zero."""
        recipe, bounds = self.recipe, self.place.bounds
        shift = recipe.shift(column, self.s["phase_pitch"])
        at = x + shift + self.offsets[q]
        stored = recipe.x_dtype if recipe.masked else recipe.sum_dtype
        if bounds is None or not self.place.edge or q not in self.ends():
            value = at.vector(self.lanes)
        elif self.bits:
            value = at.masked_vector(self.lanes, self.code.lanes_of_bits(self.bits[q], shift, self.lanes))
        else:
            start = self.code.integer(bounds.column) + shift + self.offsets[q]
            value = at.masked_vector(self.lanes, self.code.lanes_between(0 - start, bounds.width - start, self.lanes))
        return to_sum(self.code, value, stored, STORED[recipe.sum_dtype])

    def store(self, sums: Sequence[ir.Value], y: Pointer) -> None:
        """Store a complete row of outputs."""
        with self.code.ir.if_else(self.s["streams"] >= 1) as (past, through):
            for way, past_caches in ((past, True), (through, False)):
                with way:
                    deliver(self.code, self.recipe, sums, y, self.late_bias, self.place, past_caches=past_caches)
