"""How a model's cost grows: closed forms in its batch, size, channels and kernels, found by counting, and checked.

Strides round, so counts are polynomials of the size on every s-th size alone, where s is what all strides together make
of one step: the strides of windows are known, and what else the size is divided by (patches that are cut out) is looked
for. The polynomial through the least number of counts is then exact, and is held against counts at other values, some
of them far away, where a rounding that was overlooked has added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from itertools import pairwise, product
from math import factorial, lcm, prod
from typing import Any

from convolith.errors import ConvolithError
from convolith.geometry import check_whole
from convolith.report.table import Table

Counts = dict[str, int]
Counter = Callable[..., Counts]
"""Counts by name, of values of variables by their names."""
AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
BATCH, CHANNELS, KERNEL_SIZE = "N", "m", "k"
"""The batch; how many times the channels; how many times the kernels' size, an odd number."""
SIZES = frozenset(name for names in AXES.values() for name in names)
OF = ("batch", "size", "channels", "kernel_size")
"""What a law may be of."""
SYMBOLS = {"channels": CHANNELS, "kernel_size": KERNEL_SIZE}
PERIODS = (1, 96, 960)
"""Times the strides, in pixels, of which the least divisor is taken that does."""
DEGREES = (1, 2)
"""Along one axis: convolutions grow with its length, attention with its square."""
FAR = (61, 1009)
"""Periods away, where a law is checked too."""
NEAR = 32
"""Periods below the given size, as far as which it is checked, and no farther than it holds."""


@dataclass(frozen=True)
class Variable:
    """What counts are polynomials of, on every `step`-th value from `start` on; at no other one if the step is 0.

    From `least` on the polynomials were found to hold below `start` too.
    """

    name: str
    start: int
    step: int
    degree: int
    least: int = 1

    def holds(self, value: int) -> bool:
        """Whether a law holds for a value."""
        away = value - self.start
        return value >= self.least and (away % self.step == 0 if self.step else away == 0)

    def nodes(self) -> list[int]:
        """As many values as tell a polynomial of its degree."""
        return [self.start + self.step * i for i in range(self.degree + 1)]

    def __str__(self) -> str:
        if not self.step:
            return f"{self.name} = {self.start}"
        kind = f"any {self.name}" if self.step == 1 else f"{self.name} = {self.start % self.step} mod {self.step}"
        return f"{kind} from {self.least} on" if self.least > max(self.step, 1) else kind


@dataclass(frozen=True)
class Law:
    """Closed forms of counts.

    Attributes:
        expressions: by the count's name, a sympy expression of the variables: N (batch), L or H and W or D, H and W
            (size), m (times the channels), k (times the kernels' size).
        variables: with the values for which they hold.
        checked: at how many other values they were counted again, and found equal.
    """

    expressions: dict[str, Any]
    variables: tuple[Variable, ...]
    checked: int

    @property
    def period(self) -> tuple[int, ...]:
        """Sizes for which it holds are those so many pixels away from the given one; 0 where that is the only one."""
        return tuple(variable.step for variable in self.variables if variable.name in SIZES)

    def at(self, batch: int | None = None, size: Sequence[int] = (), **times: int) -> Counts:
        """The counts of a batch, a size, and times the channels and the kernel size; what is left out is as given.

        Args:
            times: channels and kernel_size.

        Raises:
            ConvolithError: what the law has no variable for, and values for which it does not hold.
        """
        given = self._given(batch, size, times)
        if any(not variable.holds(given[variable.name]) for variable in self.variables):
            told = ", ".join(f"{name} = {value}" for name, value in given.items())
            raise ConvolithError(f"{told} was requested; the law holds for {self._where()}")
        return {name: int(found.subs(given)) for name, found in self.expressions.items()}

    def _given(self, batch: int | None, size: Any, times: dict[str, int]) -> dict[str, int]:
        """Values by the names of the variables."""
        values = {variable.name: variable.start for variable in self.variables}
        axes = [name for name in values if name in SIZES]
        lengths = tuple(size) if isinstance(size, Sequence) else (size,)
        if lengths and len(lengths) != len(axes):
            raise ConvolithError(f"size is {size!r}; expected {len(axes)} numbers, for {', '.join(axes) or 'no axis'}")
        given = dict(zip(axes, lengths, strict=False)) | ({} if batch is None else {BATCH: batch})
        for name, value in times.items():
            given[SYMBOLS.get(name, name)] = value
        for name, value in given.items():
            if name not in values:
                raise ConvolithError(f"{name} is given; the law is of {', '.join(values)}")
            values[name] = check_whole(name, value, 0)
        return values

    def table(self) -> Table:
        """Every law as a row."""
        rows = [{"count": name, "law": str(found)} for name, found in self.expressions.items()]
        return Table(f"How it grows, for {self._where()}; counted again at {self.checked} others", rows)

    def _where(self) -> str:
        return " and ".join(str(variable) for variable in self.variables if variable.name != BATCH) or "any N"


