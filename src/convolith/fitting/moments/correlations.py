"""Auto- and cross-correlations at few lags: by Fourier transforms, by matrix products over channels, or lag by lag.

Channels multiply the products, but not the transforms; so one channel and a large window go by transforms, many
channels and a small window by products, and one channel and a small window lag by lag (`dots`). Products read pixels as
rows of channels, with gaps of zeros after each row, plane and image in which whatever a lag moves over an edge meets
zero, so that every lag is an offset in the same memory. What lies at several lags from a block of rows is brought side
by side: one product for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations_with_replacement, groupby, product
from math import ceil, log2, prod
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from convolith.fitting.moments import lagged_products
from convolith.fitting.moments.lagged_products import CHUNK

TRANSFORM, PRODUCTS, MOVED, RUNS, DOTS, CALL, PAIR = 6e10, 1e11, 4e9, 1.2e8, 1.1e11, 4e-5, 2e-7
"""A second's operations of a transform (counted as 5 N log2 N) and of a matrix product, numbers moved, runs of numbers
that are moved together, and products lag by lag; and the seconds of a call, and of two channels that meet in a chunk
lag by lag. In float64, measured on two cores with AVX-512; their ratios decide."""
BLOCK_BYTES = 1 << 22
"""Of what lies side by side: it stays in the cache that the cores share."""


class Correlations(NamedTuple):
    """`auto[c, d, l] = sum of X[c, q] X[d, q+l]`, lags from 1 - taps to taps - 1, X being zero outside itself, and
    `cross[c, o, u] = sum over p of X[c, p+u] Y[o, p]`, shifts from 0 to taps - 1, p over all of Y.
    """

    auto: torch.Tensor
    cross: torch.Tensor


def correlations(
    planes: torch.Tensor, targets: torch.Tensor | None, taps: tuple[int, ...], *, auto: bool = True
) -> Correlations:
    """Both, in float64; without targets `cross` is empty, without `auto` the other is.

    Args:
        planes: (N, channels, *size).
        targets: (N, others, *size - taps + 1), or None.
        taps: along each axis.
    """
    if targets is None:
        targets = planes.new_zeros((len(planes), 0, *(n - k + 1 for n, k in zip(planes.shape[2:], taps, strict=True))))
    if not taps:  # planes of a single pixel
        return Correlations(torch.einsum("nc,nd->cd", planes, planes), torch.einsum("nc,no->co", planes, targets))
    seconds = _seconds(planes, targets, taps, auto=auto)
    way = min(WAYS, key=lambda name: seconds[name])
    return WAYS[way](planes, targets, taps, auto=auto)


def _seconds(planes: torch.Tensor, targets: torch.Tensor, taps: tuple[int, ...], *, auto: bool) -> dict[str, float]:
    """What each way takes, about."""
    images, channels, *size = planes.shape
    others, points, pixels = targets.shape[1], prod(_lengths(planes, taps)), images * prod(size)
    forward, back = images * (channels + others), channels * (channels + 1) / 2 * auto + channels * others
    transforms = (forward + back) * 5 * points * log2(max(points, 2)) / TRANSFORM
    transforms += images * back * points * 4 / MOVED + (forward + back) * CALL
    shifts = prod(taps)
    lags = max((prod(2 * k - 1 for k in taps) + 1) / 2 * auto, shifts)
    products = 2 * pixels * channels * (channels * lags + others * shifts) / PRODUCTS
    runs = 2 * lags / max(2 * taps[-1] - 1, 1)
    moved = pixels * (channels * lags / MOVED + runs / RUNS)
    gapped = images * prod(n + k - 1 for n, k in zip(size, taps, strict=True))
    rows, pairs = (prod(2 * k - 1 for k in taps[:-1]) + 1) / 2 * auto, channels * (channels * auto + others)
    dots = gapped * channels * (channels * rows * (2 * taps[-1] - 1) + others * shifts) / DOTS
    dots += gapped * 2 * (channels + others) / MOVED + ceil(gapped / CHUNK) * pairs * PAIR
    return {"transforms": transforms, "products": products + moved, "dots": dots + 2 * CALL}


def _by_transforms(planes: torch.Tensor, targets: torch.Tensor, taps: tuple[int, ...], *, auto: bool) -> Correlations:
    """Sums of products are products of spectra; those of all images are added before they go back."""
    channels, others, axes = planes.shape[1], targets.shape[1], tuple(range(len(taps)))
    lengths = _lengths(planes, taps)
    spectra = [_spectrum(planes[:, c], lengths) for c in range(channels)]
    own = planes.new_empty((channels, channels, *(2 * k - 1 for k in taps)) if auto else 0)
    around = [torch.arange(1 - k, k, device="cpu") % n for k, n in zip(taps, lengths, strict=True)]
    for c, d in combinations_with_replacement(range(channels if auto else 0), 2):
        own[c, d] = _back(spectra[c], spectra[d], lengths, around)
        own[d, c] = own[c, d].flip(axes)
    cross = planes.new_empty((channels, others, *taps))
    ahead = [torch.arange(k, device="cpu") for k in taps]
    for o in range(others):
        at = _spectrum(targets[:, o], lengths)
        for c in range(channels):
            cross[c, o] = _back(at, spectra[c], lengths, ahead)
    return Correlations(own, cross)


def _lengths(planes: torch.Tensor, taps: tuple[int, ...]) -> list[int]:
    """Of the transforms: lags of both signs come back apart."""
    return [_fast_length(n + k - 1) for n, k in zip(planes.shape[2:], taps, strict=True)]


@lru_cache(maxsize=256)
def _fast_length(least: int) -> int:
    """The next even number without prime factors above 7, for which transforms are fast."""
    n = least + least % 2
    while True:
        rest = n
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2


def _spectrum(images: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Padded first: what torch's transforms pad by themselves takes several times as long."""
    room = [amount for n, size in zip(lengths[::-1], images.shape[:0:-1], strict=True) for amount in (0, n - size)]
    found: torch.Tensor = torch.fft.rfftn(pad(images, room), dim=tuple(range(1, images.ndim)))
    return found


