"""Report of a fold: each rewrite, each refusal with its reason, the work before and after, and the error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from convolith.report.html_page import fragment
from convolith.report.table import Table

LEAST_STEPS = 8.0
"""Root mean square of a channel's weights, in int8 steps, below which the report warns: rounding adds 3.6% of noise."""


@dataclass(frozen=True)
class Rewrite:
    """Replacement of several nodes of a captured model by one convolution.

    Attributes:
        name: name of the new module.
        modules: modules that the replaced nodes belong to.
        nodes: names of the replaced nodes in the captured graph, in order.
        conv: description of the convolution, as text.
        kind: `"exact"` or `"exact with border correction"`.
        multiplications_before, multiplications_after: number of multiplications on the example.
        bytes_before, bytes_after: bytes read and written on the example, in the model's dtype, without weights.
        least_range, largest_range: minimum and maximum over the output channels of a channel's largest weight.
        warning: warning if rounding the weights to int8 would add much noise, or None.
        seconds_before, seconds_after: median time of a call, if both were measured.
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
    """Part of a model that was not folded, and the reason.

    Attributes:
        node: name of the node in the captured graph.
        module: module that the node belongs to.
        reason: reason in words.
        kind: `"refused"` (it does not equal one convolution), `"does not pay"`, `"kept"` (a module that stays as it
            is), `"norm"` (a norm directly after a convolution, which stays), or `"settled"` (a difference of the whole
            model, such as an argument that the folded model does not take).
        line: file and line of the code that calls the node, if known.
    """

    node: str
    module: str
    reason: str
    kind: str
    line: str | None = None


@dataclass(frozen=True)
class FoldReport:
    """Rewrites of a model, the parts that were not folded with the reasons, and the error of the folded model.

    It is the `report` of `fold`, and the `fold` of a `NetworkReport`; print it for tables.

    Attributes:
        rewrites: one entry for each new convolution.
        skipped: one entry for each chain, sum, norm or module that was not folded.
        convolutions_before, convolutions_after: number of convolutions in one forward pass.
        multiplications_before, multiplications_after: total of the operators read (convolutions, norms, pooling, ...).
        bytes_before, bytes_after: bytes that these operators read and write, without weights.
        norms_before, norms_after: number of batch norms in one forward pass.
        others: number of occurrences of each operator that folding does not read as a convolution.
        error: largest difference of any output relative to the largest output, by dtype.
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
        """Return the report as tables."""
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
        result = [Table("Folded", counted), Table("Verified", errors)]
        if rewrites:
            result.insert(1, Table("Rewrites", rewrites))
        if skipped:
            result.append(Table("Left as it is", skipped))
        if self.others:
            result.append(
                Table("Other operators", [{"operator": n, "times": times} for n, times in self.others.items()])
            )
        warned = [{"new module": r.name, "warning": r.warning} for r in self.rewrites if r.warning]
        return [*result, Table("Before int8 quantisation", warned)] if warned else result

    def _repr_html_(self) -> str:
        """Return the tables as HTML for notebooks."""
        return fragment(self.tables())

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
    """Return the minimum and maximum of the channels' largest weights, and a warning if int8 would lose much.

    Args:
        by_channel: weights, (out_channels, weights per channel).
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
        warning = f"even with one int8 scale per channel, a channel's root mean square is only {own:.2g} steps"
    elif whole < LEAST_STEPS:
        warning = f"one scale for all channels leaves a channel {whole:.2g} steps; one per channel gives it {own:.2g}"
    return largest.min().item(), largest.max().item(), warning
