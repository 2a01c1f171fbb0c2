"""Conjugate gradients for symmetric positive definite systems with many right-hand sides, preconditioned by circulants.

The normal matrix of a long kernel is a block Toeplitz matrix but for borders and weights. The circulant matrix that is
nearest to it in the Frobenius norm (T. Chan, "An optimal circulant preconditioner for Toeplitz systems", 1988) is
inverted by Fourier transforms, one small matrix of channels for each frequency, and leaves conjugate gradients few
iterations to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

TOLERANCE = 1e-11
"""Norm of the preconditioned residual, relative to the first one, at which the iteration ends."""
ITERATIONS, PATIENCE = 1000, 50
"""Most iterations, and most of them in a row without a smaller residual."""
LEAST_EIGENVALUE = 1e-13
"""Smallest eigenvalue of the circulant, relative to the largest; smaller ones are raised to it."""

Operator = Callable[[torch.Tensor], torch.Tensor]
"""Symmetric linear map of (outputs, channels, *kernel_size)."""


@dataclass(frozen=True, eq=False)
class Circulant:
    """Inverse of a block circulant matrix.

    Attributes:
        inverse: (*frequencies, channels, channels).
        size: size of the kernel.
        condition: ratio of the largest eigenvalue to the least, before that was raised.
    """

    inverse: torch.Tensor
    size: tuple[int, ...]
    condition: float

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Apply the inverse to (outputs, channels, *kernel_size)."""
        axes = tuple(range(2, vectors.ndim))
        spectra = torch.fft.rfftn(vectors, dim=axes).movedim((0, 1), (-1, -2))
        spectra = (self.inverse @ spectra).movedim((-1, -2), (0, 1))
        solved: torch.Tensor = torch.fft.irfftn(spectra, s=self.size, dim=axes)
        return solved


def circulant(auto: torch.Tensor, ridge: float) -> Circulant:
    """Return the inverse of the circulant nearest to a Toeplitz matrix plus ridge.

    Args:
        auto: `auto[c, d, l]`, the entry of rows (c, u) and columns (d, u + l): (channels, channels, *lags), lags from
            1 - k to k - 1.
        ridge: added to the diagonal.
    """
    size = tuple((n + 1) // 2 for n in auto.shape[2:])
    folded = auto.flip(tuple(range(2, auto.ndim)))  # by u - v, as in a column of the matrix
    for axis, k in enumerate(size, start=2):
        lags = torch.arange(1 - k, k, dtype=auto.dtype, device=auto.device)
        tapered = folded * ((k - lags.abs()) / k).reshape(-1, *[1] * (auto.ndim - axis - 1))
        folded = tapered.narrow(axis, k - 1, k).clone()
        folded.narrow(axis, 1, k - 1).add_(tapered.narrow(axis, 0, k - 1))
    blocks = torch.fft.rfftn(folded, dim=tuple(range(2, auto.ndim))).movedim((0, 1), (-2, -1))
    values, vectors = torch.linalg.eigh((blocks + blocks.mH) / 2)
    values = values + ridge
    largest, least = float(values.max()), float(values.min())
    values = values.clamp_min(max(largest, torch.finfo(auto.dtype).tiny) * LEAST_EIGENVALUE)
    inverse = (vectors / values.unsqueeze(-2)) @ vectors.mH
    return Circulant(inverse, size, largest / least if least > 0 else float("inf"))


class Iterated(NamedTuple):
    """Solutions, (outputs, channels, *kernel_size), and their residual relative to the right-hand sides."""

    solution: torch.Tensor
    residual: float


def conjugate_gradients(product: Operator, right: torch.Tensor, precondition: Operator) -> Iterated:
    """Solve for several right-hand sides at once, from zero on; keep the smallest preconditioned residual met."""
    axes = tuple(range(1, right.ndim))
    solution, residual = torch.zeros_like(right), right.clone()
    direction = precondition(residual)
    energy = (residual * direction).sum(axes, keepdim=True).clamp_min(0.0)
    first, least, best, waited = energy, energy, solution, 0
    for _ in range(ITERATIONS):
        if bool((energy <= TOLERANCE**2 * first).all()) or waited > PATIENCE:
            break
        image = product(direction)
        curvature = (direction * image).sum(axes, keepdim=True)
        step = torch.where(curvature > 0, energy / curvature, 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        upward = precondition(residual)
        after = (residual * upward).sum(axes, keepdim=True).clamp_min(0.0)
        direction = upward + torch.where(energy > 0, after / energy, 0.0) * direction
        energy = after
        better = energy < least
        waited = 0 if bool(better.any()) else waited + 1
        best, least = torch.where(better, solution, best), torch.where(better, energy, least)
    left = torch.where(first > 0, least / first, 0.0)
    return Iterated(best, float(left.max()) ** 0.5)


class Toeplitz:
    """Product with the sums over all windows of a signal that lies in the data, `G[(c, u), (d, v)]`, for one axis.

    With the signal zero outside itself, the sums are its autocorrelation at lag v - u, a Toeplitz matrix; windows that
    begin before the signal or end after it are in it too, and are subtracted: they read its first and last k - 1
    numbers alone.
    """

    def __init__(self, planes: torch.Tensor, auto: torch.Tensor) -> None:
        """Transform the autocorrelation and the ends of signals.

        Args:
            planes: (N, channels, length).
            auto: (channels, channels, lags from 1 - k to k - 1).
        """
        self.taps = (auto.shape[-1] + 1) // 2
        self.length = 1 << (3 * self.taps).bit_length()
        column = auto.new_zeros((*auto.shape[:2], self.length))
        column[..., : self.taps] = auto[..., : self.taps].flip(-1)
        column[..., self.length - self.taps + 1 :] = auto[..., self.taps :].flip(-1)
        self.spectrum = torch.fft.rfft(column).permute(2, 0, 1)
        reach = self.taps - 1
        places = torch.arange(self.length, device=auto.device)
        before, after = places >= self.length - reach, places < reach
        ends = (planes[..., :reach], before), (planes[..., planes.shape[-1] - reach :], after)
        self.ends = [(torch.fft.rfft(part, self.length).permute(2, 0, 1), kept) for part, kept in ends]

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Multiply (outputs, channels, taps)."""
        columns = torch.fft.rfft(vectors, self.length).permute(2, 1, 0)  # (frequencies, channels, outputs)
        total = self.spectrum @ columns
        for spectra, kept in self.ends:
            predicted = torch.fft.irfft((spectra @ columns.conj()).permute(1, 2, 0), self.length)
            outside = torch.fft.rfft(predicted * kept).permute(2, 0, 1)  # (frequencies, N, outputs)
            total = total - spectra.mT @ outside.conj()
        result: torch.Tensor = torch.fft.irfft(total.permute(2, 1, 0), self.length)[..., : self.taps]
        return result
