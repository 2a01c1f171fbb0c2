"""One convolution as several smaller ones in a row: `decompose`, which asks every method and certifies the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, prod
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.algebra.decomposition import bivariate, cp, depthwise, hidden, lowrank, polynomial, reducible, tucker
from convolith.algebra.decomposition.blocks import (
    Kernel,
    Ladder,
    blocks_of,
    is_factored,
    multiplications,
    padding_homes,
    stride_homes,
)
from convolith.algebra.decomposition.certificate import chain_bounds, chain_sketch, norm_bounds, padding_gain
from convolith.arrays import as_tensor, is_numpy
from convolith.conv import Conv
from convolith.correlation import correlate
from convolith.dtypes import COMPLEX, half_ulp, is_float
from convolith.errors import ConvolithError
from convolith.tensors import torch_dtype

METHODS: tuple[tuple[str, Callable[[Kernel], list[Ladder] | str]], ...] = (
    ("polynomial", polynomial.propose),
    ("low rank", lowrank.propose),
    ("depthwise", depthwise.propose),
    ("tucker", tucker.propose),
    ("factors", bivariate.propose),
    ("hidden channels", hidden.propose),
    ("reducible", reducible.propose),
    ("cp", cp.propose),
)
"""Every method by name; each answers with ladders of chains, or with the reason why it has none. Of two chains that
form equally many products the earlier is taken; what takes long stands last, and seeks only what would form fewer."""

EXACT = 1e-10
"""Relative distance, before the parts are rounded to their dtype, up to which a chain counts as exact."""
ROUNDINGS = 4
"""Units of the dtype's rounding up to which it does too: what the given weights' own rounding may have cost."""


@dataclass(frozen=True, repr=False)
class Decomposition:
    """A convolution and the smaller ones that it is, or nearly is; call it with x to apply them.

    For x of any size, `||d(x) - correlate(x, conv)||_2 <= bound * ||x||_2`, up to the rounding of running either.

    Attributes:
        conv: the convolution that was given.
        parts: plain convolutions to apply in order; empty if there are none within the tolerance.
        method: how the parts were found: `"polynomial"`, `"separable"`, `"low rank"`, `"reducible"`, `"depthwise"`,
            `"tucker"` or `"cp"`; of the nearest chain if there are no parts, and `"none"` if no method has one.
        bound: of the parts as they are, rounded to their dtype; of the nearest chain if there are no parts.
        relative: that difference's norm over the convolution's own, as operators without their padding; not below it.
        multiplications_before, multiplications_after: products per output position, all channels together; parts before
            a stride count as often as they run.
        reason: why this chain, or why none, in words.
    """

    conv: Conv
    parts: tuple[Conv, ...]
    method: str
    bound: float
    relative: float
    multiplications_before: int
    multiplications_after: int
    reason: str

    def __call__(self, x: Any, *, engine: str = "auto", accuracy: str = "default") -> Any:
        """The parts, one after another; `conv` itself if it does not decompose."""
        for part in self.parts or (self.conv,):
            x = correlate(x, part, engine=engine, accuracy=accuracy)
        return x

    def __repr__(self) -> str:
        parts = "".join(f"\n  {part}" for part in self.parts)
        return f"Decomposition({self.reason}; relative error at most {self.relative:.2g}){parts}"


class _Chain(NamedTuple):
    """A chain that was built: its method, parts as blocks and cost, and how far it is and may be away, relative."""

    method: str
    parts: list[np.ndarray]
    cost: int
    distance: float
    limit: float


class _Limits(NamedTuple):
    """How far chains that save products, and others, may be away, relative: what saves nothing has to be exact.

    Kernels along one axis never save anything, and may be as far away as others.
    """

    saving: float
    other: float


def decompose(conv: Conv, *, tolerance: float = 0.0) -> Decomposition:
    """Factor a convolution into a chain of smaller ones, exactly or within a tolerance, borders included.

    `K = K_n * ... * K_1`, the full convolution of the parts' taps with matrix products over their channels. Among all
    chains that the methods find, the one with the fewest multiplications is returned. A convolution on one axis with
    one channel always decomposes, into parts of at most 3 taps, although that saves nothing; so do exact factors of
    kernels with one channel per group. Chains through hidden channels, and chains that are not exact, count only if
    they save multiplications. If none does, `reason` gives the distance of the nearest chain that was found; a nearer
    one may exist. Each axis is padded by the first part with several taps along it and strided by the last one; every
    part keeps the dilation, and the last one adds the bias. The files of the methods and of the certificate name their
    sources.

    Args:
        conv: a plain convolution with real float weights. Gradients do not pass through the decomposition.
        tolerance: largest accepted relative error, the norm of the difference divided by that of `conv`. With 0, chains
            must be exact up to rounding: 1e-10, or 4 roundings of the weights' dtype.

    Raises:
        ConvolithError: not a Conv, a transposed one, integer, complex, NaN or infinite weights, or ones without values;
            a tolerance that is negative or no number.

    Example:
        >>> import numpy as np
        >>> blur = Conv(np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])[None, None] / 256, padding="same")
        >>> found = decompose(blur)
        >>> found.method, [part.kernel_size for part in found.parts]
        ('separable', [(5, 1), (1, 5)])
        >>> found.multiplications_before, found.multiplications_after, found.bound < 1e-15
        (25, 10, True)
    """
    _check(conv, tolerance)
    blocks = blocks_of(conv)
    scale = float(np.abs(blocks).max())
    kernel = Kernel(blocks / (scale or 1.0), conv.stride, half_ulp(conv.dtype))
    size = norm_bounds(kernel.blocks)[0]
    if kernel.one_to_one and len(kernel.wide_axes) < 2 and max(kernel.taps) <= polynomial.PIECE:
        reason = f"it is one piece of at most {polynomial.PIECE} taps already"
        return Decomposition(conv, (conv,), "polynomial", 0.0, 0.0, blocks.size, blocks.size, reason)
    exact = max(EXACT, ROUNDINGS * half_ulp(conv.dtype))
    limit = max(float(tolerance), exact)
    limits = _Limits(limit, limit if len(kernel.wide_axes) < 2 else exact)
    found: list[_Chain] = []
    reasons, fewest = [], inf
    for name, propose in METHODS:
        ladders = propose(kernel)
        if isinstance(ladders, str):
            reasons.append(f"{name}: {ladders}")
            continue
        for ladder in ladders:
            chain = _climbed(kernel, ladder, size, limits, fewest)
            if chain is None:
                continue
            found.append(chain)
            if chain.distance <= chain.limit:
                fewest = min(fewest, chain.cost)
    return _chosen(conv, kernel, scale, size, found, reasons, limit, exact)


def _climbed(kernel: Kernel, ladder: Ladder, size: float, limits: _Limits, fewest: float) -> _Chain | None:
    """The cheapest level within its limit, of those that form fewer products than `fewest`; else the last of them.

    Hidden channels are worth their products only where they save some: with enough of them, everything is a chain.
    """

    def counts(level: int) -> bool:
        shapes = ladder.shapes(level)
        return multiplications(shapes, kernel.stride) < (
            fewest if is_factored(shapes) else min(fewest, kernel.blocks.size)
        )

    top = _last(counts, ladder.levels)
    if top < 0:
        return None

    def chain(level: int) -> _Chain:
        parts = ladder.build(level)
        cost = multiplications([part.shape for part in parts], kernel.stride)
        limit = limits.saving if cost < kernel.blocks.size else limits.other
        low, high = chain_sketch(kernel.blocks, parts)
        if low <= limit * size < high:  # the sketch does not tell
            high = chain_bounds(kernel.blocks, parts)[1]
        return _Chain(ladder.method, parts, cost, _relative(low if low > limit * size else high, size), limit)

    best = chain(top)
    low, high = 0, top
    while best.distance <= best.limit and low < high:
        middle = (low + high) // 2
        tried = chain(middle)
        if tried.distance <= tried.limit:
            best, high = tried, middle
        else:
            low = middle + 1
    return best


def _last(holds: Callable[[int], bool], count: int) -> int:
    """The last of 0..count-1 for which something holds that holds for all before it, or -1."""
    low, high = -1, count - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _relative(distance: float, size: float) -> float:
    if distance == 0:
        return 0.0
    return distance / size if size > 0 else inf


def _chosen(
    conv: Conv,
    kernel: Kernel,
    scale: float,
    size: float,
    found: Sequence[_Chain],
    reasons: Sequence[str],
    limit: float,
    exact: float,
) -> Decomposition:
    """The chain with the fewest products of those within the tolerance, rounded to the dtype and certified again."""
    before, gain = kernel.blocks.size, padding_gain(conv.padding, conv.padding_mode)
    whole = max(scale, np.finfo(float).tiny)
    coarse = None
    for chain in sorted(found, key=lambda chain: chain.cost):
        if chain.distance > chain.limit:
            continue
        parts = _convs(conv, chain.parts, scale)
        apart = chain_bounds(blocks_of(conv) / whole, _rescaled([blocks_of(part) for part in parts], whole))[1]
        relative = _relative(apart, size)
        if relative > max(limit, half_ulp(conv.dtype) ** 0.5):  # more than half of its digits
            coarse = coarse or (chain.method, relative)
            continue
        words = "exact" if chain.distance <= exact else f"within {relative:.2g} of it"
        words += f" ({chain.method}): {before:,} products per output position become {chain.cost:,}"
        if chain.cost >= before:
            words += ", which saves nothing"
        if chain.distance <= exact < relative:
            words += f"; rounding the parts to {conv.dtype} costs {relative:.2g}"
        return Decomposition(conv, parts, chain.method, apart * scale * gain, relative, before, chain.cost, words)
    if coarse is not None:
        method, relative = coarse
        words = f"does not decompose in {conv.dtype}: its parts, rounded, are {relative:.2g} away ({method})"
        return Decomposition(conv, (), method, relative * size * scale * gain, relative, before, before, words)
    nearest = min(found, key=lambda chain: chain.distance, default=None)
    if nearest is None or not isfinite(nearest.distance):
        words = f"does not decompose: no method has a chain that saves products ({'; '.join(reasons)})"
        return Decomposition(conv, (), "none", inf, inf, before, before, words)
    apart = chain_bounds(kernel.blocks, nearest.parts)[1]
    relative = _relative(apart, size)
    words = (
        f"does not decompose: the nearest that does is {relative:.2g} away ({nearest.method}: {before:,} products per "
    )
    words += f"output position would become {nearest.cost:,})"
    return Decomposition(conv, (), nearest.method, apart * scale * gain, relative, before, before, words)


def _rescaled(parts: list[np.ndarray], whole: float) -> list[np.ndarray]:
    """The parts of a kernel that was divided by its scale, which the first takes."""
    return [parts[0] / whole, *parts[1:]]


def _convs(conv: Conv, parts: Sequence[np.ndarray], scale: float) -> tuple[Conv, ...]:
    """The parts as convolutions in the kind, dtype and device of the given one, with its options shared out."""
    shapes = [part.shape for part in parts]
    strided, padded = stride_homes(shapes), padding_homes(shapes)
    sizes = [float(np.abs(part).max()) for part in parts]
    even = prod(size ** (1 / len(sizes)) for size in sizes)
    signs = [
        np.sign(part.flat[np.abs(part).argmax()]) or 1.0 for part in parts[:-1]
    ]  # all but the last mostly positive
    signs.append(prod(signs))
    share = scale ** (1 / len(parts))
    weight = as_tensor("weight", conv.weight).detach()
    convs = []
    for j, (part, size, sign) in enumerate(zip(parts, sizes, signs, strict=True)):
        values = part * (even / size if even else 1.0) * share * sign
        rounded = torch.from_numpy(np.ascontiguousarray(values)).to(torch_dtype(conv.dtype)).to(weight.device)
        rounded = rounded.reshape(-1, *part.shape[2:])
        last = j == len(parts) - 1
        bias = conv.bias if last else None
        convs.append(
            Conv(
                rounded.numpy() if is_numpy(conv.weight) else rounded,
                bias.detach() if isinstance(bias, torch.Tensor) else bias,
                stride=[s if home == j else 1 for s, home in zip(conv.stride, strided, strict=True)],
                padding=[pair if home == j else (0, 0) for pair, home in zip(conv.padding, padded, strict=True)],
                dilation=[d if n > 1 else 1 for d, n in zip(conv.dilation, part.shape[3:], strict=True)],
                groups=part.shape[0],
                padding_mode=conv.padding_mode,
            )
        )
    return tuple(convs)


def _check(conv: Any, tolerance: Any) -> None:
    if not isinstance(conv, Conv):
        raise ConvolithError(
            f"conv is a {type(conv).__name__}; expected a Conv; pass Conv.from_module(module) for a torch module, or "
            "Conv(weight, bias, ...)"
        )
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 0 <= float(tolerance) < inf:
        raise ConvolithError(
            f"tolerance is {tolerance!r}; expected a number of at least 0, relative to the norm of the convolution, "
            "such as 0.01"
        )
    if conv.transposed:
        raise ConvolithError(
            "conv is transposed; decompose takes plain convolutions; decompose the plain Conv with the same weight and "
            "options, whose adjoint it is, and apply its parts transposed, the last first"
        )
    if conv.dtype in COMPLEX:
        raise ConvolithError(
            f"conv has {conv.dtype} weights; decompose takes real ones; decompose the real and imaginary part each"
        )
    if not is_float(conv.dtype):
        raise ConvolithError(
            f"conv has {conv.dtype} weights, whose factors are no integers; convert them to float64 first"
        )
    weight = as_tensor("weight", conv.weight)
    if weight.is_meta:
        raise ConvolithError("conv has weights on the meta device, which have no values; move them first")
    if not bool(weight.isfinite().all()):
        raise ConvolithError("conv has weights that are NaN or infinite, which have no factors; replace them first")
