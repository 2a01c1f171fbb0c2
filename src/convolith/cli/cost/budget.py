"""Budgets for continuous integration: limits of totals, and changes since a saved baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convolith.costing.model_cost import ModelCost
from convolith.errors import ConvolithError
from convolith.report.table import Table

KIND, VERSION = "convolith cost baseline", 2


def totals(counted: ModelCost) -> dict[str, int]:
    """Return the totals that limits and baselines refer to, by name."""
    values = {
        "parameters": counted.parameters,
        "forward macs": counted.forward.macs,
        "forward multiplications": counted.forward.multiplications,
        "forward additions": counted.forward.additions,
        "backward macs": counted.backward.macs,
        "saved activations, bytes": counted.memory.backward.saved_activations,
    }
    return values if counted.peak is None else values | {"peak, bytes": counted.peak.bytes}


def over(counted: ModelCost, limits: Mapping[str, float]) -> Table | None:
    """Return a table of the totals above their limits, which have the names of `totals`; None if there are none."""
    values = totals(counted)
    rows = [
        {
            "what": name,
            "is": values[name],
            "limit": round(limit),
            "over by": f"{values[name] / limit - 1:.1%}" if limit else "-",
        }
        for name, limit in limits.items()
        if values[name] > limit
    ]
    return Table("Over budget", rows) if rows else None


def baseline(counted: ModelCost) -> str:
    """Return a model's totals and its modules' macs, as text for a file."""
    modules = {row.name: row.forward.macs for row in counted.rows if row.forward.macs}
    about = {"kind": KIND, "version": VERSION, "of": _of(counted)}
    return json.dumps({**about, "totals": totals(counted), "modules": modules}, indent=1) + "\n"


def _of(counted: ModelCost) -> dict[str, Any]:
    """Return the settings that must be equal for totals to be comparable."""
    return {
        "model": counted.model,
        "inputs": [list(shape) for shape in counted.inputs],
        "mode": "training" if counted.training else "evaluation",
        "passes": "forward and backward" if counted.differentiated else "forward",
        "convention": counted.convention,
        "peak": "none" if counted.peak is None else counted.peak.optimizer,
    }


def read_baseline(path: str | Path) -> dict[str, Any]:
    """Read a file that `baseline` wrote.

    Raises:
        ConvolithError: a missing or damaged file, or one of another version.
    """
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text())
        named = found["kind"], found["version"]
        complete = named[1] == VERSION and all(_are_counts(found[part]) for part in ("totals", "modules"))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ConvolithError(f"baseline is {path}, which cannot be read as one ({problem}); write it again") from None
    if named != (KIND, VERSION):
        raise ConvolithError(
            f"baseline is {path}, a {named[0]} of version {named[1]}; expected a {KIND} of {VERSION}; write it again"
        )
    if not complete or not isinstance(found.get("of"), dict):
        raise ConvolithError(f"baseline is {path}, which is damaged: counts are missing; write it again")
    return found


def _are_counts(part: Any) -> bool:
    return isinstance(part, dict) and all(type(value) is int for value in part.values())


def changes(before: Mapping[str, Any], counted: ModelCost) -> tuple[list[Table], bool]:
    """Return tables of the changes since a baseline, and whether any total grew.

    Raises:
        ConvolithError: a baseline with other settings: another model, other inputs, another mode.
    """
    now, this = totals(counted), _of(counted)
    for what, value in this.items():
        if before["of"].get(what) != value:
            had = before["of"].get(what)
            raise ConvolithError(
                f"the baseline has {what} {had}, but this has {value}; count both in the same way, or save another"
            )
    missing = [name for name in now if name not in before["totals"]]
    if missing:
        raise ConvolithError(f"the baseline has no {missing[0]}; write it again")
    changed = [name for name in now if now[name] != before["totals"][name]]
    tables = []
    if changed:
        rows = [_change("what", name, before["totals"][name], now[name]) for name in changed]
        tables.append(Table("Changed since the baseline", rows))
    modules = {row.name: row.forward.macs for row in counted.rows if row.forward.macs}
    names = [*modules, *(name for name in before["modules"] if name not in modules)]
    rows = [
        _change("module", name or counted.model, before["modules"].get(name, 0), modules.get(name, 0))
        for name in names
        if before["modules"].get(name, 0) != modules.get(name, 0)
    ]
    if rows:
        tables.append(Table("Forward macs of modules that changed", rows))
    return tables, any(now[name] > before["totals"][name] for name in changed)


def _change(kind: str, name: str, before: int, after: int) -> dict[str, Any]:
    share = f"{after / before - 1:+.1%}" if before else "new"
    return {kind: name, "before": before, "now": after, "change": after - before, "share": share}
