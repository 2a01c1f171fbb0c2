"""Results of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from convolith.arrays import as_numpy, is_numpy
from convolith.conv import Conv
from convolith.errors import ConvolithError, check_option, renamed
from convolith.report.html_page import Figure, fragment
from convolith.report.plots import image_grid, is_available, signal_figure, source_of
from convolith.report.table import Table
from convolith.spec import ConvSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

SHOWN = 9
"""Largest number of rows and columns of a kernel that are printed."""
FAINT = 1e-12
"""Size of a weight, relative to the largest, below which 0 is printed; more if the kernel's dtype rounds more."""
ERRORS = ("white", "jackknife")
"""Methods for standard errors: for white noise, or by the jackknife for spatially correlated noise."""


class Candidate(NamedTuple):
    """Kernel size and ridge, with the error of predicting each tile by the kernel of the other tiles.

    Attributes:
        kernel_size: size along each axis.
        ridge: penalty on the squared kernel, as for `fit`.
        rms: root mean square of the prediction errors.
        excess_mse: excess of the mean squared error over the least one of all candidates.
        excess_mse_stderr: standard error of `excess_mse`.
    """

    kernel_size: tuple[int, ...]
    ridge: float
    rms: float
    excess_mse: float
    excess_mse_stderr: float

    @property
    def worse(self) -> float:
        """Earlier name of `excess_mse`."""
        renamed("worse", "excess_mse")
        return self.excess_mse

    @property
    def spread(self) -> float:
        """Earlier name of `excess_mse_stderr`."""
        renamed("spread", "excess_mse_stderr")
        return self.excess_mse_stderr


