"""Convolutions whose constant part is kept apart: exact through zero padding, where a bias alone is not.

A convolution is linear but for its bias. Where another one pads its output with zeros, the bias ends at the border, and
what reaches the outputs there is less than in the interior. It is what the row makes of an image of ones: one more
input channel, whose kernel goes through the same rules as all others. `Affine` keeps that kernel beside the linear
part, so that only the linear parts must fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from convolith.algebra import borders, transposed
from convolith.algebra.branches import add, concatenate
from convolith.algebra.chain import compose
from convolith.conv import Conv
from convolith.errors import ConvolithError

NEGLIGIBLE = 1e-13
"""A bias that is this small beside the terms that it is left over from is their rounding, and counts as zero."""


@dataclass(frozen=True)
class Affine:
    """`y = conv(x) + edge(ones)`, in float64 torch tensors.

    Attributes:
        conv: the linear part, and the bias if it is the same at every output.
        edge: from one channel of ones, as large as x; then `conv` has no bias. None where a bias does.
        largest: (out_channels,), of the terms that each number of the bias is the sum of.
    """

    conv: Conv
    edge: Conv | None
    largest: torch.Tensor


def affine(conv: Conv) -> Affine:
    """A convolution as it stands."""
    none = torch.zeros(conv.out_channels, dtype=torch.float64)
    return Affine(conv, None, none if conv.bias is None else conv.bias.abs())


def follow(first: Affine, second: Conv) -> Affine:
    """`second` after `first`, exact at every output of every input size.

    Raises:
        ConvolithError: two whose linear parts are no one convolution, or not at the borders, with the reason.
    """
    if second.padding_mode != "zeros" and borders.is_padded(first.conv) and borders.is_padded(second):
        raise ConvolithError(
            f"both pad with {second.padding_mode}: the one convolution would pad by more than small images have pixels"
        )
    carried = _carried(first, second)
    bare_first, bare_second = bare(first.conv), bare(second)
    if first.edge is None and not _ends(first.conv, second):
        both = compose(first.conv, second)
        _check_exact(both.exact, both.reason)
        return Affine(_cleared(both.conv, carried), None, carried)
    linear = compose(bare_first, bare_second)
    _check_exact(linear.exact, linear.reason)
    before = first.edge or constant(first.conv, first.conv.bias)
    spread = compose(before, bare_second)
    _check_exact(spread.exact, spread.reason)
    edge = spread.conv if second.bias is None else add(spread.conv, constant(spread.conv, second.bias))
    return Affine(linear.conv, edge, carried)


def together(join: Callable[..., Conv], *parts: Affine) -> Affine:
    """Branches that read the same x, joined by `add`, `subtract` or `concatenate`."""
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


def _check_exact(exact: str, reason: str) -> None:
    if exact != "everywhere":
        raise ConvolithError(reason)


def _cleared(conv: Conv, largest: torch.Tensor) -> Conv:
    """The same with zero where the bias is but rounding."""
    if conv.bias is None:
        return conv
    bias = torch.where(conv.bias.abs() <= NEGLIGIBLE * largest, torch.zeros_like(conv.bias), conv.bias)
    return Conv(conv.weight, bias if bias.any() else None, **conv.options)
