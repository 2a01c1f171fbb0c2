"""Factorisation of a convolution into a chain: `decompose`, which tries every method and certifies the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, prod
from numbers import Real
from time import perf_counter
from typing import Any, NamedTuple, overload

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
from convolith.arrays import ArrayOrLists, as_numpy, as_tensor, is_numpy
from convolith.conv import Conv, as_conv
from convolith.correlation import correlate
from convolith.dtypes import COMPLEX, half_ulp, is_float
from convolith.errors import ConvolithError
from convolith.report.html_page import fragment
from convolith.report.progress import track
from convolith.report.table import Table
from convolith.tensors import torch_dtype
from convolith.torch_private import safe_in_forks

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
"""Methods by name; each returns ladders of chains, or the reason why it has none. Of two chains with equally many
multiplications the earlier is chosen; slow methods come last and build only chains with fewer multiplications."""

BUDGET_SECONDS, LEAST_SECONDS = 60.0, 0.1
"""Default time limit of the search, and the least that is left for exact chains beside an approximate one."""
LARGE = 1 << 14
"""Number of weights from which progress is shown, on a terminal."""
SHOWN = 15
"""Largest kernel size whose weights are printed."""
EXACT = 1e-10
"""Relative error, before the parts are rounded to their dtype, up to which a chain counts as exact."""
ROUNDINGS = 4
"""Relative error up to which a chain counts as exact, in roundings of the dtype: the given weights are rounded too."""


HARDLY_MORE = 0.05
"""Share of further multiplications for which an exact chain is better than an approximate one."""


@dataclass(frozen=True, repr=False)
class Decomposition:
    """A convolution and the chain of smaller ones that equals or approximates it; call it with x to apply the chain.

    `decompose` returns it. For x of any size, `||d(x) - correlate(x, conv)||_2 <= bound * ||x||_2`, up to the rounding
    of both sides.

    Attributes:
        conv: the argument of `decompose`, as a `Conv`.
        parts: plain convolutions to apply in order; empty if no chain is within the tolerance.
        method: name of the method: `"polynomial"`, `"separable"`, `"low rank"`, `"reducible"`, `"depthwise"`,
            `"tucker"` or `"cp"`; that of the nearest chain if `parts` is empty, and `"none"` if there is no chain.
        bound: bound on the error of the parts, rounded to their dtype; of the nearest chain if `parts` is empty.
        relative: upper bound on the norm of the difference divided by that of `conv`, as operators without padding.
        multiplications_before, multiplications_after: products per output position, all channels together; parts before
            a stride count as often as they run.
        reason: explanation of the choice of this chain, or of none, in words.
    """

    conv: Conv
    parts: tuple[Conv, ...]
    method: str
    bound: float
    relative: float
    multiplications_before: int
    multiplications_after: int
    reason: str

    @overload
    def __call__(self, x: torch.Tensor, *, engine: str = "auto", accuracy: str = "default") -> torch.Tensor: ...
    @overload
    def __call__(self, x: ArrayOrLists, *, engine: str = "auto", accuracy: str = "default") -> np.ndarray: ...

    @safe_in_forks
    def __call__(self, x: Any, *, engine: str = "auto", accuracy: str = "default") -> Any:
        """Apply the parts in order, or `conv` itself if it does not decompose.

        Args:
            x: (N, in_channels, *size) or (in_channels, *size).
            engine, accuracy: as for `correlate`.

        Returns:
            The result of the last part, in the array type of x.

        Raises:
            ConvolithError: whatever `correlate` refuses.
        """
        for part in self.parts or (self.conv,):
            x = correlate(x, part, engine=engine, accuracy=accuracy)
        return x

    def tables(self) -> list[Table]:
        """Return the convolutions, why they were chosen, and the parts' weights where they are few, as tables."""
        rows = [self.conv.row("given"), *(part.row(str(at)) for at, part in enumerate(self.parts))]
        summary = {
            "method": self.method,
            "because": self.reason,
            "multiplications before": self.multiplications_before,
            "multiplications after": self.multiplications_after if self.parts else None,
            "error over input, at most": self.bound,
            "relative": self.relative,
        }
        tables = [Table("One convolution as several", rows), Table("", [summary])]
        for at, part in enumerate(self.parts):
            weight = as_numpy(part.weight)
            small = weight.shape[:2] == (1, 1) and weight.ndim < 5 and max(weight.shape) <= SHOWN
            if small and not np.iscomplexobj(weight):
                lines = weight[0, 0] if weight.ndim == 4 else weight[0]
                cells = [{str(column): float(value) for column, value in enumerate(line)} for line in lines]
                tables.append(Table(f"Kernel of {at}", cells))
        return tables

    def _repr_html_(self) -> str:
        """Return the tables as HTML for notebooks."""
        return fragment(self.tables())

    def __repr__(self) -> str:
        parts = "".join(f"\n  {part}" for part in self.parts)
        return f"Decomposition({self.reason}; relative error at most {self.relative:.2g}){parts}"


