"""Exact chains of two smaller kernels for kernels on two axes: the factors of a polynomial in two variables.

The taps are the coefficients of f(x, y). The solutions (g, h) of the linear equations `f (g_y - h_x) = g f_y - h f_x`,
with g one degree lower in x and h in y, form a space. If f has no repeated factor, the dimension of this space is the
number of irreducible factors of f (Ruppert, J. Number Theory 77, 1999; Gao, Math. Comp. 72, 2003), and `g / f_x` is
constant on the curve of each factor. That constant assigns each root of `f(., y)` to its factor, at any y, and a factor
is the polynomial that vanishes on its roots. `reducible` handles repeated factors and factors in y only.
"""

from __future__ import annotations

from itertools import combinations
from math import prod

import numpy as np

from convolith.algebra.decomposition.blocks import Kernel, Ladder, Shape, multiplications
from convolith.algebra.decomposition.reducible import Split, polished

WORK = 900**3
"""Upper bound on `groups * ((k1 - 1) * (k2 - 1))**3` for a kernel of k1 by k2 taps; 31x31 takes three seconds."""
MOST_FACTORS = 6
"""Largest number of irreducible factors; all their products are tried."""
NEGLIGIBLE = 1e-9
"""Singular value, relative to the largest, up to which one counts as zero; at least the rounding of the weights."""
Pair = tuple[np.ndarray, np.ndarray]
"""Two kernels as flat arrays."""
SAME = 1e-5
"""Distance, relative to the largest value, up to which two numbers count as equal."""


def propose(kernel: Kernel) -> list[Ladder] | str:
    """Return the factorisations into two parts of sizes that exist in every group, the cheapest first."""
    wide = kernel.wide_axes
    if not kernel.one_to_one or len(wide) != 2:
        return "factors of polynomials in two variables need two axes, one channel per group"
    sizes = [kernel.taps[axis] for axis in wide]
    if len(kernel.blocks) * prod(n - 1 for n in sizes) ** 3 > WORK:
        return "not tried: too many equations"
    pairs = []
    for block in kernel.blocks:
        pairs.append(factors(block.reshape(sizes), kernel.rounding))
        if not pairs[-1]:
            return "irreducible"
    shared = [size for size in pairs[0] if all(size in others for others in pairs)]

    def shape(size: tuple[int, ...]) -> Shape:
        taps = dict(zip(wide, size, strict=True))
        return (len(pairs), 1, 1, *(taps.get(axis, 1) for axis in range(len(kernel.taps))))

    ladders = []
    for first in shared:
        second = tuple(n - a + 1 for n, a in zip(sizes, first, strict=True))
        ladders.append(_ladder([group[first] for group in pairs], [shape(first), shape(second)]))
    return sorted(ladders, key=lambda ladder: multiplications(ladder.shapes(0), kernel.stride)) or "irreducible"


def _ladder(pairs: list[Pair], shapes: list[Shape]) -> Ladder:
    """Return a ladder of one level, with parts that are computed already."""
    parts = [np.stack([pair[at] for pair in pairs]).reshape(shape) for at, shape in enumerate(shapes)]
    return Ladder("reducible", 1, lambda _level: shapes, lambda _level: parts)


