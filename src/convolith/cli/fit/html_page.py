"""HTML page of `convolith fit`: kernel, standard errors, residual, choice of the size, gradient descent."""

from __future__ import annotations

import numpy as np

from convolith.conv import Conv
from convolith.correlation import correlate
from convolith.fitting import Fit
from convolith.report.html_page import Figure, Section, page
from convolith.report.plots import curve, image_row, loss_curves
from convolith.report.table import Table


def fit_page(found: Fit, solved: Fit | None, x: np.ndarray, y: np.ndarray, tables: list[Table]) -> str:
    """Return the page as text.

    Args:
        found: the fit.
        solved: the fit in closed form, if `found` is by gradient descent and a closed form exists.
        x, y: fitted data; y may include a border that the fit ignored.
        tables: tables of the terminal output.
    """
    sections = [Section("The kernel", tables=tuple(tables), figures=_kernel(found))]
    if found.kernel.ndim == 4:
        sections.append(Section("What is left", prose=LEFT, figures=(_residual(found, x, y),)))
    if len({one.kernel_size for one in found.selection}) > 1:
        sections.append(Section("Which size", prose=SIZES, figures=(_sizes(found),)))
    if found.method != "lstsq":
        sections.append(_lesson(found, solved) if solved else _learned(found))
    return page(
        "Fit", "The kernel for which the correlation of the first picture with it is nearest to the second.", sections
    )


NAMES = {"gd": "gradient descent", "momentum": "descent with momentum", "adam": "Adam", "lbfgs": "L-BFGS"}
LEFT = "The second picture, the first picture filtered by the kernel, and their difference, with its own grey scale."
SIZES = (
    "Each size predicts every tile of the picture from all others. The chosen size is the smallest whose error exceeds "
    "the minimum by no more than the standard error of the difference."
)


def _kernel(found: Fit) -> tuple[Figure, ...]:
    if found.kernel.ndim != 4:
        return ()
    shown = {"kernel": found.kernel[0, 0].astype(float)}
    if found.stderr is not None:
        shown["standard error"] = found.stderr[0, 0]
    which = "" if found.kernel.shape[:2] == (1, 1) else " (of the first channel to the first)"
    names = " and ".join(shown)
    return (Figure(image_row(shown), f"{names} as grey pictures", f"The {names}{which}; white is the largest."),)


def _residual(found: Fit, x: np.ndarray, y: np.ndarray) -> Figure:
    images = x if x.ndim == 4 else x[None]
    targets = (y if y.ndim == 4 else y[None])[:1].astype(float)
    conv = found.conv
    bias = None if conv.bias is None else conv.bias.astype(float)
    wide = Conv(conv.weight.astype(float), bias, **conv.options)
    predicted = correlate(images[:1].astype(float), wide)
    border = [(n - m) // 2 for n, m in zip(targets.shape[2:], predicted.shape[2:], strict=True)]
    inner = targets[:, :, border[0] : border[0] + predicted.shape[2], border[1] : border[1] + predicted.shape[3]]
    shown = {"second picture": inner[0, 0], "predicted": predicted[0, 0], "difference": (inner - predicted)[0, 0]}
    return Figure(image_row(shown), "the second picture, its prediction, and the difference", "The first channel.")


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
