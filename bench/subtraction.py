"""`python -m bench fit`'s peers from astronomy: programs that fit a varying kernel and take one image off another.

All fit `science ~ sum over t of phi_t(position) (reference correlated with K_t) + background` by least squares, every
kernel weight by itself, and give the difference. With a noise map, Convolith and stdpipe weight pixels; sfft cannot.
sfft (Hu et al. 2022) takes images as periodic and fits all pixels; stdpipe and Convolith leave out the border that half
a kernel does not reach. Residuals are compared where none of it matters.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

import convolith as cl
from bench.timing import race

Difference = Callable[[], np.ndarray]
"""Fits, and gives science less what was fitted, of the same size (its border may be anything)."""
Noise = np.ndarray | None
"""Standard deviations of the science image's pixels; None where all are equal."""


def scene(size: int, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """A reference, and what a kernel of 7x7 (which varies if the degree allows it), a sky and noise of 1 make of it."""
    rng = np.random.default_rng(1)
    margin = 3
    wide = size + 2 * margin
    stars = np.zeros((wide, wide))
    rows, columns = rng.integers(0, wide, (2, wide * wide // 400))
    np.add.at(stars, (rows, columns), 300 * rng.pareto(1.5, len(rows)).clip(0, 100))
    reference = 100 + blur(stars, 1.3) + 0.3 * rng.standard_normal(stars.shape)
    sharp, soft = (0.9 * blur(reference, sigma) for sigma in (1.0, 1.5))
    z = np.linspace(-1, 1, wide)
    share = 0.3 + 0.2 * z[None] - 0.1 * z[:, None] + 0.15 * z[None] * z[:, None] if degree else np.zeros((1, 1))
    science = (1 - share) * sharp + share * soft + 7 + rng.standard_normal(stars.shape)
    inside = np.s_[margin:-margin, margin:-margin]
    return np.ascontiguousarray(reference[inside]), np.ascontiguousarray(science[inside])


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """By a Gaussian that is cut to 7x7."""
    kernel = np.exp(-np.add.outer(np.arange(-3, 4) ** 2, np.arange(-3, 4) ** 2) / (2 * sigma**2))
    blurred: np.ndarray = cl.filter_image(image, kernel / kernel.sum(), padding_mode="replicate")
    return blurred


def by_convolith(reference: np.ndarray, science: np.ndarray, k: int, degree: int, noise: Noise = None) -> Difference:
    """The fit and the difference."""
    inner = np.s_[k // 2 : -(k // 2), k // 2 : -(k // 2)]

    def run() -> np.ndarray:
        x, y = reference[None], science[inner][None]
        weights = None if noise is None else 1 / noise[inner][None] ** 2
        found = cl.fit_varying(x, y, kernel_size=k, degree=degree, background_degree=degree, weights=weights)
        left = np.zeros_like(science)
        left[inner] = (y - found.kernel.apply(x))[0]
        return left

    return run


def by_sfft(reference: np.ndarray, science: np.ndarray, k: int, degree: int) -> Difference:
    """Sfft's NumPy back end, its functions compiled before."""
    import numba
    from sfft.sfftcore.SFFTConfigure import SingleSFFTConfigure_Numpy
    from sfft.sfftcore.SFFTSubtract import ElementalSFFTSubtract_Numpy

    threads, set_threads = os.cpu_count() or 1, numba.set_num_threads
    rows, columns = reference.shape
    config = SingleSFFTConfigure_Numpy.SSCN(
        NX=rows,
        NY=columns,
        KerHW=k // 2,
        KerPolyOrder=degree,
        BGPolyOrder=degree,
        ConstPhotRatio=False,
        NUM_CPU_THREADS_4SUBTRACT=threads,
        VERBOSE_LEVEL=-1,
    )
    numba.set_num_threads = set_threads  # which sfft has put a number in the place of
    set_threads(threads)

    def run() -> np.ndarray:
        _, left = ElementalSFFTSubtract_Numpy.ESSN(
            PixA_I=reference,
            PixA_J=science,
            SFFTConfig=config,
            SFFTSolution=None,
            Subtract=True,
            NUM_CPU_THREADS_4SUBTRACT=threads,
            VERBOSE_LEVEL=-1,
        )
        difference: np.ndarray = left
        return difference

    return run


def by_stdpipe(reference: np.ndarray, science: np.ndarray, k: int, degree: int, noise: Noise = None) -> Difference:
    """Stdpipe's sfft, one plain pass."""
    from stdpipe import sfft

    def run() -> np.ndarray:
        found = sfft.solve(
            science,
            reference,
            err=noise,
            kernel_shape=(k, k),
            kernel_poly_order=degree,
            bg_poly_order=degree,
            flux_poly_order=degree,
            flux_penalty=0.0,
            ridge=0.0,
            sigma_clip=None,
            max_iter=1,
            verbose=False,
        )
        difference: np.ndarray = found.diff
        return difference

    return run


PROGRAMS: dict[str, Callable[[np.ndarray, np.ndarray, int, int], Difference]] = {
    "sfft": by_sfft,
    "stdpipe": by_stdpipe,
}
"""By the package that must be installed: `pip install sfft==1.7.3`, and stdpipe 0.4.1 with `--no-deps`."""


def weighted(size: int, k: int, degree: int, rounds: int) -> dict[str, Any]:
    """One problem with a noise map, as photon counts give: seconds of stdpipe over Convolith's."""
    reference, science = scene(size, degree)
    noise = np.sqrt(1 + reference / 100)
    runners = {"convolith": by_convolith(reference, science, k, degree, noise)}
    if find_spec("stdpipe") is not None:
        runners["stdpipe"] = by_stdpipe(reference, science, k, degree, noise)
    runners["control"] = by_convolith(reference, science, k, degree, noise)
    left, times = _timed(runners, k, rounds)
    row: dict[str, Any] = {"problem": f"{size}x{size}, k = {k}, degree {degree}", "s": times["convolith"]}
    for name in ("stdpipe", "control"):
        row[f"{name} / convolith"] = times[name] / times["convolith"] if name in times else None
    inner = np.s_[k:-k, k:-k]
    rms = {name: float(np.sqrt(np.mean((difference / noise[inner]) ** 2))) for name, difference in left.items()}
    row["weighted rms of convolith"] = rms["convolith"]
    row["rms of stdpipe above it"] = rms["stdpipe"] / rms["convolith"] - 1 if "stdpipe" in rms else None
    return row


def _timed(runners: dict[str, Difference], k: int, rounds: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Differences away from the border, and median seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other packages
        return {name: run()[k:-k, k:-k] for name, run in runners.items()}, race(runners, rounds)


def subtraction(size: int, k: int, degree: int, rounds: int) -> dict[str, Any]:
    """One problem: seconds over Convolith's, and the root mean square of each difference, away from the border."""
    reference, science = scene(size, degree)
    runners = {"convolith": by_convolith(reference, science, k, degree)}
    runners |= {
        name: program(reference, science, k, degree)
        for name, program in PROGRAMS.items()
        if find_spec(name) is not None
    }
    runners["control"] = by_convolith(reference, science, k, degree)
    left, times = _timed(runners, k, rounds)
    row: dict[str, Any] = {"problem": f"{size}x{size}, k = {k}, degree {degree}", "s": times["convolith"]}
    for name in [*PROGRAMS, "control"]:
        row[f"{name} / convolith"] = times[name] / times["convolith"] if name in times else None
    rms = {name: float(np.sqrt(np.mean(difference**2))) for name, difference in left.items()}
    row["rms of convolith"] = rms["convolith"]
    for name in PROGRAMS:
        row[f"rms of {name} above it"] = rms[name] / rms["convolith"] - 1 if name in rms else None
    return row
