"""Two successive convolutions as one: `compose`.

Derivation: substitute the first, `h[q] = b1 + sum over i of W1[i] x[q*s1 + i*d1 - p1]`, into the second,
`y[p] = b2 + sum over j of W2[j] h[p*s2 + j*d2 - p2]`. The positions add up to
`p*s1*s2 + (s1*d2*j + d1*i) - (p1 + s1*p2)`: one correlation whose tap `s1*d2*j + d1*i` holds the matrix products
`W2[j] @ W1[i]`. It is valid wherever the second reads outputs of the first; `borders` handles the padded positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import gcd
from typing import Any, overload

import numpy as np
import torch

from convolith.algebra import composition_borders as borders
from convolith.algebra import transposed
from convolith.algebra.kernels import Factor, composed, grouped, largest
from convolith.algebra.ranges import bias_dtype, check_range, weight_dtype, working_dtype
from convolith.arrays import check_same_kind, placed
from convolith.conv import Conv, as_conv
from convolith.dtypes import dtype_name, is_float
from convolith.errors import ConvolithError
from convolith.tensors import from_working
from convolith.torch_private import safe_in_forks


@dataclass(frozen=True)
class Composition:
    """Two convolutions and the single one that equals them; call it with x for the exact result, borders included.

    `compose` returns it. Exact means up to rounding, for finite x: where dilations or groups differ, the single kernel
    contains zeros that the two kernels do not have, and zero times infinity is NaN.

    Attributes:
        first, second: the arguments of `compose`, as `Conv` values.
        conv: the single convolution.
        exact: `"everywhere"` if `conv` alone equals the two at every input size, else `"interior"`: it then differs
            only at outputs for which `second` reads padding.
        reason: explanation of `exact`, in words.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> blur = cl.Conv(np.full((1, 1, 3, 3), 1 / 9), padding=1)
        >>> twice = cl.compose(blur, blur)
        >>> x = np.random.default_rng(0).normal(size=(1, 8, 8))
        >>> twice.exact, np.allclose(twice.conv(x), blur(blur(x))), np.allclose(twice(x), blur(blur(x)))
        ('interior', False, True)
    """

    first: Conv
    second: Conv
    conv: Conv
    exact: str
    reason: str

    @overload
    def __call__(self, x: torch.Tensor, *, engine: str = "auto", accuracy: str = "default") -> torch.Tensor: ...
    @overload
    def __call__(self, x: np.ndarray, *, engine: str = "auto", accuracy: str = "default") -> np.ndarray: ...

    @safe_in_forks
    def __call__(self, x: Any, *, engine: str = "auto", accuracy: str = "default") -> Any:
        """Compute `second(first(x))`, through `conv` wherever that is correct.

        Where `exact` is `"interior"`, the two convolutions recompute the strips along the borders, or, with padding
        modes other than zeros, all outputs.

        Args:
            x: (N, in_channels, *size) or (in_channels, *size).
            engine, accuracy: as for `correlate`.

        Returns:
            The result of `second`, in the array type of x.

        Raises:
            ConvolithError: whatever `correlate` refuses.
        """
        return borders.apply(self.first, self.second, self.conv, self.exact, x, engine=engine, accuracy=accuracy)


@safe_in_forks
def compose(first: Conv, second: Conv) -> Composition:
    """Compose two convolutions: return the single one that equals `second` after `first`.

    Substituting `h[q] = b1 + sum over i of W1[i] x[q*s1 + i*d1 - p1]` into the second gives one correlation whose tap
    at `s1*d2*j + d1*i` is the sum of the matrix products `W2[j] @ W1[i]`: its kernel is the full convolution of the two
    kernels (at stride 1: of size k1 + k2 - 1), with stride s1*s2, padding p1 + s1*p2 on each side, and gcd(g1, g2)
    groups. The dilation along an axis is gcd(d1, s1*d2), of the kernels with more than one tap along it. Weights are
    multiplied in float64 (integers in int64) and rounded once; gradients flow to torch weights.

    One transposed convolution results from a transposed one before an ordinary one of stride 1, from two transposed
    ones, and from a transposed one after a kernel of a single tap.

    Args:
        first, second: a `Conv`, or the weights of one without padding as an array, a tensor or nested lists:
            (out_channels, in_channels/groups, *kernel_size), or (height, width) for one channel. Both have the same
            number of spatial axes, and `second` reads as many channels as `first` returns.

    Returns:
        A `Composition`: `conv`, the single convolution, with weights (out_channels of `second`, in_channels of `first`
        over the groups, *kernel_size); whether it is `exact` at the borders too, and the `reason`. Called with x, it
        gives the exact result at every pixel.

    Raises:
        ConvolithError: channels or axes that do not match, transposed convolutions that equal no single convolution,
            two float dtypes, weights that leave the range of their dtype.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> rng = np.random.default_rng(0)
        >>> x, first, second = (rng.normal(size=(1, *size)) for size in ((12, 12), (1, 4, 4), (1, 3, 3)))
        >>> both = cl.compose(first, second)
        >>> both.conv.kernel_size, both.exact
        ((6, 6), 'everywhere')
        >>> np.allclose(both.conv(x), cl.correlate(cl.correlate(x, first), second))
        True
    """
    first, second = as_conv("first", first), as_conv("second", second)
    _check(first, second)
    if first.transposed or second.transposed:
        return _transposed(first, second)
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
    product = composed(first, second, working_dtype(name), steps, dilation)
    check_range(product, lambda: largest(first, second, steps, dilation), name)
    exact, reason = borders.exactness(first, second)
    mode = first.padding_mode if borders.is_padded(first) else second.padding_mode
    options = {"stride": stride, "padding": padding, "dilation": dilation, "padding_mode": mode}
    return Composition(first, second, _delivered(first, second, product, name, options), exact, reason)


def _transposed(first: Conv, second: Conv) -> Composition:
    """Compose two convolutions of which at least one is transposed."""
    name = weight_dtype(first.dtype, second.dtype)
    if not is_float(name):
        raise ConvolithError("first or second is transposed and has integer weights; convert them to float")
    rule = transposed.rule(first, second)
    dense = transposed.composed(first, second, working_dtype(name), rule)
    product = dense._replace(weight=grouped(dense.weight, gcd(first.groups, second.groups)))
    check_range(product, lambda: product, name)
    options = {name: getattr(rule, name) for name in ("stride", "padding", "dilation", "output_padding")}
    conv = _delivered(first, second, product, name, {**options, "transposed": True})
    return Composition(first, second, conv, rule.exact, rule.reason)


def _delivered(first: Conv, second: Conv, product: Factor, name: str, options: dict[str, Any]) -> Conv:
    """Build the composed convolution: rounded once to its dtype, with gcd(g1, g2) groups."""
    groups = gcd(first.groups, second.groups)
    bias = None if product.bias is None else placed(from_working(product.bias, bias_dtype(name)), first.weight)
    return Conv(placed(from_working(product.weight, name), first.weight), bias, groups=groups, **options)


def _check(first: Conv, second: Conv) -> None:
    for argument, conv in (("first", first), ("second", second)):
        if getattr(conv.weight, "is_meta", False):
            raise ConvolithError(f"{argument} has weights on the meta device, which have no values; move them first")
        if conv.bias is not None and not is_float(conv.dtype) and is_float(dtype_name(conv.bias.dtype)):
            raise ConvolithError(f"{argument} has a float bias and integer weights; convert the weights to float")
    check_same_kind(first=first.weight, second=second.weight)
    axes = len(first.kernel_size), len(second.kernel_size)
    if axes[0] != axes[1]:
        raise ConvolithError(
            f"first has {axes[0]} spatial axes but second has {axes[1]}; expected the same number; give one kernel "
            "more axes, of length 1"
        )
    if first.out_channels != second.in_channels:
        swapped = first.in_channels == second.out_channels
        raise ConvolithError(
            f"second takes {second.in_channels} channels but first gives {first.out_channels}; expected the same "
            f"number; {'swap first and second' if swapped else 'pass two that follow each other'}"
        )
