"""`fit`: the kernel that maps x to y, in closed form or by gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
import torch

from convolith.arrays import as_tensor, like
from convolith.errors import ConvolithError, check_option
from convolith.fitting.data.problem import Problem, floating_dtype, read
from convolith.fitting.descent import LOSSES, OPTIMIZERS, Callback, Goal, descend, steepest
from convolith.fitting.gram import Gram
from convolith.fitting.kernel_options import KernelOptions
from convolith.fitting.refinement import refined, residual_of
from convolith.fitting.results import Candidate, Fit, check_errors, is_number
from convolith.fitting.selection.cross_validation import RIDGES, candidates, choose_size, chosen
from convolith.fitting.selection.jackknife import jackknife
from convolith.fitting.selection.tiles import states_of_tiles
from convolith.fitting.solving.least_squares import least_squares
from convolith.geometry import Axes, Padding, check_whole
from convolith.tensors import torch_dtype

METHODS = ("lstsq", *OPTIMIZERS)


def fit(
    x: Any,
    y: Any,
    *,
    kernel_size: Axes | str,
    method: str = "lstsq",
    stride: Axes = 1,
    padding: Padding = "valid",
    dilation: Axes = 1,
    padding_mode: str = "zeros",
    offset: bool = False,
    mask: Any = None,
    weights: Any = None,
    ridge: float | str = 0.0,
    smoothness: float = 0.0,
    basis: Any = None,
    constraints: str | Sequence[str] = (),
    x_noise_variance: Any = 0.0,
    max_size: int | None = None,
    errors: str = "white",
    loss: str = "squares",
    huber_delta: float | None = None,
    learning_rate: float | None = None,
    steps: int = 1000,
    seed: int = 0,
    callback: Callback | None = None,
    progress: bool = False,
) -> Fit:
    """Find the kernel for which `correlate(x, kernel, offset, ...)` is closest to y.

    The objective is `sum over pixels of weight (correlate(x, kernel) + offset - y)^2 + ridge |kernel|^2`, plus further
    penalties, in float64. `"lstsq"` minimises it in closed form; `"gd"` follows its gradient as the textbook loop does,
    for teaching rather than for use: it needs a learning rate below 1 over the largest eigenvalue of the normal matrix,
    and a number of steps that grows with the condition number of that matrix. `"momentum"`, `"adam"` and `"lbfgs"` are
    torch's optimisers, for losses that have no closed form.

    Args:
        x: (N, in_channels, *size) or (in_channels, *size).
        y: the target, in the shape of `correlate`'s result: (N, out_channels, *output_size), or without N as in x.
        kernel_size: a number per spatial axis; one number means two axes (three where x has five). `"auto"`: the
            smallest odd size whose kernels predict tiles of y from the other tiles as well as any size (see
            `Fit.selection`); y must then be as large as x, and with padding "valid" its border is excluded.
        stride, padding, dilation, padding_mode: as for `correlate`.
        offset: whether a constant per output channel (a background) is fitted too.
        mask: booleans, True where a pixel of y is excluded (NumPy's convention): (*output_size) or (N, *output_size).
        weights: 0 or more per pixel of y, such as 1/variance; shaped as mask.
        ridge: penalty on the squared kernel (not on the offset); `"auto"`: by cross-validation over tiles of y.
        smoothness: penalty on the squared differences of neighbouring weights.
        basis: kernels whose linear combination is fitted, for each input channel: arrays, (count, *kernel_size),
            or `"gaussian-hermite"`, Gaussians times polynomials (Alard and Lupton 1998).
        constraints: one or several of `"symmetric"` (unchanged with all axes reversed), `"sum-to-one"` (over all input
            channels), `"nonnegative"`, `"simplex"` (nonnegative and sum to one); the last two need the extra `fit`.
        x_noise_variance: variance of white noise in x, one or one per input channel; ignored noise shrinks kernels.
        max_size: largest size that `kernel_size="auto"` considers; by default 31, or a third of the image.
        errors: noise that `stderr` assumes in y: `"white"`, or, with `"jackknife"`, spatially correlated noise; the
            jackknife omits one tile at a time.
        loss: loss of a pixel: `"squares"`; `"huber"`, linear from `huber_delta` on, which tolerates outlying pixels; or
            `"poisson"`, the negative log-likelihood of counts, with kernels and offsets above zero. Only squares have
            a closed form.
        huber_delta: in the units of y; by default 1.345 standard deviations of the least-squares residuals, estimated
            from their median.
        learning_rate: of gradient descent; by default nine tenths of the largest that converges.
        steps, seed: number of steps of gradient descent, and seed of its initial kernel.
        callback: called as `callback(step, loss, kernel)` after each step of gradient descent.
        progress: whether to show a progress bar on stderr.

    Raises:
        ConvolithError: shapes that do not match, non-finite pixels, fewer equations than unknowns, a learning rate that
            diverges (the message names a smaller one), options of another method.

    Example:
        >>> import numpy as np
        >>> from convolith import correlate
        >>> rng = np.random.default_rng(0)
        >>> x, kernel = rng.normal(size=(1, 32, 32)), rng.normal(size=(1, 1, 3, 3))
        >>> found = fit(x, correlate(x, kernel), kernel_size=3)
        >>> bool(np.abs(found.kernel - kernel).max() < 1e-12)
        True
    """
    geometry: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "padding_mode": padding_mode,
    }
    data = {"mask": mask, "weights": weights, "offset": offset}
    selection: tuple[Candidate, ...] = ()
    size: Any = kernel_size
    share: Any = ridge
    kernel_options = KernelOptions(0.0 if _is_auto(share) else share, smoothness, basis, constraints, x_noise_variance)
    _check_options(method, kernel_options, learning_rate, steps, seed, callback)
    _check_choice(method, kernel_options, kernel_size, ridge, errors)
    _check_loss(method, loss, huber_delta, x, y)
    if _is_auto(size):
        selected = choose_size(x, y, max_size, RIDGES if _is_auto(share) else [share], data, geometry)
        size, share, selection = selected.kernel_size, selected.ridge, selected.selection
        y, data = selected.y, selected.data
    elif max_size is not None:
        raise ConvolithError('max_size was given together with a kernel_size; it belongs to kernel_size="auto" only')
    problem = read(x, y, kernel_size=size, **data, **geometry)
    if not problem.equations:
        raise ConvolithError("mask or weights leave no pixel of y to fit; expected at least one")
    gram = Gram(problem.spec.kernel_size, problem.spec.in_channels, problem.spec.out_channels, **geometry)
    tiles = states_of_tiles(problem, gram) if _is_auto(share) or errors == "jackknife" else []
    for tile in tiles:
        gram.merge(tile)
    gram = gram if tiles else gram.add(problem)
    if _is_auto(share):
        selection = tuple(candidates(gram, tiles, [gram.kernel_size], RIDGES, offset=offset))
        share = chosen(selection).ridge
    kernel_options = replace(kernel_options, ridge=share)
    stderr = condition = rate = held_out = None
    if method != "lstsq":
        goal = Goal(loss, _delta(problem, gram, huber_delta) if loss == "huber" else 0.0, kernel_options.ridge)
        coefficients, squares, losses, rate = descend(
            problem,
            steepest(gram, kernel_options.ridge, offset=offset),
            goal,
            method=method,
            learning_rate=learning_rate,
            steps=steps,
            seed=seed,
            callback=callback,
            progress=progress,
        )
    else:
        penalty = gram.penalty_of(kernel_options)
        solution = least_squares(gram.system(int(offset)), penalty)
        coefficients, squares = refined(problem, gram, solution, penalty)
        condition, losses = solution.condition, [squares + penalty.paid(coefficients[: gram.windows])]
        left_out = jackknife(gram, tiles, kernel_options, int(offset)) if errors == "jackknife" else None
        spread = solution.stderr if left_out is None else left_out.stderr
        held_out = chosen(selection).rms if selection else None
        held_out = held_out if left_out is None else left_out.rms
        stderr = like(torch.from_numpy(gram.kernel_of(spread)), x)
    kernel, constant = gram.kernel_of(coefficients), coefficients[-1].copy()
    dtype = torch_dtype(floating_dtype(x, y))
    share = squares / (problem.weights.sum() * problem.spec.out_channels)
    return Fit(
        kernel=like(torch.from_numpy(kernel).to(dtype), x),
        offset=like(torch.from_numpy(constant).to(dtype), x) if offset else None,
        residual_rms=sqrt(max(share, 0.0)),
        loss=tuple(losses),
        stderr=stderr,
        condition=condition,
        method=method,
        learning_rate=rate,
        spec=problem.spec,
        coefficients=kernel_options.coefficients(kernel),
        selection=selection,
        held_out_rms=held_out,
    )


def _is_auto(value: Any) -> bool:
    """Return whether a value is "auto"; arrays, which compare elementwise, are not."""
    return isinstance(value, str) and value == "auto"


def _check_choice(method: str, kernel_options: KernelOptions, kernel_size: Any, ridge: Any, errors: str) -> None:
    check_errors(errors)
    automatic = [name for name, value in (("kernel_size", kernel_size), ("ridge", ridge)) if _is_auto(value)]
    if isinstance(kernel_size, str) and kernel_size != "auto":
        raise ConvolithError(f'kernel_size is {kernel_size!r}; expected a number, one per axis, or "auto"')
    if automatic and not kernel_options.plain:
        raise ConvolithError(
            f'{automatic[0]} is "auto", which is chosen for kernels without smoothness, basis, constraints and '
            "x_noise_variance; choose it first, then fit with its value"
        )
    if method != "lstsq" and (automatic or errors != "white"):
        name = f'{automatic[0]}="auto"' if automatic else f"errors={errors!r}"
        raise ConvolithError(f'{name} was given, but method "{method}" has no closed form; pass method="lstsq"')


def _check_loss(method: str, loss: str, huber_delta: float | None, x: Any, y: Any) -> None:
    check_option("loss", loss, LOSSES)
    if loss != "squares" and method == "lstsq":
        raise ConvolithError(f'loss is "{loss}", which has no closed form; pass method="lbfgs", or another of descent')
    if huber_delta is not None and (loss != "huber" or not is_number(huber_delta) or huber_delta <= 0):
        raise ConvolithError(f'huber_delta is {huber_delta!r}; expected a positive number, with loss="huber" only')
    if loss == "poisson":
        for name, array in (("x", x), ("y", y)):
            tensor = as_tensor(name, array)
            if tensor.numel() and not tensor.is_complex() and bool((tensor < 0).any()):
                raise ConvolithError(
                    f'{name} has a least value of {tensor.min()}; loss="poisson" is of counts, 0 or more'
                )


def _delta(problem: Problem, gram: Gram, given: float | None) -> float:
    """Return where Huber's loss becomes linear: 1.345 deviations lose only 5% for normal noise (Huber 1981)."""
    if given is not None:
        return given
    solution = least_squares(gram.system(problem.used), gram.penalty_of(KernelOptions()))
    coefficients = np.concatenate([solution.coefficients, gram.known_of(solution.coefficients, problem.used)])
    residuals = np.abs(residual_of(problem, gram, coefficients))[
        np.broadcast_to(problem.weights[:, None] > 0, problem.y.shape)
    ]
    return float(max(1.345 * 1.4826 * np.median(residuals), np.finfo(float).tiny))


def _check_options(
    method: str,
    kernel_options: KernelOptions,
    learning_rate: float | None,
    steps: int,
    seed: int,
    callback: Callback | None,
) -> None:
    check_option("method", method, METHODS)
    if method != "lstsq" and not kernel_options.plain:
        raise ConvolithError(
            'smoothness, basis, constraints and x_noise_variance are solved in closed form; pass method="lstsq"'
        )
    check_whole("steps", steps, 1)
    check_whole("seed", seed, 0)
    if learning_rate is not None and not (is_number(learning_rate) and learning_rate > 0):
        raise ConvolithError(f"learning_rate is {learning_rate!r}; expected a positive number")
    if method == "lstsq" and (learning_rate is not None or callback is not None):
        name = "callback" if learning_rate is None else "learning_rate"
        raise ConvolithError(f'{name} was given, but method "lstsq" takes no steps; pass method="gd"')
