"""What if: a cost before and after something was scaled, of a layer or of a model."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import Any

from convolith.report.table import Table


@dataclass(frozen=True)
class Scaling:
    """A cost before and after its layer, or its model's input, channels or kernels, were scaled.

    Both costs have `counts()`, totals by name, and `output`, the size of what comes out.
    """

    before: Any
    after: Any
    by: dict[str, float]

    @property
    def factor(self) -> float:
        """How many times the multiplications of the forward pass; NaN where there were none (an empty batch)."""
        return self.factors.get("forward multiplications", nan)

    @property
    def factors(self) -> dict[str, float]:
        """The factor of each count; a count that was 0 is left out."""
        after = self.after.counts()
        return {name: after[name] / before for name, before in self.before.counts().items() if before}

    def table(self) -> Table:
        """Before, after and factor, for a report."""
        what = ", ".join(f"{name} x {by:g}" for name, by in self.by.items())
        before, after = self.before.counts(), self.after.counts()
        rows = [
            {"count": name, "before": before[name], "after": after[name], "factor": factor}
            for name, factor in self.factors.items()
        ]
        return Table(f"What if: {what}; output size {self.before.output} -> {self.after.output}", rows)

    def __str__(self) -> str:
        return self.table().text()
