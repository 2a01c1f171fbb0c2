"""Parallel convolutions as one: their sum, their difference, the concatenation of their outputs.

Branches that read the same x equal one convolution if their strides are equal: tap `i` of a branch reads position
`p*stride + i*dilation - padding`, so that `i*dilation - padding` is its position on a grid that all branches share. A
branch has zero weights at the other positions of the grid, also where the added padding lies: the sum is exact
everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import gcd
from typing import Any

import torch

from convolith.algebra.kernels import Factor, dense, grouped, lifted
from convolith.algebra.ranges import bias_dtype, weight_dtype, working_dtype
from convolith.arrays import check_same_kind, placed
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.geometry import Pairs
from convolith.tensors import from_working
from convolith.torch_private import safe_in_forks


@safe_in_forks
def add(*convs: Conv) -> Conv:
    """Return the single convolution whose output is the sum of the outputs of all.

    Kernels are aligned at the positions that they read, dilations are reduced to their common grid, groups to their
    greatest common divisor. Exact everywhere, borders included.

    Args:
        convs: convolutions with equal channels, axes, strides and padding mode, and with outputs of equal size at every
            input size. Transposed ones must all be transposed, with equal dilation, padding and kernel size.

    Raises:
        ConvolithError: convolutions whose outputs cannot be added, or whose sum equals no single convolution.

    Example:
        >>> import numpy as np
        >>> from convolith import correlate
        >>> rng = np.random.default_rng(0)
        >>> wide, narrow = (Conv(rng.normal(size=(2, 3, k, k)), padding="same") for k in (5, 1))
        >>> x = rng.normal(size=(3, 9, 9))
        >>> np.allclose(correlate(x, add(wide, narrow)), correlate(x, wide) + correlate(x, narrow))
        True
    """
    return _together(convs, "added", _sum)


@safe_in_forks
def subtract(a: Conv, b: Conv) -> Conv:
    """Return the single convolution that computes `a(x) - b(x)`; see `add`.

    Example:
        >>> import numpy as np
        >>> a = Conv(np.full((1, 1, 3), 3.0))
        >>> subtract(a, a).weight.tolist()
        [[[0.0, 0.0, 0.0]]]
    """
    return add(a, scale(b, -1))


@safe_in_forks
def concatenate(*convs: Conv) -> Conv:
    """Return the single convolution whose output is the outputs of all, concatenated along the channels; see `add`.

    Example:
        >>> import numpy as np
        >>> concatenate(Conv(np.ones((2, 3, 3)), padding=1), Conv(np.ones((5, 3, 1)))).weight.shape
        (7, 3, 3)
    """
    return _together(convs, "concatenated", _stack)


@safe_in_forks
def scale(conv: Conv, factors: Any) -> Conv:
    """Return the convolution that computes `factors * conv(x)`; one factor, or one for each output channel.

    Example:
        >>> import numpy as np
        >>> scale(Conv(np.ones((2, 1, 3)), np.ones(2)), np.array([2.0, 3.0])).bias.tolist()
        [2.0, 3.0]
    """
    working = working_dtype(conv.dtype)
    weight = lifted(conv.weight, working)
    by = torch.as_tensor(factors, device="cpu").to(working).reshape(-1)
    if by.numel() not in (1, conv.out_channels):
        raise ConvolithError(
            f"factors has {by.numel()} numbers; expected one, or one for each of {conv.out_channels} output channels"
        )
    by = by.expand(conv.out_channels)
    if conv.transposed:  # (in_channels, out_channels / groups, ...): the scale runs along axis 1, group by group
        rows = conv.in_channels // conv.groups
        along = by.reshape(conv.groups, 1, -1).expand(-1, rows, -1).reshape(conv.in_channels, -1)
        weight = weight * along[(..., *(None,) * len(conv.kernel_size))]
    else:
        weight = weight * by.reshape(-1, *(1,) * (weight.ndim - 1))
    bias = None if conv.bias is None else lifted(conv.bias, working) * by
    return _delivered(Factor(weight, bias), conv.weight, conv.dtype, conv.options)


@dataclass(frozen=True)
class _Grid:
    """The grid of taps that contains the taps of all branches, along each axis."""

    dilation: tuple[int, ...]
    kernel_size: tuple[int, ...]
    padding: Pairs

    def place(self, conv: Conv) -> tuple[slice, ...]:
        """Return the slices of the grid that hold the taps of one branch."""
        slices = []
        for k, d, (before, _), step, (most, _) in zip(
            conv.kernel_size, conv.dilation, conv.padding, self.dilation, self.padding, strict=True
        ):
            start, stride = (most - before) // step, max(d // step, 1)
            slices.append(slice(start, start + stride * (k - 1) + 1, stride))
        return tuple(slices)


def _grid(convs: tuple[Conv, ...]) -> _Grid:
    dilation, kernel_size, padding = [], [], []
    for axis in range(len(convs[0].kernel_size)):
        taps = [(c.kernel_size[axis], c.dilation[axis], c.padding[axis]) for c in convs]
        most = max(before for _, _, (before, _) in taps)
        steps = [d for k, d, _ in taps if k > 1] + [most - before for _, _, (before, _) in taps]
        step = reduce(gcd, steps, 0) or 1
        reach = max(most - before + d * (k - 1) for k, d, (before, _) in taps)
        dilation.append(step)
        kernel_size.append(reach // step + 1)
        padding.append((most, max(after for _, _, (_, after) in taps)))
    return _Grid(tuple(dilation), tuple(kernel_size), tuple(padding))


def _together(
    convs: tuple[Conv, ...], done: str, join: Callable[[list[torch.Tensor], list[torch.Tensor | None]], Factor]
) -> Conv:
    """Align the branches on one grid and join them."""
    _check(convs, done)
    name = reduce(weight_dtype, [c.dtype for c in convs])
    working, first = working_dtype(name), convs[0]
    padded = [c for c in convs if any(map(any, c.padding))]
    mode = padded[0].padding_mode if padded else first.padding_mode
    if first.transposed:
        factors = [Factor(lifted(c.weight, working), _bias(c, working)) for c in convs]
        joined = join([f.weight for f in factors], [f.bias for f in factors])
        return _delivered(joined, first.weight, name, first.options)
    grid = _grid(convs)
    weights, biases = [], []
    for conv in convs:
        weight, bias = dense(conv, working)
        wide = weight.new_zeros((*weight.shape[:2], *grid.kernel_size))
        where: tuple[Any, ...] = (..., *grid.place(conv))
        wide[where] = weight
        weights.append(wide)
        biases.append(bias)
    joined = join(weights, biases)
    groups = reduce(gcd, [c.groups for c in convs]) if done == "added" else 1
    options = {
        "stride": first.stride,
        "padding": grid.padding,
        "dilation": grid.dilation,
        "groups": groups,
        "padding_mode": mode,
    }
    return _delivered(Factor(grouped(joined.weight, groups), joined.bias), first.weight, name, options)


def _sum(weights: list[torch.Tensor], biases: list[torch.Tensor | None]) -> Factor:
    present = [bias for bias in biases if bias is not None]
    return Factor(torch.stack(weights).sum(0), torch.stack(present).sum(0) if present else None)


def _stack(weights: list[torch.Tensor], biases: list[torch.Tensor | None]) -> Factor:
    if all(bias is None for bias in biases):
        return Factor(torch.cat(weights), None)
    filled = [w.new_zeros(w.shape[0]) if b is None else b for w, b in zip(weights, biases, strict=True)]
    return Factor(torch.cat(weights), torch.cat(filled))


def _bias(conv: Conv, working: torch.dtype) -> torch.Tensor | None:
    return None if conv.bias is None else lifted(conv.bias, working)


def _delivered(factor: Factor, sample: Any, name: str, options: dict[str, Any]) -> Conv:
    """Build a convolution of the sample's array kind, rounded once to a dtype."""
    bias = None if factor.bias is None else placed(from_working(factor.bias, bias_dtype(name)), sample)
    return Conv(placed(from_working(factor.weight, name), sample), bias, **options)


