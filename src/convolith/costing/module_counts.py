"""Counts of a model by module: the model runs once, and its operators' counts are summed for every module."""

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
    """Count a model; arguments and options as for `counting.run`."""
    counted = run(model, arguments, keywords, **options)
    names = {".".join(path): tally for path, tally in counted.tallies.items()}
    own = {place: n for each in counted.parameters.values() for place, n in each.items()}
    return ModelCost(
        type(model).__name__,
        options["convention"],
        model.training,
        sum(own.values()),
        counted.outputs,
        names,
        counted.memory,
        _rows(model, counted),
        counted.strides,
        inputs=counted.inputs,
        differentiated=options["backward"],
    )


def _rows(model: torch.nn.Module, found: CountedRun) -> tuple[ModuleRow, ...]:
    """Return a row for every module, in order, with the counts of the module and all its submodules."""
    modules = named_places(model)
    inside = _with_what_is_inside({path for path, _ in modules} | set(found.tallies), found)
    parameters: dict[Path, dict[int, int]] = {path: {} for path, _ in modules}  # by id: shared ones count once in each
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
    """Return the counts of every module with its submodules: starting with the deepest, each is added to its parent."""
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
