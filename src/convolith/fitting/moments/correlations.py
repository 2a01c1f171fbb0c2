"""Auto- and cross-correlations at few lags: by Fourier transforms, by matrix products over channels, or lag by lag.

Transforms are fast for one channel and a large window, matrix products for many channels and a small window, and sums
lag by lag (`lagged_products`) for one channel and a small window. Matrix products read pixels as rows of channels, with
gaps of zeros after each row, plane and image, so that a pixel that a lag shifts over an edge meets zero, and every lag
is an offset in the same memory. The rows at several lags from a block are copied next to one another, for a single
product.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations_with_replacement, groupby, product
from math import ceil, log2, prod
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from convolith.engines.machine_limits import MachineLimits
from convolith.fitting.moments import lagged_products
from convolith.fitting.moments.lagged_products import CHUNK

LIMITS = MachineLimits()
"""Limits by which a method is chosen: the shipped ones, so that results do not depend on a calibration."""
TRANSFORM_EFFICIENCY, MATRIX_EFFICIENCY, LAG_EFFICIENCY, COPY_EFFICIENCY = 0.8, 1.1, 2.4, 0.9
"""Rates in float64, relative to the limits, of torch's transforms (counted as 5 N log2 N operations), of matrix
products, of products lag by lag, and of copies. Only their ratios matter."""
CALLS, RUN_CALLS, PAIR_CALLS = 5.0, 1e-3, 0.025
"""Time of a torch call, of a contiguous run that is copied, and of a pair of channels and a chunk lag by lag, in units
of `MachineLimits.call_seconds`."""
BLOCK_BYTES = 1 << 22
"""Bytes of the copied rows of a block, which stay in the cache that the cores share."""


class Correlations(NamedTuple):
    """Sums `auto[c, d, l] = sum over q of X[c, q] X[d, q+l]`, lags 1 - taps to taps - 1, X zero outside itself, and
    `cross[c, o, u] = sum over p of X[c, p+u] Y[o, p]`, shifts from 0 to taps - 1, p over all of Y.
    """

    auto: torch.Tensor
    cross: torch.Tensor


def correlations(
    planes: torch.Tensor, targets: torch.Tensor | None, taps: tuple[int, ...], *, auto: bool = True
) -> Correlations:
    """Compute both correlations in float64; `cross` is empty without targets, `auto` if it is not wanted.

    Args:
        planes: (N, channels, *size).
        targets: (N, others, *size - taps + 1), or None.
        taps: number of taps along each axis.
    """
    if targets is None:
        targets = planes.new_zeros((len(planes), 0, *(n - k + 1 for n, k in zip(planes.shape[2:], taps, strict=True))))
    if not taps:  # planes of a single pixel
        return Correlations(torch.einsum("nc,nd->cd", planes, planes), torch.einsum("nc,no->co", planes, targets))
    seconds = _seconds(planes, targets, taps, auto=auto)
    fastest = min(WAYS, key=lambda name: seconds[name])
    return WAYS[fastest](planes, targets, taps, auto=auto)


def _seconds(planes: torch.Tensor, targets: torch.Tensor, taps: tuple[int, ...], *, auto: bool) -> dict[str, float]:
    """Estimate the time of each method, in seconds."""
    rate, call = LIMITS.float64_products_per_second, LIMITS.call_seconds
    moved_per_second = LIMITS.cache_bytes_per_second / 16 * COPY_EFFICIENCY  # numbers, each read and written
    images, channels, *size = planes.shape
    others, points, pixels = targets.shape[1], prod(_lengths(planes, taps)), images * prod(size)
    forward, back = images * (channels + others), channels * (channels + 1) / 2 * auto + channels * others
    operations = (forward + back) * 5 * points * log2(max(points, 2))
    transforms = operations / (LIMITS.fft_operations_per_second * TRANSFORM_EFFICIENCY)
    transforms += images * back * points * 4 / moved_per_second + (forward + back) * CALLS * call
    shifts = prod(taps)
    lags = max((prod(2 * k - 1 for k in taps) + 1) / 2 * auto, shifts)
    products = pixels * channels * (channels * lags + others * shifts) / (rate * MATRIX_EFFICIENCY)
    runs = 2 * lags / max(2 * taps[-1] - 1, 1)
    moved = pixels * (channels * lags / moved_per_second + runs * RUN_CALLS * call)
    gapped = images * prod(n + k - 1 for n, k in zip(size, taps, strict=True))
    rows, pairs = (prod(2 * k - 1 for k in taps[:-1]) + 1) / 2 * auto, channels * (channels * auto + others)
    lagged = gapped * channels * (channels * rows * (2 * taps[-1] - 1) + others * shifts) / (rate * LAG_EFFICIENCY)
    lagged += gapped * 2 * (channels + others) / moved_per_second + ceil(gapped / CHUNK) * pairs * PAIR_CALLS * call
    return {"transforms": transforms, "products": products + moved, "lagged": lagged + 2 * CALLS * call}


def _by_transforms(planes: torch.Tensor, targets: torch.Tensor, taps: tuple[int, ...], *, auto: bool) -> Correlations:
    """Multiply spectra, and sum the products over images before the inverse transform."""
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
    """Return the lengths of transforms in which lags of both signs do not overlap."""
    return [_fast_length(n + k - 1) for n, k in zip(planes.shape[2:], taps, strict=True)]


@lru_cache(maxsize=256)
def _fast_length(least: int) -> int:
    """Return the next even number without prime factors above 7, for which transforms are fast."""
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
    """Return the spectra of images, padded first: padding within torch's transforms takes several times as long."""
    room = [amount for n, size in zip(lengths[::-1], images.shape[:0:-1], strict=True) for amount in (0, n - size)]
    spectrum: torch.Tensor = torch.fft.rfftn(pad(images, room), dim=tuple(range(1, images.ndim)))
    return spectrum


