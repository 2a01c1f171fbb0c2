"""`python -m bench images`: pictures, holes and signals, as imaging scientists and audio engineers call them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import click
import numpy as np
import torch

import convolith as cl
from bench.runs import Run, json_option
from bench.timing import race
from convolith.planner.calibrate import calibrate
from convolith.report.progress import track

PATIENCE = 2e9
"""Products that ndimage.correlate and astropy's direct sums are given to do."""
AGREEMENT = {"uint8": 1.0, "float32": 1e-4, "float64": 1e-9}
"""How far results may be apart, in grey levels of uint8, or relative to the largest."""
Runners = Mapping[str, Callable[[], np.ndarray]]


@dataclass(frozen=True)
class Row:
    """One case: a name, and its runners, made when it is its turn."""

    name: str
    make: Callable[[], Runners]


def kernel_of(size: int, kind: str) -> np.ndarray:
    """A kernel that sums to one: a Gaussian, which has rank one, or positive noise."""
    if kind == "noise":
        kernel = np.random.default_rng(size).random((size, size))
        return kernel / kernel.sum()
    line = np.exp(-0.5 * ((np.arange(size) - size // 2) / (size / 6)) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def picture_of(size: int, channels: int, dtype: str) -> np.ndarray:
    """Random grey levels of 0 to 255, smoothed by no one."""
    shape = (size, size) if channels == 1 else (size, size, channels)
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def pictures() -> Iterator[Row]:
    """Pictures against OpenCV, called as its users do, and SciPy."""
    for border in ("symmetric", "reflect"):
        for dtype in ("float32", "uint8"):
            for size, channels in ((512, 1), (512, 3), (1024, 1), (1024, 3), (2048, 1), (4096, 1)):
                for taps, kind in (
                    (3, "noise"),
                    (5, "gaussian"),
                    (9, "noise"),
                    (31, "gaussian"),
                    (31, "noise"),
                    (61, "noise"),
                ):
                    if border == "reflect" and (channels > 1 or size not in (512, 2048)):
                        continue
                    name = f"{dtype} {size}{'' if channels == 1 else ' RGB'}, {taps}x{taps} {kind}, {border}"
                    yield Row(name, lambda c=(size, channels, dtype, taps, kind, border): _picture(*c))


def _picture(size: int, channels: int, dtype: str, taps: int, kind: str, border: str) -> Runners:
    import cv2
    from scipy import ndimage

    cv2.setNumThreads(torch.get_num_threads())
    image, kernel = picture_of(size, channels, dtype), kernel_of(taps, kind).astype(np.float32)
    opencv = {"symmetric": cv2.BORDER_REFLECT, "reflect": cv2.BORDER_REFLECT_101}[border]
    runners: dict[str, Callable[[], np.ndarray]] = {
        "convolith": lambda: cl.filter_image(image, kernel, padding_mode=border, dtype=image.dtype),
        "OpenCV filter2D": lambda: cv2.filter2D(image, -1, kernel, borderType=opencv),
    }
    if kind == "gaussian":
        line = kernel.sum(0)
        runners["OpenCV sepFilter2D"] = lambda: cv2.sepFilter2D(image, -1, line, line, borderType=opencv)
    if channels == 1 and size * size * taps * taps < PATIENCE and dtype == "float32":
        scipys = {"symmetric": "reflect", "reflect": "mirror"}[border]
        runners["SciPy correlate"] = lambda: ndimage.correlate(image, kernel, mode=scipys)
    return runners


def holes() -> Iterator[Row]:
    """Missing pixels against astropy."""
    for size, taps in ((512, 9), (1024, 9), (512, 31), (1024, 31)):
        yield Row(f"{size}, {taps}x{taps}, 1% missing", lambda c=(size, taps): _holes(*c))


def _holes(size: int, taps: int) -> Runners:
    from astropy import convolution

    image, kernel = picture_of(size, 1, "float64"), kernel_of(taps, "noise")
    image[np.random.default_rng(1).random(image.shape) < 0.01] = np.nan
    given = {"boundary": "fill", "fill_value": 0.0, "nan_treatment": "interpolate"}
    runners: dict[str, Callable[[], np.ndarray]] = {
        "convolith": lambda: cl.filter_image(image, kernel, nan="omit", flip=True),
        "astropy convolve_fft": lambda: convolution.convolve_fft(image, kernel, **given),
    }
    if size * size * taps * taps < PATIENCE:
        runners["astropy convolve"] = lambda: convolution.convolve(image, kernel, **given)
    return runners


def signals() -> Iterator[Row]:
    """Long kernels on one axis against overlap-add."""
    for length in (160_000, 1_000_000, 10_000_000):
        for taps in (100, 4_000, 100_000):
            for dtype in ("float32", "float64"):
                yield Row(f"{length:,} samples, {taps:,} taps, {dtype}", lambda c=(length, taps, dtype): _signal(*c))


def _signal(length: int, taps: int, dtype: str) -> Runners:
    from scipy import signal

    rng = np.random.default_rng(2)
    x, h = rng.normal(size=length).astype(dtype), (rng.normal(size=taps) / taps).astype(dtype)
    return {
        "convolith": lambda: cl.convolve(x[None], h[None, None], padding="full")[0],
        "SciPy oaconvolve": lambda: signal.oaconvolve(x, h),
    }


def check(name: str, runners: Runners) -> None:
    """Refuse to time what does not give the same."""
    found = {label: np.asarray(run(), float) for label, run in runners.items()}
    ours = found.pop("convolith")
    dtype = name.split()[0] if name.split()[0] in AGREEMENT else "float32" if name.endswith("float32") else "float64"
    for label, theirs in found.items():
        scale = 1.0 if dtype == "uint8" else float(np.abs(theirs).max())
        if float(np.nanmax(np.abs(ours - theirs))) > AGREEMENT[dtype] * scale:
            raise click.ClickException(f"{name}: convolith and {label} do not agree")


def rows_of(times: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Milliseconds of every runner, and how many times faster Convolith is than the fastest peer."""
    rows: list[dict[str, Any]] = []
    for name, seconds in times.items():
        peers = {label: time for label, time in seconds.items() if label != "convolith"}
        fastest = min(peers, key=lambda label: peers[label])
        shown = {f"{label}, ms": float(f"{1e3 * time:.3g}") for label, time in seconds.items()}
        rows.append({"row": name, **shown, "times faster": round(peers[fastest] / seconds["convolith"], 2)})
    return rows


def control(rounds: int) -> float:
    """SciPy's correlation under one name over the same under another: 1.00 if the run can be trusted."""
    from scipy import ndimage

    image, kernel = picture_of(256, 1, "float32"), kernel_of(9, "noise").astype(np.float32)
    run = lambda: ndimage.correlate(image, kernel)  # noqa: E731 - one function under two names
    times = race({"once": run, "again": run}, 4 * rounds)
    return times["again"] / times["once"]


PARTS = {"pictures": pictures, "missing pixels": holes, "signals": signals}


@click.command()
@click.option("--rows", default="", help="Only rows whose name contains this.")
@click.option("--rounds", default=7, show_default=True, help="Timed blocks of each runner.")
@click.option("--threads", default=0, help="Threads; by default torch's.")
@click.option("--only", type=click.Choice(list(PARTS)), help="One of the tables.")
@json_option
def images(rows: str, rounds: int, threads: int, only: str | None, path: Path | None) -> None:
    """Race pictures, missing pixels and signals against OpenCV, SciPy and astropy."""
    if threads:
        torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # clipped values, and astropy's about NaN
    calibrate()
    run = Run("images", controls=[control(rounds)], rounds=rounds)
    for part, make in PARTS.items():
        cases = [row for row in make() if rows in row.name]
        if (only and part != only) or not cases:
            continue
        times = {}
        for i in track(range(len(cases)), part, len(cases), shown=True):
            runners = cases[i].make()
            check(cases[i].name, runners)
            times[cases[i].name] = race(runners, rounds)
        table = rows_of(times)
        run.add(part.capitalize(), table)
        faster = [row["times faster"] for row in table]
        run.figures |= {f"{part}, least": min(faster), f"{part}, geometric mean": geometric_mean(faster)}
    run.controls.append(control(rounds))
    run.close(path, complete=not rows and not only)
    run.refuse_if_disturbed()