def _check(convs: tuple[Conv, ...], done: str) -> None:
    """Refuse branches that do not equal one convolution, with the reason."""
    if not convs:
        raise ConvolithError(f"no convolution is given; expected at least one to be {done}")
    for number, conv in enumerate(convs):
        if not isinstance(conv, Conv):
            raise ConvolithError(f"argument {number} is a {type(conv).__name__}; expected a Conv")
    check_same_kind(**{f"conv{number}": conv.weight for number, conv in enumerate(convs)})
    first = convs[0]
    wanted = {"in_channels", "stride", "transposed"} | ({"out_channels"} if done == "added" else set())
    wanted_words = {"in_channels": "input channels", "out_channels": "output channels", "transposed": "transposed"}
    axes = {len(c.kernel_size) for c in convs}
    if len(axes) > 1:
        raise ConvolithError(
            f"the convolutions have {sorted(axes)} spatial axes; convolutions to be {done} need the same number"
        )
    for name in sorted(wanted):
        values = [getattr(c, name) for c in convs]
        if any(value != values[0] for value in values):
            what = wanted_words.get(name, name)
            raise ConvolithError(
                f"the convolutions differ in {what} ({values}); convolutions to be {done} need the same"
            )
    if first.transposed:
        _check_transposed(convs, done)
        return
    for axis in range(len(first.kernel_size)):
        grown = [sum(c.padding[axis]) - c.dilation[axis] * (c.kernel_size[axis] - 1) for c in convs]
        if any(value != grown[0] for value in grown):
            sizes = " and ".join(dict.fromkeys(f"n{value:+d}" if value else "n" for value in grown))
            raise ConvolithError(
                f"the convolutions give outputs of different sizes ({sizes} along spatial axis {axis}, before the "
                f"stride); convolutions to be {done} need paddings that give the same size"
            )
    modes = {c.padding_mode for c in convs if any(map(any, c.padding))}
    if len(modes) > 1:
        raise ConvolithError(
            f"the convolutions pad with {sorted(modes)}; convolutions to be {done} need the same padding mode"
        )


def _check_transposed(convs: tuple[Conv, ...], done: str) -> None:
    first = convs[0]
    if done != "added":
        raise ConvolithError("the convolutions are transposed; only plain ones are concatenated")
    for name in ("kernel_size", "dilation", "padding", "output_padding", "groups"):
        values = [getattr(c, name) for c in convs]
        if any(value != getattr(first, name) for value in values):
            raise ConvolithError(f"the transposed convolutions differ in {name} ({values}); expected the same")
