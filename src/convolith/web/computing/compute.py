"""Compute: a picture and a kernel; the result, the plan with its reasons, and every engine timed and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from convolith.engines.error_bounds import error_scale
from convolith.errors import ConvolithError
from convolith.planner import Candidate, Plan, machine
from convolith.spec import ConvSpec
from convolith.web.computing.outbox import Outbox
from convolith.web.computing.tiles import Layer
from convolith.web.kernels import kernel_values
from convolith.web.pictures import described
from convolith.web.requests import Compute, Crossover
from convolith.web.store import Stored

PLANNED_SECONDS = 60.0
"""Largest estimated time of a request's computations together."""
HOPELESS = 30.0
"""Ratio to the fastest estimate above which an engine is not timed unless it is named."""
CROSSOVER_SECONDS = 0.25
"""Largest estimated time of an engine that a crossover chart times."""
COLUMNS = {
    "time": "seconds_are",
    "bytes moved": "bytes",
    "workspace bytes": "workspace",
    "error bound": "bound",
}
"""Columns of a plan's table that have another name in an event."""


def planes_of(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return a picture as planes, (channels, 1, H, W), of a dtype.

    Raises:
        ConvolithError: numbers that the dtype does not hold.
    """
    planes = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(planes, dtype)[:, None]
    if dtype == "int32":
        if not np.array_equal(converted[:, 0], planes):
            raise ConvolithError('dtype is "int32", but the picture has other values; choose "float32"')
    elif not np.isfinite(converted).all():
        raise ConvolithError(
            f"the picture has values that are NaN, infinite, or too large for {dtype}; fill them in, or choose float64"
        )
    return converted


def picture_of(planes: np.ndarray) -> np.ndarray:
    """Return planes, (channels, 1, H, W), as a picture, (H, W) or (H, W, channels)."""
    picture: np.ndarray = np.ascontiguousarray(np.moveaxis(planes[:, 0], 0, -1))
    return picture[..., 0] if picture.shape[-1] == 1 else picture


def layer_of(request: Compute, array: np.ndarray, values: np.ndarray) -> Layer:
    """Return the layer of a request.

    Raises:
        ConvolithError: whatever `correlate` refuses: a kernel that does not fit, dtypes that do not go together.
    """
    if request.dtype == "int32" and not np.array_equal(values, np.rint(values).clip(-(2**31), 2**31 - 1)):
        raise ConvolithError('dtype is "int32", but the kernel has fractions or is too large; choose "float32"')
    values = values[::-1, ::-1] if request.flip else values
    with np.errstate(over="ignore"):
        kernel = np.ascontiguousarray(values, request.dtype)[None, None]
    if not np.isfinite(kernel).all():
        raise ConvolithError(f"the kernel has values that are too large for {request.dtype}; choose float64")
    planes = planes_of(array, request.dtype)
    names = ("stride", "padding", "dilation", "padding_mode")
    spec = ConvSpec.of(planes, kernel, **{name: getattr(request, name) for name in names})
    machine.check_memory("the picture, its exact result and what is compared take", 4 * 8 * prod(spec.input_shape))
    return Layer(planes, kernel, spec, request.accuracy)


def compute(outbox: Outbox, request: Compute, pictures: Mapping[str, Stored]) -> None:
    """Do a request: events `plan`, `result`, `reference`, and `engine` once for each engine."""
    array = pictures[request.picture].array
    layer = layer_of(request, array, kernel_values(request.kernel, pictures.__getitem__))
    chosen = layer.plan()
    exact = _exact(layer)
    timed = _timed(chosen, request)
    planned = _check_planned(chosen, exact[1], timed)
    outbox.send("plan", **_planned(chosen, timed), planned_seconds=planned)
    y, seconds, strips = _whole(layer, chosen, outbox)
    outbox.send("result", **_kept(y, array, outbox), engine=chosen.engine, seconds=seconds, strips=strips)
    truth, _, _ = _whole(*exact, outbox)
    outbox.send("reference", engine=exact[1].engine, dtype=exact[1].spec.out_dtype)
    scale = _scale(layer)
    for candidate in timed:
        _compare(layer, layer.plan(candidate.engine), candidate, truth, scale, outbox)


def _exact(layer: Layer) -> tuple[Layer, Plan]:
    """Return the layer in float64, and its plan: direct sums unless they take too long. Whole numbers are exact."""
    if layer.spec.dtype == "int32":
        return layer, layer.plan()
    wide = layer._replace(planes=layer.planes.astype(float), kernel=layer.kernel.astype(float), accuracy="exact")
    wide = wide._replace(spec=replace(layer.spec, dtype="float64", kernel_dtype="float64"))
    chosen = wide.plan()
    if (chosen.seconds or 0.0) > PLANNED_SECONDS / 6:
        wide = wide._replace(accuracy="default")
        chosen = wide.plan()
    return wide, chosen


def _timed(chosen: Plan, request: Compute) -> list[Candidate]:
    """Return the engines that are timed, the fastest first.

    Raises:
        ConvolithError: an engine that is named, but unknown or unable.
    """
    able = {one.engine: one for one in chosen.candidates if one.reason is None}
    if request.engines is None:
        limit = HOPELESS * (chosen.seconds or 0.0) + 1e-3
        timed = [one for one in able.values() if one.engine == chosen.engine or (one.seconds or 0.0) <= limit]
    else:
        reasons = {one.engine: one.reason for one in chosen.candidates}
        for name in request.engines:
            if name not in able:
                problem = f"cannot compute this: {reasons[name]}" if name in reasons else "is unknown"
                raise ConvolithError(f"engine {name!r} {problem}; expected some of {', '.join(able)}")
        timed = [able[name] for name in dict.fromkeys(request.engines)]
    return sorted(timed, key=lambda one: one.seconds or 0.0)


def _check_planned(chosen: Plan, exact: Plan, timed: list[Candidate]) -> float:
    """Return the estimated time of a request; engines that take too long are taken from the end of `timed`.

    Raises:
        ConvolithError: the result and the exact one alone take too long.
    """
    planned = 2 * (chosen.seconds or 0.0) + (exact.seconds or 0.0)
    if planned > PLANNED_SECONDS:
        raise ConvolithError(
            f"this is estimated to take {planned:.0f} s, and the page computes for at most {PLANNED_SECONDS:.0f} s; "
            "pass a smaller picture or kernel, or call `convolith correlate`"
        )
    for place, one in enumerate(timed):
        planned += 2 * (one.seconds or 0.0)
        if planned > PLANNED_SECONDS:
            planned -= sum(2 * (late.seconds or 0.0) for late in timed[place : place + 1])
            del timed[place:]
            break
    return planned


def _planned(chosen: Plan, timed: list[Candidate]) -> dict[str, Any]:
    """Return the plan as data: every engine with its estimates or the reason of its refusal, the chosen one first."""
    table = chosen.table()
    names = {one.engine for one in timed}
    rows = [
        {COLUMNS.get(name, name): value for name, value in row.items() if name != "milliseconds"}
        | {"seconds": row["milliseconds"] / 1e3 if "milliseconds" in row else None, "is_timed": row["engine"] in names}
        for row in table.rows
    ]
    spec = chosen.spec
    shapes = {"input": spec.input_shape, "kernel": spec.kernel_shape, "output": spec.output_shape}
    why = next(one.note for one in chosen.candidates if one.engine == chosen.engine)
    return {"engine": chosen.engine, "how": why, "layer": table.title, "shapes": shapes, "engines": rows}


def _whole(layer: Layer, chosen: Plan, outbox: Outbox) -> tuple[np.ndarray, float, int]:
    """Return the whole result of a plan, the seconds that its engine took, and the number of strips."""
    strips = list[np.ndarray]()
    total = 0.0
    for rows, y, seconds in layer.computed(chosen):
        strips.append(y)
        total += seconds
        if rows.stop < layer.spec.output_size[0]:
            outbox.send("progress", engine=chosen.engine, part=rows.stop / layer.spec.output_size[0])
    return np.concatenate(strips, 2) if len(strips) > 1 else strips[0], total, len(strips)


def _kept(y: np.ndarray, array: np.ndarray, outbox: Outbox) -> dict[str, Any]:
    """Keep a result and its difference from the picture, and return what the page is told of them."""
    picture = picture_of(y)
    result: dict[str, Any] = {"result": {"id": outbox.put(Stored(picture)), **described(Stored(picture))}}
    if picture.shape != array.shape:
        return result | {"difference": None, "why_no_difference": "the result has another size than the picture"}
    difference = Stored(np.subtract(picture, array, dtype=np.result_type(picture.dtype, np.float32)))
    return result | {"difference": {"id": outbox.put(difference), **described(difference)}}


def _scale(layer: Layer) -> float:
    import torch

    wide = (torch.from_numpy(part.astype(float)) for part in (layer.planes, layer.kernel))
    return error_scale(layer.spec, *wide)


def _compare(layer: Layer, chosen: Plan, candidate: Candidate, truth: np.ndarray, scale: float, outbox: Outbox) -> None:
    """Time an engine, and compare its result with the exact one."""
    total, count, error = 0.0, 0, 0.0
    for rows, y, seconds in layer.computed(chosen):
        total, count = total + seconds, count + 1
        if y.size:
            error = max(error, float(np.abs(y.astype(truth.dtype) - truth[:, :, rows]).max()))
        if rows.stop < layer.spec.output_size[0]:
            outbox.send("progress", engine=chosen.engine, part=rows.stop / layer.spec.output_size[0])
    work = candidate.work
    outbox.send(
        "engine",
        engine=candidate.engine,
        how=candidate.note,
        seconds=total,
        strips=count,
        estimated_seconds=None if candidate.timed else candidate.seconds,
        bytes=None if work is None else work.forward.bytes,
        workspace=None if work is None else work.memory.forward.workspace,
        error=error,
        relative_error=error / scale if scale else 0.0,
        bound=candidate.error_bound,
    )


def crossover(outbox: Outbox, request: Crossover) -> None:
    """Send the times of every engine by kernel size: an event `size` for each."""
    draw = np.random.default_rng(0)
    planes = draw.normal(size=(request.channels, 1, *request.size)).astype(request.dtype)
    left = PLANNED_SECONDS
    for size in dict.fromkeys(request.kernel_sizes):
        rows, columns = draw.normal(size=(2, size))
        values = np.outer(rows, columns) if request.separable else draw.normal(size=(size, size))
        kernel = values.astype(request.dtype)[None, None]
        options = {name: getattr(request, name) for name in ("stride", "dilation", "padding_mode")}
        spec = ConvSpec.of(planes, kernel, padding="same", **options)
        layer = Layer(planes, kernel, spec, request.accuracy)
        left -= _charted(outbox, layer, layer.plan(), size, left if request.measured else 0.0)


def _charted(outbox: Outbox, layer: Layer, chosen: Plan, size: int, left: float) -> float:
    """Send the times of all engines for one kernel size, and return the estimated time of those that were timed."""
    engines: dict[str, Any] = {}
    spent = 0.0
    for one in chosen.candidates:
        if one.reason is not None:
            engines[one.engine] = {"reason": one.reason}
            continue
        estimate = one.seconds or 0.0
        engines[one.engine] = {"seconds": estimate, "measured": None}
        if estimate <= CROSSOVER_SECONDS and spent + 4 * estimate < left:
            spent += 4 * estimate
            engines[one.engine]["measured"] = sum(seconds for *_, seconds in layer.computed(layer.plan(one.engine)))
    outbox.send("size", kernel_size=size, chosen=chosen.engine, engines=engines)
    return spent
