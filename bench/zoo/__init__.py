"""`python -m bench zoo`: models from packages of the registry, folded, converted and trained; one process for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench.runs import Run, json_option
from bench.zoo.models import MODELS, Model, is_missing
from bench.zoo.verdict import CALLS, MOST_SECONDS, SECONDS, failures
from convolith.report.progress import track

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Models are built from their configurations; nothing is to be looked up."""


@click.command()
@click.argument("merged", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--only", multiple=True, help="A package, or package/model (repeatable).")
@click.option("--limit", default=300, show_default=True, help="Seconds after which a model is stopped.")
@click.option("--side", type=int, help="Side of the images in place of each model's own (faster, for development).")
@json_option
@click.option("--merge", is_flag=True, help="Run nothing; print kept runs, given as arguments, as one table.")
def zoo(
    merged: tuple[Path, ...], only: tuple[str, ...], limit: int, side: int | None, path: Path | None, *, merge: bool
) -> None:
    """Fold, convert and train models of everyone's packages, with random weights and statistics.

    A package that is not installed has its rows listed as missing: run it in each environment with --json, and print
    all of them with --merge RUN.json ... .
    """
    if bool(merged) != merge:
        raise click.UsageError("kept runs are given together with --merge, as in: zoo --merge a.json b.json")
    if merge:
        rows = combined([_rows(kept) for kept in merged])
    else:
        chosen = [m for m in MODELS if not only or {m.package, m.title} & set(only)]
        unknown = set(only) - {name for m in chosen for name in (m.package, m.title)}
        if unknown:
            raise click.UsageError(f"no model or package {', '.join(sorted(unknown))}")
        rows = [run(chosen[at], limit, side) for at in track(range(len(chosen)), "models", len(chosen), shown=True)]
    show(rows, path, complete=not (only or side))


def _rows(kept: Path) -> list[dict[str, Any]]:
    """Return the rows of a kept run, of this version or of one that called them otherwise."""
    content = json.loads(kept.read_text())
    rows: list[dict[str, Any]] | None = content.get("details") or content.get("rows")
    if rows is None:
        raise click.ClickException(f"{kept} holds a table but no rows; run the zoo again with --json")
    return rows


def run(model: Model, limit: float, side: int | None) -> dict[str, Any]:
    """Measure one model in a process of its own; one that crashes or takes too long is a row with its reason."""
    start = {"package": model.package, "model": model.name}
    if is_missing(model.package):
        return {**start, "stage": "missing"}
    with tempfile.TemporaryDirectory() as settings:
        command = [sys.executable, "-m", "bench.zoo.row", model.title, *([str(side)] if side else [])]
        environment = os.environ | OFFLINE | {"YOLO_CONFIG_DIR": settings}
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)  # noqa: S603 - our own module
            try:
                code = process.wait(limit)
                ended = None if code == 0 else f"the process ended with {code}"
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                ended = f"stopped after {limit:g} s"
            except BaseException:
                process.kill()
                raise
            out.seek(0), err.seek(0)
            lines = [line for line in out.read().splitlines() if line.startswith("{") and line.endswith("}")]
            said = err.read().strip().splitlines()[-1:]
    row = json.loads(lines[-1]) if lines else {**start, "stage": "start"}
    if ended and "problem" not in row:
        row["problem"] = f"{ended} in {row['stage']}" + (f": {said[0]}" if said else "")
    click.echo(f"{model.title}: {'; '.join(failures(row)) or 'holds'}", err=True)
    return row


def combined(runs: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Join runs of several environments: the first in which a model's package was there counts."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for rows in runs:
        for row in rows:
            key = (row["package"], row["model"])
            if key not in found or found[key]["stage"] == "missing":
                found[key] = row
    return list(found.values())


def show(rows: Sequence[dict[str, Any]], path: Path | None = None, *, complete: bool = False) -> None:
    """Print the table, every failure, and the figures that the run is judged by; keep them if a path is given."""
    known = [row for row in rows if row["stage"] != "missing"]
    run = Run("zoo", figures=summary(known), details=rows)
    run.add("Models of the registry, folded, converted and trained", [_cells(row) for row in known])
    for row in known:
        for reason in failures(row):
            click.echo(f"{row['package']}/{row['model']}: {reason}")
    for package, count in Counter(row["package"] for row in rows if row["stage"] == "missing").items():
        click.echo(f"missing: {package} is not installed here ({count} models)")
    run.close(path, complete=complete)


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    plain = row.get("plain")
    return {
        "model": f"{row['package']}/{row['model']}",
        "norms": row.get("norms behind"),
        "stay": row.get("norms after"),
        "unnamed": len(row["norms unnamed"]) if "norms unnamed" in row else None,
        "convolutions": row.get("convolutions"),
        "then": row.get("convolutions after"),
        "error": max(row["errors"].values()) if row.get("errors") else None,
        "plain": None if plain is None else plain["modules"] + plain["calls"],
        "gradient error": row.get("gradient error"),
        "ms a call": 1e3 * row["call seconds"] if "call seconds" in row else None,
        "seconds to fold": row.get("fold seconds"),
        "holds": not failures(row),
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The figures that a run is judged by."""
    folded = [row for row in rows if "fold seconds" in row and "fold problem" not in row]
    figures = {
        "models": f"{len(rows)} of {len({row['package'] for row in rows})} packages",
        "models that hold in everything": str(sum(not failures(row) for row in rows)),
    }
    if folded:
        norms = sum(row.get("norms behind", 0) for row in folded)
        stay = sum(row.get("norms after", 0) for row in folded)
        slowest = max(folded, key=lambda row: row["fold seconds"])
        over = [(row["fold seconds"] - SECONDS) / row["call seconds"] for row in folded]
        figures |= {
            "norms behind convolutions": f"{norms}, of which {stay} stay",
            f"fold, less {SECONDS:g} s, in calls of the model": f"{median(over):.1f} in the median (target {CALLS:g})",
            "slowest fold": f"{slowest['fold seconds']:.1f} s (target {MOST_SECONDS:g} s), {slowest['model']}",
        }
    return figures
