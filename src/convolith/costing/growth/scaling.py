"""The cost of a layer or a model before and after scaling."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isclose, nan
from typing import Any

from convolith.errors import ConvolithError
from convolith.report.table import Table


def factor_of(name: str, by: Any) -> Fraction:
    """Return a factor as an exact fraction: 0.1 becomes one tenth.

    Raises:
        ConvolithError: a value that is not a finite number, or is negative.
    """
    try:
        fraction = Fraction(by).limit_denominator(10**6)
        exact = fraction if isclose(fraction, by, rel_tol=1e-9) else Fraction(by)
    except (TypeError, ValueError, OverflowError):
        raise ConvolithError(f"{name} is scaled by {by!r}; expected a finite number") from None
    if exact < 0:
        raise ConvolithError(f"{name} is scaled by {by!r}; expected 0 or more")
    return exact


def times(name: str, value: int, by: Fraction, least: int = 1) -> int:
    """Return a whole number times a factor.

    Raises:
        ConvolithError: a product that is not a whole number, or is below `least`.
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
    """Cost of a layer or a model before and after some of its dimensions were multiplied by factors.

    `LayerCost.scaled` and `ModelCost.scaled` return it; print it for a table.

    Attributes:
        before, after: both a `LayerCost` or both a `ModelCost`.
        by: the factors, by the name of the dimension.

    Example:
        >>> import convolith as cl
        >>> layer = cl.ConvSpec(in_channels=4, out_channels=8, size=(16, 16), kernel_size=3, padding=1)
        >>> found = cl.cost(layer).scaled(size=2)
        >>> found.factor, found.after.spec.size
        (4.0, (32, 32))
    """

    before: Any
    after: Any
    by: dict[str, float]

    @property
    def factor(self) -> float:
        """Factor of the forward pass's multiplications; NaN if there were none before (an empty batch)."""
        return self.factors.get("forward multiplications", nan)

    @property
    def factors(self) -> dict[str, float]:
        """Factor of each count; counts that were 0 before are omitted."""
        after = self.after.counts()
        return {name: after[name] / before for name, before in self.before.counts().items() if before}

    def table(self) -> Table:
        """Return a table of the counts before and after, and of their factors."""
        changes = ", ".join(f"{name} x {by:g}" for name, by in self.by.items())
        before, after = self.before.counts(), self.after.counts()
        rows = [
            {"count": name, "before": before[name], "after": after[name], "factor": factor}
            for name, factor in self.factors.items()
        ]
        sized = f"output size {self.before.output} -> {self.after.output}"
        return Table(f"What if: {changes}{self._of_channels()}; {sized}", rows)

    def _of_channels(self) -> str:
        """Return a note on a model's channels: the factor of an inner layer, and that of the whole model."""
        factor = self.factors.get("forward macs")  # absent in a layer's counts, which need no note
        if "channels" not in self.by or factor is None:
            return ""
        return f" (a layer's both: {self.by['channels'] ** 2:.3g}x; here, with the stem and the head: {factor:.3g}x)"

    def __str__(self) -> str:
        return self.table().text()
