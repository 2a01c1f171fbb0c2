"""Network: the costs of the model that the command line named, what folds, its memory by time, the largest batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from convolith.costing import cost
from convolith.errors import ConvolithError
from convolith.folding import fold
from convolith.planner.machine import check_memory
from convolith.web.computing.outbox import Outbox
from convolith.web.requests import ExamineNetwork

FOLDED_MACS = 50e9
"""Largest number of multiply-accumulates of a model that is folded, which runs it several times, in float64 too."""


def examine(outbox: Outbox, request: ExamineNetwork, load: Callable[[], Any]) -> None:
    """Do a request: events `model`, `cost`, `peak`, `batch` and `fold`, each of the last three only if requested.

    Args:
        outbox: where the events are sent.
        request: shapes and options.
        load: function that returns the model, which may be changed.

    Raises:
        ConvolithError: a model that cannot be created or counted.
    """
    model = load()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    outbox.send("model", kind=type(model).__name__, parameters=parameters)
    model.train(request.train)
    shapes: Any = [tuple(shape) for shape in request.inputs]
    counted = cost(model, input_shape=shapes[0] if len(shapes) == 1 else shapes)
    outbox.send("cost", **_counted(counted))
    if request.optimizer is not None:
        _send_step(outbox, request, model, shapes)
    if request.fold:
        outbox.send("fold", **_folded(model.eval(), shapes, counted.forward.macs))


def _counted(counted: Any) -> dict[str, Any]:
    """Return a model's counts as data; the depth of each module gives the tree."""
    data: dict[str, Any] = counted.as_dict()
    for module, row in zip(data["modules"], counted.rows, strict=True):
        module["depth"] = row.depth
    return data


def _send_step(outbox: Outbox, request: ExamineNetwork, model: torch.nn.Module, shapes: Any) -> None:
    """Send the memory of a training step by time, and the largest batch that fits."""
    try:
        counted = cost(model, input_shape=shapes[0] if len(shapes) == 1 else shapes, optimizer=request.optimizer)
    except ConvolithError as problem:
        outbox.send("peak", refused=str(problem))
        return
    peak = counted.peak
    assert peak is not None  # noqa: S101 - for the type checker
    steps = {
        name: [getattr(moment, name) for moment in peak.moments] for name in ("bytes", "operator", "module", "phase")
    }
    outbox.send("peak", **{name: value for name, value in vars(peak).items() if name != "moments"}, moments=steps)
    if request.memory is not None:
        outbox.send("batch", memory=request.memory, largest=counted.largest_batch(request.memory))


def _folded(model: torch.nn.Module, shapes: Any, macs: int) -> dict[str, Any]:
    """Return the report of folding a model as data, or why it is not folded."""
    if macs > FOLDED_MACS:
        return {
            "refused": f"the model has {macs / 1e9:.0f} G multiply-accumulates; the page folds models of up to "
            f"{FOLDED_MACS / 1e9:.0f} G; pass a smaller input, or call `convolith fold`"
        }
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    check_memory("the inputs take", sum(torch.Size(shape).numel() for shape in shapes) * (dtype.itemsize + 8))
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    try:
        return asdict(fold(model, inputs).report)
    except ConvolithError as problem:
        return {"refused": str(problem)}
