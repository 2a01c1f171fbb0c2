"""`fit`: the kernel that turned x into y, in closed form or by gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import numpy as np
import torch

from convolith.arrays import as_tensor, like
from convolith.conv import Conv
from convolith.dtypes import dtype_name, is_float
from convolith.engines.protocol import torch_dtype
from convolith.errors import ConvolithError
from convolith.fitting.descent import Callback, descend
from convolith.fitting.problem import Problem, read
from convolith.fitting.solve import least_squares
from convolith.geometry import Axes, Padding, check_whole
from convolith.spec import ConvSpec

METHODS = ("lstsq", "gd")


@dataclass(frozen=True, eq=False)
class Fit:
    """A recovered kernel and what is known about it.

    Attributes:
        kernel: (out_channels, in_channels, *kernel_size), in the floating dtype of the data (float64 for integers).
        offset: (out_channels,), or None where none was sought.
        residual_rms: root mean square of what is left of y, weighted, over all channels.
        loss: what was minimised, the weighted sum of squared errors plus the ridge's penalty: before each step of
            gradient descent, or once, at its least, for the closed form.
        stderr: standard errors of the kernel for white noise in y (a ridge's bias is not in them), in float64; NaN
            where no equation is to spare; None for gradient descent.
        condition: condition number of the (column-scaled) normal matrix; None for gradient descent.
        method: "lstsq" or "gd".
        learning_rate: of gradient descent, else None.
        spec: the geometry that was fitted.
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


def fit(
    x: Any,
    y: Any,
    *,
    kernel_size: Axes,
    method: str = "lstsq",
    stride: Axes = 1,
    padding: Padding = "valid",
    dilation: Axes = 1,
    padding_mode: str = "zeros",
    offset: bool = False,
    mask: Any = None,
    weights: Any = None,
    ridge: float = 0.0,
    learning_rate: float | None = None,
    steps: int = 1000,
    seed: int = 0,
    callback: Callback | None = None,
    progress: bool = False,
) -> Fit:
    """Find the kernel for which `correlate(x, kernel, offset, ...)` comes nearest to y.

    It minimises `sum over pixels of weight (correlate(x, kernel) + offset - y)^2 + ridge |kernel|^2`, in float64.
    `"lstsq"` solves this in closed form; `"gd"` walks down its gradient as the textbook loop does, which is the lesson
    and not the tool: it needs a learning rate below 1 over the largest eigenvalue of the normal matrix, and then as
    many steps as that matrix is badly conditioned.

    Args:
        x: (N, in_channels, *size) or (in_channels, *size).
        y: what `correlate` would give: (N, out_channels, *output_size), or without N where x has none.
        kernel_size: a number per spatial axis; one number means two axes (three where x has five).
        stride, padding, dilation, padding_mode: as for `correlate`.
        offset: whether a constant per output channel (a background) is fitted too.
        mask: booleans, True where a pixel of y is left out (NumPy's convention): (*output_size) or (N, *output_size).
        weights: 0 or more per pixel of y, such as 1/variance; shaped as mask.
        ridge: penalty on the squared kernel (not on the offset).
        learning_rate: of gradient descent; by default nine tenths of the largest that converges.
        steps, seed: of gradient descent; the seed draws the kernel that it starts from.
        callback: called as `callback(step, loss, kernel)` after each step of gradient descent.
        progress: show a bar on stderr.

    Raises:
        ConvolithError: shapes that cannot belong together, non-finite pixels, fewer equations than unknowns, a learning
            rate that diverges (with one that does not), options of the other method.

    Example:
        >>> import numpy as np
        >>> from convolith import correlate
        >>> rng = np.random.default_rng(0)
        >>> x, kernel = rng.normal(size=(1, 32, 32)), rng.normal(size=(1, 1, 3, 3))
        >>> found = fit(x, correlate(x, kernel), kernel_size=3)
        >>> bool(np.abs(found.kernel - kernel).max() < 1e-12)
        True
    """
    _check_options(method, ridge, learning_rate, steps, seed, callback)
    problem = read(
        x,
        y,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        padding_mode=padding_mode,
        offset=offset,
        mask=mask,
        weights=weights,
    )
    if not problem.equations:
        raise ConvolithError("mask or weights leave no pixel of y to fit; expected at least one")
    stderr = condition = rate = None
    if method == "gd":
        descent = descend(
            problem,
            ridge=ridge,
            learning_rate=learning_rate,
            steps=steps,
            seed=seed,
            callback=callback,
            progress=progress,
        )
        coefficients, squares, losses, rate = descent
    else:
        solution = least_squares(problem, ridge)
        coefficients, squares, condition = solution.coefficients, solution.squares, solution.condition
        losses = [solution.loss]
        stderr = like(torch.from_numpy(_kernel_of(problem, solution.stderr)), x)
    dtype = torch_dtype(_kernel_dtype(x, y))
    share = squares / (problem.weights.sum() * problem.spec.out_channels)
    return Fit(
        kernel=like(torch.from_numpy(_kernel_of(problem, coefficients)).to(dtype), x),
        offset=like(torch.from_numpy(coefficients[-1].copy()).to(dtype), x) if offset else None,
        residual_rms=sqrt(max(share, 0.0)),
        loss=tuple(losses),
        stderr=stderr,
        condition=condition,
        method=method,
        learning_rate=rate,
        spec=problem.spec,
    )


def _check_options(
    method: str, ridge: float, learning_rate: float | None, steps: int, seed: int, callback: Callback | None
) -> None:
    if method not in METHODS:
        raise ConvolithError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if not _is_number(ridge) or ridge < 0:
        raise ConvolithError(f"ridge is {ridge!r}; expected a finite number, 0 or more")
    check_whole("steps", steps, 1)
    check_whole("seed", seed, 0)
    if learning_rate is not None and not (_is_number(learning_rate) and learning_rate > 0):
        raise ConvolithError(f"learning_rate is {learning_rate!r}; expected a positive number")
    if method == "lstsq" and (learning_rate is not None or callback is not None):
        name = "callback" if learning_rate is None else "learning_rate"
        raise ConvolithError(f'{name} was given, but method "lstsq" takes no steps; pass method="gd"')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and isfinite(value)


def _kernel_of(problem: Problem, coefficients: np.ndarray) -> np.ndarray:
    """(unknowns, out_channels) without the offset, as (out_channels, in_channels, *kernel_size)."""
    spec = problem.spec
    rows = coefficients[: problem.unknowns - problem.offset]
    return np.ascontiguousarray(rows.T).reshape(spec.out_channels, spec.in_channels, *spec.kernel_size)


def _kernel_dtype(x: Any, y: Any) -> str:
    """The floating dtype of the data: that of x, else of y, else float64."""
    names = [dtype_name(as_tensor(name, array).dtype) for name, array in (("x", x), ("y", y))]
    return next((name for name in names if is_float(name)), "float64")