class _Chain(NamedTuple):
    """A chain that is built: method, parts as blocks, cost, relative error and the largest accepted relative error."""

    method: str
    parts: list[np.ndarray]
    cost: int
    distance: float
    limit: float


class _Limits(NamedTuple):
    """Largest accepted relative errors, of chains that save multiplications and of others, which have to be exact.

    Chains for kernels along one axis never save multiplications; for them, both limits are equal.
    """

    saving: float
    other: float


@safe_in_forks
def decompose(conv: Conv, *, tolerance: float = 0.0, budget_seconds: float = BUDGET_SECONDS) -> Decomposition:
    """Factor a convolution into a chain of smaller ones, exactly or within a tolerance, borders included.

    `K = K_n * ... * K_1`, the full convolution of the parts' taps with matrix products over their channels. Among all
    chains that the methods find, the one with the fewest multiplications is returned. A convolution on one axis with
    one channel always decomposes, into parts of at most 3 taps, although that saves nothing; so do exact factors of
    kernels with one channel per group. Chains through hidden channels, and chains that are not exact, count only if
    they save multiplications. If none does, `reason` gives the distance of the nearest chain that was found; a nearer
    one may exist. Each axis is padded by the first part with several taps along it and strided by the last one; every
    part keeps the dilation, and the last one adds the bias.

    Args:
        conv: a plain `Conv` with real float weights, or the weights of one without padding as an array, a tensor or
            nested lists. Gradients do not pass through the decomposition.
        tolerance: largest accepted relative error: the largest `||difference(x)||_2 / ||x||_2` over all x, divided by
            that of `conv`, both without padding. With 0, chains must be exact up to rounding: 1e-10, or 4 roundings of
            the weights' dtype. With a larger tolerance, an exact chain is still preferred if it takes at most 5% more
            multiplications than the best approximate one.
        budget_seconds: seconds after which no further method is begun, and no further level of one; `reason` then says
            what was not tried. On a terminal, a large kernel shows the progress.

    Returns:
        A `Decomposition`: its `parts`, empty if no chain is within the tolerance, the certified `bound`, and the
        `reason`; call it with x to apply the parts. The parts have the array type, dtype and device of the weights.

    Raises:
        ConvolithError: not a convolution, a transposed one, integer, complex, NaN or infinite weights, or ones without
            values; a tolerance that is negative or no number, a budget that is not above zero.

    References:
        Eckart and Young, Psychometrika 1, 1936, and Oseledets, SIAM J. Sci. Comput. 33, 2011 (low rank); De Lathauwer,
        De Moor and Vandewalle, SIAM J. Matrix Anal. Appl. 21, 2000 (tucker); Carroll and Chang, Psychometrika 35, 1970,
        Leurgans, Ross and Abel, SIAM J. Matrix Anal. Appl. 14, 1993, and Lebedev et al., ICLR 2015 (cp); Howard et al.,
        arXiv:1704.04861, and Guo et al., BMVC 2018 (depthwise); Gao, Math. Comp. 72, 2003 (factors); Bitmead et al.,
        IEEE Trans. Automatic Control 23, 1978 (hidden channels); Marquardt, J. SIAM 11, 1963 (reducible). The bound:
        Sedghi, Gupta and Long, ICLR 2019; Duffin and Schaeffer, Bull. AMS 44, 1938.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> blur = cl.Conv(np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])[None, None] / 256, padding="same")
        >>> found = cl.decompose(blur)
        >>> found.method, [part.kernel_size for part in found.parts]
        ('separable', [(5, 1), (1, 5)])
        >>> found.multiplications_before, found.multiplications_after, found.bound < 1e-15
        (25, 10, True)
    """
    conv = as_conv("conv", conv)
    _check(conv, tolerance, budget_seconds)
    deadline = perf_counter() + float(budget_seconds)
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
    found = _search(kernel, size, limits, inf, deadline)
    chosen = _chosen(conv, kernel, scale, size, found.chains, found.reasons, limit, exact)
    if found.late:
        words = f"{chosen.reason}; not tried within budget_seconds={budget_seconds:g}: {', '.join(found.late)}"
        return replace(chosen, reason=words)
    if limit == exact or not chosen.parts or chosen.relative <= exact:
        return chosen
    few = (1 + HARDLY_MORE) * chosen.multiplications_after
    deadline = max(deadline, perf_counter() + LEAST_SECONDS)
    chains = _search(kernel, size, _Limits(exact, exact), few + 1, deadline).chains
    chains = [chain for chain in chains if chain.distance <= exact and chain.cost <= few]
    if not chains:
        return chosen
    sure = _chosen(conv, kernel, scale, size, chains, [], exact, exact)
    return sure if sure.parts and sure.relative <= max(exact, chosen.relative) else chosen


