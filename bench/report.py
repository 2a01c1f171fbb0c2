"""What a run of the grid prints, writes and draws."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch

import convolith as cl
from bench.peers import PEERS
from convolith import ConvSpec
from convolith.jit import host
from convolith.planner import machine
from convolith.report.table import Table

if TYPE_CHECKING:
    from bench.grid import Outcome

LEVEL = 1 / 1.05
"""A row counts as held if Convolith takes at most 1.05 times as long as the fastest peer."""
NEAR = 1.15
"""An estimate counts as good if its engine takes at most this many times the measured choice's time."""

TORCH = ("torch", "torch channels_last")
CLAIMS: dict[str, tuple[Callable[[ConvSpec], bool], tuple[str, ...]]] = {
    "least over OpenCV, images with k <= 15": (
        lambda spec: spec.in_channels == spec.out_channels == 1 and max(spec.kernel_size) <= 15,
        ("OpenCV filter2D",),
    ),
    "least over the better torch format, depthwise": (lambda spec: spec.groups == spec.in_channels > 1, TORCH),
    "least over the better torch format, 3x3 with 16 channels and more from 14x14 on": (
        lambda spec: (
            spec.kernel_size == (3, 3)
            and max(spec.stride) == spec.groups == 1
            and min(spec.in_channels, spec.out_channels) >= 16
            and min(spec.size) >= 14
        ),
        TORCH,
    ),
}
"""What is claimed of every row of a kind: which rows, and which peers it is measured against."""


def table(outcomes: Sequence[Outcome]) -> Table:
    """Milliseconds of Convolith, its share of the machine's limits, and each peer's time over it."""
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        row: dict[str, Any] = {
            "row": outcome.name,
            "engine": outcome.engine,
            "ms": float(f"{1e3 * outcome.seconds['convolith']:.3g}"),
            "of limit": round(outcome.roofline, 2),
            "estimate": round(outcome.estimate, 2),
        }
        for peer in PEERS:
            ratio = outcome.ratios.get(peer.name)
            row[peer.name] = "failed" if peer.name in outcome.failed else ratio and float(f"{ratio:.3g}")
        rows.append(row | {"fastest peer": outcome.best and round(outcome.best, 2)})
    return Table("Peers' time over Convolith's (above 1: Convolith is faster)", rows)


def show(outcomes: Sequence[Outcome], controls: Sequence[float]) -> None:
    """The table, what failed, and the figures of the whole run."""
    click.echo(table(outcomes).text())
    for outcome in outcomes:
        for name, reason in outcome.failed.items():
            click.echo(f"failed: {name} on {outcome.name}: {reason}")
    click.echo("")
    for name, value in summary(outcomes).items():
        click.echo(f"{name}: {value:.3g}")
    shown = ", ".join(f"{ratio:.3f}" for ratio in controls)
    click.echo(f"control (one function under two names, before and after): {shown}")


def summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The figures that a run is judged by; those without a row are left out."""
    contested = [outcome for outcome in outcomes if outcome.best is not None]
    named = {
        "geometric mean over torch": [o.ratios["torch"] for o in outcomes if "torch" in o.ratios],
        "geometric mean over the fastest peer": [o.best for o in contested if o.best is not None],
    }
    figures = {name: geometric_mean(ratios) for name, ratios in named.items() if ratios}
    if contested:
        held = sum(o.best is not None and o.best >= LEVEL for o in contested)
        figures["rows at most 1.05x the fastest peer"] = held / len(contested)
    figures["rows whose estimate is within 1.15x"] = sum(o.estimate <= NEAR for o in outcomes) / len(outcomes)
    for name, (wanted, peers) in CLAIMS.items():
        rows = [min(o.ratios[p] for p in peers) for o in outcomes if wanted(o.spec) and set(peers) <= set(o.ratios)]
        if rows:
            figures[name] = min(rows)
    direct = [o.roofline for o in outcomes if o.engine == "direct"]
    if direct:
        figures["median share of the limit, direct"] = median(direct)
    return figures


def record(outcomes: Sequence[Outcome], controls: Sequence[float], rounds: int) -> dict[str, Any]:
    """A run as plain data: the machine, the date, every time."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "architecture": platform.machine(),
            "threads": torch.get_num_threads(),
            "vectors": host().name,
            "limits": asdict(machine.limits()),
        },
        "versions": {"convolith": cl.__version__, "torch": torch.__version__, "numpy": np.__version__},
        "rounds": rounds,
        "control": controls,
        "summary": summary(outcomes),
        "rows": [
            {
                "row": outcome.name,
                "engine": outcome.engine,
                "estimated engine": outcome.estimated_engine,
                "limit seconds": outcome.roofline_seconds,
                "seconds": outcome.seconds,
                "skipped": outcome.skipped,
                "failed": outcome.failed,
            }
            for outcome in outcomes
        ],
    }


@click.command()
@click.argument("run", type=click.File())
def markdown(run: Any) -> None:
    """Print a run that was kept by `grid --json` as a table for the documentation."""
    kept = json.load(run)
    heads = ("row", "engine", "ms", "of limit", *(peer.name for peer in PEERS), "fastest peer")
    click.echo("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in kept["rows"]:
        ours = row["seconds"]["convolith"]
        ratios = {name: time / ours for name, time in row["seconds"].items() if not name.startswith("convolith")}
        cells = [row["row"], row["engine"], f"{1e3 * ours:.3g}", f"{row['limit seconds'] / ours:.2f}"]
        cells += [_short(ratios[peer.name]) if peer.name in ratios else "-" for peer in PEERS]
        click.echo("| " + " | ".join([*cells, _short(min(ratios.values()))]) + " |")


def _short(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2f}"


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Every row's share of the machine's limits, beside that of its fastest peer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 0.2 * len(outcomes)), layout="constrained")
    axes = figure.subplots()
    places = range(len(outcomes))
    axes.barh(places, [o.roofline for o in outcomes], color="#4477aa", height=0.7, label="Convolith")
    peers = [(place, o.roofline / o.best) for place, o in zip(places, outcomes, strict=True) if o.best]
    axes.plot([share for _, share in peers], [place for place, _ in peers], "|", color="#cc3311", label="fastest peer")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(list(places), [f"{o.name} ({o.engine})" for o in outcomes], fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("share of the machine's limits for direct sums (1: all products, or all bytes, at full speed)")
    axes.set_ylim(len(outcomes) - 0.4, -0.6)
    axes.legend(loc="upper right")
    figure.savefig(path)
