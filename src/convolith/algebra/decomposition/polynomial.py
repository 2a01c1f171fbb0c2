"""Kernels along one axis as parts of at most three taps: pairs of roots of a real polynomial.

The taps are the coefficients of a polynomial, and a chain of correlations multiplies polynomials. Over the reals every
polynomial is a product of factors of degree at most 2 (the fundamental theorem of algebra): complex roots pair with
their conjugates. The roots are eigenvalues of the companion matrix; Newton steps on the coefficients of the factors
then reduce the rounding error.
"""

from __future__ import annotations

import numpy as np

from convolith.algebra.decomposition.blocks import Kernel, Ladder, Shape

PIECE = 3
"""Largest number of taps of a part: degree 2, since real factors of degree 1 do not always exist."""
STEPS = 6
"""Largest number of Newton steps on the factors; two or three suffice."""
ROUNDED = 1e-12
"""Error, relative to the largest tap, up to which it counts as rounding."""
NOTHING = 2.0**-500
"""Size, relative to the largest tap, up to which outer taps count as zero: their roots exceed the range of floats."""
LOST = 2.0**-60
"""Size, relative to the largest tap, up to which outer taps count as zero if the factors are inaccurate otherwise."""
GRID = 8
"""Number of frequencies per tap at which the size of partial products is evaluated."""


def propose(kernel: Kernel) -> list[Ladder] | str:
    """Propose parts of at most three taps for kernels along one axis, one channel per group."""
    axes = kernel.wide_axes
    if not kernel.one_to_one or len(axes) != 1:
        return "a polynomial is a kernel along one axis, with one channel per group"
    (axis,) = axes
    groups, taps = kernel.blocks.shape[0], kernel.taps[axis]
    degrees = [2] * ((taps - 1) // 2) + [1] * ((taps - 1) % 2)

    def shape(degree: int) -> Shape:
        return (groups, 1, 1, *(degree + 1 if a == axis else 1 for a in range(len(kernel.taps))))

    def build(_level: int) -> list[np.ndarray]:
        rows = [pieces(taps) for taps in kernel.blocks.reshape(groups, -1)]
        return [np.stack(column).reshape(shape(d)) for d, column in zip(degrees, zip(*rows, strict=True), strict=True)]

    return [Ladder("polynomial", 1, lambda _level: [shape(degree) for degree in degrees], build)]


def pieces(taps: np.ndarray) -> list[np.ndarray]:
    """Return factors of three taps (the last of two for an even number of taps) whose full convolution is `taps`."""
    sizes = np.abs(taps)
    if not sizes.any():
        return [np.zeros(min(PIECE, len(taps) - at)) for at in range(0, max(len(taps) - 1, 1), 2)]
    factors = _factored(taps, np.flatnonzero(sizes > NOTHING * sizes.max()))
    if _error(taps, factors, 1.0) <= ROUNDED * sizes.max():
        return factors
    # negligible outer taps give roots of huge or tiny size, which makes all others inaccurate
    cut = _factored(taps, np.flatnonzero(sizes > LOST * sizes.max()))
    return min(factors, cut, key=lambda candidate: _error(taps, candidate, 1.0))


def _factored(taps: np.ndarray, filled: np.ndarray) -> list[np.ndarray]:
    """Return such factors, from the roots of the taps between the first and the last index of `filled`."""
    low, high = filled[0], len(taps) - 1 - filled[-1]
    roots = np.roots(taps[low : filled[-1] + 1][::-1])
    real = sorted((root.real for root in roots if root.imag == 0), key=abs)
    linear = [np.array([0.0, 1.0])] * low + [_linear(root) for root in real] + [np.array([1.0, 0.0])] * high
    quadratic = [_unit(np.array([abs(root) ** 2, -2 * root.real, 1.0])) for root in roots if root.imag > 0]
    while len(linear) > 1:
        quadratic.append(_unit(np.convolve(linear.pop(0), linear.pop())))
    ordered = _calm(quadratic) + linear
    return refined(taps, ordered)


def _linear(root: float) -> np.ndarray:
    return _unit(np.array([-root, 1.0]))


def _unit(factor: np.ndarray) -> np.ndarray:
    scaled = factor / np.abs(factor).max()
    unit: np.ndarray = scaled / np.linalg.norm(scaled)
    return unit


def _calm(factors: list[np.ndarray]) -> list[np.ndarray]:
    """Order the factors so that rounding grows little: each step picks the one that keeps both partial products small.

    The rounding of the product so far is multiplied by the product of the rest; both maxima are over frequencies.
    """
    if not factors:
        return []
    rest = np.log(np.maximum(np.abs(np.fft.rfft(np.stack(factors), GRID * (2 * len(factors) + 1))), 1e-300))
    total, sofar, order, remaining = rest.sum(0), np.zeros(rest.shape[1]), [], list(range(len(factors)))
    while remaining:
        partial = sofar + rest[remaining]
        at = int(np.argmin(partial.max(1) + (total - partial).max(1)))
        sofar = partial[at]
        order.append(factors[remaining.pop(at)])
    return order


def refined(taps: np.ndarray, factors: list[np.ndarray]) -> list[np.ndarray]:
    """Refine the factors by Newton steps while the error decreases, then distribute the common gain over them."""
    gain, factors = _fitted(taps, factors)
    best, error = factors, _error(taps, factors, gain)
    for _ in range(STEPS):
        jacobian = _jacobian(factors, gain, len(taps))
        step = np.linalg.lstsq(jacobian, taps - gain * _product(factors), rcond=1e-12)[0]
        ends = np.cumsum([len(factor) for factor in factors])[:-1]
        moved = [f + change for f, change in zip(factors, np.split(step, ends), strict=True)]
        gain, factors = _fitted(taps, moved)
        refined_error = _error(taps, factors, gain)
        if not refined_error < error:
            break
        best, error = factors, refined_error
    gain = _fitted(taps, best)[0]
    each = abs(gain) ** (1 / len(best))
    return [factor * (np.copysign(each, gain) if at == 0 else each) for at, factor in enumerate(best)]


def _fitted(taps: np.ndarray, factors: list[np.ndarray]) -> tuple[float, list[np.ndarray]]:
    """Return the least-squares gain of the factors' product to the taps, and the factors with a product of norm 1."""
    factors = [factor / np.linalg.norm(factor) for factor in factors]
    product, size = np.ones(1), 0.0
    for factor in factors:  # the product of a thousand factors may underflow
        product = np.convolve(product, factor)
        norm = np.linalg.norm(product)
        product, size = product / norm, size + np.log(norm)
    even = np.exp(-size / len(factors))
    return float(taps @ product), [factor * even for factor in factors]


def _product(factors: list[np.ndarray]) -> np.ndarray:
    product = np.ones(1)
    for factor in factors:
        product = np.convolve(product, factor)
    return product


def _error(taps: np.ndarray, factors: list[np.ndarray], gain: float) -> float:
    return float(np.abs(taps - gain * _product(factors)).max())


def _jacobian(factors: list[np.ndarray], gain: float, taps: int) -> np.ndarray:
    """Return the derivative of the product by each coefficient: the product of the other factors, shifted."""
    before, after = [np.ones(1)], [np.ones(1)]
    for factor in factors[:-1]:
        before.append(np.convolve(before[-1], factor))
    for factor in factors[:0:-1]:
        after.append(np.convolve(after[-1], factor))
    columns = []
    for factor, ahead, behind in zip(factors, before, after[::-1], strict=True):
        others = gain * np.convolve(ahead, behind)
        columns += [np.pad(others, (i, taps - len(others) - i)) for i in range(len(factor))]
    return np.stack(columns, 1)
