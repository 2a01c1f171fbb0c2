"""Winograd's minimal filtering as matrices, and their application to vectors with as few operations as possible.

`y = A'[(G k) * (B' x)]` gives `outputs` values of a correlation with three taps from `outputs` + 2 products (Winograd,
Arithmetic Complexity of Computations, 1980; Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016).
The points of interpolation set the error: +-sqrt(1/2), +-sqrt(2) are three to five times more accurate than +-1, +-2.
Of six points, +-1/2, +-1, +-2 have the smallest mean error of those tried, four times that of +-sqrt(1/2), +-sqrt(2).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from convolith.jit.builder import FunctionBuilder, constant

POINTS = {2: (1.0,), 4: (sqrt(0.5), sqrt(2.0)), 6: (0.5, 1.0, 2.0)}
"""Positive interpolation points by number of outputs; zero, their negatives and infinity are points too."""
TAPS = 3


class Matrices(NamedTuple):
    """Transform matrices of the inputs (B'), the kernel (G) and the products (A')."""

    inputs: np.ndarray
    kernel: np.ndarray
    outputs: np.ndarray


def matrices(outputs: int) -> Matrices:
    """Compute the matrices of F(outputs, 3), scaled in that of the kernel, which is transformed only once."""
    points = [0.0, *(sign * p for p in POINTS[outputs] for sign in (1, -1))]
    size = outputs + TAPS - 1
    by_input, by_kernel, by_output = np.zeros((size, size)), np.zeros((size, TAPS)), np.zeros((outputs, size))
    for i, point in enumerate(points):
        others = points[:i] + points[i + 1 :]
        by_input[i, : size - 1] = np.poly(others)[::-1]
        by_kernel[i] = np.array([point**power for power in range(TAPS)]) / prod(point - other for other in others)
        by_output[:, i] = [point**power for power in range(outputs)]
    by_input[-1] = np.poly(points)[::-1]
    by_kernel[-1, -1] = by_output[-1, -1] = 1
    clean = [np.where(np.abs(matrix) < 1e-12, 0.0, matrix) for matrix in (by_input, by_kernel, by_output)]
    return Matrices(*clean)


def transform_inputs(code: FunctionBuilder, outputs: int, x: Sequence[ir.Value]) -> list[ir.Value]:
    """Compute `B' x`: the rows of a point and its negative share their even and their odd part."""
    matrix = matrices(outputs).inputs
    result: list[ir.Value] = [weighted(code, matrix[0], x)]
    for i in range(1, len(matrix) - 1, 2):
        even = weighted(code, (matrix[i] + matrix[i + 1]) / 2, x)
        odd = weighted(code, (matrix[i] - matrix[i + 1]) / 2, x)
        result += [code.ir.fadd(even, odd), code.ir.fsub(even, odd)]
    return [*result, weighted(code, matrix[-1], x)]


def transform_outputs(code: FunctionBuilder, outputs: int, m: Sequence[ir.Value]) -> list[ir.Value]:
    """Compute `A' m`: the columns of a point and its negative are added and subtracted once."""
    matrix = matrices(outputs).outputs
    values, columns = [m[0]], [matrix[:, 0]]
    for i in range(1, len(m) - 1, 2):
        values += [code.ir.fadd(m[i], m[i + 1]), code.ir.fsub(m[i], m[i + 1])]
        columns += [(matrix[:, i] + matrix[:, i + 1]) / 2, (matrix[:, i] - matrix[:, i + 1]) / 2]
    values.append(m[-1])
    columns.append(matrix[:, -1])
    return [weighted(code, row, values) for row in np.stack(columns, 1)]


def transform_kernel(code: FunctionBuilder, outputs: int, k: Sequence[ir.Value]) -> list[ir.Value]:
    """Compute `G k`: the rows of a point and its negative share their even and their odd part."""
    matrix = matrices(outputs).kernel
    result: list[ir.Value] = [weighted(code, matrix[0], k)]
    for i in range(1, len(matrix) - 1, 2):
        even = weighted(code, (matrix[i] + matrix[i + 1]) / 2, k)
        odd = weighted(code, (matrix[i] - matrix[i + 1]) / 2, k)
        result += [code.ir.fadd(even, odd), code.ir.fsub(even, odd)]
    return [*result, weighted(code, matrix[-1], k)]


def weighted(code: FunctionBuilder, weights: Sequence[float], values: Sequence[ir.Value]) -> ir.Value:
    """Return the sum of values times constants, skipping zeros and starting with a constant of 1 if one exists."""
    terms = [(float(w), v) for w, v in zip(weights, values, strict=True) if abs(w) > 1e-12]
    terms.sort(key=lambda term: term[0] != 1)
    first, *rest = terms
    total = first[1] if first[0] == 1 else code.ir.fmul(constant(first[1].type, first[0]), first[1])
    for weight, value in rest:
        if weight == 1:
            total = code.ir.fadd(total, value)
        elif weight == -1:
            total = code.ir.fsub(total, value)
        else:
            total = code.multiply_add(constant(value.type, weight), value, total)
    return total


def split(code: FunctionBuilder, vectors: Sequence[ir.Value]) -> list[ir.Value]:
    """Split vectors of consecutive elements into vectors of every n-th one, n being their number."""
    lanes, count = vectors[0].type.count, len(vectors)
    if count % 2:
        return [picked(code, vectors, range(n, count * lanes, count)) for n in range(count)]
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    halves = [split(code, [code.shuffle(a, b, range(odd, 2 * lanes, 2)) for a, b in pairs]) for odd in (0, 1)]
    return [halves[i % 2][i // 2] for i in range(len(vectors))]


def merge(code: FunctionBuilder, vectors: Sequence[ir.Value]) -> list[ir.Value]:
    """Merge vectors of every n-th element into vectors of consecutive ones: the inverse of `split`."""
    lanes, count = vectors[0].type.count, len(vectors)
    if count % 2:
        order = [lane * count + n for n in range(count) for lane in range(lanes)]
        places = sorted(range(count * lanes), key=order.__getitem__)
        return [picked(code, vectors, places[n * lanes : (n + 1) * lanes]) for n in range(count)]
    mixed = [lane for pair in zip(range(lanes), range(lanes, 2 * lanes), strict=True) for lane in pair]
    result = []
    for even, odd in zip(merge(code, vectors[::2]), merge(code, vectors[1::2]), strict=True):
        result += [code.shuffle(even, odd, mixed[:lanes]), code.shuffle(even, odd, mixed[lanes:])]
    return result


def picked(code: FunctionBuilder, vectors: Sequence[ir.Value], places: Sequence[int]) -> ir.Value:
    """Return the given elements of the concatenation of vectors as one vector."""
    lanes, result = vectors[0].type.count, vectors[0]
    for number, vector in enumerate(vectors[1:], 1):
        taken = []
        for lane, place in enumerate(places):
            owner, element = divmod(place, lanes)
            if owner == number:
                taken.append(lanes + element)
            else:  # elements of the first vector move to their lanes in the first shuffle
                taken.append(element if number == 1 else lane)
        result = code.shuffle(result, vector, taken)
    return result
