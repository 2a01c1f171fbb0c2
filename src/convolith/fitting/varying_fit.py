"""`fit_varying`: the kernel that maps x to y and varies with position."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch

from convolith.arrays import placed
from convolith.errors import ConvolithError, shown
from convolith.fitting.data.pixels import Pixels
from convolith.fitting.data.problem import no_pixels, read, result_dtype
from convolith.fitting.data.units import unwrapped
from convolith.fitting.diagnosis import examine, explained
from convolith.fitting.kernel_options import KernelOptions, whole_numbers
from convolith.fitting.refinement import refined
from convolith.fitting.results import check_errors
from convolith.fitting.selection.jackknife import jackknife
from convolith.fitting.selection.tiles import states_of_tiles
from convolith.fitting.solving.least_squares import least_squares
from convolith.fitting.varying_gram import VaryingFit, VaryingGram
from convolith.geometry import Axes, Padding
from convolith.tensors import torch_dtype
from convolith.torch_private import safe_in_forks

REMEDIES = {
    "origin": "cut the same rows and columns off x and y so that both show the same place, then fit",
    "flip": "mirror the weights of found.kernel along their spatial axes",
    "offset": "pass background_degree=0",
    "max_size": "choose the size with fit first",
    "size_tolerance": "choose the size with fit first",
    "method": "leave it out: it is solved in closed form",
    "loss": "leave it out: squares are minimised",
}
"""Options of `fit` that a kernel that varies does not have, with what to do."""


def _refuse_others(others: dict[str, Any]) -> None:
    """Refuse options of `fit` that do not apply, and unknown ones."""
    for name, value in others.items():
        if name not in REMEDIES:
            raise TypeError(f"fit_varying() got an unexpected keyword argument {name!r}")
        raise ConvolithError(
            f"{name} is {shown(value)}, which fit_varying does not take; expected it for fit only; {REMEDIES[name]}"
        )


@safe_in_forks
def fit_varying(
    x: Any,
    y: Any,
    *,
    kernel_size: Axes,
    degree: int = 1,
    modulation: str = "output",
    background_degree: int | None = None,
    positions: Any = None,
    stride: Axes = 1,
    padding: Padding = "valid",
    dilation: Axes = 1,
    padding_mode: str = "zeros",
    mask: Any = None,
    weights: Any = None,
    x_mask: Any = None,
    nan: str = "refuse",
    saturation: Any = None,
    ridge: float = 0.0,
    smoothness: float = 0.0,
    basis: Any = None,
    constant: Sequence[int] = (),
    constraints: str | Sequence[str] = (),
    x_noise_variance: Any = 0.0,
    errors: str = "white",
    **others: Any,
) -> VaryingFit:
    """Fit a kernel that varies over the image: the one whose result on x is nearest to y in the least-squares sense.

    Its weights are polynomials of position, `K(z) = sum over t of phi_t(z) K_t` with the monomials up to a total
    degree, and z runs from -1 at the first pixel of x to 1 at the last along each axis (Alard 2000). In closed form, in
    float64, like `fit`; `VaryingGram` accumulates its normal equations.

    Args:
        x, y, kernel_size, stride, padding, dilation, padding_mode: as for `fit`.
        mask, weights, x_mask, nan, saturation: as for `fit`.
        degree: degree of the polynomials; 0 for a kernel that does not vary.
        modulation: position that selects the kernel: `"output"`, of the output pixel, the centre of its window;
            `"input"`, of each input pixel (padding included); `"update"`, one position given for each image.
        background_degree: degree of a background, a polynomial of the output pixel's position; None for no background.
        positions: position of each image with modulation "update", (N, axes).
        ridge, smoothness: penalties on each K_t as on a kernel of `fit`.
        basis: as for `fit`; for each K_t.
        constant: indices of the basis kernels whose coefficients do not vary.
        constraints: as for `fit`; at every position ("sum-to-one" keeps the flux constant). Nonnegative weights are
            refused for a kernel that varies.
        x_noise_variance: as for `fit`.
        errors: `"white"` or `"jackknife"`, as for `fit`.
        others: options of `fit` that a kernel that varies does not have, which are refused.

    Returns:
        A `VaryingFit`: `found.kernel.at(position)` is the operator of one position, `found.kernel.apply(x)` predicts y.

    Raises:
        ConvolithError: whatever `fit` refuses; a modulation and positions that do not match; options of `fit` that a
            kernel that varies does not have.

    References:
        Alard, "Image subtraction using a space-varying kernel", Astron. Astrophys. Suppl. 144, 2000.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> x = np.random.default_rng(0).normal(size=(1, 40, 40))
        >>> y = x[:, 1:-1, 1:-1] * np.linspace(0, 1, 40)[1:-1]  # fades out towards the left
        >>> found = cl.fit_varying(x, y, kernel_size=3, degree=1)
        >>> [round(float(found.kernel.at((0, column)).weight[0, 0, 1, 1]), 9) for column in (-1, 0, 0.5)]
        [0.0, 0.5, 0.75]
    """
    _refuse_others(others)
    x, y, weights = unwrapped(x, y, weights)
    geometry: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "padding_mode": padding_mode,
    }
    kernel_options = KernelOptions(
        ridge, smoothness, basis, constraints, x_noise_variance, whole_numbers("constant", constant)
    )
    check_errors(errors)
    size: Any = kernel_size
    if isinstance(size, str):
        raise ConvolithError(
            f"kernel_size is {kernel_size!r}; expected a number, or one per axis: choose it with fit for a kernel that "
            "does not vary"
        )
    pixels = Pixels(mask, weights, x_mask, nan, saturation)
    unplaced = read(x, y, kernel_size=kernel_size, pixels=pixels, offset=False, **geometry)
    if not unplaced.equations:
        raise no_pixels()
    spec = unplaced.spec
    gram = VaryingGram(
        spec.kernel_size,
        spec.in_channels,
        spec.out_channels,
        degree=degree,
        modulation=modulation,
        background_degree=background_degree or 0,
        frame=None if modulation == "update" else spec.size,
        **geometry,
    )
    used = gram.used(background_degree)
    kernel_options.penalty(spec.in_channels, spec.kernel_size, None, len(gram.terms))  # raises before the work
    problem = gram.placed(unplaced, position=positions, background_degree=background_degree)
    tiles = states_of_tiles(problem, gram) if errors == "jackknife" else []
    for tile in tiles:
        gram.merge(tile)
    gram = gram if tiles else gram.add(problem)
    penalty = gram.penalty_of(kernel_options)
    solution = least_squares(gram.system(used), penalty)
    coefficients, squares, residual = refined(problem, gram, solution, penalty)
    share = explained(problem, squares)
    examine(problem, residual, None, share, white=errors == "white")
    left_out = jackknife(gram, tiles, kernel_options, used) if tiles else None
    accurate = left_out or solution
    spread, sums = accurate.stderr, accurate.stderr_of(gram.sums_of_channels()).T.copy()
    fitted, background = gram.kernel_of(coefficients), coefficients[gram.windows :].copy()
    dtype = torch_dtype(result_dtype(x, y, problem, fitted, background))
    kernel, sky = (placed(torch.from_numpy(part).to(dtype), x) for part in (fitted, background))
    return VaryingFit(
        gram.varying_kernel(kernel, sky, background_degree),
        sqrt(max(squares, 0.0) / (problem.weights.sum() * spec.out_channels)),
        squares + penalty.paid(coefficients[: gram.windows]),
        placed(torch.from_numpy(gram.kernel_of(spread)), x),
        solution.condition,
        spec,
        gram.coefficients_of(kernel_options, fitted),
        None if left_out is None else left_out.rms,
        share,
        placed(torch.from_numpy(sums), x),
    )