class _Found(NamedTuple):
    """Chains, the reasons of methods that have none, and the names of methods that were not tried in time."""

    chains: list[_Chain]
    reasons: list[str]
    late: list[str]


def _search(kernel: Kernel, size: float, limits: _Limits, fewest: float, deadline: float) -> _Found:
    """Return a chain of each ladder of each method, with fewer multiplications than `fewest`."""
    found = _Found([], [], [])
    for number in track(range(len(METHODS)), "factoring", len(METHODS), shown=kernel.blocks.size >= LARGE):
        name, propose = METHODS[number]
        if perf_counter() > deadline:
            found.late.append(name)
            continue
        ladders = propose(kernel)
        if isinstance(ladders, str):
            found.reasons.append(f"{name}: {ladders}")
            continue
        for ladder in ladders:
            chain = _climbed(kernel, ladder, size, limits, fewest, deadline)
            if chain is None:
                continue
            found.chains.append(chain)
            if chain.distance <= chain.limit:
                fewest = min(fewest, chain.cost)
    return found


def _climbed(
    kernel: Kernel, ladder: Ladder, size: float, limits: _Limits, fewest: float, deadline: float
) -> _Chain | None:
    """Build the cheapest level within its limit, of those with fewer products than `fewest`; else the last of them.

    A chain through hidden channels counts only if it saves products: with enough of them, every kernel is a chain.
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
        if low <= limit * size < high:  # the sketch does not decide
            low, high = chain_bounds(kernel.blocks, parts, limit * size)
        return _Chain(ladder.method, parts, cost, _relative(low if low > limit * size else high, size), limit)

    best = chain(top)
    low, high = 0, top
    while best.distance <= best.limit and low < high and perf_counter() < deadline:
        middle = (low + high) // 2
        tried = chain(middle)
        if tried.distance <= tried.limit:
            best, high = tried, middle
        else:
            low = middle + 1
    return best


def _last(holds: Callable[[int], bool], count: int) -> int:
    """Return the last of 0..count-1 for which a condition holds, or -1; it must hold for all smaller numbers too."""
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
    """Choose the chain with the fewest products within the tolerance, round it to the dtype and certify it again."""
    before, gain = kernel.blocks.size, padding_gain(conv.padding, conv.padding_mode)
    whole = max(scale, np.finfo(float).tiny)
    coarse = None
    for chain in sorted(found, key=lambda chain: chain.cost):
        if chain.distance > chain.limit:
            continue
        parts = _convs(conv, chain.parts, scale)
        error = chain_bounds(blocks_of(conv) / whole, _rescaled([blocks_of(part) for part in parts], whole))[1]
        relative = _relative(error, size)
        if relative > max(limit, half_ulp(conv.dtype) ** 0.5):  # rounding costs more than half of the digits
            coarse = coarse or (chain.method, relative)
            continue
        words = "exact" if chain.distance <= exact else f"within {relative:.2g} of it"
        words += f" ({chain.method}): {before:,} products per output position become {chain.cost:,}"
        if chain.cost >= before:
            words += ", which saves nothing"
        if chain.distance <= exact < relative:
            words += f"; rounding the parts to {conv.dtype} costs {relative:.2g}"
        return Decomposition(conv, parts, chain.method, error * scale * gain, relative, before, chain.cost, words)
    if coarse is not None:
        method, relative = coarse
        words = f"does not decompose in {conv.dtype}: its parts, rounded, are {relative:.2g} away ({method})"
        return Decomposition(conv, (), method, relative * size * scale * gain, relative, before, before, words)
    nearest = min(found, key=lambda chain: chain.distance, default=None)
    if nearest is None or not isfinite(nearest.distance):
        words = f"does not decompose: no method has a chain that saves products ({'; '.join(reasons)})"
        return Decomposition(conv, (), "none", inf, inf, before, before, words)
    error = chain_bounds(kernel.blocks, nearest.parts)[1]
    relative = _relative(error, size)
    words = (
        f"does not decompose: the nearest that does is {relative:.2g} away ({nearest.method}: {before:,} products per "
    )
    words += f"output position would become {nearest.cost:,})"
    return Decomposition(conv, (), nearest.method, error * scale * gain, relative, before, before, words)


def _rescaled(parts: list[np.ndarray], whole: float) -> list[np.ndarray]:
    """Return the parts with the first divided by `whole`: a chain of the kernel divided by it."""
    return [parts[0] / whole, *parts[1:]]


def _convs(conv: Conv, parts: Sequence[np.ndarray], scale: float) -> tuple[Conv, ...]:
    """Return the parts as convolutions, with the array kind, dtype and device of `conv` and its options distributed."""
    shapes = [part.shape for part in parts]
    strided, padded = stride_homes(shapes), padding_homes(shapes)
    sizes = [float(np.abs(part).max()) for part in parts]
    even = prod(size ** (1 / len(sizes)) for size in sizes)
    signs = [
        np.sign(part.flat[np.abs(part).argmax()]) or 1.0 for part in parts[:-1]
    ]  # the largest tap of all parts but the last is positive
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


def _check(conv: Conv, tolerance: Any, budget_seconds: Any) -> None:
    if isinstance(budget_seconds, bool) or not isinstance(budget_seconds, Real) or not float(budget_seconds) > 0:
        raise ConvolithError(f"budget_seconds is {budget_seconds!r}; expected seconds above zero")
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
            f"conv has {conv.dtype} weights, whose factors are not integers; convert them to float64 first"
        )
    weight = as_tensor("weight", conv.weight)
    if weight.is_meta:
        raise ConvolithError("conv has weights on the meta device, which have no values; move them first")
    if not bool(weight.isfinite().all()):
        raise ConvolithError("conv has weights that are NaN or infinite, which cannot be factored; replace them first")
