"""What folding did to a model: each rewrite, each refusal with its reason, the work before and after, the error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from convolith.report.table import Table

LEAST_STEPS = 8.0
"""Root mean square of a channel's weights in steps of int8 below which rounding them shows: 3.6% of noise."""


@dataclass(frozen=True)
class Rewrite:
    """Nodes of a captured model that one convolution takes the place of.

    Attributes:
        name: of the new module.
        modules: where the nodes stand in the model.
        nodes: their names in the captured graph, in order.
        conv: the convolution, as text.
        kind: `"exact"` or `"exact with border correction"`.
        multiplications_before, multiplications_after: on the example.
        bytes_before, bytes_after: read and written on the example, in the model's dtype, without weights.
        least_range, largest_range: over the output channels, the largest weight of each.
        warning: where rounding the weights to int8 would suffer, or None.
        seconds_before, seconds_after: where both were measured.
    """

    name: str
    modules: tuple[str, ...]
    nodes: tuple[str, ...]
    conv: str
    kind: str
    multiplications_before: float
    multiplications_after: float
    bytes_before: float
    bytes_after: float
    least_range: float
    largest_range: float
    warning: str | None
    seconds_before: float | None = None
    seconds_after: float | None = None


@dataclass(frozen=True)
class Skipped:
    """A place that looked as if it might be folded, and why it was not.

    Attributes:
        node: its name in the captured graph.
        module: where it stands in the model.
        reason: in words.
        kind: `"refused"` (it is no one convolution), `"does not pay"`, `"kept"` (a module that stays as it is),
            `"norm"` (a norm right behind a convolution that stays), or `"settled"` (an argument that the folded model
            does not have).
        line: file and line of the code that calls it, where known.
    """

    node: str
    module: str
    reason: str
    kind: str
    line: str | None = None


@dataclass(frozen=True)
class FoldReport:
    """What was folded, what was not and why, and how near the folded model is.

    Attributes:
        rewrites: one entry for each new convolution.
        skipped: one for each row or sum that was left.
        convolutions_before, convolutions_after: that one pass computes.
        multiplications_before, multiplications_after: of what folding reads (convolutions, norms, scales, pooling).
        bytes_before, bytes_after: that those read and write, without weights.
        norms_before, norms_after: batch norms that one pass computes.
        others: operators that folding does not read as convolutions, and how often each stands there.
        error: by dtype, the largest difference of any output, relative to the largest output.
    """

    rewrites: tuple[Rewrite, ...]
    skipped: tuple[Skipped, ...]
    convolutions_before: int
    convolutions_after: int
    multiplications_before: float
    multiplications_after: float
    bytes_before: float
    bytes_after: float
    norms_before: int
    norms_after: int
    others: dict[str, int] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)

    def tables(self) -> list[Table]:
        """The report as tables."""
        counted = [
            {"": name, "before": getattr(self, f"{field}_before"), "after": getattr(self, f"{field}_after")}
            for name, field in (
                ("convolutions", "convolutions"),
                ("batch norms", "norms"),
                ("multiplications", "multiplications"),
                ("bytes moved", "bytes"),
            )
        ]
        rewrites = [_row(r) for r in self.rewrites]
        skipped = [
            {"kind": s.kind, "where": s.module, "node": s.node, "reason": s.reason, "line": s.line or ""}
            for s in self.skipped
        ]
        errors = [{"dtype": name, "largest relative error": value} for name, value in self.error.items()]
        found = [Table("Folded", counted), Table("Verified", errors)]
        if rewrites:
            found.insert(1, Table("Rewrites", rewrites))
        if skipped:
            found.append(Table("Left as it is", skipped))
        if self.others:
            found.append(
                Table("Other operators", [{"operator": n, "times": times} for n, times in self.others.items()])
            )
        warned = [{"new module": r.name, "warning": r.warning} for r in self.rewrites if r.warning]
        return [*found, Table("Before int8 quantisation", warned)] if warned else found

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables())


def _row(rewrite: Rewrite) -> dict[str, Any]:
    row = {
        "new module": rewrite.name,
        "convolution": rewrite.conv,
        "kind": rewrite.kind,
        "multiplications before": rewrite.multiplications_before,
        "multiplications after": rewrite.multiplications_after,
        "bytes before": rewrite.bytes_before,
        "bytes after": rewrite.bytes_after,
        "largest weights": f"{rewrite.least_range:.3g} to {rewrite.largest_range:.3g}",
        "in place of": ", ".join(rewrite.modules),
    }
    if rewrite.seconds_before is not None and rewrite.seconds_after is not None:
        measured = {"seconds before": rewrite.seconds_before, "seconds after": rewrite.seconds_after}
        row = {**row, **measured, "in place of": row.pop("in place of")}
    return row


def ranges(by_channel: torch.Tensor) -> tuple[float, float, str | None]:
    """The least and the largest of the channels' largest weights, and what int8 would do to them.

    Args:
        by_channel: (out_channels, weights).
    """
    largest = by_channel.abs().amax(1)
    size = by_channel.square().mean(1).sqrt()
    used = size > 0
    if not bool(used.any()):
        return 0.0, 0.0, None
    whole = (127 * size[used] / largest.max()).min().item()
    own = (127 * size[used] / largest[used]).min().item()
    warning = None
    if own < LEAST_STEPS:
        warning = f"one scale for each channel leaves a channel {own:.2g} steps (root mean square of its weights)"
    elif whole < LEAST_STEPS:
        warning = f"one scale for all leaves a channel {whole:.2g} steps; take one for each channel ({own:.2g} steps)"
    return largest.min().item(), largest.max().item(), warning
