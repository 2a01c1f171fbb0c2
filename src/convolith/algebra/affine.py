"""Convolutions whose constant part is kept apart: exact through zero padding, where a bias alone is not.

A convolution is linear but for its bias. Where another one pads its output with zeros, the bias ends at the border, and
what reaches the outputs there is less than in the interior. It is what the row makes of an image of ones: one more
input channel, whose kernel goes through the same rules as all others. `Affine` keeps that kernel beside the linear
part, so that only the linear parts must fit.

Where the linear part of two in a row differs at the border as well, `Affine` keeps the two: the one convolution gives
`second(first(x))` for a first that does not end at its border, and what second reads beyond it, a few rows that first
computes from the outermost pixels, is taken off again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from convolith.algebra import borders, transposed
from convolith.algebra.branches import add, concatenate
from convolith.algebra.chain import Composition, compose
from convolith.conv import Conv
from convolith.errors import ConvolithError

NEGLIGIBLE = 1e-13
"""A bias that is this small beside the terms that it is left over from is their rounding, and counts as zero."""


class RecomputedRow(NamedTuple):
    """Two in a row, the first of stride 1, whose second reads zeros where the first would give something else."""

    first: Conv
    second: Conv


@dataclass(frozen=True)
class Affine:
    """`y = conv(x) + edge(ones)`, or `conv(x)` less what `row.second` reads beyond `row.first`'s border; in float64.

    Attributes:
        conv: the linear part, and the bias if it is the same at every output; torch tensors.
        edge: from one channel of ones, as large as x; then `conv` has no bias. None where a bias does.
        largest: (out_channels,), of the terms that each number of the bias is the sum of.
        row: the two that `conv` is away from the border only. None where it is that everywhere.
    """

    conv: Conv
    edge: Conv | None
    largest: torch.Tensor
    row: RecomputedRow | None = None

    @property
    def corrected(self) -> bool:
        """Whether `conv` by itself is another one at the border."""
        return self.edge is not None or self.row is not None


def affine(conv: Conv) -> Affine:
    """A convolution as it stands."""
    none = torch.zeros(conv.out_channels, dtype=torch.float64)
    return Affine(conv, None, none if conv.bias is None else conv.bias.abs())


def then(first: Affine, second: Conv) -> Affine:
    """`second` after `first`, exact at every output of every input size.

    Raises:
        ConvolithError: two whose linear parts are no one convolution, or not at the borders, with the reason.
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
    """What second makes of a constant part, and its own bias."""
    spread = compose(before, bare(second))
    _check_exact(spread)
    return spread.conv if second.bias is None else add(spread.conv, constant(spread.conv, second.bias))


def _continued(row: RecomputedRow, second: Conv, carried: torch.Tensor) -> Affine:
    """One more after a row whose border is recomputed: it joins the row's second."""
    behind = then(affine(row.second), second)
    if behind.corrected:
        raise ConvolithError(
            "what comes before is recomputed at the border by the two that it is made of, and this one would need a "
            "border correction of its own behind it"
        )
    return _by_strips(row.first, behind.conv, borders.exactness(row.first, behind.conv)[1], carried)


def _by_strips(first: Conv, second: Conv, reason: str, carried: torch.Tensor) -> Affine:
    """Two that are one away from the border.

    Raises:
        ConvolithError: another geometry than plain convolutions of stride 1 with zero padding.
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
    """Branches that read the same x, joined by `add`, `subtract` or `concatenate`.

    Raises:
        ConvolithError: branches that are no one convolution, with the reason.
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
    """The same without its bias."""
    return conv if conv.bias is None else Conv(conv.weight, None, **conv.options)


def constant(conv: Conv, values: torch.Tensor | None) -> Conv:
    """From one channel of ones, `values` at every output of a convolution's geometry, by taps that never read padding.

    Raises:
        ConvolithError: a geometry without such taps, as of padding beyond the kernel's reach.
    """
    chosen = [_inner_taps(conv, axis) for axis in range(len(conv.kernel_size))]
    channels = conv.out_channels
    weight = torch.zeros((channels, *conv.kernel_size), dtype=torch.float64)
    where: tuple[slice, ...] = (slice(None), *chosen)
    if values is not None:
        weight[where] = values.reshape(-1, *(1,) * len(chosen)).expand_as(weight[where])
    return Conv(weight[None] if conv.transposed else weight[:, None], **{**conv.options, "groups": 1})


def _inner_taps(conv: Conv, axis: int) -> slice:
    """The one tap of an axis that always lies on the input; those that meet each output once if it is transposed."""
    k, d, s = conv.kernel_size[axis], conv.dilation[axis], conv.stride[axis]
    before, after = conv.padding[axis]
    if conv.transposed:
        after -= conv.output_padding[axis]
        found = [t for t in range(k) if t * d <= before and (t + s - 1) * d >= (k - 1) * d - after and t + s <= k]
        if found and (s == 1 or d == 1):
            return slice(found[-1], found[-1] + s)
    else:
        found = [t for t in range(k) if t * d >= before and (k - 1 - t) * d >= after]
        if found:
            return slice(found[0], found[0] + 1)
    raise ConvolithError(
        f"the bias of a convolution of kernel size {conv.kernel_size} with padding {conv.padding} meets zero padding, "
        "and none of its taps reads a pixel for every output: no kernel over ones stands for it"
    )


def _ends(first: Conv, second: Conv) -> bool:
    """Whether first's bias ends at a border that second sees."""
    if first.bias is None or not bool(first.bias.any()):
        return False
    if second.transposed:
        return True
    padded = any(map(any, second.padding)) and second.padding_mode == "zeros"
    reads = transposed if first.transposed else borders
    return padded and reads.exactness(first, second)[0] != "everywhere"


def _carried(first: Affine, second: Conv) -> torch.Tensor:
    """Of the terms of the bias of both: first's through the size of the second's weights, and second's own."""
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
    """The same with zero where the bias is but rounding."""
    if conv.bias is None:
        return conv
    bias = torch.where(conv.bias.abs() <= NEGLIGIBLE * largest, torch.zeros_like(conv.bias), conv.bias)
    return Conv(conv.weight, bias if bias.any() else None, **conv.options)
