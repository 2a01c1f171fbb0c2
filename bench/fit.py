"""`python -m bench fit`: the state behind a fit against forming the windows, and the kernel against a dense solver."""

from __future__ import annotations

import subprocess
import sys
import warnings
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import convolith as cl
from bench.runs import Run, json_option
from bench.subtraction import subtraction, weighted
from bench.timing import race

TILE_ROWS = 32
"""Rows of windows that im2col forms at a time: 112 MB at 1024x1024 and k = 21."""
SIZES = (512, 1024, 2048, 4096)


def smooth(size: int) -> np.ndarray:
    """(1, size, size): a field with the spectrum of a photograph, of mean 0 and deviation 1."""
    rng = np.random.default_rng(0)
    frequencies = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequencies[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) / frequencies, (size, size))
    return (field / field.std())[None]


def blurred(x: np.ndarray, k: int) -> np.ndarray:
    """What a random positive kernel makes of it, with noise of 1e-3."""
    kernel = np.random.default_rng(1).random((1, 1, k, k))
    y: np.ndarray = cl.correlate(x, kernel / kernel.sum())
    return y + 1e-3 * np.random.default_rng(2).standard_normal(y.shape)


def by_tiles(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`A.T @ A` and `A.T @ y` of the windows, some rows of them at a time."""
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (k, k))
    gram, cross = np.zeros((k * k, k * k)), np.zeros(k * k)
    for start in range(0, len(windows), TILE_ROWS):
        rows = windows[start : start + TILE_ROWS].reshape(-1, k * k)
        gram += rows.T @ rows
        cross += rows.T @ y[0, start : start + TILE_ROWS].ravel()
    return gram, cross


def by_unfold(x: torch.Tensor, y: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of several channels, by torch alone."""
    rows = torch.nn.functional.unfold(x, k).transpose(1, 2).reshape(-1, x.shape[1] * k * k)
    return rows.T @ rows, rows.T @ y.movedim(1, -1).reshape(-1, y.shape[1])


def one_channel(size: int, k: int, rounds: int) -> dict[str, Any]:
    """A state, a whole fit and tiled windows, in turn; the state's error first."""
    x = smooth(size)
    y = blurred(x, k)
    expected = by_tiles(x, y, k)[0]
    found = cl.Gram(k).update(x, y).moments[: k * k, : k * k]
    runners = {
        "state": lambda: cl.Gram(k).update(x, y),
        "fit": lambda: cl.fit(x, y, kernel_size=k),
        "tiled": lambda: by_tiles(x, y, k),
        "control": lambda: cl.Gram(k).update(x, y),
    }
    times = race(runners, rounds)
    return {
        "problem": f"{size}x{size}, k = {k}",
        "ms of a state": 1e3 * times["state"],
        "tiled im2col / state": times["tiled"] / times["state"],
        "ms of a fit": 1e3 * times["fit"],
        "tiled im2col / fit": times["tiled"] / times["fit"],
        "control": times["state"] / times["control"],
        "error of the state": float(np.abs(found - expected).max() / np.abs(expected).max()),
    }


def channels(rounds: int) -> dict[str, Any]:
    """64 to 64 channels, 3x3, 16 images of 56x56."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 64, 56, 56)), rng.standard_normal((16, 64, 54, 54))
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    expected = by_unfold(*tensors, 3)[0].numpy()
    found = cl.Gram(3, 64, 64).update(x, y).moments[:576, :576]
    runners = {
        "state": lambda: cl.Gram(3, 64, 64).update(x, y),
        "unfold": partial(by_unfold, *tensors, 3),
        "control": lambda: cl.Gram(3, 64, 64).update(x, y),
    }
    times = race(runners, rounds)
    return {
        "problem": "64 -> 64 channels, 3x3, 16 of 56x56",
        "ms of a state": 1e3 * times["state"],
        "tiled im2col / state": times["unfold"] / times["state"],
        "control": times["state"] / times["control"],
        "error of the state": float(np.abs(found - expected).max() / np.abs(expected).max()),
    }


def distance(size: int, k: int) -> dict[str, Any]:
    """How far a fit is from scipy's dense least squares on the same data."""
    import scipy.linalg

    x = smooth(size)
    y = blurred(x, k)
    found = cl.fit(x, y, kernel_size=k)
    rows = np.lib.stride_tricks.sliding_window_view(x[0], (k, k)).reshape(-1, k * k)
    dense = scipy.linalg.lstsq(rows, y.ravel(), overwrite_a=True, lapack_driver="gelsy", check_finite=False)[0]
    return {
        "problem": f"{size}x{size}, k = {k}",
        "largest difference from scipy.linalg.lstsq": float(np.abs(found.kernel.ravel() - dense).max()),
        "largest weight": float(np.abs(dense).max()),
        "condition": found.condition,
    }


def by_steps(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """The textbook's loop: 1000 steps down the gradient, at nine tenths of the largest rate that converges."""
    wide, target = torch.from_numpy(x)[None], torch.from_numpy(y)[None]
    steepest = np.linalg.eigvalsh(cl.Gram(k).update(x, y).moments[: k * k, : k * k])[-1]
    kernel = torch.zeros((1, 1, k, k), dtype=torch.float64, requires_grad=True)
    for _ in range(1000):
        loss = ((torch.nn.functional.conv2d(wide, kernel) - target) ** 2).sum()
        (slope,) = torch.autograd.grad(loss, kernel)
        kernel = (kernel - 0.9 / steepest * slope).detach().requires_grad_()
    return kernel.detach().numpy()


def whole(size: int, k: int, rounds: int) -> dict[str, Any]:
    """A whole fit against solvers of the dense problem and gradient descent, windows formed outside the time."""
    import scipy.linalg

    x = smooth(size)
    y = blurred(x, k)
    rows = np.lib.stride_tricks.sliding_window_view(x[0], (k, k)).reshape(-1, k * k)
    target = y.ravel()
    runners = {
        "fit": lambda: cl.fit(x, y, kernel_size=k),
        "numpy": lambda: np.linalg.lstsq(rows, target, rcond=None)[0],
        "scipy": lambda: scipy.linalg.lstsq(rows, target, lapack_driver="gelsy", check_finite=False)[0],
        "steps": lambda: by_steps(x, y, k),
        "control": lambda: cl.fit(x, y, kernel_size=k),
    }
    best = runners["fit"]().kernel
    off = {name: np.linalg.norm(runners[name]().ravel() - best.ravel()) for name in ("numpy", "scipy", "steps")}
    times = race(runners, rounds)
    return {
        "problem": f"{size}x{size}, k = {k}",
        "ms of a fit": 1e3 * times["fit"],
        "numpy.linalg.lstsq / fit": times["numpy"] / times["fit"],
        "scipy.linalg.lstsq / fit": times["scipy"] / times["fit"],
        "1000 steps of descent / fit": times["steps"] / times["fit"],
        "control": times["fit"] / times["control"],
        "numpy's distance": off["numpy"] / np.linalg.norm(best),
        "scipy's": off["scipy"] / np.linalg.norm(best),
        "that of 1000 steps": off["steps"] / np.linalg.norm(best),
    }


MEMORY = """
import numpy as np, convolith as cl
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024
rng = np.random.default_rng(0)
x, y = rng.standard_normal((1, {n}, {n})), rng.standard_normal((1, {n} - 20, {n} - 20))
cl.fit(x[:, :64, :64], y[:, :44, :44], kernel_size=21)
open("/proc/self/clear_refs", "w").write("5")
before = peak()
{call}
print(peak() - before)
"""
"""What is loaded and generated once is there before."""


def memory(size: int) -> dict[str, Any]:
    """MiB more than the data that a state and a fit take, each in a process of its own."""
    row: dict[str, Any] = {"problem": f"{size}x{size}, k = 21"}
    for name, call in (("state", "cl.Gram(21).update(x, y)"), ("fit", "cl.fit(x, y, kernel_size=21)")):
        code = MEMORY.format(n=size, call=call)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
        row[f"MiB of a {name}"] = float(run.stdout)
    return row


LONG = """
import time, numpy as np, convolith as cl
from scipy.signal import oaconvolve
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024
rng = np.random.default_rng(0)
x = rng.standard_normal(({channels}, {samples}))
kernel = rng.standard_normal(({channels}, {channels}, {taps})) * np.exp(-np.arange({taps}) / ({taps} / 5))
y = np.stack([sum(oaconvolve(x[i], one[i, ::-1], mode="valid") for i in range({channels})) for one in kernel])
y += 0.01 * rng.standard_normal(y.shape)
cl.fit(x[:, : 4 * {taps}], y[:, : 3 * {taps} + 1], kernel_size={taps}, ridge=1.0)
open("/proc/self/clear_refs", "w").write("5")
before, start = peak(), time.perf_counter()
found = cl.fit(x, y, kernel_size={taps})
print(time.perf_counter() - start, peak() - before, abs(found.kernel - kernel).max())
"""
"""What is loaded and generated once is there before."""


RESPONSES = (1, 160_000, 4000), (1, 2_880_000, 16_000), (2, 2_880_000, 16_000)
"""Channels, samples and taps: 3.3 s of sound, and a minute at 48 kHz, mono and stereo."""


def long_response(channels: int, samples: int, taps: int) -> dict[str, Any]:
    """Seconds and MiB, in a process of its own, of a fit of thousands of taps."""
    code = LONG.format(channels=channels, samples=samples, taps=taps)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    seconds, mib, error = map(float, run.stdout.split())
    problem = f"{channels} -> {channels} channels, {samples:,} samples, {taps:,} taps"
    return {"problem": problem, "s": seconds, "MiB in addition to the data": mib, "largest error of a tap": error}


def lesson() -> dict[str, Any]:
    """How far 1000 steps of gradient descent are from the closed form's kernel, on a photograph with k = 13."""
    import skimage.data

    x = skimage.data.camera()[None, :256, :256] / 255
    y = blurred(x, 13)
    best, learned = cl.fit(x, y, kernel_size=13), cl.fit(x, y, kernel_size=13, method="gd")
    away = np.linalg.norm(learned.kernel - best.kernel) / np.linalg.norm(best.kernel)
    return {"steps": len(learned.loss), "loss": learned.loss[-1], "least": best.loss[0], "away": float(away)}


def sizes() -> dict[str, Any]:
    """How often the size of a blur is found within 2 taps on photographs, with noise 40 dB below them."""
    import skimage.data

    found = []
    for photograph in (skimage.data.camera(), skimage.data.coins(), skimage.data.moon(), skimage.data.page()):
        x = photograph[None, :190, :256].astype(float)
        for k in (5, 9, 13):
            kernel = np.random.default_rng(k).random((k, k))
            y = cl.filter_image(x[0], kernel / kernel.sum(), padding_mode="reflect")[None]
            y += 0.01 * y.std() * np.random.default_rng(k + 1).standard_normal(y.shape)
            chosen = cl.fit(x, y, kernel_size="auto", max_size=19, offset=True).kernel.shape[-1]
            found.append(abs(chosen - k) <= 2)
    return {"blurs": len(found), "found within 2 taps": sum(found)}


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Timed blocks of each.")
@json_option
def fit(rounds: int, path: Path | None) -> None:
    """Time the state behind a fit against tiled windows, and compare kernels with a dense solver."""
    warnings.simplefilter("error")
    run = Run("fit", rounds=rounds)
    timed = [one_channel(1024, k, rounds) for k in (5, 15, 21)] + [channels(rounds)]
    run.add("Seconds over seconds (above 1: faster than the windows)", timed)
    run.add("Seconds of other solvers over those of a whole fit", [whole(256, 13, rounds)])
    programs = [subtraction(1024, k, degree, rounds) for k in (15, 21) for degree in (0, 2)]
    run.add("Programs that subtract images", programs)
    noisy = [weighted(1024, 15, degree, rounds) for degree in (1, 2)]
    run.add("Noisy images subtracted", noisy)
    responses = [
        long_response(*problem) for problem in ((1, 160_000, 4000), (1, 2_880_000, 16_000), (2, 2_880_000, 16_000))
    ]
    run.add("Impulse responses", responses)
    grown = {}
    for size in SIZES:
        x = smooth(size)
        y = blurred(x, 21)
        grown[size] = race({"state": partial(cl.Gram(21).update, x, y)}, rounds)["state"]
    exponent = np.polyfit([log(n * n) for n in SIZES], [log(seconds) for seconds in grown.values()], 1)[0]
    run.add("Growth", [{"size": f"{n}x{n}", "ms of a state, k = 21": 1e3 * seconds} for n, seconds in grown.items()])
    run.figures["time grows as pixels to the power of"] = float(exponent)
    run.add("The kernel", [distance(1024, 21)])
    run.add("Memory in addition to the data", [memory(4096)])
    run.add("Gradient descent on a photograph, k = 13", [lesson()])
    run.add("Sizes chosen automatically, at 40 dB", [sizes()])
    run.close(path)
