"""`python -m bench report`: docs/performance.md and docs/without-torch.md, from their templates and kept runs.

The templates have the same names in `bench`, the runs are in `bench/runs`. A line of a template that names a run is
replaced: `{{ grid }}` by the date, machine, versions and controls of the newest run of `grid`, `{{ grid: figures }}` by
a table of its figures, and `{{ grid: TITLE }}` by the table whose title begins with TITLE.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click

from convolith.report.table import Table, quantity

HERE = Path(__file__).parent
RUNS, PAGES = HERE / "runs", HERE.parent / "docs"
TEMPLATES = (HERE / "performance.md", HERE / "without-torch.md")
"""Templates, each of which becomes the page of its name."""
PLACE = re.compile(r"^\{\{ (?P<bench>\w+)(: (?P<part>.+))? \}\}$", re.MULTILINE)
GENERATED = "<!-- Written by `python -m bench report` from bench/{} and bench/runs: edit those. -->\n\n"


@click.command()
@click.option(
    "--runs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=RUNS,
    help="Folder of runs kept with --json; the newest of each bench counts. By default bench/runs.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=PAGES,
    help="Folder of the pages to write; by default docs.",
)
def report(runs: Path, output: Path) -> None:
    """Write the pages of measurements from kept runs."""
    kept = newest(runs)
    pages = {template.name: page(template, kept) for template in TEMPLATES}
    for name, text in pages.items():
        (output / name).write_text(text)


def newest(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the newest complete run of each bench in a folder."""
    runs = sorted((json.loads(path.read_text()) for path in folder.glob("*.json")), key=lambda run: run["date"])
    return {run["bench"]: run for run in runs if run.get("complete", True)}


def page(template: Path, runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page of a template."""
    return GENERATED.format(template.name) + filled(template.read_text(), runs)


def filled(text: str, runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text of a template, filled in.

    Raises:
        click.ClickException: no run of a bench that the template names, or no such table in it.
    """
    return PLACE.sub(lambda place: _part(place["bench"], place["part"], runs), text)


def _part(bench: str, part: str | None, runs: Mapping[str, Mapping[str, Any]]) -> str:
    run = runs.get(bench)
    if run is None:
        raise click.ClickException(f"no complete run of {bench}: keep one with --json bench/runs/{bench}.json")
    if part is None:
        return _surroundings(run)
    if part == "figures":
        return markdown([{"figure": name, "value": value} for name, value in run["figures"].items()])
    for table in run["tables"]:
        if table["title"].startswith(part):
            return markdown(table["rows"])
    raise click.ClickException(f"the run of {bench} has no table {part!r}: run it again")


def _surroundings(run: Mapping[str, Any]) -> str:
    """Say when, on what machine and with which versions a run was made, and its controls."""
    machine, versions = run["machine"], run["versions"]
    named = ", ".join(f"{name} {number}" for name, number in versions.items()).replace("convolith", "Convolith", 1)
    vectors = f" ({machine['vectors']})" if machine["vectors"] else ""
    parts = [
        f"{run['date'][:10]}, {machine['processor']}{vectors}, {machine['threads']} threads",
        named or "versions not recorded",
        f"medians of {run['rounds']} {run.get('unit', 'blocks')}" if (run["rounds"] or 0) > 1 else "",
        _controls(run["controls"]),
    ]
    return "Measured on " + "; ".join(part for part in parts if part) + "."


def _controls(ratios: Sequence[float]) -> str:
    if len(ratios) > 3:
        return f"controls {min(ratios):.2f} to {max(ratios):.2f}, {median(ratios):.2f} in the median"
    return f"control {', '.join(f'{ratio:.2f}' for ratio in ratios)}" if ratios else ""


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table, with three digits of each number."""
    table = Table("", rows)
    lines = [table.columns, ["---:" if table.is_numeric(name) else "---" for name in table.columns]]
    lines += [[quantity(row.get(name)) for name in table.columns] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
