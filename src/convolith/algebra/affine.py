"""Convolutions with a separate constant part: exact through zero padding, where a bias alone is not.

A convolution is linear except for its bias. Where a second convolution pads the output with zeros, the bias is absent
from the padding, and its contribution is smaller near the border than in the interior. This contribution is the
response of the chain to an image of ones: one more input channel, whose kernel follows the same rules as all others.
`Affine` holds that kernel in addition to the linear part, so that only the linear parts must compose exactly.

Where the linear part of a chain of two differs at the border as well, `Affine` holds the two: the single convolution
computes `second(first(x))` as if first had values beyond its border, and the contribution of those values, a few rows
that first would compute from the outermost pixels, is subtracted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from convolith.algebra import composition_borders as borders
from convolith.algebra import transposed
from convolith.algebra.branches import add, concatenate
from convolith.algebra.chain import Composition, compose
from convolith.conv import Conv
from convolith.errors import ConvolithError

NEGLIGIBLE = 1e-13
"""Size of a bias, relative to the terms that it is the sum of, up to which it is their rounding and counts as zero."""


class RecomputedRow(NamedTuple):
    """A chain of two, the first of stride 1, whose second reads zeros where the first would compute other values."""

    first: Conv
    second: Conv


@dataclass(frozen=True)
class Affine:
    """`y = conv(x) + edge(ones)`, or `conv(x)` less the contribution of values beyond `row.first`'s border; in float64.

    Attributes:
        conv: linear part, with the bias if it is equal at every output; torch tensors.
        edge: constant part, a convolution of one channel of ones, as large as x; then `conv` has no bias. Or None.
        largest: (out_channels,), sum of the absolute terms of each bias.
        row: chain that `conv` equals only away from the border. None where `conv` is exact everywhere.
    """

    conv: Conv
    edge: Conv | None
    largest: torch.Tensor
    row: RecomputedRow | None = None

    @property
    def corrected(self) -> bool:
        """Whether `conv` alone is wrong at the border."""
        return self.edge is not None or self.row is not None


def affine(conv: Conv) -> Affine:
    """Return a convolution as an `Affine` without border corrections."""
    none = torch.zeros(conv.out_channels, dtype=torch.float64, device="cpu")
    return Affine(conv, None, none if conv.bias is None else conv.bias.abs())


def then(first: Affine, second: Conv) -> Affine:
    """Compose `second` after `first`, exact at every output of every input size.

    Raises:
        ConvolithError: linear parts that equal no single convolution, or not at the borders, with the reason.
    """
    if second.padding_mode != "zeros" and borders.is_padded(first.conv) and borders.is_padded(second):
        raise ConvolithError(
            f"both pad with {second.padding_mode}: the one convolution would pad by more than small images have pixels"
        )
    carried = _carried(first, second)
    if first.row is not None:
        return _continued(first.row, second, carried)
    if first.edge is None and not _ends(first.conv, second):
        both = compose(first.conv, second)
        if both.exact != "everywhere":
            return _by_strips(first.conv, second, both.reason, carried)
        return Affine(_cleared(both.conv, carried), None, carried)
    linear = compose(bare(first.conv), bare(second))
    if first.edge is None and linear.exact != "everywhere":
        return _by_strips(first.conv, second, linear.reason, carried)
    _check_exact(linear)
    try:
        edge = _edge(first.edge or constant(first.conv, first.conv.bias), second)
    except ConvolithError as refusal:
        if first.edge is not None:
            raise
        return _by_strips(first.conv, second, str(refusal), carried)
    return Affine(linear.conv, edge, carried)


def _edge(before: Conv, second: Conv) -> Conv:
    """Compose a constant part with second, and add the bias of second."""
    spread = compose(before, bare(second))
    _check_exact(spread)
    return spread.conv if second.bias is None else add(spread.conv, constant(spread.conv, second.bias))


def _continued(row: RecomputedRow, second: Conv, carried: torch.Tensor) -> Affine:
    """Append a convolution to a chain whose border is recomputed, by composing it with the second of the chain."""
    tail = then(affine(row.second), second)
    if tail.corrected:
        raise ConvolithError(
            "the chain before is recomputed at the border by its two convolutions, and this convolution would need a "
            "border correction of its own behind it"
        )
    return _by_strips(row.first, tail.conv, borders.exactness(row.first, tail.conv)[1], carried)


def _by_strips(first: Conv, second: Conv, reason: str, carried: torch.Tensor) -> Affine:
    """Compose two convolutions whose composition is exact away from the border only.

    Raises:
        ConvolithError: a geometry other than plain convolutions of stride 1 with zero padding.
    """
    plain = not first.transposed and not second.transposed
    zeros = second.padding_mode == "zeros" and (first.padding_mode == "zeros" or not borders.is_padded(first))
    if not plain or not zeros:
        raise ConvolithError(reason)
    if {*first.stride, *second.stride} != {1}:
        raise ConvolithError(f"{reason}, and borders are recomputed for rows of stride 1 only")
    conv = compose(first, second).conv
    return Affine(_cleared(conv, carried), None, carried, RecomputedRow(first, second))


def join(join: Callable[..., Conv], *parts: Affine) -> Affine:
    """Join branches that read the same x by `add`, `subtract` or `concatenate`.

    Raises:
        ConvolithError: branches that equal no single convolution, with the reason.
    """
    if any(part.row is not None for part in parts):
        raise ConvolithError("a branch is a row that is recomputed at the border; such rows are joined with nothing")
    largest = [part.largest for part in parts]
    size = torch.cat(largest) if join is concatenate else torch.stack(largest).sum(0)
    if all(part.edge is None for part in parts):
        return Affine(_cleared(join(*(part.conv for part in parts)), size), None, size)
    conv = join(*(bare(part.conv) for part in parts))
    return Affine(conv, join(*(part.edge or constant(part.conv, part.conv.bias) for part in parts)), size)


def bare(conv: Conv) -> Conv:
    """Return a convolution without its bias."""
    return conv if conv.bias is None else Conv(conv.weight, None, **conv.options)


def constant(conv: Conv, values: torch.Tensor | None) -> Conv:
    """Return the convolution from one channel of ones to `values` at every output, by taps that never read padding.

    Raises:
        ConvolithError: a geometry without such taps, for example with more padding than the kernel reaches.
    """
    chosen = [_inner_taps(conv, axis) for axis in range(len(conv.kernel_size))]
    channels = conv.out_channels
    weight = torch.zeros((channels, *conv.kernel_size), dtype=torch.float64, device="cpu")
    where: tuple[slice, ...] = (slice(None), *chosen)
    if values is not None:
        weight[where] = values.reshape(-1, *(1,) * len(chosen)).expand_as(weight[where])
    return Conv(weight[None] if conv.transposed else weight[:, None], **{**conv.options, "groups": 1})


def _inner_taps(conv: Conv, axis: int) -> slice:
    """Return the tap of an axis that always reads input; if transposed, the taps that reach each output once."""
    k, d, s = conv.kernel_size[axis], conv.dilation[axis], conv.stride[axis]
    before, after = conv.padding[axis]
    if conv.transposed:
        after -= conv.output_padding[axis]
        inner = [t for t in range(k) if t * d <= before and (t + s - 1) * d >= (k - 1) * d - after and t + s <= k]
        if inner and (s == 1 or d == 1):
            return slice(inner[-1], inner[-1] + s)
    else:
        inner = [t for t in range(k) if t * d >= before and (k - 1 - t) * d >= after]
        if inner:
            return slice(inner[0], inner[0] + 1)
    raise ConvolithError(
        f"the bias of a convolution of kernel size {conv.kernel_size} with padding {conv.padding} meets zero padding, "
        "and none of its taps reads a pixel for every output: no kernel over ones represents it"
    )


def _ends(first: Conv, second: Conv) -> bool:
    """Return whether second reads zeros beyond first's border in place of first's bias."""
    if first.bias is None or not bool(first.bias.any()):
        return False
    if second.transposed:
        return True
    padded = any(map(any, second.padding)) and second.padding_mode == "zeros"
    reads = transposed if first.transposed else borders
    return padded and reads.exactness(first, second)[0] != "everywhere"


def _carried(first: Affine, second: Conv) -> torch.Tensor:
    """Sum the absolute terms of the composed bias: those of first times the weights of second, and those of second."""
    sizes = second.weight.abs().flatten(2).sum(2)
    inputs = second.in_channels // second.groups
    if second.transposed:  # (in, out / groups)
        by_group = torch.einsum("gio,gi->go", sizes.unflatten(0, (second.groups, -1)), first.largest.view(-1, inputs))
    else:
        by_group = torch.einsum("goi,gi->go", sizes.unflatten(0, (second.groups, -1)), first.largest.view(-1, inputs))
    own = 0 if second.bias is None else second.bias.abs()
    return by_group.flatten() + own


def _check_exact(both: Composition) -> None:
    if both.exact != "everywhere":
        raise ConvolithError(both.reason)


def _cleared(conv: Conv, largest: torch.Tensor) -> Conv:
    """Return a convolution with zeros in place of bias values that are only rounding."""
    if conv.bias is None:
        return conv
    bias = torch.where(conv.bias.abs() <= NEGLIGIBLE * largest, torch.zeros_like(conv.bias), conv.bias)
    return Conv(conv.weight, bias, **conv.options)