def _back(first: torch.Tensor, second: torch.Tensor, lengths: list[int], lags: Sequence[torch.Tensor]) -> torch.Tensor:
    """The correlation of two spectra at some lags along each axis, summed over images; others are left out early."""
    summed = first[0].conj() * second[0]
    for a, b in zip(first[1:], second[1:], strict=True):
        summed.addcmul_(a.conj(), b)
    for axis, wanted in enumerate(lags[:-1]):
        summed = torch.fft.ifft(summed, dim=axis).index_select(axis, wanted)
    found: torch.Tensor = torch.fft.irfft(summed, lengths[-1]).index_select(-1, lags[-1])
    return found


def _by_products(planes: torch.Tensor, targets: torch.Tensor, taps: tuple[int, ...], *, auto: bool) -> Correlations:
    """Of an autocorrelation half the lags are formed, of which the others are mirror images."""
    gaps = [k - 1 for k in taps]
    rows, at = _rows(planes, gaps), _rows(targets, [2 * gap for gap in gaps])
    channels, others = rows.shape[1], at.shape[1]
    steps = [
        prod(n + gap for n, gap in zip(planes.shape[3 + a :], gaps[a + 1 :], strict=True)) for a in range(len(taps))
    ]
    ahead = [lag for lag in product(*(range(1 - k, k) for k in taps)) if lag >= (0,) * len(taps)]
    shifts = list(product(*map(range, taps)))  # all of them ahead; they come first
    lags = shifts + sorted({*ahead} - {*shifts}) * auto
    offsets = [sum(n * step for n, step in zip(lag, steps, strict=True)) for lag in lags]
    rows = pad(rows, (0, 0, 0, max(offsets)))
    own, cross = rows.new_zeros((channels, len(lags) * channels)), rows.new_zeros((others, len(shifts) * channels))
    block = max(BLOCK_BYTES // (8 * channels * len(lags)), 32)
    beside = rows.new_empty((block, len(lags) * channels))
    for start in range(0, len(at), block):
        stop = min(start + block, len(at))
        filled, column = beside[: stop - start], 0
        for first, length in _runs(offsets):
            wide = rows[start + first :].as_strided((stop - start, length * channels), (channels, 1))
            filled[:, column : column + length * channels] = wide
            column += length * channels
        if auto:
            own.addmm_(rows[start:stop].T, filled)
        if others:
            cross.addmm_(at[start:stop].T, filled[:, : len(shifts) * channels])
    found = cross.view(others, len(shifts), channels).permute(2, 0, 1).reshape(channels, others, *taps)
    if not auto:
        return Correlations(own, found)
    by_lag = dict(zip(lags, own.view(channels, len(lags), channels).unbind(1), strict=True))
    both = product(*(range(1 - k, k) for k in taps))
    mirrored = [by_lag[lag] if lag in by_lag else by_lag[tuple(-n for n in lag)].T for lag in both]
    shape = [2 * k - 1 for k in taps]
    return Correlations(torch.stack(mirrored, -1).view(channels, channels, *shape), found)


def _rows(planes: torch.Tensor, gaps: list[int]) -> torch.Tensor:
    """(pixels and gaps of zeros, channels)."""
    room = [amount for gap in reversed(gaps) for amount in (0, gap)]
    return pad(planes, room).movedim(1, -1).flatten(0, -2).contiguous()


def _runs(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Offsets that follow on one another, as (first, how many): they lie side by side already."""
    found = []
    for _, run in groupby(enumerate(offsets), lambda pair: pair[1] - pair[0]):
        entries = [offset for _, offset in run]
        found.append((entries[0], len(entries)))
    return found


def _by_dots(planes: torch.Tensor, targets: torch.Tensor, taps: tuple[int, ...], *, auto: bool) -> Correlations:
    """Lag by lag, by generated code."""
    size = planes.shape[2:]
    line, at = lagged_products.Line(planes, taps, size), lagged_products.Line(targets, taps, size)
    return Correlations(
        lagged_products.auto(line, taps) if auto else planes.new_empty(0), lagged_products.cross(line, at, taps)
    )


WAYS = {"transforms": _by_transforms, "products": _by_products, "dots": _by_dots}
"""Each with the same result, to rounding."""