def law_of(
    counts_at: Callable[..., Counts], shape: tuple[int, ...], strides: Iterable[tuple[Fraction, ...]], of: Sequence[str]
) -> Law:
    """The law of a model or a layer; of macs alone, where other counts are no polynomials.

    Args:
        counts_at: counts, of a shape and how many times the channels and the kernels' size.
        shape: of the input, (N, channels, *size), from which on it holds.
        strides: of all windows.
        of: some of OF.

    Raises:
        ConvolithError: other names, counts that are no polynomials.
    """
    unknown = [name for name in of if name not in OF]
    if unknown:
        raise ConvolithError(f"law was called with {unknown[0]!r}; expected some of {', '.join(OF)}")
    batch, channels, *size = shape
    names, steps = AXES[len(size)], _steps(strides, len(size))

    @cache
    def counted(**at: int) -> Counts:
        given = at.get(BATCH, batch), channels, *(at.get(name, n) for name, n in zip(names, size, strict=True))
        times = tuple(Fraction(at.get(name, 1)) for name in (CHANNELS, KERNEL_SIZE))
        return counts_at(given, times)

    def law(kinds: str) -> Law:
        def kept(**at: int) -> Counts:
            return {name: n for name, n in counted(**at).items() if name.endswith(kinds)}

        variables = [Variable(BATCH, batch, 1, 1)] * ("batch" in of)
        if "size" in of:
            axes = zip(names, size, steps, strict=True)
            variables += [axis(name, n, step, partial(_along, kept, name)) for name, n, step in axes]
        variables += [Variable(CHANNELS, 1, 1, 2)] * ("channels" in of)
        variables += [Variable(KERNEL_SIZE, 1, 2, len(size))] * ("kernel_size" in of)
        return through(kept, variables)

    try:
        return law("")
    except ConvolithError:
        return law("macs")


def _steps(strides: Iterable[tuple[Fraction, ...]], axes: int) -> list[int]:
    """Along each axis a number of pixels that the strides of all windows divide."""
    alike = [step for step in strides if len(step) == axes]
    others = lcm(*(n.numerator for step in strides if len(step) != axes for n in step))
    return [lcm(others, *(step[axis].numerator for step in alike)) for axis in range(axes)]


def _along(count: Counter, name: str, value: int) -> Counts:
    """Counts by one variable."""
    return count(**{name: value})


def through(count: Counter, variables: Sequence[Variable]) -> Law:
    """The law of what is counted.

    Args:
        count: of values of variables, by their names.
        variables: their least values, steps and degrees.

    Raises:
        ConvolithError: counts that are no such polynomials.
    """
    symbols = [variable.name for variable in variables]

    def at(point: Iterable[int]) -> Counts:
        return count(**dict(zip(symbols, point, strict=True)))

    values = {point: at(point) for point in product(*(variable.nodes() for variable in variables))}
    expressions = {
        name: _interpolated(variables, {point: counts[name] for point, counts in values.items()})
        for name in next(iter(values.values()))
    }
    others = [
        tuple(v.start + v.step * (v.degree + 1 + more * place) for place, v in enumerate(variables)) for more in (0, 1)
    ]
    for point in others:
        where = dict(zip(symbols, point, strict=True))
        if {name: int(found.subs(where)) for name, found in expressions.items()} != at(point):
            raise ConvolithError(
                f"the counts of this model at {where} are not what those of smaller ones lead to; there is no such law"
            )
    return Law(expressions, tuple(variables), len(others))


