"""`python -m bench picture`: the README's picture, for light and dark pages, from a kept run and the library itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

import convolith as cl
from bench.report import RUNS, newest

IMAGES = Path(__file__).parents[1] / "docs" / "images"
ROW = "image 1024, 31x31"
PEERS = (
    "torch",
    "OpenVINO",
    "ndimage.correlate",
    "torch channels_last",
    "ONNX Runtime",
    "SciPy fftconvolve",
    "OpenCV filter2D",
)
INK = {"light": ("#1f2328", "#59636e", "#d1d9e0"), "dark": ("#f0f6fc", "#9198a1", "#3d444d")}
"""Colours of text, of notes and of lines, on a page that is not drawn."""
OURS, OTHERS, TRUTH = "#2f81f7", "#8b949e", "#e16f24"
SIZE = 48
"""Rows of the picture in which borders are compared."""


@click.command()
def picture() -> None:
    """Draw docs/images/overview-light.svg and overview-dark.svg."""
    row = next(row for row in newest(RUNS)["grid"]["tables"][0]["rows"] if row["row"] == ROW)
    for scheme in INK:
        target = IMAGES / f"overview-{scheme}.svg"
        _draw(row, scheme, target)
        click.echo(target)


def _draw(row: dict[str, Any], scheme: str, target: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink, note, line = INK[scheme]
    colours = {
        "text.color": ink,
        "axes.labelcolor": ink,
        "xtick.color": note,
        "ytick.color": ink,
        "axes.edgecolor": line,
    }
    with mpl.rc_context({**colours, "svg.hashsalt": "convolith", "svg.fonttype": "path", "font.size": 10.5}):
        figure = Figure(figsize=(12, 4), layout="constrained")
        times, folding, fitting = figure.subfigures(1, 3, width_ratios=(1.15, 1, 1), wspace=0.04)
        for part in (figure, times, folding, fitting):
            part.patch.set_alpha(0)
        _draw_times(times, row, note)
        _draw_folding(folding)
        _draw_fit(fitting, ink)
        figure.savefig(target, metadata={"Date": None}, transparent=True)


def _draw_times(part: Any, row: dict[str, Any], note: str) -> None:
    """Draw how many times as long the peers take for one large kernel."""
    part.suptitle("Compute: 31x31 on 1024x1024 pixels", weight="bold")
    axis = part.subplots()
    names = ["Convolith", *reversed(PEERS)]
    values = [1.0, *(row[name] for name in reversed(PEERS))]
    axis.barh(names, values, color=[OURS] + [OTHERS] * len(PEERS), height=0.7)
    axis.set_xscale("log")
    axis.set_xlim(0.8, 12 * max(values))
    for place, value in enumerate(values):
        label = (
            f"{row['ms']:.1f} ms"
            if place == 0
            else f"{value:,.0f} times as long"
            if value > 10
            else f"{value:.1f} times as long"
        )
        axis.text(value * 1.12, place, label, va="center", color=note, size=9.5)
    _clear(axis)
    axis.tick_params(length=0)
    axis.set_xticks([])
    axis.minorticks_off()


def _draw_folding(part: Any) -> None:
    """Draw three branches that become one kernel, and the pixels where two layers in a row are not one."""
    from matplotlib.colors import to_rgb

    part.suptitle("Fold: many layers become one", weight="bold")
    rng = np.random.default_rng(3)
    branches = [rng.normal(size=(3, 3)), np.pad(rng.normal(size=(1, 1)), 1), np.pad(np.ones((1, 1)), 1)]
    grids = part.subplots(2, 4, height_ratios=(1, 1.7))
    largest = max(float(np.abs(kernel).max()) for kernel in (*branches, sum(branches)))
    for axis, kernel, title in zip(
        grids[0], (*branches, sum(branches)), ("3x3 +", "1x1 +", "identity =", "one 3x3"), strict=True
    ):
        axis.imshow(kernel, cmap="PuOr", vmin=-largest, vmax=largest)
        axis.set_title(title, size=9.5)
        axis.set_axis_off()
    for axis in grids[1]:
        axis.remove()
    axis = part.add_subplot(grids[1, 0].get_gridspec()[1, :])
    share = np.minimum(10 * _differences(), 1) ** 0.5
    axis.imshow(np.dstack([np.broadcast_to(to_rgb(TRUTH), (*share.shape, 3)), share]))
    axis.set_title("two padded layers as one layer: wrong at the border", size=9.5)
    axis.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)


def _differences() -> np.ndarray:
    """Return how far one layer with the composed kernel is from two padded layers, relative to their largest output."""
    rng = np.random.default_rng(0)
    first, second = (cl.Conv(rng.normal(size=(1, 1, 5, 5)), padding=2) for _ in range(2))
    x = rng.normal(size=(1, SIZE, 2 * SIZE))
    exact = second(first(x))
    naive = cl.correlate(x, cl.compose(first, second).conv.weight, padding=4)
    return np.abs(exact - naive)[0] / np.abs(exact).max()


def _draw_fit(part: Any, ink: str) -> None:
    """Draw a kernel that is found between two pictures, with the standard errors of one row."""
    from skimage import data

    part.suptitle("Recover: a blur, with error bars", weight="bold")
    photo = data.camera() / 255.0
    true = cl.kernels.gaussian(1.6, size=9)
    noisy = cl.filter_image(photo, true) + np.random.default_rng(1).normal(0, 0.05, photo.shape)
    found = cl.fit(photo[None], noisy[None], kernel_size=9, padding="same")
    grids = part.subplots(2, 2, height_ratios=(1.1, 1))
    for axis, image, title in zip(grids[0], (photo, noisy), ("before", "after, with noise"), strict=True):
        axis.imshow(image[96:224, 160:352], cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, size=9.5)
        axis.set_axis_off()
    for axis in grids[1]:
        axis.remove()
    axis = part.add_subplot(grids[1, 0].get_gridspec()[1, :])
    middle, taps = true.shape[0] // 2, np.arange(true.shape[1]) - true.shape[1] // 2
    axis.step(taps, true[middle], where="mid", color=TRUTH, label="true")
    axis.errorbar(
        taps,
        found.kernel[0, 0, middle],
        2 * found.stderr[0, 0, middle],
        fmt="o",
        ms=3,
        color=OURS,
        label="found, ±2 standard errors",
    )
    axis.legend(frameon=False, labelcolor=ink, fontsize=9, loc="upper center", ncols=2)
    axis.set_ylim(top=1.45 * float(true.max()))
    axis.set_title("middle row of the kernel between them", size=9.5)
    axis.set_yticks([])
    _clear(axis)


def _clear(axis: Any) -> None:
    """Take away the frame and the background of an axis."""
    axis.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
