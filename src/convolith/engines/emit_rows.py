"""Generated copies of rows of an image to scratch memory: converted, padded, and split by a stride."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convolith.engines.padding import source_of_column
from convolith.jit.builder import FunctionBuilder, Int, Number, Pointer
from convolith.jit.conversions import to_sum


def copy_inside(
    code: FunctionBuilder, dtype: str, lanes: int, source: Pointer, goal: Pointer, begin: Number, end: Number
) -> None:
    """Generate the copy of elements `begin` to `end` of a row, converted to the dtype of the goal.

    Nothing outside these elements is read or written: the last vector may overlap the one before.
    """
    enough = begin + lanes <= end
    singles = code.choose(enough, end, begin)
    with code.loop(begin, singles - lanes, lanes) as t:
        _copy(code, dtype, source + t.index, goal + t.index, lanes)
    with code.when(enough):
        _copy(code, dtype, source + (end - lanes), goal + (end - lanes), lanes)
    with code.loop(singles, end) as t:
        _copy(code, dtype, source + t.index, goal + t.index, 1)


def copy_margin(
    code: FunctionBuilder,
    s: dict[str, Any],
    dtype: str,
    line: Pointer,
    left: Number,
    exists: Any,
    goal: Pointer,
    margin: tuple[Number, Number],
) -> None:
    """Generate the elements of a row that lie outside the image, from the tables of padding.

    Args:
        code, s: the function and the arguments of its region, among them `width_sources` and `outside`.
        dtype: dtype of the image.
        line: column 0 of the row in the image.
        left: column of the image at the goal's first element; negative outside.
        exists: whether the row is in the image; if not, all elements are `outside`.
        goal: where the row goes.
        margin: first element, and the one after the last.
    """
    with code.loop(*margin) as t:
        at = source_of_column(code, s, code.integer(left) + t.index)
        inside = code.every(exists, at >= 0)
        chosen = code.choose(inside, line + code.maximum(at, 0), s["outside"])
        _copy(code, dtype, chosen, goal + t.index, 1)


def split_inside(
    code: FunctionBuilder,
    dtype: str,
    lanes: int,
    source: Pointer,
    goal: Pointer,
    begin: Number,
    end: Number,
    pitch: Int,
) -> None:
    """Generate the copy of elements `begin` to `end` of a row, split by a stride of 2 as `split_row` does.

    Nothing outside these elements is read or written: the last vectors may overlap those before.
    """
    first = (code.integer(begin) + 1) // 2 * 2

    def halves(t: Int, lanes: int) -> None:
        a, b = (to_sum(code, (source + t + half * lanes).vector(lanes), dtype, goal.element) for half in range(2))
        for odd in range(2):
            (goal + t // 2 + pitch * odd).store(code.shuffle(a, b, range(odd, 2 * lanes, 2)))

    def singles(start: Number, stop: Number) -> None:
        with code.loop(start, stop) as t:
            _copy(code, dtype, source + t.index, goal + t.index // 2 + pitch * (t.index % 2), 1)

    wide, narrow = (first + 2 * n <= end for n in (lanes, lanes // 2))
    with code.ir.if_else(narrow) as (vectors, few):
        with few:
            singles(begin, end)
        with vectors:
            singles(begin, first)
            for n, fits in ((lanes, wide), (lanes // 2, code.ir.not_(wide))):
                with code.when(fits):
                    last = (code.integer(end) - 2 * n) // 2 * 2  # of the last two vectors
                    with code.loop(first, last, 2 * n) as t:
                        halves(t.index, n)
                    halves(last, n)
            with code.when(code.ir.icmp_signed("==", code.integer(end % 2).value, code.integer(1).value)):
                singles(code.integer(end) - 1, end)


def split_row(
    code: FunctionBuilder, line: Pointer, goal: Pointer, wanted: Number, stride: int, pitch: Int, lanes: int
) -> None:
    """Generate the split of a row: element t goes to phase t % stride, position t // stride."""
    count = (wanted + (stride - 1)) // stride
    if stride == 2:
        with code.loop(0, count, lanes) as t:
            a, b = ((line + t.index * 2 + half * lanes).vector(lanes) for half in range(2))
            for odd in range(2):
                chosen = code.shuffle(a, b, range(odd, 2 * lanes, 2))
                (goal + t.index + pitch * odd).store(chosen)
        return
    with code.loop(0, count) as position, code.loop(0, stride) as phase:
        element = line + position.index * stride + phase.index
        (goal + position.index + pitch * phase.index).store(element.load())


def shift_of(column: Number, step: Number, stride: int, pitch: Number) -> Number:
    """Return the offset of a kernel column in a row that `split_row` wrote; taps are `step` columns apart."""
    reach = column * step
    return reach if stride == 1 else reach // stride + pitch * (reach % stride)


def bounds_inside(code: FunctionBuilder, left: Number, width: Int, wanted: Number) -> Sequence[Int]:
    """Return the first element of a row of `wanted` elements inside the image, and the one after the last."""
    begin = code.minimum(code.maximum(0 - left, 0), wanted)
    return begin, code.maximum(code.minimum(width - left, wanted), begin)


def _copy(code: FunctionBuilder, dtype: str, source: Pointer, goal: Pointer, lanes: int) -> None:
    goal.store(to_sum(code, source.vector(lanes), dtype, goal.element))
