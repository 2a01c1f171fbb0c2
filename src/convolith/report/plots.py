"""Plots for pages, by matplotlib, as data URIs: rows of images, curves, bars."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from convolith.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 9.0
"""Width of a figure in inches."""
EXTREME = 0.005
"""Share of the darkest and of the brightest pixels that have no shade of their own."""


def is_available() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def check_available() -> None:
    """Raise an error if matplotlib is missing; call it before any long work."""
    if not is_available():
        raise missing_extra("matplotlib", "plot", "drawing pictures")


def _figure(height: float) -> Figure:
    check_available()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    # Notebooks show figures by themselves only once they have imported pyplot.
    figure.__dict__["_repr_png_"] = partial(_drawn, figure, "png")
    return figure


def _drawn(figure: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _source(figure: Any, kind: str) -> str:
    media = {"png": "image/png", "svg": "image/svg+xml"}[kind]
    return f"data:{media};base64,{b64encode(_drawn(figure, kind)).decode()}"


def image_row(images: Mapping[str, np.ndarray], signed: Collection[str] = ()) -> str:
    """Plot named images in a row: see `image_grid`."""
    return _source(image_grid([images], signed), "png")


def image_grid(rows: Sequence[Mapping[str, np.ndarray]], signed: Collection[str] = ()) -> Figure:
    """Return a figure of named images in rows.

    Args:
        rows: (H, W) in grey, scaled to its own range (without the most extreme half percent), or (H, W, 3) in colour
            from 0 to 1; NaN is left blank.
        signed: names of images that are drawn in blue and red around zero.
    """
    figure = _figure(0.4 + 2.8 * len(rows))
    axes = figure.subplots(len(rows), max(map(len, rows)), squeeze=False)
    for panels, images in zip(axes, rows, strict=True):
        for panel, (name, image) in zip(panels, images.items(), strict=False):
            drawn = panel.imshow(image, interpolation="nearest", **_colours(image, is_signed=name in signed))
            panel.set_title(name, fontsize=10)
            panel.set_xticks([])
            panel.set_yticks([])
            if image.ndim == 2:
                figure.colorbar(drawn, ax=panel, shrink=0.8).ax.tick_params(labelsize=8)
        for panel in panels[len(images) :]:
            panel.set_axis_off()
    return figure


def _colours(image: np.ndarray, *, is_signed: bool) -> dict[str, Any]:
    """Return the colour map and its range."""
    finite = image[np.isfinite(image)] if image.ndim == 2 else np.zeros(0)
    if not finite.size:
        return {"cmap": "gray"}
    if is_signed:
        most = float(np.quantile(np.abs(finite), 1 - EXTREME)) or float(np.abs(finite).max()) or 1.0
        return {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
    low, high = np.quantile(finite, [EXTREME, 1 - EXTREME])
    return {"cmap": "gray", "vmin": low, "vmax": high} if low < high else {"cmap": "gray"}


def signal_figure(curves: Mapping[str, np.ndarray], band: np.ndarray | None = None) -> Figure:
    """Return a figure of curves over their index; `band` is the half width of a band around the first."""
    figure = _figure(3.2)
    panel = figure.subplots()
    for name, values in curves.items():
        panel.plot(np.arange(len(values)), values, label=name, linewidth=1)
    if band is not None:
        first = next(iter(curves.values()))
        panel.fill_between(np.arange(len(first)), first - band, first + band, alpha=0.3)
    panel.axhline(0, color="0.6", linewidth=0.8)
    panel.set_xlabel("element")
    panel.grid(visible=True, alpha=0.3)
    panel.legend()
    return figure


def source_of(figure: Any) -> str:
    """Return a figure as the data URI of a PNG."""
    return _source(figure, "png")


def loss_curves(
    curves: Mapping[str, Sequence[float]], floor: Mapping[str, float], *, label: str = "sum of squared errors"
) -> str:
    """Plot losses per step on logarithmic axes (linear y if a loss is not positive), with lines at the floor values."""
    figure = _figure(3.6)
    panel = figure.subplots()
    for name, values in curves.items():
        panel.plot(np.arange(1, len(values) + 1), values, label=name)
    for name, value in floor.items():
        panel.axhline(value, linestyle="--", color="0.4", label=name)
    panel.set_xscale("log")
    if min(map(min, curves.values())) > 0:
        panel.set_yscale("log")
    panel.set_xlabel("step")
    panel.set_ylabel(label)
    panel.grid(visible=True, alpha=0.3)
    panel.legend()
    return _source(figure, "svg")


def curve(at: Sequence[float], values: Sequence[float], *, x: str, y: str, mark: float) -> str:
    """Plot a curve, on a logarithmic y axis if all values are positive, with a vertical line at `mark`."""
    figure = _figure(3.2)
    panel = figure.subplots()
    panel.plot(at, values, marker="o")
    panel.axvline(mark, linestyle="--", color="0.4")
    if min(values) > 0:
        panel.set_yscale("log")
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.grid(visible=True, alpha=0.3)
    return _source(figure, "svg")


def bars(names: Sequence[str], lengths: Mapping[str, Sequence[float]], *, x: str) -> str:
    """Plot stacked horizontal bars: see `bar_figure`."""
    return _source(bar_figure(names, lengths, x=x), "svg")


def bar_figure(names: Sequence[str], lengths: Mapping[str, Sequence[float]], *, x: str) -> Figure:
    """Return a figure of stacked horizontal bars: one row per name, the first on top, one segment per kind."""
    figure = _figure(1.0 + 0.22 * len(names))
    panel = figure.subplots()
    rows = np.arange(len(names))
    start = np.zeros(len(names))
    for kind, values in lengths.items():
        panel.barh(rows, values, left=start, label=kind)
        start = start + np.asarray(values, dtype=float)
    panel.set_yticks(rows, names, fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel(x)
    panel.grid(visible=True, axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=len(lengths), fontsize=9)
    return figure