@dataclass(frozen=True, eq=False)
class Fit:
    """Fitted kernel with its accuracy; `fit` and `Gram.solve` return it.

    Attributes:
        kernel: (out_channels, in_channels, *kernel_size), in the floating dtype of the data (float64 for integers): the
            one for `correlate`, or for `convolve` if the fit was made with `flip=True`.
        offset: (out_channels,), or None if no offset was fitted.
        residual_rms: weighted root mean square of the residuals, over all channels.
        loss: minimised objective, the weighted sum of squared errors (or of another loss) plus the penalties: before
            each step of descent, or once, at the minimum, for the closed form.
        stderr: standard errors of the kernel, of its shape, in float64: for white noise in y, or by the jackknife. They
            cover noise alone, not the bias that a ridge causes. NaN if the equations do not outnumber the unknowns;
            None for a descent, and for kernels with thousands of taps.
        condition: condition number of the (column-scaled) normal matrix, or, for kernels with thousands of taps, of the
            circulant matrix nearest to it; None for a descent.
        method: `"lstsq"`, or the method of the descent.
        learning_rate: learning rate of the descent, else None.
        spec: geometry of the fit.
        coefficients: (out_channels, in_channels, count), of the kernels of a basis, in float64; None without a basis.
        held_out_rms: root mean square error of predicting each tile by the kernel of all other tiles, if tiles were
            held out (by the jackknife or cross-validation); else None.
        selection: every kernel size and ridge that was compared, with its error; empty without such a comparison.
        sum_stderr: (out_channels, in_channels), standard errors of the sum of each kernel's weights (the ratio of the
            two pictures' brightness), made as `stderr` is; None where that is.
        explained: share of the variance of y about its mean that the fit explains, at most 1; NaN for a constant y and
            for every fit by `Gram.solve`.
        flip: whether the kernel and its errors are those of a convolution; `coefficients` are always those of the basis
            in a correlation.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> x = np.random.default_rng(0).normal(size=(1, 32, 32))
        >>> found = cl.fit(x, cl.correlate(x, np.array([[[[1.0, 2.0]]]])), kernel_size=(1, 2))
        >>> found.kernel.round(9).tolist()
        [[[[1.0, 2.0]]]]
        >>> found.conv
        Conv(1 -> 1, kernel_size=(1, 2), dtype=float64)
    """

    kernel: Any
    offset: Any
    residual_rms: float
    loss: tuple[float, ...]
    stderr: Any
    condition: float | None
    method: str
    learning_rate: float | None
    spec: ConvSpec
    coefficients: np.ndarray | None = None
    selection: tuple[Candidate, ...] = ()
    held_out_rms: float | None = None
    flip: bool = False
    explained: float = float("nan")
    sum_stderr: Any = None

    def __repr__(self) -> str:
        offset = "" if self.offset is None else ", offset"
        condition = "" if self.condition is None else f", condition={self.condition:.3g}"
        rms = f"residual_rms={self.residual_rms:.4g}"
        return f"Fit(kernel of {self.kernel.shape}{offset}, {rms}, method={self.method!r}{condition})"

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables())

    def _repr_html_(self) -> str:
        """Return the tables and, if matplotlib is installed, a picture of the kernel, for notebooks."""
        pictures = [Figure(source_of(self.plot()), "the kernel")] if is_available() and self.kernel.ndim < 5 else []
        return fragment(self.tables(), pictures)

    def tables(self) -> list[Table]:
        """Return the fit as tables: a summary, and a small kernel, or its weights around the largest one."""
        kernel, error = (None if part is None else as_numpy(part) for part in (self.kernel, self.stderr))
        assert kernel is not None  # noqa: S101 - for the type checker
        summary = {
            "kernel size": "x".join(map(str, kernel.shape[2:])),
            "channels": None if kernel.shape[:2] == (1, 1) else f"{kernel.shape[1]} -> {kernel.shape[0]}",
            "method": self.method,
            "residual rms": self.residual_rms,
            "explained": f"{self.explained:.2%}" if isfinite(self.explained) else None,
            "held-out rms": self.held_out_rms,
            "condition": self.condition,
            "sum of kernel": float(kernel.sum()) if kernel.shape[:2] == (1, 1) else None,
            "its standard error": float(self.sum_stderr[0, 0])
            if self.sum_stderr is not None and kernel.shape[:2] == (1, 1)
            else None,
            "largest standard error": None if error is None else float(np.max(error)),
            "offset": None if self.offset is None else ", ".join(f"{float(value):.4g}" for value in self.offset),
        }
        tables = [Table("Fit", [summary])]
        if kernel.shape[:2] == (1, 1) and kernel.ndim == 4 and np.isrealobj(kernel):
            tables.append(weights_table(kernel[0, 0]))
        return tables

    def plot(self) -> Picture:
        """Return a matplotlib figure of the kernel and its standard errors, of the first channel to the first.

        Raises:
            ConvolithError: matplotlib is not installed, or a kernel of three axes.
        """
        kernel = as_numpy(self.kernel[0, 0]).astype(float)
        error = None if self.stderr is None else as_numpy(self.stderr[0, 0]).astype(float)
        if kernel.ndim == 1:
            return signal_figure({"kernel": kernel}, error)
        if kernel.ndim > 2:
            raise ConvolithError(f"the kernel has {kernel.ndim} axes; plot shows kernels of one or two")
        shown = {"kernel": kernel} | ({} if error is None else {"standard error": error})
        return image_grid([shown], ["kernel"])

    @property
    def conv(self) -> Conv:
        """Fitted kernel and offset as an operator: `correlate(x, fit.conv)` predicts y."""
        spec = self.spec
        return Conv(
            self._reversed if self.flip else self.kernel,
            self.offset,
            stride=spec.stride,
            padding=spec.padding,
            dilation=spec.dilation,
            padding_mode=spec.padding_mode,
        )

    @property
    def psf(self) -> Any:
        """Point-spread function: the kernel for `convolve`, what a single bright pixel of x becomes in y."""
        return self.kernel if self.flip else self._reversed

    @property
    def impulse_response(self) -> Any:
        """Kernel for `convolve`, by its name for signals: what a single impulse in x becomes in y."""
        return self.psf

    @property
    def _reversed(self) -> Any:
        """Kernel with its spatial axes reversed."""
        axes = tuple(range(2, self.kernel.ndim))
        return np.flip(self.kernel, axes).copy() if is_numpy(self.kernel) else self.kernel.flip(axes)


def weights_table(kernel: np.ndarray) -> Table:
    """Return the weights of a kernel, (rows, columns), around the largest, with 0 for those that are only rounding."""
    sizes = np.abs(kernel)
    peak = np.unravel_index(int(np.nanargmax(sizes)) if np.isfinite(sizes).any() else 0, kernel.shape)
    begins = [max(0, min(int(at) - SHOWN // 2, n - SHOWN)) for at, n in zip(peak, kernel.shape, strict=True)]
    rows, columns = (range(begin, min(begin + SHOWN, n)) for begin, n in zip(begins, kernel.shape, strict=True))
    faint = max(FAINT, 4 * float(np.finfo(kernel.dtype).eps))
    least = faint * sizes[peak]
    shown = [
        {"row": str(row)} | {str(n): 0.0 if sizes[row, n] < least else float(kernel[row, n]) for n in columns}
        for row in rows
    ]
    notes = []
    if max(kernel.shape) > SHOWN:
        whole = "x".join(map(str, kernel.shape))
        notes.append(f"{len(rows)}x{len(columns)} of {whole} weights, around the largest")
    if ((sizes < least) & (sizes > 0)).any():
        notes.append(f"0: less than {faint:.0e} of the largest")
    return Table("; ".join(["Kernel (rows and columns)", *notes]), shown)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite real number."""
    try:
        return isinstance(value, int | float | np.number) and not np.iscomplexobj(value) and isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def check_errors(errors: str) -> None:
    """Refuse an unknown method for standard errors."""
    check_option("errors", errors, ERRORS)
