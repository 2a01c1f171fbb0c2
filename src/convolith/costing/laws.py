"""How a model's cost grows: closed forms in its batch and the size of its input, found by counting, and checked.

Strides round, so counts are polynomials of the size on every s-th size alone, where s is what all strides together make
of one step: the strides of windows are known, and what else the size is divided by (patches that are cut out) is looked
for. The polynomial through the least number of counts is then exact, and is held against counts at other batches and
sizes, some of them far away, where a rounding that was overlooked has added up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise, product
from math import comb, lcm
from typing import Any

from convolith.errors import ConvolithError
from convolith.report.table import Table

Counts = dict[str, int]
Counter = Callable[[int, tuple[int, ...]], Counts]
"""Counts by name, of a batch and a size."""
NAMES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
BATCH = "N"
PERIODS = (1, 96, 960)
"""Times the strides, in pixels, of which the least divisor is taken that does."""
FAR = 61
"""Periods away, where a law is checked too."""
DEGREES = (1, 2)
"""Along one axis: convolutions grow with its length, attention with its square."""


@dataclass(frozen=True)
class Law:
    """Closed forms of counts.

    Attributes:
        expressions: by the count's name, a sympy expression of N and the sizes (L, or H and W, or D, H and W).
        period: sizes for which they hold are the given ones and those a multiple of it away, along each axis; 0 where
            the model takes no other size.
        size: the given one.
        checked: at how many other batches and sizes they were counted again, and found equal.
    """

    expressions: dict[str, Any]
    period: tuple[int, ...]
    size: tuple[int, ...]
    checked: int

    def at(self, batch: int, size: Sequence[int]) -> Counts:
        """The counts of a batch and a size.

        Raises:
            ConvolithError: a size for which the law does not hold.
        """
        names = NAMES[len(self.size)]
        away = [(n - m, p) for n, m, p in zip(size, self.size, self.period, strict=False)]
        if len(size) != len(self.size) or any(n % p if p else n for n, p in away):
            raise ConvolithError(f"size is {tuple(size)}; the law holds for {self._where()}")
        values = {BATCH: batch, **dict(zip(names, size, strict=True))}
        return {name: int(found.subs(values)) for name, found in self.expressions.items()}

    def table(self) -> Table:
        """Every law as a row."""
        rows = [{"count": name, "law": str(found)} for name, found in self.expressions.items()]
        return Table(f"How it grows, for {self._where()}; counted again at {self.checked} others", rows)

    def _where(self) -> str:
        names = NAMES[len(self.size)]
        parts = [
            f"any {name}" if p == 1 else f"{name} = {n % p} mod {p}" if p else f"{name} = {n}"
            for name, n, p in zip(names, self.size, self.period, strict=True)
        ]
        return " and ".join(parts)


def law_of(count: Counter, batch: int, size: tuple[int, ...], steps: tuple[int, ...]) -> Law:
    """The law of what is counted; of macs alone, where other counts are no polynomials (windows that overlap unevenly).

    Args:
        count: of a batch and a size.
        batch, size: where to begin; larger ones are counted too.
        steps: along each axis a number of pixels that the strides of all windows divide.

    Raises:
        ConvolithError: counts that are no such polynomials.
    """
    known = cache(count)
    try:
        return _law(known, batch, size, steps)
    except ConvolithError:
        macs = [name for name in known(batch, size) if name.endswith("macs")]
        return _law(cache(lambda n, sizes: {name: known(n, sizes)[name] for name in macs}), batch, size, steps)


def polynomials(name: str, count: Callable[[int], Counts], degree: int) -> dict[str, Any]:
    """Counts as polynomials of one number, by the count's name, through those of the first whole numbers.

    Raises:
        ConvolithError: counts that are no such polynomials.
    """
    nodes = list(range(1, degree + 2))
    told = {(n,): count(n) for n in nodes}
    found = {what: _through((name,), [nodes], {n: counts[what] for n, counts in told.items()}) for what in told[1,]}
    beyond = count(degree + 2)
    if any(int(law.subs({name: degree + 2})) != beyond[what] for what, law in found.items()):
        raise ConvolithError(f"the counts of this model are no polynomials of degree {degree} in {name}")
    return found


def _law(known: Counter, batch: int, size: tuple[int, ...], steps: tuple[int, ...]) -> Law:
    found = [_grows(known, batch, size, axis, steps[axis]) for axis in range(len(size))]
    period, degrees = tuple(p for p, _ in found), tuple(d for _, d in found)
    names = (BATCH, *NAMES[len(size)])
    nodes = [[batch, batch + 1]] + [[n + p * i for i in range(d + 1)] for n, (p, d) in zip(size, found, strict=True)]
    values = {point: known(point[0], point[1:]) for point in product(*nodes)}
    expressions = {
        name: _through(names, nodes, {point: counts[name] for point, counts in values.items()})
        for name in next(iter(values.values()))
    }
    others = [
        (batch + 3, *(n + p * (d + 1) for n, p, d in zip(size, period, degrees, strict=True))),
        (
            batch + 2,
            *(n + p * (d + 2 + axis) for axis, (n, p, d) in enumerate(zip(size, period, degrees, strict=True))),
        ),
    ]
    law = Law(expressions, period, size, len(others))
    for point in others:
        if law.at(point[0], point[1:]) != known(point[0], point[1:]):
            raise ConvolithError(
                f"the counts of this model at {point} are not what those of smaller ones lead to; there is no law of "
                "its batch and size"
            )
    return law


def _grows(count: Counter, batch: int, size: tuple[int, ...], axis: int, step: int) -> tuple[int, int]:
    """The least period along an axis, and the degree of the polynomials; 0 and 0 for a model of one size."""
    count(batch, size)

    def counted(n: int) -> Counts | None:
        try:
            return count(batch, (*size[:axis], n, *size[axis + 1 :]))
        except ConvolithError:  # its own module has said why
            return None

    if counted(size[axis] + step) is None and counted(size[axis] + lcm(step, PERIODS[-1])) is None:
        return 0, 0

    def degree_of(period: int) -> int | None:
        far = counted(size[axis] + period * FAR)  # None where a model takes no such size
        for degree in DEGREES:
            told = [counted(size[axis] + period * i) for i in range(degree + 3)]
            if None not in told and all(_on_polynomial(name, told, far, degree) for name in told[0] or ()):
                return degree
        return None

    for period in (lcm(step, more) for more in PERIODS):
        degree = degree_of(period)
        if degree is None:
            continue
        for prime in (5, 3, 2):  # what holds on every sixth size may hold on every second
            while period % (prime * step) == 0 and (smaller := degree_of(period // prime)) is not None:
                period, degree = period // prime, smaller
        return period, degree
    raise ConvolithError(
        f"the counts of this model are no polynomials of its size along axis {axis}, on every "
        f"{lcm(step, PERIODS[-1])}th size either; there is no law of its size"
    )


def _on_polynomial(name: str, told: Sequence[Any], far: Counts | None, degree: int) -> bool:
    """Whether counts of equally distant sizes are those of a polynomial, and that far away is too."""
    rows = [[counts[name] for counts in told]]
    for _ in range(degree + 1):
        rows.append(_differences(rows[-1], 1))
    if any(rows[-1]):
        return False
    return far is None or far[name] == sum(row[0] * comb(FAR, i) for i, row in enumerate(rows))  # Newton's form


def _differences(row: list[int], times: int) -> list[int]:
    for _ in range(times):
        row = [b - a for a, b in pairwise(row)]
    return row


def _through(names: Sequence[str], nodes: list[list[int]], values: dict[tuple[int, ...], int]) -> Any:
    """The polynomial with these values on a grid, of a degree along each axis below the number of its nodes."""
    import sympy

    symbols = [sympy.Symbol(name, positive=True, integer=True) for name in names]
    total = sympy.Integer(0)
    for point, value in values.items():
        term = sympy.Integer(value)
        for symbol, own, at in zip(symbols, nodes, point, strict=True):
            for other in own:
                if other != at:
                    share = Fraction(1, at - other)
                    term *= (symbol - other) * sympy.Rational(share.numerator, share.denominator)
        total += term
    expanded = sympy.expand(total)
    plain = {symbol: sympy.Symbol(symbol.name) for symbol in symbols}
    return expanded.subs(plain)