def factors(plane: np.ndarray, rounding: float) -> dict[tuple[int, ...], Pair]:
    """Return pairs of real kernels whose full convolution is `plane` up to rounding, by the size of the first."""
    m, n = (size - 1 for size in plane.shape)
    scale = np.abs(plane).max()
    if scale == 0:
        return {}
    space = solutions(plane / scale, max(NEGLIGIBLE, rounding))
    if not 2 <= len(space) <= MOST_FACTORS:
        return {}
    g = np.tensordot(np.random.default_rng(0).normal(size=len(space)), space, 1)
    points = _points(plane / scale, g, 3 * (m + n) + 5)
    centres = _distinct(points[0][2])
    pairs: dict[tuple[int, ...], Pair] = {}
    if not 2 <= len(centres) <= MOST_FACTORS:
        return pairs
    most = len(centres) // 2  # the part with fewer factors; polishing computes the other
    for chosen in (some for count in range(1, most + 1) for some in combinations(range(len(centres)), count)):
        curve = [
            (x, y)
            for y, roots, values in points
            for x, value in zip(roots, values, strict=True)
            if int(np.argmin([abs(value - centre) for centre in centres])) in chosen
        ]
        first = _vanishing(curve, round(len(curve) / len(points)), n)
        if first is None or first.shape in pairs:
            continue
        second = tuple(a - b + 1 for a, b in zip(plane.shape, first.shape, strict=True))
        pair = polished(plane, Split(first.shape, second, 1), first)
        if pair is not None:
            pairs[first.shape] = pair
            pairs.setdefault(second, pair[::-1])
    return pairs


def _distinct(values: np.ndarray) -> list[complex]:
    """Return the distinct values, up to rounding."""
    distinct: list[complex] = []
    for value in values:
        if all(abs(value - other) > SAME * np.abs(values).max() for other in distinct):
            distinct.append(complex(value))
    return distinct


def solutions(plane: np.ndarray, negligible: float) -> np.ndarray:
    """Return a basis of the g of all solutions, (solutions, m, n + 1): the null space of the equations."""
    m, n = (size - 1 for size in plane.shape)
    columns = []
    fx = plane[1:] * np.arange(1, m + 1)[:, None]
    fy = plane[:, 1:] * np.arange(1, n + 1)
    for kind, rows, width in (("g", m, n + 1), ("h", m + 1, n)):
        for a in range(rows):
            for b in range(width):
                equation = np.zeros((2 * m, 2 * n))
                if kind == "g":  # f g_y - g f_y
                    if b:
                        equation[a : a + m + 1, b - 1 : b + n] += b * plane
                    equation[a : a + m + 1, b : b + n] -= fy
                else:  # h f_x - f h_x
                    if a:
                        equation[a - 1 : a + m, b : b + n + 1] -= a * plane
                    equation[a : a + m, b : b + n + 1] += fx
                columns.append(equation.ravel())
    triangle = np.linalg.qr(np.stack(columns, 1), mode="r")  # R has the null space of the equations, with fewer rows
    _, values, right = np.linalg.svd(triangle)
    null = right[(values > negligible * values[0]).sum() :]
    return null[:, : m * (n + 1)].reshape(len(null), m, n + 1)


def _points(plane: np.ndarray, g: np.ndarray, count: int) -> list[tuple[complex, np.ndarray, np.ndarray]]:
    """Return points y of the unit circle, each with the roots of f(., y) and g / f_x at the roots."""
    points = []
    for y in np.exp(2j * np.pi * (np.arange(count) + 0.3) / count):
        f, gy = (matrix @ y ** np.arange(matrix.shape[1]) for matrix in (plane, g))
        x = np.roots(f[::-1])
        slope = np.polyval(np.polyder(f[::-1]), x)
        points.append((y, x, np.polyval(gy[::-1], x) / np.where(slope == 0, 1e-300, slope)))
    return points


def _vanishing(curve: list[tuple[complex, complex]], degree: int, most: int) -> np.ndarray | None:
    """Return the real polynomial of a given degree in x, and the lowest degree in y, that is zero on the points."""
    x, y = np.array(curve).T
    for other in range(most + 1):
        powers = [x**a * y**b for a in range(degree + 1) for b in range(other + 1)]
        table = np.stack(powers, 1) / np.maximum(1, np.abs(x))[:, None] ** degree
        _, values, right = np.linalg.svd(np.linalg.qr(np.concatenate([table.real, table.imag]), mode="r"))
        if len(values) > 1 and values[-1] <= SAME * values[0]:
            polynomial: np.ndarray = right[-1].reshape(degree + 1, other + 1)
            return polynomial
    return None
