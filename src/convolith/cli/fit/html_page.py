"""HTML page of `convolith fit`: kernel, standard errors, residual, choice of the size, gradient descent."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from convolith.cli.fit.data import Pair
from convolith.conv import Conv
from convolith.correlation import correlate
from convolith.fitting import Fit
from convolith.fitting.data.shapes import inner_part
from convolith.geometry import per_axis
from convolith.report.html_page import Figure, Section, page
from convolith.report.plots import curve, image_row, loss_curves
from convolith.report.table import Table


class Notes(NamedTuple):
    """Names of the files and warnings, as a page shows them."""

    files: str
    warnings: tuple[str, ...]

    def under(self, lead: str) -> str:
        """Return the lead with the names of the files."""
        return f"{lead}\n\n{self.files}"

    def sections(self) -> list[Section]:
        """Return the section of the warnings, if there are any."""
        return [Section("Warnings", "\n\n".join(self.warnings))] if self.warnings else []


def fit_page(found: Fit, solved: Fit | None, pair: Pair, tables: list[Table], notes: Notes, origin: Any = 0) -> str:
    """Return the page as text.

    Args:
        found: the fit.
        solved: the fit in closed form, if `found` is by gradient descent and a closed form exists.
        pair: the fitted data; y may include a border that the fit left out.
        tables: tables of the terminal output.
        notes: files and warnings.
        origin: as for `fit`.
    """
    sections = [*notes.sections(), Section("The kernel", tables=tuple(tables), figures=_kernel(found))]
    if found.kernel.ndim == 4:
        sections.append(Section("What is left", prose=LEFT, figures=(_residual(found, pair, origin),)))
    if len({one.kernel_size for one in found.selection}) > 1:
        sections.append(Section("Which size", prose=SIZES, figures=(_sizes(found),)))
    if found.method != "lstsq":
        sections.append(_lesson(found, solved) if solved else _learned(found))
    kind = "convolution" if found.flip else "correlation"
    lead = f"The kernel for which the {kind} of the first picture with it is nearest to the second."
    return page("Fit", notes.under(lead), sections)


NAMES = {"gd": "gradient descent", "momentum": "descent with momentum", "adam": "Adam", "lbfgs": "L-BFGS"}
LEFT = "The difference of the second picture and the first one filtered by the kernel, and both pictures."
DIFFERENCE = "difference / residual rms"
CAPTION = "The first channel. Noise alone leaves the difference without structure; pixels left out are blank."
SIZES = (
    "Each size predicts every tile of the picture from all others. The chosen size is the smallest whose error exceeds "
    "the minimum by no more than the standard error of the difference, or by a small share of what size explains; then "
    "each axis is shortened by the same rule."
)


def _kernel(found: Fit) -> tuple[Figure, ...]:
    if found.kernel.ndim != 4:
        return ()
    shown = {"kernel": found.kernel[0, 0].astype(float)}
    if found.stderr is not None:
        shown["standard error"] = found.stderr[0, 0]
    which = "" if found.kernel.shape[:2] == (1, 1) else " (of the first channel to the first)"
    caption = f"The {' and '.join(shown)}{which}. Red is above zero, blue below."
    return (Figure(image_row(shown, ["kernel"]), "the kernel as a picture", caption),)


def _residual(found: Fit, pair: Pair, origin: Any) -> Figure:
    spec = found.conv
    images, targets = (first_image(part) for part in (pair.x, pair.y))
    mask = pair.pixels["mask"]
    unpadded = not any(map(any, spec.padding))
    if unpadded and images.shape[2:] == targets.shape[2:] and max(found.kernel.shape[2:]) > 1:
        axes = (images.shape[2:], found.kernel.shape[2:], spec.dilation)
        border = inner_part(*axes, per_axis("origin", origin, 2, -max(images.shape)))
        images, whole = border.in_x(images), targets.shape[2:]
        mask = border.in_y(mask) if mask is not None and mask.shape[-2:] == whole else mask
        targets = border.in_y(targets)
    bias = None if spec.bias is None else spec.bias.astype(float)
    predicted = correlate(images, Conv(spec.weight.astype(float), bias, **spec.options))
    return residual_figure(targets[0, 0], predicted[0, 0], found.residual_rms, mask)


def first_image(array: np.ndarray) -> np.ndarray:
    """Return the first image of an array, (1, channels, *size), in float64."""
    return (array if array.ndim == 4 else array[None])[:1].astype(float)


def residual_figure(target: np.ndarray, predicted: np.ndarray, rms: float, mask: np.ndarray | None) -> Figure:
    """Return the difference of two pictures in units of its root mean square, and the pictures."""
    difference = (target - predicted) / (rms or 1.0)
    if mask is not None and mask.shape[-2:] == difference.shape:
        difference = np.where(mask if mask.ndim == 2 else mask[0], np.nan, difference)
    shown = {DIFFERENCE: difference, "second picture": target, "predicted": predicted}
    return Figure(image_row(shown, [DIFFERENCE]), "the difference, the second picture, its prediction", CAPTION)


def _sizes(found: Fit) -> Figure:
    best: dict[int, float] = {}
    for one in found.selection:
        size = one.kernel_size[0]
        best[size] = min(best.get(size, float("inf")), one.rms)
    at = found.kernel.shape[2]
    source = curve(list(best), list(best.values()), x="kernel size", y="rms of tiles left out", mark=at)
    return Figure(source, "the error of each kernel size", f"The size that was taken is {at}.")


def _learned(found: Fit) -> Section:
    drawn = loss_curves({NAMES[found.method]: found.loss}, {}, label="loss")
    prose = f"After {len(found.loss):,} steps the loss is {found.loss[-1]:.6g}; it has no closed form."
    return Section("Descent", prose, figures=(Figure(drawn, "the loss of each step"),))


def _lesson(found: Fit, solved: Fit) -> Section:
    distance = float(np.linalg.norm(found.kernel - solved.kernel) / np.linalg.norm(solved.kernel))
    prose = (
        f"After {len(found.loss):,} steps of {NAMES[found.method]} the loss is {found.loss[-1]:.6g}; the closed form "
        f"finds {solved.loss[0]:.6g} at once. The learned kernel is {distance:.1%} away from the optimum, relative to "
        f"its size. The normal matrix has a condition number of {solved.condition:.2g}; gradient descent needs "
        "about as many steps."
    )
    drawn = loss_curves({NAMES[found.method]: found.loss}, {"closed form": solved.loss[0]})
    return Section("Gradient descent", prose, figures=(Figure(drawn, "the loss of each step, and the optimum"),))
