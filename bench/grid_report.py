"""Table, figures and picture of a run of the grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Any

from bench.peers import PEERS
from convolith import ConvSpec
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


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Return each row's share of the machine's limits, and that of its fastest peer."""
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
