"""A model counted: its operators run once, and what they come to for every module of it."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch

from convolith.costing.dispatch import UNGROWN, Run, run
from convolith.costing.model import ModelCost, Row
from convolith.costing.watching import Path
from convolith.work import Backward, Count


def count_model(
    model: torch.nn.Module,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    *,
    convention: str,
    backward: bool,
    input_gradient: bool,
    real: bool,
    growth: tuple[Fraction, Fraction] = UNGROWN,
) -> ModelCost:
    """Count a model; arguments as for `dispatch.run`."""
    found = run(
        model,
        arguments,
        keywords,
        convention=convention,
        backward=backward,
        input_gradient=input_gradient,
        real=real,
        growth=growth,
    )
    names = {".".join(path): tally for path, tally in found.tallies.items()}
    own = {place: n for each in found.parameters.values() for place, n in each.items()}
    return ModelCost(
        type(model).__name__,
        convention,
        model.training,
        sum(own.values()),
        found.outputs,
        names,
        found.memory,
        _rows(model, found),
        found.strides,
        inputs=found.inputs,
        differentiated=backward,
    )


def _rows(model: torch.nn.Module, found: Run) -> tuple[Row, ...]:
    """Every module, in order, with what it and all modules inside it counted."""
    nothing = Count(), Backward(), 0.0
    inside: dict[Path, tuple[Count, Backward, float]] = {}
    for path, tally in found.tallies.items():
        for depth in range(len(path) + 1):
            forward, backward, seconds = inside.get(path[:depth], nothing)
            inside[path[:depth]] = forward + tally.forward, backward + tally.backward, seconds + tally.seconds
    modules = [(tuple(name.split(".")) if name else (), module) for name, module in model.named_modules()]
    parameters: dict[Path, dict[int, int]] = {path: {} for path, _ in modules}  # shared ones count once in each
    for path, _ in modules:
        own = found.parameters[path]
        for depth in range(len(path) + 1):
            parameters[path[:depth]] |= own
    return tuple(
        Row(
            ".".join(path),
            type(module).__name__,
            len(path),
            sum(parameters[path].values()),
            *inside.get(path, nothing),
            found.fields.get(path),
        )
        for path, module in modules
    )
