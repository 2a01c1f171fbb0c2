"""Tables and HTML page of `convolith fit` for a kernel that varies with position."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from convolith.cli.fit.data import Pair
from convolith.cli.fit.html_page import LEFT, Notes, first_image, residual_figure
from convolith.fitting import VaryingFit
from convolith.fitting.data.shapes import inner_part
from convolith.report.html_page import Figure, Section, page
from convolith.report.plots import image_row
from convolith.report.table import Table

PLACES = {-1.0: "first", 0.0: "middle", 1.0: "last"}


def varying_tables(found: VaryingFit, pairs: int, output: str | None) -> list[Table]:
    """Return tables of the fit and of its kernel at the corners, the edges and the middle of the frame."""
    kernel = found.kernel
    summary = {
        "kernel size": "x".join(map(str, kernel.weights.shape[3:])),
        "pairs": pairs if pairs > 1 else None,
        "degree": kernel.degree,
        "modulation": kernel.modulation,
        "background": None if kernel.background_degree is None else f"degree {kernel.background_degree}",
        "residual rms": found.residual_rms,
        "held-out rms": found.held_out_rms,
        "loss": found.loss,
        "condition": found.condition,
        "largest standard error": float(np.max(found.stderr)),
        "written to": output,
    }
    rows: list[dict[str, Any]] = []
    for position in product(PLACES, repeat=kernel.axes):
        weight, sky = kernel.weight_at(position), kernel.background_at(position)
        row: dict[str, Any] = {f"axis {axis}": PLACES[z] for axis, z in enumerate(position)}
        row["sum of kernel"], row["largest weight"] = float(weight.sum()), float(weight.max())
        if sky is not None:
            row["background"] = ", ".join(f"{value:.4g}" for value in sky)
        rows.append(row)
    return [Table("Fit", [summary]), Table("Pixels of the frame along each axis", rows)]


def varying_page(found: VaryingFit, pair: Pair, tables: list[Table], notes: Notes) -> str:
    """Return the page as text.

    Args:
        found: the fit.
        pair: the last fitted pair.
        tables: tables of the terminal output.
        notes: files and warnings.
    """
    kernel = found.kernel
    sections = [*notes.sections(), Section("The kernel", tables=tuple(tables), figures=_kernels(found))]
    if kernel.axes == 2 and kernel.modulation != "update":
        sections.append(Section("What is left", prose=LEFT, figures=(_residual(found, pair),)))
    lead = "The kernel, a polynomial of position, that maps the first picture closest to the second."
    return page("Fit of a kernel that varies", notes.under(lead), sections)


def _kernels(found: VaryingFit) -> tuple[Figure, ...]:
    kernel = found.kernel
    if kernel.axes != 2:
        return ()
    figures = []
    for row in PLACES:
        shown = {
            f"{PLACES[row]} row, {PLACES[column]} column": np.asarray(
                kernel.weight_at((row, column))[0, 0], dtype=float
            )
            for column in PLACES
        }
        figures.append(Figure(image_row(shown, shown), f"the kernel in the {PLACES[row]} row of the frame"))
    error = {"standard error in the middle": np.asarray(found.stderr[0, 0, 0])}  # where all other terms are zero
    figures.append(Figure(image_row(error), "the standard error of the kernel", "Each picture has its own range."))
    return tuple(figures)


def _residual(found: VaryingFit, pair: Pair) -> Figure:
    kernel, images, targets = found.kernel, first_image(pair.x), first_image(pair.y)
    predicted = kernel.apply(images.astype(kernel.weights.dtype))[0, 0].astype(np.float64)
    target, mask = targets[0, 0], pair.pixels["mask"]
    if pair.cropped:
        border = inner_part(images.shape[2:], kernel.weights.shape[3:], kernel.dilation, (0, 0))
        mask = border.in_y(mask) if mask is not None and mask.shape[-2:] == target.shape else mask
        target = border.in_y(target)
    return residual_figure(target, predicted, found.residual_rms, mask)
