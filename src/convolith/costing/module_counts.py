"""A model counted: its operators run once, and what they come to for every module of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from convolith.costing.counting import CountedRun, run
from convolith.costing.model_cost import ModelCost, ModuleRow
from convolith.costing.tracing.model_copies import named_places
from convolith.costing.tracing.module_tracker import Path
from convolith.work import Backward, Count


def count_model(
    model: torch.nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], **options: Any
) -> ModelCost:
    """Count a model; arguments and options as for `dispatch.run`."""
    found = run(model, arguments, keywords, **options)
    names = {".".join(path): tally for path, tally in found.tallies.items()}
    own = {place: n for each in found.parameters.values() for place, n in each.items()}
    return ModelCost(
        type(model).__name__,
        options["convention"],
        model.training,
        sum(own.values()),
        found.outputs,
        names,
        found.memory,
        _rows(model, found),
        found.strides,
        inputs=found.inputs,
        differentiated=options["backward"],
    )


def _rows(model: torch.nn.Module, found: CountedRun) -> tuple[ModuleRow, ...]:
    """Every module, in order, with what it and all modules inside it counted."""
    modules = named_places(model)
    inside = _with_what_is_inside({path for path, _ in modules} | set(found.tallies), found)
    parameters: dict[Path, dict[int, int]] = {path: {} for path, _ in modules}  # shared ones count once in each
    for path, _ in modules:
        own = found.parameters.get(path, {})
        for depth in range(len(path) + 1):
            parameters[path[:depth]] |= own
    return tuple(
        ModuleRow(
            ".".join(path),
            type(module).__name__,
            len(path),
            sum(parameters[path].values()),
            *inside[path],
            found.fields.get(path),
        )
        for path, module in modules
    )


def _with_what_is_inside(paths: set[Path], found: CountedRun) -> dict[Path, tuple[Count, Backward, float]]:
    """What was counted in every module and all those inside it: the deepest first, each added to the one around it."""
    inside: dict[Path, tuple[Count, Backward, float]] = {}
    for path in sorted(paths, key=len, reverse=True):
        tally = found.tallies.get(path)
        own = (Count(), Backward(), 0.0) if tally is None else (tally.forward, tally.backward, tally.seconds)
        whole = inside[path] = _added(own, inside.get(path))
        if path:
            inside[path[:-1]] = _added(whole, inside.get(path[:-1]))
    return inside


def _added(
    one: tuple[Count, Backward, float], other: tuple[Count, Backward, float] | None
) -> tuple[Count, Backward, float]:
    return one if other is None else (one[0] + other[0], one[1] + other[1], one[2] + other[2])
