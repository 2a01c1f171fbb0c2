"""What the sums of products of columns say: about another shift, as normal equations, and of a kernel's offset.

Columns are [windows of x, known, y]. Windows come once for each of the terms, the monomials of position that multiply
x; known are monomials of position by themselves, as many as the terms or more, the constant first. What a shift of x
adds to a window times a monomial is then a combination of known columns, and a shift changes sums exactly.
"""

from __future__ import annotations

from math import prod

import numpy as np

from convolith.errors import ConvolithError
from convolith.fitting.data.polynomials import Powers, moved
from convolith.fitting.solving.least_squares import System


class NormalEquations:
    """Sums over equations, about a shift.

    Attributes:
        kernel_size, in_channels, out_channels: of the kernel.
        terms, known: exponents of monomials of position.
        equations: pixels of y that counted.
        shift: (in_channels + out_channels,), what x and y are less.
        matrix: (columns, columns), of the shifted data; `moments` are those of the data themselves.
    """

    kernel_size: tuple[int, ...]
    in_channels: int
    out_channels: int
    terms: Powers
    known: Powers
    equations: int
    shift: np.ndarray
    matrix: np.ndarray

    @property
    def taps(self) -> int:
        """Of a kernel."""
        return prod(self.kernel_size)

    @property
    def windows(self) -> int:
        """Pixels of a window, for each of the terms: the unknowns of each output channel beside what is known."""
        return len(self.terms) * self.in_channels * self.taps

    @property
    def weight(self) -> float:
        """The sum of the weights of all equations."""
        return float(self.matrix[self.windows, self.windows])

    @property
    def unit(self) -> float:
        """The mean over taps of the summed squares of x, about its shift: what a ridge compares with."""
        return float(np.diag(self.matrix)[: self.windows].mean())

    @property
    def moments(self) -> np.ndarray:
        """(columns, columns): the sums of products of [windows of x, known, y] themselves."""
        return self.about(np.zeros_like(self.shift))

    def about(self, shift: np.ndarray) -> np.ndarray:
        """The matrix about another shift."""
        n, m = self.windows, len(self.known)
        grown = np.zeros((len(self.matrix), m))  # what each column grows by, in known columns
        grown[:n] = self._of_constants(self.shift - shift)
        grown[n + m :, 0] = (self.shift - shift)[self.in_channels :]
        both = grown @ (self.matrix[n : n + m] + 0.5 * self.matrix[n : n + m, n : n + m] @ grown.T)
        found: np.ndarray = self.matrix + both + both.T
        return found

    def known_sums(self) -> np.ndarray:
        """(known, windows + known): the rows of known columns in `moments`."""
        n, m = self.windows, len(self.known)
        own = self.matrix[n : n + m, n : n + m]
        return np.concatenate([self.matrix[n : n + m, :n] + own @ self._of_constants(self.shift).T, own], 1)

    def steps(self) -> np.ndarray:
        """(taps, axes): how far from the middle of a window each of its pixels lies, as positions are counted."""
        return np.zeros((self.taps, len(self.kernel_size)))

    def inward(self, coefficients: np.ndarray) -> np.ndarray:
        """(windows, ...): the weights of the windows of modulated x, from the coefficients that are sought."""
        return coefficients

    def outward(self, slope: np.ndarray) -> np.ndarray:
        """(windows, ...): a slope along the coefficients that are sought, from one along weights of windows."""
        return slope

    def system(self, used: int) -> System:
        """The normal equations, with the first `used` of the known columns sought too and taken out of them.

        Raises:
            ConvolithError: a state without equations.
        """
        if not self.equations:
            raise ConvolithError("the state holds no equations; update it with data first, of which some pixels count")
        n, last = self.windows, self.windows + len(self.known)
        M = self._for(used)
        taken = M[:, n : n + used] @ solved(M[n : n + used, n : n + used], M[n : n + used])
        left = M - taken
        squares = np.maximum(np.diag(left)[last:], 0.0)
        normal = self.outward(self.outward(left[:n, :n]).T)
        return System(normal, self.outward(left[:n, last:]), squares, self.equations, used)

    def known_of(self, coefficients: np.ndarray, used: int) -> np.ndarray:
        """(used, out_channels): the coefficients of known columns that go with others, (windows, out_channels)."""
        n, last, M = self.windows, self.windows + len(self.known), self._for(used)
        weights = self.inward(coefficients)
        beside = slice(n, n + used)
        found = solved(M[beside, beside], M[beside, last:] - M[beside, :n] @ weights)
        if M is self.matrix:
            found[0] += self.shift[self.in_channels :]
            found -= self._of_constants(self.shift)[:, :used].T @ weights
        return found

    def squares_left(self, coefficients: np.ndarray, known: np.ndarray) -> float:
        """The sum of squares that coefficients, (windows, out_channels), and those of known columns leave of y."""
        n, m, outputs = self.windows, len(self.known), self.out_channels
        vectors = np.zeros((n + m + outputs, outputs))
        vectors[:n], vectors[n : n + len(known)] = self.inward(coefficients), known
        vectors[n + m :] = -np.eye(outputs)
        return float(max((vectors * (self.moments @ vectors)).sum(), 0.0))

    def noise(self, variances: np.ndarray) -> np.ndarray:
        """(windows, windows): what white noise in x, of a variance for each channel, adds to the normal matrix."""
        n, m, terms = self.windows, len(self.known), len(self.terms)
        each = moved(self.terms, self.known, self.steps())
        squares = each @ self.matrix[n : n + m, n : n + m] @ each.transpose(0, 2, 1)
        found = np.zeros((terms, self.in_channels, self.taps) * 2)
        np.einsum("scutcu->cust", found)[:] = variances[:, None, None, None] * squares
        return self.outward(self.outward(found.reshape(n, n)).T)

    def _for(self, used: int) -> np.ndarray:
        """Sums about the means where what is known takes them up, else about zero."""
        return self.matrix if used >= len(self.terms) else self.moments

    def _of_constants(self, values: np.ndarray) -> np.ndarray:
        """(windows, known): the windows of an x that is constant in each channel."""
        each = moved(self.terms, self.known, self.steps()).transpose(1, 0, 2)[:, None]
        wide: np.ndarray = values[: self.in_channels, None, None] * each
        return wide.reshape(self.windows, len(self.known))


def solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of a few columns of any size, of which some may say the same."""
    scale = np.sqrt(np.diag(matrix))
    scale[scale == 0] = 1.0
    found: np.ndarray = np.linalg.pinv(matrix / scale / scale[:, None], hermitian=True) @ (right / scale[:, None])
    return found / scale[:, None]
