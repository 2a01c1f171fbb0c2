"""What a fit found."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from convolith.conv import Conv
from convolith.errors import check_option
from convolith.spec import ConvSpec

ERRORS = ("white", "jackknife")
"""What noise standard errors are for."""


class Candidate(NamedTuple):
    """A kernel size and a ridge, and how well the kernels of other tiles predict a tile.

    Attributes:
        kernel_size: along each axis.
        ridge: as `fit` takes it.
        rms: root mean square of what is left of y.
        worse: by how much the mean square is above the least, and
        spread: the standard error of that difference.
    """

    kernel_size: tuple[int, ...]
    ridge: float
    rms: float
    worse: float
    spread: float


@dataclass(frozen=True, eq=False)
class Fit:
    """A recovered kernel and what is known about it.

    Attributes:
        kernel: (out_channels, in_channels, *kernel_size), in the floating dtype of the data (float64 for integers).
        offset: (out_channels,), or None where none was sought.
        residual_rms: root mean square of what is left of y, weighted, over all channels.
        loss: what was minimised, the weighted sum of squared errors (or of another loss) plus the penalties: before
            each step of descent, or once, at its least, for the closed form.
        stderr: standard errors of the kernel for white noise in y (a ridge's bias is not in them), in float64; NaN
            where no equation is to spare; None for gradient descent.
        condition: condition number of the (column-scaled) normal matrix; None for gradient descent.
        method: as it was given.
        learning_rate: of gradient descent, else None.
        spec: the geometry that was fitted.
        coefficients: (out_channels, in_channels, count), of the kernels of a basis, in float64; None without one.
        held_out_rms: root mean square of what the kernel of all other tiles leaves of each tile, where tiles were left
            out (the jackknife, or a choice by cross-validation); else None.
        selection: every kernel size and ridge that was compared, with its error; empty where none was chosen.
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
    coefficients: Any = None
    selection: tuple[Candidate, ...] = ()
    held_out_rms: float | None = None

    @property
    def conv(self) -> Conv:
        """The fit as an operator: `correlate(x, fit.conv)` predicts y."""
        spec = self.spec
        return Conv(
            self.kernel,
            self.offset,
            stride=spec.stride,
            padding=spec.padding,
            dilation=spec.dilation,
            padding_mode=spec.padding_mode,
        )


def is_number(value: Any) -> bool:
    """Return whether a value is a finite real number."""
    try:
        return isinstance(value, int | float | np.number) and not np.iscomplexobj(value) and isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def check_errors(errors: str) -> None:
    """Refuse standard errors of a kind that does not exist."""
    check_option("errors", errors, ERRORS)
