"""`BigFit`: the kernel of a fit between stores, and what the fit took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from convolith.big.layout import readable
from convolith.big.running import timing
from convolith.conv import Conv
from convolith.fitting.results import Candidate, Fit
from convolith.report.html_page import fragment
from convolith.report.table import Table


@dataclass(frozen=True, eq=False, repr=False)
class BigFit:
    """Fit between stores that are larger than memory; `cl.big.fit` returns it. Print it for tables.

    Attributes:
        found: the fit, as `cl.fit` returns it for data in memory.
        images: number of pairs of images.
        cropped: whether y is as large as x, so that its border was left out.
        blocks, resumed: number of blocks over all passes, and of those that an interrupted run had merged.
        missing: number of pixels of y that are left out: they are missing, or read a missing pixel of x.
        passes: number of passes over the data.
        accuracy: error of the kernel by rounding, relative to it: eps times the condition number after one pass.
        read_bytes: bytes of decoded pixels that were read.
        seconds: times in seconds: "in all", and of the phases "read" and "update" (the sums of the blocks), added over
            threads or processes, and "solve".
        predicted_bytes, measured_bytes: peak of memory in addition to what the process had, in bytes; the second is
            None where the system does not tell.
    """

    found: Fit
    images: int
    cropped: bool
    blocks: int
    resumed: int
    missing: int
    passes: int
    accuracy: float
    read_bytes: int
    seconds: Mapping[str, float]
    predicted_bytes: int
    measured_bytes: int | None

    @property
    def kernel(self) -> Any:
        """Fitted kernel, (out_channels, in_channels, *kernel_size)."""
        return self.found.kernel

    @property
    def offset(self) -> Any:
        """Fitted constant of each output channel, or None."""
        return self.found.offset

    @property
    def stderr(self) -> Any:
        """Standard errors of the kernel."""
        return self.found.stderr

    @property
    def condition(self) -> float | None:
        """Condition number of the normal matrix."""
        return self.found.condition

    @property
    def residual_rms(self) -> float:
        """Root mean square of the residuals."""
        return self.found.residual_rms

    @property
    def held_out_rms(self) -> float | None:
        """Root mean square error of predicting each fold by the kernel of the others, if folds were held out."""
        return self.found.held_out_rms

    @property
    def explained(self) -> float:
        """Share of the variance of y that the fit explains (R squared)."""
        return self.found.explained

    @property
    def selection(self) -> tuple[Candidate, ...]:
        """Kernel sizes and ridges that were compared, with their errors."""
        return self.found.selection

    @property
    def conv(self) -> Conv:
        """Fitted kernel and offset as an operator: `correlate(x, found.conv)` predicts y."""
        return self.found.conv

    @property
    def update_share(self) -> float:
        """Share of the time that the sums of the blocks took."""
        return self.seconds["update"] / max(self.seconds["in all"], 1e-9)

    def tables(self) -> list[Table]:
        """Return the fit and what it took as tables."""
        peak = "" if self.measured_bytes is None else f"{readable(self.measured_bytes)} of "
        rows: dict[str, Any] = {
            "pairs": self.images,
            "blocks": f"{self.blocks:,}" + (f", {self.resumed:,} of them resumed" if self.resumed else ""),
            "passes": self.passes,
            "missing": self.missing,
            "read": readable(self.read_bytes),
            "time": timing(self.seconds),
            "share of updates": f"{self.update_share:.0%}",
            "peak of memory": f"{peak}{readable(self.predicted_bytes)} predicted",
            "kernel accurate to": f"{self.accuracy:.0e}" if isfinite(self.accuracy) else None,
        }
        return [*self.found.tables(), Table.of_properties("Run", rows)]

    def __repr__(self) -> str:
        return f"BigFit({self.found!r}, pairs={self.images:,}, blocks={self.blocks:,}, explained={self.explained:.4g})"

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables())

    def _repr_html_(self) -> str:
        """Return the tables as HTML for notebooks."""
        return fragment(self.tables())
