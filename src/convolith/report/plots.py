"""Plots for pages, by matplotlib, as data URIs: rows of images, curves, bars."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from convolith.errors import missing_extra

WIDTH = 9.0
"""Width of a figure in inches."""


def check_available() -> None:
    """Raise an error if matplotlib is missing; call it before any long work."""
    if find_spec("matplotlib") is None:
        raise missing_extra("matplotlib", "plot", "drawing pictures")


def _figure(height: float) -> Any:
    check_available()
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _source(figure: Any, kind: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
    media = {"png": "image/png", "svg": "image/svg+xml"}[kind]
    return f"data:{media};base64,{b64encode(buffer.getvalue()).decode()}"


def image_row(images: Mapping[str, np.ndarray]) -> str:
    """Plot named images in a row: (H, W) in grey, scaled to its own range, or (H, W, 3) in colour from 0 to 1."""
    figure = _figure(3.2)
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    for panel, (name, image) in zip(axes, images.items(), strict=True):
        panel.imshow(image, cmap="gray", interpolation="nearest")
        panel.set_title(name, fontsize=10)
        panel.set_xticks([])
        panel.set_yticks([])
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
    """Plot stacked horizontal bars: one row per name, the first on top, with one segment per kind."""
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
    return _source(figure, "svg")