def _back(first: torch.Tensor, second: torch.Tensor, lengths: list[int], lags: Sequence[torch.Tensor]) -> torch.Tensor:
    """Correlate two spectra at some lags along each axis, summed over images; other lags are dropped early."""
    summed = first[0].conj() * second[0]
    for a, b in zip(first[1:], second[1:], strict=True):
        summed.addcmul_(a.conj(), b)
    for axis, wanted in enumerate(lags[:-1]):
        summed = torch.fft.ifft(summed, dim=axis).index_select(axis, wanted)
    result: torch.Tensor = torch.fft.irfft(summed, lengths[-1]).index_select(-1, lags[-1])
    return result


def _by_products(planes: torch.Tensor, targets: torch.Tensor, taps: tuple[int, ...], *, auto: bool) -> Correlations:
    """Multiply matrices for half the lags of an autocorrelation; the other half are mirror images."""
    gaps = [k - 1 for k in taps]
    rows, at = _rows(planes, gaps), _rows(targets, [2 * gap for gap in gaps])
    channels, others = rows.shape[1], at.shape[1]
    steps = [
        prod(n + gap for n, gap in zip(planes.shape[3 + a :], gaps[a + 1 :], strict=True)) for a in range(len(taps))
    ]
    ahead = [lag for lag in product(*(range(1 - k, k) for k in taps)) if lag >= (0,) * len(taps)]
    shifts = list(product(*map(range, taps)))  # also in `ahead`; they come first
    lags = shifts + sorted({*ahead} - {*shifts}) * auto
    offsets = [sum(n * step for n, step in zip(lag, steps, strict=True)) for lag in lags]
    rows = pad(rows, (0, 0, 0, max(offsets)))
    own, cross = rows.new_zeros((channels, len(lags) * channels)), rows.new_zeros((others, len(shifts) * channels))
    block = max(BLOCK_BYTES // (8 * channels * len(lags)), 32)
    buffer = rows.new_empty((block, len(lags) * channels))
    for start in range(0, len(at), block):
        stop = min(start + block, len(at))
        filled, column = buffer[: stop - start], 0
        for first, length in _runs(offsets):
            wide = rows[start + first :].as_strided((stop - start, length * channels), (channels, 1))
            filled[:, column : column + length * channels] = wide
            column += length * channels
        if auto:
            own.addmm_(rows[start:stop].T, filled)
        if others:
            cross.addmm_(at[start:stop].T, filled[:, : len(shifts) * channels])
    cross_sums = cross.view(others, len(shifts), channels).permute(2, 0, 1).reshape(channels, others, *taps)
    if not auto:
        return Correlations(own, cross_sums)
    by_lag = dict(zip(lags, own.view(channels, len(lags), channels).unbind(1), strict=True))
    both = product(*(range(1 - k, k) for k in taps))
    mirrored = [by_lag[lag] if lag in by_lag else by_lag[tuple(-n for n in lag)].T for lag in both]
    shape = [2 * k - 1 for k in taps]
    return Correlations(torch.stack(mirrored, -1).view(channels, channels, *shape), cross_sums)


def _rows(planes: torch.Tensor, gaps: list[int]) -> torch.Tensor:
    """Return planes as rows of channels with gaps of zeros, (pixels and gaps, channels)."""
    room = [amount for gap in reversed(gaps) for amount in (0, gap)]
    return pad(planes, room).movedim(1, -1).flatten(0, -2).contiguous()


def _runs(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Group consecutive offsets, whose rows are contiguous already, as (first, count)."""
    runs = []
    for _, run in groupby(enumerate(offsets), lambda pair: pair[1] - pair[0]):
        entries = [offset for _, offset in run]
        runs.append((entries[0], len(entries)))
    return runs


def _by_lagged_products(
    planes: torch.Tensor, targets: torch.Tensor, taps: tuple[int, ...], *, auto: bool
) -> Correlations:
    """Correlate lag by lag, by generated code."""
    size = planes.shape[2:]
    line, at = lagged_products.Line(planes, taps, size), lagged_products.Line(targets, taps, size)
    return Correlations(
        lagged_products.auto(line, taps) if auto else planes.new_empty(0), lagged_products.cross(line, at, taps)
    )


WAYS = {"transforms": _by_transforms, "products": _by_products, "lagged": _by_lagged_products}
"""Methods by name; all give the same result, up to rounding."""
