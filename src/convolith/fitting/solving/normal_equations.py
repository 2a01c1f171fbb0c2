"""Normal equations from sums of products of columns, converted between shifts of the data, with the offset eliminated.

Columns are [windows of x, known, y]. Windows occur once for each of the terms, the monomials of position that multiply
x; known are monomials of position themselves, as many as the terms or more, the constant first. A shift of x then
changes a window times a monomial by a combination of known columns, so that sums are converted exactly.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from convolith.errors import ConvolithError
from convolith.fitting.data.polynomials import Powers, moved, positions
from convolith.fitting.solving.least_squares import System


class NormalEquations:
    """Sums over equations of products of columns, for data less a shift.

    Attributes:
        kernel_size, in_channels, out_channels: shape of the kernel.
        options: stride, padding, dilation and padding_mode of the correlation.
        terms, known: exponents of monomials of position.
        modulation, frame: what the positions are of (see `VaryingGram`); "update" for a kernel that does not vary.
        equations: number of pixels of y with nonzero weight.
        shift: (in_channels + out_channels,), subtracted from x and y.
        matrix: (columns, columns), sums of the shifted data; `moments` are those of the data themselves.
    """

    kernel_size: tuple[int, ...]
    in_channels: int
    out_channels: int
    options: dict[str, Any]
    terms: Powers
    known: Powers
    modulation: str
    frame: tuple[int, ...] | None
    equations: int
    shift: np.ndarray
    matrix: np.ndarray

    @property
    def taps(self) -> int:
        """Number of taps of the kernel."""
        return prod(self.kernel_size)

    @property
    def windows(self) -> int:
        """Number of window columns, taps of all input channels and terms: the kernel's unknowns per output channel."""
        return len(self.terms) * self.in_channels * self.taps

    @property
    def weight(self) -> float:
        """Sum of the weights of all equations."""
        return float(self.matrix[self.windows, self.windows])

    @property
    def unit(self) -> float:
        """Mean over window columns of the sum of squares of shifted x: the scale of a ridge."""
        return float(np.diag(self.matrix)[: self.windows].mean())

    @property
    def moments(self) -> np.ndarray:
        """Sums of products of [windows of x, known, y] without a shift, (columns, columns)."""
        return self.about(np.zeros_like(self.shift))

    def about(self, shift: np.ndarray) -> np.ndarray:
        """Return the matrix for another shift."""
        n, m = self.windows, len(self.known)
        change = np.zeros((len(self.matrix), m))  # change of each column, in known columns
        change[:n] = self._of_constants(self.shift - shift)
        change[n + m :, 0] = (self.shift - shift)[self.in_channels :]
        both = change @ (self.matrix[n : n + m] + 0.5 * self.matrix[n : n + m, n : n + m] @ change.T)
        result: np.ndarray = self.matrix + both + both.T
        return result

    def known_sums(self) -> np.ndarray:
        """Return the rows of known columns in `moments`, (known, windows + known)."""
        n, m = self.windows, len(self.known)
        own = self.matrix[n : n + m, n : n + m]
        return np.concatenate([self.matrix[n : n + m, :n] + own @ self._of_constants(self.shift).T, own], 1)

    def steps(self) -> np.ndarray:
        """Return the offset of each window pixel from the window centre, in units of position, (taps, axes)."""
        if self.modulation == "update" or self.frame is None:
            return np.zeros((self.taps, len(self.kernel_size)))
        grids = [
            positions(0, d * (k - 1) + 1, frame)[::d] - positions(0, d * (k - 1) + 1, frame).mean()
            for k, d, frame in zip(self.kernel_size, self.options["dilation"], self.frame, strict=True)
        ]
        return np.stack([grid.ravel() for grid in np.meshgrid(*grids, indexing="ij")], 1)

    def inward(self, coefficients: np.ndarray) -> np.ndarray:
        """Convert fitted coefficients to weights of the windows of modulated x, (windows, ...)."""
        return self._through(coefficients, (0, 2, 1))

    def outward(self, slope: np.ndarray) -> np.ndarray:
        """Convert a gradient with respect to weights of windows to one for fitted coefficients, (windows, ...)."""
        return self._through(slope, (0, 1, 2))

    def _through(self, rows: np.ndarray, order: tuple[int, int, int]) -> np.ndarray:
        if self.modulation != "output" or len(self.terms) == 1:
            return rows
        each = moved(self.terms, self.terms, -self.steps()).transpose(order)  # (taps, terms, terms)
        wide = rows.reshape(len(self.terms), self.in_channels, self.taps, -1)
        mixed: np.ndarray = each @ wide.transpose(2, 0, 1, 3).reshape(self.taps, len(self.terms), -1)
        mixed = mixed.reshape(self.taps, len(self.terms), self.in_channels, -1).transpose(1, 2, 0, 3)
        return mixed.reshape(rows.shape)

    def system(self, used: int) -> System:
        """Return the normal equations of a fit with the first `used` known columns, which are eliminated.

        Raises:
            ConvolithError: a state without equations.
        """
        if not self.equations:
            raise ConvolithError("the state holds no equations; update it with data first, of which some pixels count")
        n, last = self.windows, self.windows + len(self.known)
        M = self._for(used)
        eliminated = M[:, n : n + used] @ solved(M[n : n + used, n : n + used], M[n : n + used])
        remaining = M - eliminated
        squares = np.maximum(np.diag(remaining)[last:], 0.0)
        normal = self.outward(self.outward(remaining[:n, :n]).T)
        return System(normal, self.outward(remaining[:n, last:]), squares, self.equations, used)

    def known_of(self, coefficients: np.ndarray, used: int) -> np.ndarray:
        """Return coefficients of known columns, (used, out_channels), for those of windows, (windows, out_channels)."""
        n, last, M = self.windows, self.windows + len(self.known), self._for(used)
        weights = self.inward(coefficients)
        columns = slice(n, n + used)
        coefficients_known = solved(M[columns, columns], M[columns, last:] - M[columns, :n] @ weights)
        if M is self.matrix:
            coefficients_known[0] += self.shift[self.in_channels :]
            coefficients_known -= self._of_constants(self.shift)[:, :used].T @ weights
        return coefficients_known

    def sums_of_channels(self) -> np.ndarray:
        """Return the factors of the sum of each input channel's weights (of the first term), (windows, in_channels)."""
        factors = np.zeros((self.windows, self.in_channels))
        for channel in range(self.in_channels):
            factors[channel * self.taps : (channel + 1) * self.taps, channel] = 1.0
        return factors

    def squares_left(self, coefficients: np.ndarray, known: np.ndarray) -> float:
        """Return the sum of squared residuals for coefficients, (windows, out_channels), and those of known columns."""
        n, m, outputs = self.windows, len(self.known), self.out_channels
        vectors = np.zeros((n + m + outputs, outputs))
        vectors[:n], vectors[n : n + len(known)] = self.inward(coefficients), known
        vectors[n + m :] = -np.eye(outputs)
        return float(max((vectors * (self.moments @ vectors)).sum(), 0.0))

    def noise(self, variances: np.ndarray) -> np.ndarray:
        """Return the contribution of white noise in x, of a variance per channel, to the matrix, (windows, windows)."""
        n, m, terms = self.windows, len(self.known), len(self.terms)
        each = moved(self.terms, self.known, self.steps())
        squares = each @ self.matrix[n : n + m, n : n + m] @ each.transpose(0, 2, 1)
        added = np.zeros((terms, self.in_channels, self.taps) * 2)
        np.einsum("scutcu->cust", added)[:] = variances[:, None, None, None] * squares
        return self.outward(self.outward(added.reshape(n, n)).T)

    def _for(self, used: int) -> np.ndarray:
        """Return the sums of the shifted data if the known columns absorb the shift, else those of the data."""
        return self.matrix if used >= len(self.terms) else self.moments

    def _of_constants(self, values: np.ndarray) -> np.ndarray:
        """Express the windows of an x that is constant in each channel in known columns, (windows, known)."""
        each = moved(self.terms, self.known, self.steps()).transpose(1, 0, 2)[:, None]
        wide: np.ndarray = values[: self.in_channels, None, None] * each
        return wide.reshape(self.windows, len(self.known))


def solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve for a few columns of any scale, of which some may be linearly dependent."""
    scale = np.sqrt(np.diag(matrix))
    scale[scale == 0] = 1.0
    solution: np.ndarray = np.linalg.pinv(matrix / scale / scale[:, None], hermitian=True) @ (right / scale[:, None])
    return solution / scale[:, None]