def axis(name: str, start: int, step: int, count: Callable[[int], Counts]) -> Variable:
    """The length of an axis as a variable: its least period, and the degree of the polynomials.

    Args:
        name: of the variable.
        start: the given length.
        step: a number of pixels that the strides of all windows divide.
        count: of a length; raises ConvolithError where the model takes no such length.

    Raises:
        ConvolithError: counts that are no polynomials on any period that is looked at.
    """

    @cache
    def counted(n: int) -> Counts | None:
        try:
            return count(n) if n > 0 else None
        except ConvolithError:  # the model's own module has said why
            return None

    if counted(start + step) is None and counted(start + lcm(step, PERIODS[-1])) is None:
        return Variable(name, start, 0, 0, start)

    def away(period: int) -> Away:
        return lambda i: counted(start + period * i)

    for period in (lcm(step, more) for more in PERIODS):
        degree = _degree(away(period))
        if degree is None:
            continue
        for prime in (5, 3, 2):  # what holds on every sixth size may hold on every second
            while period % (prime * step) == 0 and (smaller := _degree(away(period // prime))) is not None:
                period, degree = period // prime, smaller
        return Variable(name, start, period, degree, start - period * _below(away(period), degree))
    raise ConvolithError(
        f"the counts of this model are no polynomials of {name}, on every {lcm(step, PERIODS[-1])}th size either; "
        "there is no law of its size"
    )


Away = Callable[[int], Counts | None]
"""Counts so many periods away; None where the model takes no such size."""


def _degree(away: Away) -> int | None:
    """The least degree of polynomials that counts are, near and far; None for more than those that are looked for."""
    for degree in DEGREES:
        told = [away(i) for i in range(degree + 3)]
        if None not in told and all(_holds(told, degree, i, away(i)) for i in (0, *FAR)):
            return degree
    return None


def _below(away: Away, degree: int) -> int:
    """How many periods below the given size all counts are as the law says."""
    told = [away(i) for i in range(degree + 3)]
    for i in range(1, NEAR + 1):
        found = away(-i)
        if found is None or not _holds(told, degree, -i, found):
            return i - 1
    return NEAR


def _holds(told: Sequence[Any], degree: int, i: int, found: Counts | None) -> bool:
    """Whether counts of equally distant sizes are a polynomial's, and so are those of the i-th, if there are such."""
    for name in told[0]:
        rows = [[counts[name] for counts in told]]
        for _ in range(degree + 1):
            rows.append([b - a for a, b in pairwise(rows[-1])])
        there = sum(row[0] * _choose(i, j) for j, row in enumerate(rows))  # Newton's form
        if any(rows[-1]) or (found is not None and found[name] != there):
            return False
    return True


def _choose(i: int, j: int) -> int:
    """Binomial coefficients, of numbers below zero too."""
    return prod(range(i - j + 1, i + 1)) // factorial(j)


def _interpolated(variables: Sequence[Variable], values: dict[tuple[int, ...], int]) -> Any:
    """The polynomial with these values on the grid of the variables' nodes."""
    import sympy

    symbols = [sympy.Symbol(variable.name) for variable in variables]
    total = sympy.Integer(0)
    for point, value in values.items():
        term = sympy.Integer(value)
        for symbol, variable, at in zip(symbols, variables, point, strict=True):
            for other in variable.nodes():
                if other != at:
                    share = Fraction(1, at - other)
                    term *= (symbol - other) * sympy.Rational(share.numerator, share.denominator)
        total += term
    return sympy.expand(total)
