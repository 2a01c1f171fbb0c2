"""Border correction of two convolutions that equal one in the interior: strips are subtracted from its output.

The one convolution computes `second(first(x))` as if first's output continued beyond its border, computed from x and
the zeros around it. In the chain, second reads zeros there. The difference is second's response to the values beyond
the border: on each side of an axis, as many positions of first's output as second pads, which depend on the outermost
pixels of x only, and affect as many outputs. A strip spans the axes after its own completely, corners included, and the
axes before its own without the border, so that each position beyond the border is subtracted once. This holds at every
size: pixels that a small image lacks are the zeros around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import conv1d, conv2d, conv3d, pad

from convolith.algebra.affine import RecomputedRow
from convolith.algebra.composition_borders import axis_is_exact

aten = torch.ops.aten
CONVOLUTIONS = (conv1d, conv2d, conv3d)


class Strip(NamedTuple):
    """Strip on one side of an axis of x, (N, channels, *size).

    Attributes:
        axis: axis of x.
        near: whether the strip is at the beginning of the axis.
        reads: number of pixels of x that the strip depends on.
        wide: number of positions beyond the border, and of outputs that they affect.
        own: first's own zero padding on this side.
        spare: number of additional positions that first computes, which are dropped.
        around_first, around_second: padding of each one's input, in the format of `torch.nn.functional.pad`.
    """

    axis: int
    near: bool
    reads: int
    wide: int
    own: int
    spare: int
    around_first: tuple[int, ...]
    around_second: tuple[int, ...]


def strips_of(row: RecomputedRow) -> list[Strip]:
    """Return the strips of a chain of stride 1 with zero padding."""
    sides = [(axis, side) for axis, pair in enumerate(row.second.padding) for side in (0, 1) if pair[side]]
    if row.first.bias is None:  # along some axes, first is then zero beyond the border
        sides = [(axis, side) for axis, side in sides if not axis_is_exact(row.first, row.second, axis)]
    return [_strip(row, axis, side) for axis, side in sides]


def _strip(row: RecomputedRow, axis: int, side: int) -> Strip:
    first, second = row
    reach, reach_of_second = (conv.dilation[axis] * (conv.kernel_size[axis] - 1) for conv in row)
    wide, own = second.padding[axis][side], first.padding[axis][side]
    reads = max(reach - own, 1)
    lacking = reads if reads > 1 else 0  # every image has at least one pixel
    around_first = [*first.padding[:axis], _turned(wide + own, lacking, side)]
    for (low, high), (lower, higher) in zip(first.padding[axis + 1 :], second.padding[axis + 1 :], strict=True):
        around_first.append((low + lower, high + higher))
    around_second = [
        *second.padding[:axis],
        _turned(0, reach_of_second, side),
        *[(0, 0)] * (len(first.padding) - axis - 1),
    ]
    spare = reads + own - reach
    return Strip(axis + 2, not side, reads, wide, own, spare, _flat(around_first), _flat(around_second))


def _turned(outer: int, inner: int, side: int) -> tuple[int, int]:
    return (inner, outer) if side else (outer, inner)


def _flat(pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(amount for pair in reversed(pairs) for amount in pair)


class Stripped(nn.Module):
    """Module that computes `second(first(x))` by one convolution and strips; tracing it gives torch's own operators."""

    def __init__(self, conv: nn.Module, row: RecomputedRow) -> None:
        super().__init__()
        self.conv = conv
        self.first = nn.Parameter(row.first.weight.clone())
        self.first_bias = None if row.first.bias is None else nn.Parameter(row.first.bias.clone())
        self.second = nn.Parameter(row.second.weight.clone())
        self.row, self.strips = row, strips_of(row)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output; sizes may be symbolic."""
        y: torch.Tensor = self.conv(x)
        convolve = CONVOLUTIONS[len(self.row.first.kernel_size) - 1]
        first, second = self.row
        for strip in self.strips:
            outermost = pad(_end(x, strip, strip.reads), strip.around_first)
            if strip.reads > 1:
                outermost = _end(outermost, strip, strip.wide + strip.own + strip.reads)
            beyond = convolve(outermost, self.first, self.first_bias, 1, 0, first.dilation, first.groups)
            if strip.spare:
                beyond = _end(beyond, strip, strip.wide)
            reached = convolve(
                pad(beyond, strip.around_second), self.second, None, 1, 0, second.dilation, second.groups
            )
            reached = _end(reached, strip, y.shape[strip.axis])  # a small image has fewer outputs
            aten.sub_.Tensor(_end(y, strip, strip.wide), reached)  # fx removes other in-place calls
        return y


def _end(x: torch.Tensor, strip: Strip, count: int) -> torch.Tensor:
    """Return `count` positions at the strip's end of its axis, or all if the axis is shorter."""
    index = slice(None, count) if strip.near else slice(-count, None)
    return x[(slice(None),) * strip.axis + (index,)]
