"""Two convolutions in a row as one: `compose`.

Derivation: put the first, `h[q] = b1 + sum over i of W1[i] x[q*s1 + i*d1 - p1]`, into the second,
`y[p] = b2 + sum over j of W2[j] h[p*s2 + j*d2 - p2]`. The positions add up to
`p*s1*s2 + (s1*d2*j + d1*i) - (p1 + s1*p2)`: one correlation whose tap `s1*d2*j + d1*i` holds the matrix products
`W2[j] @ W1[i]`. It is right wherever the second reads what the first computed; see `borders` for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import gcd
from typing import Any

import torch

from convolith.algebra import borders
from convolith.arrays import as_tensor, check_same_kind, like
from convolith.conv import Conv
from convolith.dtypes import COMPLEX, UNSIGNED, dtype_name, is_float, result_dtype
from convolith.engines.protocol import from_working, to_working, torch_dtype
from convolith.errors import ConvolithError


@dataclass(frozen=True)
class Composition:
    """Two convolutions and the one that they are; call it with x for the exact answer, borders included.

    Exact means up to rounding, for finite x: where dilations or groups differ, the one kernel has zeros that the two do
    not multiply by, and zero times infinity is NaN.

    Attributes:
        first, second: as they were given.
        conv: the single convolution.
        exact: `"everywhere"` if `conv` alone equals the two at every input size, else `"interior"`: it then differs
            only at outputs for which `second` reads padding.
        reason: what makes it so, in words.
    """

    first: Conv
    second: Conv
    conv: Conv
    exact: str
    reason: str

    def __call__(self, x: Any, *, engine: str = "auto", accuracy: str = "default") -> Any:
        """`second(first(x))`, computed through `conv` wherever that is right.

        Where `exact` is `"interior"`, the border strips are computed again through the two originals (with zero
        padding), or everything is (with the other padding modes, whose borders depend on far pixels).
        """
        return borders.apply(self.first, self.second, self.conv, self.exact, x, engine=engine, accuracy=accuracy)


def compose(first: Conv, second: Conv) -> Composition:
    """The one convolution that equals `second` after `first`.

    Stride s1*s2, padding p1 + s1*p2 on each side, dilation gcd(d1, s1*d2) over the axes with more than one tap, groups
    gcd(g1, g2), and taps that are the full convolution of the two kernels (at stride 1: kernel size k1 + k2 - 1), not
    their correlation. Weights are multiplied in float64 (integers in int64) and rounded once.

    Args:
        first, second: plain convolutions on the same number of axes; `second` takes the channels that `first` gives.

    Raises:
        ConvolithError: channels or axes that do not fit, transposed convolutions, two float dtypes.

    Example:
        >>> import numpy as np
        >>> from convolith import correlate
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(1, 12, 12))
        >>> both = compose(Conv(rng.normal(size=(1, 1, 4, 4))), Conv(rng.normal(size=(1, 1, 3, 3))))
        >>> both.conv.kernel_size, both.exact
        ((6, 6), 'everywhere')
        >>> np.allclose(correlate(x, both.conv), correlate(correlate(x, both.first), both.second))
        True
    """
    _check(first, second)
    stride = tuple(a * b for a, b in zip(first.stride, second.stride, strict=True))
    padding = tuple(
        (p1[0] + s1 * p2[0], p1[1] + s1 * p2[1])
        for p1, s1, p2 in zip(first.padding, first.stride, second.padding, strict=True)
    )
    steps = tuple(s1 * d2 for s1, d2 in zip(first.stride, second.dilation, strict=True))
    dilation = tuple(
        reduce(gcd, [d for d, k in ((d1, k1), (step, k2)) if k > 1], 0) or 1
        for d1, k1, step, k2 in zip(first.dilation, first.kernel_size, steps, second.kernel_size, strict=True)
    )
    name = weight_dtype(first.dtype, second.dtype)
    working = torch.complex128 if name in COMPLEX else torch.float64 if is_float(name) else torch.int64
    W1, W2 = (dense(conv, working) for conv in (first, second))
    taps = product_of_kernels(W1, W2, first.dilation, steps, dilation)
    groups = gcd(first.groups, second.groups)
    bias = _bias(first, second, W2, working)
    S1, S2 = (sizes(dense(conv, working if is_float(name) else torch.float64)) for conv in (first, second))
    check_range("weights", product_of_kernels(S1, S2, first.dilation, steps, dilation), taps, name)
    if bias is not None:
        check_range("bias", _bias(first, second, S2, torch.float64, absolute=True), bias, bias_dtype(name))
    exact, reason = borders.exactness(first, second)
    conv = Conv(
        like(from_working(grouped(taps, groups), name), first.weight),
        None if bias is None else like(from_working(bias, bias_dtype(name)), first.weight),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=first.padding_mode if borders.is_padded(first) else second.padding_mode,
    )
    return Composition(first, second, conv, exact, reason)


def _check(first: Conv, second: Conv) -> None:
    for argument, conv in (("first", first), ("second", second)):
        if not isinstance(conv, Conv):
            raise ConvolithError(
                f"{argument} is a {type(conv).__name__}; expected a Conv; pass Conv(weight, bias, ...)"
            )
        if conv.transposed:
            raise ConvolithError(f"{argument} is transposed; compose takes plain convolutions")
        if getattr(conv.weight, "is_meta", False):
            raise ConvolithError(f"{argument} has weights on the meta device, which have no values; move them first")
        if conv.bias is not None and not is_float(conv.dtype) and is_float(dtype_name(conv.bias.dtype)):
            raise ConvolithError(f"{argument} has a float bias beside integer weights; convert the weights to float")
    check_same_kind(first=first.weight, second=second.weight)
    axes = len(first.kernel_size), len(second.kernel_size)
    if axes[0] != axes[1]:
        raise ConvolithError(f"first has {axes[0]} spatial axes but second has {axes[1]}; expected the same number")
    if first.out_channels != second.in_channels:
        raise ConvolithError(
            f"second takes {second.in_channels} channels but first gives {first.out_channels}; expected the same number"
        )


def dense(conv: Conv, working: torch.dtype) -> torch.Tensor:
    """The weight with its groups written out: (out_channels, in_channels, *kernel_size), zero between groups."""
    weight = to_working(as_tensor("weight", conv.weight), working)
    rows, columns = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    full = weight.new_zeros((conv.out_channels, conv.in_channels, *conv.kernel_size))
    for group in range(conv.groups):
        out = slice(group * rows, (group + 1) * rows)
        full[out, group * columns : (group + 1) * columns] = weight[out]
    return full


def grouped(full: torch.Tensor, groups: int) -> torch.Tensor:
    """The inverse of `dense`: the diagonal blocks."""
    rows, columns = full.shape[0] // groups, full.shape[1] // groups
    blocks = [full[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(groups)]
    return torch.cat(blocks)


def product_of_kernels(
    W1: torch.Tensor, W2: torch.Tensor, d1: tuple[int, ...], steps: tuple[int, ...], dilation: tuple[int, ...]
) -> torch.Tensor:
    """`K[t] = sum over steps*j + d1*i = t of W2[j] @ W1[i]`, on the grid of the common dilation."""
    near = [max(d // D, 1) for d, D in zip(d1, dilation, strict=True)]  # a single tap's dilation may be below D
    far = [max(step // D, 1) for step, D in zip(steps, dilation, strict=True)]
    k1, k2 = W1.shape[2:], W2.shape[2:]
    size = [a * (n - 1) + b * (m - 1) + 1 for a, n, b, m in zip(near, k1, far, k2, strict=True)]
    K = W1.new_zeros((W2.shape[0], W1.shape[1], *size))
    for tap in product(*map(range, k2)):
        index: tuple[Any, ...] = (slice(None), slice(None), *tap)
        place: list[Any] = [
            slice(b * i, b * i + a * (n - 1) + 1, a) for i, a, b, n in zip(tap, near, far, k1, strict=True)
        ]
        K[:, :, *place] += torch.einsum("oh,hc...->oc...", W2[index], W1)
    return K


def _bias(
    first: Conv, second: Conv, W2: torch.Tensor, working: torch.dtype, *, absolute: bool = False
) -> torch.Tensor | None:
    """`b2 + sum over taps of W2 @ b1`: the constant that first's bias becomes in the interior (or its terms' sizes)."""
    if first.bias is None and second.bias is None:
        return None
    b1, b2 = (None if c.bias is None else as_tensor("bias", c.bias) for c in (first, second))
    b1, b2 = (None if b is None else to_working(b, working) if not absolute else sizes(b) for b in (b1, b2))
    total = W2.new_zeros(second.out_channels)
    if b1 is not None:
        total = total + W2.flatten(2).sum(2) @ b1
    return total if b2 is None else total + b2


def sizes(tensor: torch.Tensor) -> torch.Tensor:
    """Absolute values in float64."""
    return (tensor if tensor.is_complex() else tensor.to(torch.float64)).abs().to(torch.float64)


def weight_dtype(first: str, second: str) -> str:
    """The dtype of the composed weight, with which every x gives the dtype that the two in a row give.

    Floats keep theirs. Only unsigned integers can make a uint64 result: of any unsigned x if the first has uint64
    weights, else of a uint64 x only, as with uint32.
    """
    if is_float(first) or is_float(second):
        return result_dtype(first, second)
    if first not in UNSIGNED or second not in UNSIGNED:
        return "int64"
    return "uint64" if first == "uint64" else "uint32"


def bias_dtype(weight: str) -> str:
    """The dtype of the composed bias: the weight's, or int64."""
    return weight if is_float(weight) else "int64"


def check_range(what: str, largest: torch.Tensor | None, values: torch.Tensor, name: str) -> None:
    """Refuse composed values that their dtype cannot hold; `largest` is what they are at most, in float64."""
    if largest is None:
        return
    if is_float(name):
        cast, limits = values.to(torch_dtype(name)), torch.finfo(torch_dtype(name))
        greatest = float(values.abs().max())
        overflows = bool(not cast.isfinite().all() and not largest.isnan().any())  # NaN among the weights may stay
        bad = overflows or 0 < greatest < limits.tiny
    else:
        bad = float(largest.max()) >= torch.iinfo(torch_dtype(name)).max
    if bad:
        raise ConvolithError(
            f"the composed {what} leave the range of {name} (the largest is about {float(largest.max()):.3g}); convert "
            "both convolutions to a wider dtype, such as float64"
        )
