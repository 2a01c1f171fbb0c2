"""What if: a cost before and after something was scaled, of a layer or of a model."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isclose, nan
from typing import Any

from convolith.errors import ConvolithError
from convolith.report.table import Table


def factor_of(name: str, by: Any) -> Fraction:
    """A factor, exactly: 0.1 is meant as a tenth.

    Raises:
        ConvolithError: what is no finite number above zero.
    """
    try:
        fraction = Fraction(by).limit_denominator(10**6)
        exact = fraction if isclose(fraction, by, rel_tol=1e-9) else Fraction(by)
    except (TypeError, ValueError, OverflowError):
        raise ConvolithError(f"{name} is scaled by {by!r}; expected a finite number") from None
    if exact < 0:
        raise ConvolithError(f"{name} is scaled by {by!r}; expected a number above 0")
    return exact


def times(name: str, value: int, by: Fraction, least: int = 1) -> int:
    """A whole number times a factor.

    Raises:
        ConvolithError: a product that is not whole, or below the least.
    """
    product = value * by
    if product.denominator != 1 or product < least:
        raise ConvolithError(
            f"{name} = {value} times {float(by):g} is {float(product):g}; expected a whole number"
            + (f", {least} or more" if product < least else "")
        )
    return int(product)


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
        sized = f"output size {self.before.output} -> {self.after.output}"
        return Table(f"What if: {what}{self._of_channels()}; {sized}", rows)

    def _of_channels(self) -> str:
        """Of a model, what a layer between others grows by, and what stem and head leave of it."""
        factor = self.factors.get("forward macs")  # which a layer's counts have not: it grows by what is said
        if "channels" not in self.by or factor is None:
            return ""
        return f" (a layer's both: {self.by['channels'] ** 2:.3g}x; here, with the stem and the head: {factor:.3g}x)"

    def __str__(self) -> str:
        return self.table().text()
