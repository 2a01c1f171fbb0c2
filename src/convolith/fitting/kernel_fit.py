"""`fit`: the kernel that maps x to y, in closed form or by gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod, sqrt
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch

from convolith.arrays import placed
from convolith.errors import ConvolithError, check_flag, check_option, warn
from convolith.fitting.data.pixels import Pixels
from convolith.fitting.data.problem import Problem, no_pixels, read, result_dtype
from convolith.fitting.data.units import unwrapped
from convolith.fitting.descent import LOSSES, OPTIMIZERS, Closed, Descent, DescentKeywords, Goal, Huber, descend
from convolith.fitting.diagnosis import examine, explained
from convolith.fitting.gram import Accumulator, Gram
from convolith.fitting.kernel_options import KernelOptions
from convolith.fitting.long_kernels import fit_long, is_long
from convolith.fitting.refinement import refined, residual_of
from convolith.fitting.results import Candidate, Fit, check_errors, is_number
from convolith.fitting.selection.cross_validation import RIDGES, TOLERANCE, candidates, choose_size, chosen
from convolith.fitting.selection.jackknife import jackknife
from convolith.fitting.selection.tiles import states_of_tiles
from convolith.fitting.solving.bases import basis_of
from convolith.fitting.solving.constraints import spanned
from convolith.fitting.solving.least_squares import Penalty, least_squares
from convolith.geometry import Axes, Padding
from convolith.planner import plan
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype
from convolith.torch_private import safe_in_forks

METHODS = ("lstsq", *OPTIMIZERS)
FEW = 4
"""Least number of weights per kernel of a basis from which x is filtered by the basis first."""
LOST = 0.01
"""Share of the variance of y that a descent may explain less than the closed form does."""
MOST_FILTERED = 1 << 25
"""Upper bound on the pixels of x filtered by a basis: 256 MB."""


@safe_in_forks
def fit(
    x: Any,
    y: Any,
    *,
    kernel_size: Axes | str,
    method: str | Descent = "lstsq",
    stride: Axes = 1,
    padding: Padding = "valid",
    dilation: Axes = 1,
    padding_mode: str = "zeros",
    offset: bool = False,
    mask: Any = None,
    weights: Any = None,
    x_mask: Any = None,
    nan: str = "refuse",
    saturation: Any = None,
    origin: Axes = 0,
    ridge: float | str = 0.0,
    smoothness: float = 0.0,
    basis: Any = None,
    constraints: str | Sequence[str] = (),
    x_noise_variance: Any = 0.0,
    max_size: int | None = None,
    size_tolerance: float | None = None,
    errors: str = "white",
    loss: str | Huber = "squares",
    flip: bool = False,
    **keywords: Unpack[DescentKeywords],
) -> Fit:
    """Find the kernel for which `correlate(x, kernel, offset, ...)` is closest to y.

    The objective is `sum over pixels of weight (correlate(x, kernel) + offset - y)^2 + ridge |kernel|^2`, plus further
    penalties, in float64. `"lstsq"` minimises it in closed form, and refines the solution by the residuals of the data.
    Kernels with 3500 unknowns or more per output channel are found by conjugate gradients instead, without standard
    errors, unless an option needs the closed form.

    Args:
        x: (N, in_channels, *size), (in_channels, *size) or (*size): an array, masked array or tensor, or a `CCDData` of
            astropy; the uncertainty of a `CCDData` y gives the weights.
        y: the target, in the shape of `correlate`'s result: (N, out_channels, *output_size), or without N and channels
            as in x. With padding "valid" and stride 1 it may also be as large as x: its border is left out then.
        kernel_size: a number per spatial axis. One number means as many axes as x has beyond channels and images; an
            x of two axes is a picture, or a signal where it has too few rows for a picture (audio of (1, samples)).
            `"auto"`: the smallest odd sizes whose kernels predict tiles of y from the other tiles about as well as any
            size (see `Fit.selection` and `size_tolerance`); y must then have the spatial size of x, with stride 1 and
            padding "valid" or "same".
        method: `"lstsq"`, or a descent: `Descent("adam", steps=500)`, or its name alone, as in `"gd"`.
        stride, padding, dilation, padding_mode: as for `correlate`.
        offset: whether a constant per output channel (a background) is fitted too.
        mask: booleans, True where a pixel of y is excluded (NumPy's convention): (*size) or (N, *size), of y.
        weights: 0 or more per pixel of y, such as 1/variance; shaped as mask.
        x_mask: booleans, True where a pixel of x is bad; every pixel of y that reads it is excluded: (*size) or
            (N, *size), of x, or the shape of x, where one bad channel makes the pixel bad.
        nan: `"refuse"`, or `"omit"`: pixels of x and y that are not finite count as masked.
        saturation: level, in the units of x and y, from which pixels count as masked: one number, or one for x and one
            for y.
        origin: for a y as large as x and padding "valid": number of taps by which the kernel's centre is shifted from
            the middle, one or one per axis, as in `filter_image`; for pictures that are shifted against each other.
        ridge: penalty on the squared kernel (not on the offset), in units of the sum over pixels of weight times x^2,
            so that its effect shrinks as the data grow. `"auto"`: chosen by cross-validation over tiles of y.
        smoothness: penalty on the squared differences of neighbouring weights, in the unit of `ridge`.
        basis: kernels whose linear combination is fitted, for each input channel: arrays, (count, *kernel_size),
            or `"gaussian-hermite"`, Gaussians times polynomials (Alard and Lupton 1998).
        constraints: one or several of `"symmetric"` (unchanged with all axes reversed), `"sum-to-one"` (over all input
            channels), `"nonnegative"`, `"simplex"` (nonnegative and sum to one); the last two need the extra `fit`, and
            concern weights, not the coefficients of a basis.
        x_noise_variance: variance of white noise in x, in the squared units of x: one number, or one per input channel.
            Its share of the normal matrix is subtracted, since noise in x that is ignored makes the kernel too small;
            x must not be padded.
        max_size: largest size that `kernel_size="auto"` considers; by default the smaller of 31 and a third of the
            shortest axis, in dilated steps.
        size_tolerance: excess of the mean squared error that `kernel_size="auto"` accepts for a smaller kernel, as a
            fraction, from 0 to below 1, of the difference between size 1 and the best size; by default 0.0003.
        errors: noise that `stderr` assumes in y: `"white"`, or, with `"jackknife"`, spatially correlated noise; the
            jackknife omits one tile at a time.
        loss: loss of a pixel: `"squares"`; `Huber()` or `"huber"`, which tolerates outlying pixels; or `"poisson"`, the
            negative log-likelihood of counts, with kernels and offsets above zero. Only squares have a closed form.
        flip: whether to give the kernel for `convolve`, a point-spread function or an impulse response, instead of the
            one for `correlate`, its mirror image.
        keywords: `learning_rate`, `steps`, `seed`, `callback` and `progress` of `Descent`, and `huber_delta`, the delta
            of `Huber`, where the method and the loss are given by name.

    Returns:
        A `Fit`: its `kernel`, (out_channels, in_channels, *kernel_size), and `offset` are in the array type and on the
        device of x, in the floating dtype of the data (float64 for integers); print it for a summary.

    Raises:
        ConvolithError: shapes that do not match, complex or non-finite pixels, no pixel that counts, fewer equations
            than unknowns (of a basis and constraints too), negative pixels for `"poisson"`, a learning rate that
            diverges (the message names a smaller one), options of another method, an extra that is not installed.

    References:
        Bjoerck, "Stability analysis of the method of seminormal equations", Linear Algebra Appl. 88, 1987 (refinement);
        T. Chan, "An optimal circulant preconditioner for Toeplitz systems", SIAM J. Sci. Stat. Comput. 9, 1988 (long
        kernels); Breiman et al., "Classification and Regression Trees", 1984 (choice of the size); Kuensch, Ann.
        Statist. 17, 1989, and Shao and Wu, Ann. Statist. 17, 1989 (jackknife); Arnstroem, Bemporad and Axehill, IEEE
        Trans. Automatic Control 67, 2022 (nonnegative weights, by daqp); Huber, "Robust Statistics", 1981; Alard and
        Lupton, Astrophys. J. 503, 1998 (Gaussians times polynomials).

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> rng = np.random.default_rng(0)
        >>> x, kernel = rng.normal(size=(1, 32, 32)), rng.normal(size=(1, 1, 3, 3))
        >>> found = cl.fit(x, cl.correlate(x, kernel), kernel_size=3)
        >>> bool(np.abs(found.kernel - kernel).max() < 1e-12)
        True
    """
    x, y, weights = unwrapped(x, y, weights)
    geometry: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "padding_mode": padding_mode,
    }
    pixels = Pixels(mask, weights, x_mask, nan, saturation)
    data: dict[str, Any] = {"pixels": pixels, "offset": offset, "origin": origin}
    selection: tuple[Candidate, ...] = ()
    held_out: float | None = None
    size: Any = kernel_size
    share: Any = ridge
    kernel_options = KernelOptions(0.0 if _is_auto(share) else share, smoothness, basis, constraints, x_noise_variance)
    descent = _descent(method, keywords)
    huber = _huber(loss, keywords)
    _check_choice(descent, kernel_options, kernel_size, ridge, errors)
    _check_loss(descent, loss)
    if _is_auto(size):
        ridges = RIDGES if _is_auto(share) else [share]
        tolerance = TOLERANCE if size_tolerance is None else size_tolerance
        selected = choose_size(x, y, max_size, tolerance, ridges, data, geometry)
        size, share, held_out, selection = selected
    else:
        _refuse_of_auto(max_size=max_size, size_tolerance=size_tolerance)
    problem = read(x, y, kernel_size=size, **data, **geometry)
    if not problem.equations:
        raise no_pixels()
    if loss == "poisson":
        _check_counts(problem)
    exact = descent is None and not _is_auto(share)
    if exact and errors != "jackknife" and is_long(problem, kernel_options):
        found = _by_iteration(problem, share)
    elif exact and (few := _few_kernels(problem, kernel_options)) is not None:
        found = _in_basis(problem, few, kernel_options, tiled=errors == "jackknife")
    else:
        gram = Gram(problem.spec.kernel_size, problem.spec.in_channels, problem.spec.out_channels, **geometry)
        tiles = states_of_tiles(problem, gram) if _is_auto(share) or errors == "jackknife" else []
        for tile in tiles:
            gram.merge(tile)
        gram = gram if tiles else gram.add(problem)
        if _is_auto(share):
            selection = tuple(candidates(gram, tiles, [gram.kernel_size], RIDGES, offset=offset))
            share, held_out = chosen(selection).ridge, chosen(selection).rms
        kernel_options = replace(kernel_options, ridge=share)
        if descent is None:
            found = _in_closed_form(problem, gram, kernel_options, tiles if errors == "jackknife" else [])
        else:
            delta = None if huber is None else huber.delta or 0.0
            goal = Goal("poisson" if loss == "poisson" else "squares", delta, share)
            found = _by_descent(problem, gram, goal, descent)
    shape = (problem.spec.out_channels, problem.spec.in_channels, *problem.spec.kernel_size)
    flip = check_flag("flip", flip)
    kernel = _of_windows(found.coefficients, shape)
    stderr = None if found.stderr is None else _of_windows(found.stderr, shape)
    own = kernel_options.coefficients(kernel)
    share_explained = explained(problem, found.squares)
    if found.residual is not None:
        examine(
            problem,
            found.residual,
            kernel,
            share_explained,
            origin,
            white=errors == "white" and found.stderr is not None,
            free=not kernel_options.names,
        )
    if flip:
        kernel, stderr = _mirrored(kernel), None if stderr is None else _mirrored(stderr)
    constant = found.coefficients[problem.windows :].copy()
    dtype = torch_dtype(result_dtype(x, y, problem, kernel, constant))
    mean = found.squares / (problem.weights.sum() * problem.spec.out_channels)
    return Fit(
        kernel=placed(torch.from_numpy(kernel).to(dtype), x),
        offset=placed(torch.from_numpy(constant[0]).to(dtype), x) if offset else None,
        residual_rms=sqrt(max(mean, 0.0)),
        explained=share_explained,
        loss=tuple(found.losses),
        stderr=None if stderr is None else placed(torch.from_numpy(stderr), x),
        sum_stderr=None if found.sum_stderr is None else placed(torch.from_numpy(found.sum_stderr.T.copy()), x),
        condition=found.condition,
        method="lstsq" if descent is None else descent.method,
        learning_rate=found.learning_rate,
        spec=problem.spec,
        coefficients=own,
        selection=selection,
        held_out_rms=held_out if found.held_out is None else found.held_out,
        flip=flip,
    )


class Solved(NamedTuple):
    """Outcome of a solver.

    Attributes:
        coefficients: (unknowns, out_channels), the constant last.
        squares: sum of squared residuals.
        losses: minimised objective, before each step or at the minimum.
        learning_rate: of a descent.
        stderr: (windows, out_channels).
        condition: condition number.
        held_out: rms error of predicting each tile by the others.
        residual: y less the prediction.
        sum_stderr: (in_channels, out_channels), standard errors of the sums of the kernel's weights.
    """

    coefficients: np.ndarray
    squares: float
    losses: list[float]
    learning_rate: float | None = None
    stderr: np.ndarray | None = None
    condition: float | None = None
    held_out: float | None = None
    residual: np.ndarray | None = None
    sum_stderr: np.ndarray | None = None


def _in_closed_form(
    problem: Problem, gram: Accumulator, kernel_options: KernelOptions, tiles: list[Accumulator]
) -> Solved:
    """Solve the normal equations, and refine the solution on the data."""
    penalty = gram.penalty_of(kernel_options)
    solution = least_squares(gram.system(problem.used), penalty)
    coefficients, squares, residual = refined(problem, gram, solution, penalty)
    losses = [squares + penalty.paid(coefficients[: gram.windows])]
    left_out = jackknife(gram, tiles, kernel_options, problem.used) if tiles else None
    accurate = left_out or solution
    held_out = None if left_out is None else left_out.rms
    sums = accurate.stderr_of(gram.sums_of_channels())
    return Solved(coefficients, squares, losses, None, accurate.stderr, solution.condition, held_out, residual, sums)


def _few_kernels(problem: Problem, kernel_options: KernelOptions) -> np.ndarray | None:
    """Return the basis, (count, *kernel_size), if it is small and the fit is one for its coefficients."""
    noise_is_even = not any(map(any, problem.spec.padding)) or not np.any(kernel_options.x_noise_variance)
    if not noise_is_even:
        return None
    basis = basis_of(kernel_options.basis, problem.spec.kernel_size)
    if basis is None or FEW * len(basis) > problem.spec.taps:
        return None
    pixels = len(basis) * problem.spec.in_channels * problem.weights.size
    return basis if pixels <= MOST_FILTERED else None


def _in_basis(problem: Problem, basis: np.ndarray, kernel_options: KernelOptions, *, tiled: bool) -> Solved:
    """Fit the coefficients of a few kernels to x filtered by each of them, not all weights to the windows of x."""
    spec = problem.spec
    directions = spanned(basis.reshape(len(basis), -1).T)  # (taps, kernels)
    kernels = torch.from_numpy(np.tile(directions.T, (spec.in_channels, 1)).reshape(-1, 1, *spec.kernel_size))
    x = torch.from_numpy(problem.padded)
    layer = ConvSpec.of(x, kernels, stride=spec.stride, dilation=spec.dilation, groups=spec.in_channels)
    with torch.no_grad():
        filtered = plan(layer)(x, kernels).numpy()
    single = (1,) * spec.axes
    coefficients_of = ConvSpec(
        batch=spec.batch,
        in_channels=filtered.shape[1],
        out_channels=spec.out_channels,
        size=filtered.shape[2:],
        kernel_size=single,
        dtype="float64",
    )
    small = replace(problem, spec=coefficients_of, padded=filtered, places=problem.centres())
    gram = Gram(single, filtered.shape[1], spec.out_channels)
    tiles = states_of_tiles(small, gram) if tiled else []
    gram = gram.add(small)
    variances = np.repeat(kernel_options.variances(spec.in_channels), directions.shape[1])

    def penalty_of(state: Accumulator) -> Penalty:
        noise = state.noise(variances) if variances.any() else None
        return kernel_options.penalty_in_basis(spec.in_channels, spec.kernel_size, directions, noise)

    penalty = penalty_of(gram)
    solution = least_squares(gram.system(small.used), penalty)
    coefficients, squares, residual = refined(small, gram, solution, penalty)
    left_out = jackknife(gram, tiles, penalty_of, small.used) if tiles else None
    accurate = left_out or solution
    weights = np.kron(np.eye(spec.in_channels), directions)
    each = np.kron(np.eye(spec.in_channels), np.ones((spec.taps, 1)))
    n = gram.windows
    kernel = penalty.kernel_of(coefficients[:n])
    stderr = accurate.stderr_of(weights.T)
    return Solved(
        np.concatenate([kernel, coefficients[n:]]),
        squares,
        [squares + penalty.paid(coefficients[:n])],
        stderr=np.where(kernel == 0, 0.0, stderr) if penalty.nonnegative else stderr,
        condition=solution.condition,
        held_out=None if left_out is None else left_out.rms,
        residual=residual,
        sum_stderr=accurate.stderr_of(weights.T @ each),
    )


def _by_iteration(problem: Problem, ridge: float) -> Solved:
    """Find a long kernel by conjugate gradients."""
    found = fit_long(problem, ridge)
    paid = ridge * float((found.coefficients[: problem.windows] ** 2).sum())
    losses = [found.squares + paid]
    return Solved(found.coefficients, found.squares, losses, condition=found.condition, residual=found.residual)


def _by_descent(problem: Problem, gram: Accumulator, goal: Goal, descent: Descent) -> Solved:
    """Find a kernel step by step; warn if the data do not determine it, or the descent has not converged."""
    closed = _closed(problem, gram, goal.ridge)
    found = descend(problem, gram, closed, goal, descent)
    best = float((problem.weights[:, None] * closed.residual**2).sum())
    share, possible = explained(problem, found.squares), explained(problem, best)
    far = goal.loss == "squares" and goal.delta is None and share < possible - LOST
    if found.changing or far:
        how = f"and explains {share:.1%} of the variance of y, where the closed form explains {possible:.1%}"
        others = ["another learning_rate=", 'method="lbfgs"'] if descent.method != "lbfgs" else []
        remedies = ["a larger steps=", *others, *(['method="lstsq", the closed form'] if far else [])]
        warn(
            f"{descent.method} has not converged in {descent.steps} steps, "
            f"{how if far else 'for its loss still changes'}; pass {', or '.join(remedies)}"
        )
    return Solved(found.coefficients, found.squares, found.losses, found.learning_rate)


def _closed(problem: Problem, gram: Accumulator, ridge: float) -> Closed:
    """Solve for least squares; warn if the data do not determine all of the kernel."""
    system = gram.system(problem.used)
    penalty = gram.penalty_of(KernelOptions(ridge))
    solution = least_squares(system, penalty)
    own = solution.inverses[0]
    coefficients = np.concatenate([solution.coefficients, gram.known_of(solution.coefficients, problem.used)])
    whole = own.rank == len(system.normal)
    determined = None if whole else own.times(penalty.added_to(system.normal))
    return Closed(coefficients, residual_of(problem, gram, coefficients), determined)


def _of_windows(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Reshape (windows or more, out_channels) to (out_channels, in_channels, *kernel_size)."""
    return np.ascontiguousarray(rows[: prod(shape[1:])].T).reshape(shape)


def _mirrored(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel with its spatial axes reversed."""
    return np.flip(kernel, tuple(range(2, kernel.ndim))).copy()


def _is_auto(value: Any) -> bool:
    """Return whether a value is "auto"; arrays, which compare elementwise, are not."""
    return isinstance(value, str) and value == "auto"


def _descent(method: str | Descent, keywords: DescentKeywords) -> Descent | None:
    """Return the options of a descent, or None for a fit in closed form."""
    unknown = set(keywords) - DescentKeywords.__optional_keys__
    if unknown:
        raise TypeError(f"fit() got an unexpected keyword argument {min(unknown)!r}")
    given: dict[str, Any] = {name: value for name, value in keywords.items() if name != "huber_delta"}
    if isinstance(method, Descent):
        if given:
            name = next(iter(given))
            raise ConvolithError(
                f"{name} was given together with a Descent; expected it as one of its fields; pass Descent({name}=...)"
            )
        return method
    check_option("method", method, METHODS)
    descent = Descent(**given | {"method": "gd" if method == "lstsq" else method})
    if method != "lstsq":
        return descent
    if descent.learning_rate is not None or descent.callback is not None:
        name = "callback" if descent.learning_rate is None else "learning_rate"
        raise ConvolithError(f'{name} was given, but method "lstsq" takes no steps; pass method="gd"')
    return None


def _huber(loss: str | Huber, keywords: DescentKeywords) -> Huber | None:
    """Return Huber's loss, or None for another."""
    delta = keywords.get("huber_delta")
    if delta is not None and (loss != "huber" or not is_number(delta) or delta <= 0):
        raise ConvolithError(f'huber_delta is {delta!r}; expected a positive number, with loss="huber" only')
    if isinstance(loss, Huber):
        return loss
    check_option("loss", loss, LOSSES)
    return Huber(delta) if loss == "huber" else None


def _check_choice(
    descent: Descent | None, kernel_options: KernelOptions, kernel_size: Any, ridge: Any, errors: str
) -> None:
    if descent is not None and not kernel_options.plain:
        raise ConvolithError(
            'smoothness, basis, constraints and x_noise_variance are solved in closed form; pass method="lstsq"'
        )
    check_errors(errors)
    automatic = [name for name, value in (("kernel_size", kernel_size), ("ridge", ridge)) if _is_auto(value)]
    if isinstance(kernel_size, str) and kernel_size != "auto":
        raise ConvolithError(f'kernel_size is {kernel_size!r}; expected a number, one per axis, or "auto"')
    if automatic and not kernel_options.plain:
        raise ConvolithError(
            f'{automatic[0]} is "auto", which is chosen for kernels without smoothness, basis, constraints and '
            "x_noise_variance; choose it first, then fit with its value"
        )
    if descent is not None and (automatic or errors != "white"):
        name = f'{automatic[0]}="auto"' if automatic else f"errors={errors!r}"
        raise ConvolithError(f'{name} was given, but method "{descent.method}" has no closed form; pass method="lstsq"')


def _refuse_of_auto(**options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConvolithError(f'{name} was given together with a kernel_size; it belongs to kernel_size="auto" only')


def _check_loss(descent: Descent | None, loss: str | Huber) -> None:
    if loss != "squares" and descent is None:
        name = f'"{loss}"' if isinstance(loss, str) else repr(loss)
        raise ConvolithError(f'loss is {name}, which has no closed form; pass method="lbfgs", or another of descent')


def _check_counts(problem: Problem) -> None:
    """Refuse negative values in pixels that count."""
    for name, values in (("x", problem.padded), ("y", problem.y)):
        if values.size and values.min() < 0:
            mask = "mask=" if name == "y" else "x_mask="
            raise ConvolithError(
                f'{name} has a least value of {values.min()}; loss="poisson" is of counts, 0 or more; leave such '
                f"pixels out by {mask}, or pass another loss"
            )
