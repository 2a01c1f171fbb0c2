"""Fit: the kernel that turned one picture into another, in closed form and by a descent that streams its loss."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from convolith.correlation import correlate
from convolith.errors import ConvolithError
from convolith.fitting import Descent, Fit, Huber, fit
from convolith.planner import plan
from convolith.spec import ConvSpec
from convolith.web.computing.compute import picture_of
from convolith.web.computing.outbox import Outbox
from convolith.web.pictures import described
from convolith.web.requests import FitKernel
from convolith.web.store import Stored

MAX_VALUES = 1 << 23
"""Largest number of values of each picture."""
PLANNED_SECONDS = 300.0
"""Largest estimated time of a descent."""
PASSES = 4.0
"""Time of a step of a descent, relative to a forward pass in float64: the gradient, and what else a step does."""
BATCH_SECONDS, KERNEL_SECONDS = 0.05, 0.25
"""Time between two events with losses, and between two with the kernel as it is then."""


def fit_kernel(outbox: Outbox, request: FitKernel, pictures: Mapping[str, Stored]) -> None:
    """Do a request: events `closed`, then of a descent `losses` and `descent`; `residual` of the last kernel.

    Raises:
        ConvolithError: whatever `fit` refuses; too large a picture; a descent that takes too long.
    """
    x, y = (
        _planes(pictures[name].array, field) for name, field in ((request.before, "before"), (request.after, "after"))
    )
    size = request.kernel_size
    descends = request.method != "lstsq"
    if descends and not isinstance(size, str):
        _check_planned(request, x, size)
    options: dict[str, Any] = {
        name: getattr(request, name) for name in ("padding", "padding_mode", "offset", "ridge", "nan")
    }
    options["kernel_size"] = size if isinstance(size, int | str) else tuple(size)
    if isinstance(size, int):
        options["kernel_size"] = (size, size)
    with _recorded() as said:
        found = fit(x, y, errors=request.errors, **options)
    outbox.send("closed", **_found(found, said))
    if descends:
        stream = _Losses(outbox)
        descent = Descent(request.method, request.learning_rate, request.steps, request.seed, stream.take)
        loss: Any = "squares" if request.huber_delta is None else Huber(request.huber_delta)
        with _recorded() as said:
            found = fit(x, y, method=descent, loss=loss, **options)
        stream.flush(None)
        outbox.send("descent", **_found(found, said))
    _send_residual(outbox, found, x, y)


def _planes(array: np.ndarray, field: str) -> np.ndarray:
    """Return a picture as images of one channel each, since one kernel is fitted for all its colours."""
    if array.size > MAX_VALUES:
        raise ConvolithError(
            f"{field} has {array.size:,} values; the page fits pictures of up to {MAX_VALUES:,}; send a part of it, or "
            "call `convolith fit`"
        )
    planes = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    dtype = array.dtype if array.dtype.kind == "f" and array.dtype.itemsize > 2 else np.float64
    return np.ascontiguousarray(planes, dtype)[:, None]


def _check_planned(request: FitKernel, x: np.ndarray, size: Any) -> None:
    """Refuse a descent whose steps are estimated to take too long."""
    kernel = (size, size) if isinstance(size, int) else tuple(size)
    spec = ConvSpec.of(x.astype(float), np.zeros((1, 1, *kernel)), padding=request.padding)
    planned = PASSES * request.steps * (plan(spec).seconds or 0.0)
    if planned > PLANNED_SECONDS:
        raise ConvolithError(
            f"{request.steps} steps are estimated to take {planned:.0f} s; the page computes for at most "
            f"{PLANNED_SECONDS:.0f} s; pass fewer steps, or smaller pictures"
        )


@contextmanager
def _recorded() -> Iterator[list[warnings.WarningMessage]]:
    """Return a context that records warnings: this process does one request at a time."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield said


def _found(found: Fit, said: list[warnings.WarningMessage]) -> dict[str, Any]:
    """Return a fit as data."""
    error = found.stderr
    return {
        "method": found.method,
        "kernel": found.kernel[0, 0],
        "stderr": None if error is None else error[0, 0],
        "offset": None if found.offset is None else float(found.offset[0]),
        "loss": found.loss[-1],
        "residual_rms": found.residual_rms,
        "explained": found.explained,
        "condition": found.condition,
        "learning_rate": found.learning_rate,
        "held_out_rms": found.held_out_rms,
        "selection": [one._asdict() for one in found.selection],
        "warnings": [str(one.message) for one in said if issubclass(one.category, RuntimeWarning | UserWarning)],
    }


class _Losses:
    """The losses of a descent, sent a few at a time, with the kernel now and then."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox, self.first, self.losses = outbox, 0, list[float]()
        self.sent = self.shown = time.perf_counter()

    def take(self, step: int, loss: float, kernel: Any) -> None:
        """Take the loss of a step: the callback of a descent."""
        if not self.losses:
            self.first = step
        self.losses.append(loss)
        now = time.perf_counter()
        if now - self.sent >= BATCH_SECONDS:
            is_due = now - self.shown >= KERNEL_SECONDS
            self.shown = now if is_due else self.shown
            self.flush(np.asarray(kernel)[0, 0] if is_due else None)

    def flush(self, kernel: np.ndarray | None) -> None:
        """Send the losses that were not sent yet."""
        if self.losses:
            self.outbox.send("losses", first=self.first, losses=self.losses, kernel=kernel)
        self.losses, self.sent = [], time.perf_counter()


def _send_residual(outbox: Outbox, found: Fit, x: np.ndarray, y: np.ndarray) -> None:
    """Keep y less the prediction as a picture, as large as the prediction."""
    predicted = correlate(x, found.conv)
    if predicted.shape != y.shape:  # without padding, the prediction is the middle of y
        starts = [(whole - part) // 2 for whole, part in zip(y.shape, predicted.shape, strict=True)]
        y = y[tuple(slice(start, start + part) for start, part in zip(starts, predicted.shape, strict=True))]
    residual = Stored(picture_of(y - predicted))
    names = {"residual": residual, "predicted": Stored(picture_of(predicted))}
    entries = {name: {"id": outbox.put(one), **described(one)} for name, one in names.items()}
    outbox.send("residual", **entries, equations=prod(predicted.shape))
