"""Products of kernels and biases, tap by tap, as tensors: the arithmetic of `compose`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from math import gcd, prod
from typing import Any, NamedTuple

import torch

from convolith.arrays import as_tensor
from convolith.conv import Conv
from convolith.planner.machine import check_memory
from convolith.tensors import to_working


class Factor(NamedTuple):
    """A weight, dense (out_channels, in_channels, *kernel_size) unless stated otherwise, and a bias or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None


def dense(conv: Conv, working: torch.dtype) -> Factor:
    """Return the dense weight and the bias in a working dtype; (in, out, ...) if the convolution is transposed."""
    bias = None if conv.bias is None else lifted(conv.bias, working)
    return Factor(to_dense(lifted(conv.weight, working), conv), bias)


def to_dense(weight: torch.Tensor, conv: Conv) -> torch.Tensor:
    """Return a weight of a convolution's shape as a dense one, with zeros between its groups."""
    if conv.groups == 1:
        return weight
    channels = (conv.out_channels, conv.in_channels)
    if conv.transposed:
        channels = (conv.in_channels, conv.out_channels)
    rows, columns = (count // conv.groups for count in channels)
    full = weight.new_zeros((*channels, *conv.kernel_size))
    for group in range(conv.groups):
        out = slice(group * rows, (group + 1) * rows)
        full[out, group * columns : (group + 1) * columns] = weight[out]
    return full


def grouped(full: torch.Tensor, groups: int) -> torch.Tensor:
    """Return the diagonal blocks of a dense weight, as a grouped weight: the inverse of `to_dense`."""
    rows, columns = full.shape[0] // groups, full.shape[1] // groups
    blocks = [full[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(groups)]
    return torch.cat(blocks)


def composed(
    first: Conv, second: Conv, working: torch.dtype, steps: tuple[int, ...], dilation: tuple[int, ...]
) -> Factor:
    """Compute the grouped weight and the bias of `second` after `first`, on their common grid of taps."""
    return _product(first, second, partial(lifted, working=working), steps, dilation)


def largest(first: Conv, second: Conv, steps: tuple[int, ...], dilation: tuple[int, ...]) -> Factor:
    """Compute an upper bound on the size of each composed number: the composition of absolute values, in float64."""
    return _product(first, second, _size, steps, dilation)


def lifted(array: Any, working: torch.dtype) -> torch.Tensor:
    """Return weights in a working dtype, on the CPU: other devices multiply no integer matrices, some no float64."""
    return to_working(as_tensor("weight", array).cpu(), working)


def _size(array: Any) -> torch.Tensor:
    """Return absolute values in float64."""
    tensor = as_tensor("weight", array).detach().cpu()
    return to_working(tensor, torch.complex128 if tensor.is_complex() else torch.float64).abs()


def _product(
    first: Conv,
    second: Conv,
    lift: Callable[[Any], torch.Tensor],
    steps: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Factor:
    """Compute `K[t] = sum over steps*j + d1*i = t of W2[j] @ W1[i]` and `b2 + sum over j of W2[j] @ b1`, by group."""
    b1, b2 = (None if c.bias is None else lift(c.bias) for c in (first, second))
    shared, taps = gcd(first.groups, second.groups), len(first.kernel_size)
    W1, W2 = lift(first.weight), lift(second.weight)
    if b1 is not None:
        by_group = (second.groups, -1, second.in_channels // second.groups)
        carried = torch.einsum("goh,gh->go", W2.flatten(2).sum(2).reshape(by_group), b1.reshape(second.groups, -1))
        b2 = carried.flatten() if b2 is None else carried.flatten() + b2
    if rescales(second):  # such as a norm: one factor per output channel instead of matrix products
        return Factor(W1 * W2, b2)
    if rescales(first):
        factors = W1.reshape(second.groups, 1, -1, *(1,) * taps)
        return Factor((_parted(W2, second.groups) * factors).flatten(0, 1), b2)
    groups = max(first.groups, second.groups)
    within = groups // shared
    if second.groups == shared:  # each group of the second reads several groups of the first
        W1 = _parted(W1, groups)
        W2 = _parted(W2, shared).reshape(shared, -1, within, W1.shape[1], *W2.shape[2:]).transpose(1, 2).flatten(0, 1)
    elif first.groups == shared:  # several groups of the second read one group of the first
        W1, W2 = _parted(W1, groups), _parted(W2, groups)
    else:
        W1, W2, groups, within = _blocks(W1, first, shared), _blocks(W2, second, shared), shared, 1
    channels = (groups, W2.shape[1], W1.shape[2])
    K = compose_taps(W1, W2, first.dilation, steps, dilation, "ghc...,goh->goc...", channels)
    if second.groups == shared and within > 1:
        K = K.reshape(shared, within, *K.shape[1:]).transpose(1, 2).flatten(2, 3)
    return Factor(K.flatten(0, 1), b2)


def _parted(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Reshape a weight to (groups, out_channels/groups, ...)."""
    return weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])


def _blocks(weight: torch.Tensor, conv: Conv, shared: int) -> torch.Tensor:
    """Return dense blocks, (shared, out_channels/shared, in_channels/shared, *kernel_size), one per shared group."""
    within, rows, columns = conv.groups // shared, conv.out_channels // conv.groups, conv.in_channels // conv.groups
    parts = weight.reshape(shared, within, rows, columns, *conv.kernel_size)
    full = weight.new_zeros((shared, within * rows, within * columns, *conv.kernel_size))
    for group in range(within):
        out = slice(group * rows, (group + 1) * rows)
        full[:, out, group * columns : (group + 1) * columns] = parts[:, group]
    return full


def rescales(conv: Conv) -> bool:
    """Return whether a convolution only multiplies each channel by a number, and adds one."""
    per_channel = conv.groups == conv.in_channels == conv.out_channels and not conv.transposed
    plain = set(conv.kernel_size) == set(conv.stride) == {1} and not any(map(any, conv.padding))
    return per_channel and plain


def compose_taps(
    W1: torch.Tensor,
    W2: torch.Tensor,
    d1: tuple[int, ...],
    d2: tuple[int, ...],
    dilation: tuple[int, ...],
    contraction: str,
    channels: tuple[int, ...],
) -> torch.Tensor:
    """Convolve two kernels: tap `d1*i + d2*j` of their common grid gets the product of taps `i` and `j`.

    Args:
        W1, W2: kernels, with the channel axes before the taps.
        d1, d2: spacing of their taps.
        dilation: spacing of the common grid.
        contraction: `torch.einsum` equation that sums over channels, for all taps of W1 and one of W2.
        channels: sizes of the result's channel axes.
    """
    near = [max(d // D, 1) for d, D in zip(d1, dilation, strict=True)]  # a single tap's dilation may be below D
    far = [max(d // D, 1) for d, D in zip(d2, dilation, strict=True)]
    k1, k2 = W1.shape[len(channels) :], W2.shape[len(channels) :]
    size = [a * (n - 1) + b * (m - 1) + 1 for a, n, b, m in zip(near, k1, far, k2, strict=True)]
    check_memory(f"the composed kernel, of {size} taps, takes", prod((*channels, *size)) * 8)
    K = W1.new_zeros((*channels, *size))
    for tap in product(*map(range, k2)):
        index: tuple[Any, ...] = (*(slice(None),) * len(channels), *tap)
        place: list[Any] = [
            slice(b * i, b * i + a * (n - 1) + 1, a) for i, a, b, n in zip(tap, near, far, k1, strict=True)
        ]
        K[..., *place] += torch.einsum(contraction, W1, W2[index])
    return K
