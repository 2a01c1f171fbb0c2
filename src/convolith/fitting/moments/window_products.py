"""Sums over all windows of products of two of their pixels, without forming the windows.

`G[(c, u), (d, v)] = sum over positions p of X[c, p+u] X[d, p+v]` depends on the lag `v - u` alone, except for pairs of
pixels at the border. With X zero outside itself, the sums over all pixels are its autocorrelation, `A[c, d, l] = sum
over q of X[c, q] X[d, q+l]`. Along each axis, A has two kinds of pairs that G lacks: those that start before u, both
in the first k - 1 pixels, and those that start after the last position, both in the last k - 1 pixels. Axes are
processed one after another: along an axis, lags become pairs (u, v), and the sums of the two slabs of k - 1 pixels,
whose pixels along that axis count as channels, are subtracted. All of it is exact.
"""

from __future__ import annotations

import torch

from convolith.fitting.moments.correlations import correlations


def window_sums(
    planes: torch.Tensor, targets: torch.Tensor | None, taps: tuple[int, ...], *, products: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over all windows the products of every two of their pixels, and of each pixel times the targets.

    Args:
        planes: (N, channels, *size), each at least as large as the window; float64.
        targets: (N, others, *size - taps + 1), or None.
        taps: number of taps of a window along each axis.
        products: whether the products of pixels are wanted; the first result is empty if not.

    Returns:
        (channels, *taps, channels, *taps) and (channels, *taps, others).
    """
    auto, cross = correlations(planes, targets, taps, auto=products)
    if not products:
        return auto, cross.movedim(1, -1)
    pairs = _opened(planes, taps, 0, auto)
    axes = len(taps)
    rows, columns = [2 + 2 * axis for axis in range(axes)], [3 + 2 * axis for axis in range(axes)]
    return pairs.permute(0, *rows, 1, *columns), cross.movedim(1, -1)


def _opened(planes: torch.Tensor, taps: tuple[int, ...], first: int, auto: torch.Tensor) -> torch.Tensor:
    """Replace lags by pairs (u, v) from axis `first` on: (C, C, lags from 1 - k to k - 1, then pairs)."""
    if first == len(taps):
        return auto
    k, axis = taps[first], 2 + first
    lagged = _opened(planes, taps, first + 1, auto)
    pairs = lagged.unfold(axis, k, 1).flip(axis).movedim(-1, axis + 1).contiguous()  # [u, v] at lag v - u
    if k == 1:
        return pairs
    others = (*taps[:first], *taps[first + 1 :])
    before = _edge(planes.narrow(axis, 0, k - 1), others, first)
    after = _edge(planes.narrow(axis, planes.shape[axis] - k + 1, k - 1), others, first)
    for u in range(k - 2, -1, -1):  # cumulative sums along the diagonals
        if u < k - 2:
            after[u, :-1] += after[u + 1, 1:]
    for u in range(1, k - 1):
        before[u, 1:] += before[u - 1, :-1]
    target = pairs.movedim((axis, axis + 1), (0, 1))
    target[: k - 1, : k - 1] -= after
    target[1:, 1:] -= before
    return pairs


def _edge(slab: torch.Tensor, taps: tuple[int, ...], first: int) -> torch.Tensor:
    """Compute the sums of a slab whose axis `first` counts as channels: (k - 1, k - 1, C, C, ...)."""
    channels, width = slab.shape[1], slab.shape[2 + first]
    folded = slab.movedim(2 + first, 1).flatten(1, 2)
    sums = _opened(folded, taps, first, correlations(folded, None, taps).auto)
    shape = (width, channels, width, channels, *sums.shape[2:])
    return sums.view(shape).movedim((0, 2), (0, 1)).contiguous()
