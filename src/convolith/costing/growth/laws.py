"""Closed forms of a model's cost in its batch, size, channels and kernel size, interpolated from counts and checked.

Strides round output sizes, so counts are polynomials of the size only on every s-th size, where s is a common multiple
of all strides. The strides of windows are known; other divisors of the size (such as those of patches) are searched
for. The polynomial through the smallest sufficient number of counts is then exact; it is checked against counts at
other values, some of them far away, where a rounding that was overlooked has accumulated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from itertools import pairwise, product, repeat
from math import factorial, lcm, prod
from typing import Any

from convolith.errors import ConvolithError
from convolith.geometry import check_whole
from convolith.report.table import Table

Counts = dict[str, int]
Counter = Callable[..., Counts]
"""Function from the values of variables, by their names, to counts."""
AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
BATCH, CHANNELS, KERNEL_SIZE = "N", "m", "k"
"""Symbols of the batch, of the factor of the channels, and of the factor of the kernel size (an odd number)."""
SIZES = frozenset(name for names in AXES.values() for name in names)
OF = ("batch", "size", "channels", "kernel_size")
"""Variables that a law may have."""
SYMBOLS = {"channels": CHANNELS, "kernel_size": KERNEL_SIZE}
PERIODS = (1, 96, 960)
"""Candidate periods in pixels, before their common multiple with the strides is taken and reduced if possible."""
DEGREES = (1, 2)
"""Degrees of polynomials along one axis: convolutions grow with its length, attention with its square."""
FAR = (61, 1009)
"""Distances from the given size, in periods, at which a law is checked too."""
NEAR = 32
"""Largest distance below the given size, in periods, down to which a law is checked."""


@dataclass(frozen=True)
class Variable:
    """Variable of a law, and the values for which the law holds.

    These are `start`, `start + step`, `start + 2 step` and so on, and below `start`, in the same steps, the values down
    to `least`; with a step of 0, `start` alone.

    Attributes:
        name: symbol of the variable: N, L, D, H, W, m or k.
        start: value for which the cost was counted first.
        step: distance between two values for which the law holds.
        degree: largest degree of the polynomials in this variable.
        least: smallest value for which the law was found to hold.
    """

    name: str
    start: int
    step: int
    degree: int
    least: int = 1

    def holds(self, value: int) -> bool:
        """Return whether a law holds for a value of the variable.

        Args:
            value: the value.
        """
        away = value - self.start
        return value >= self.least and (away % self.step == 0 if self.step else away == 0)

    def nodes(self) -> list[int]:
        """Return as many values as determine a polynomial of the variable's degree."""
        return [self.start + self.step * i for i in range(self.degree + 1)]

    def __str__(self) -> str:
        if not self.step:
            return f"{self.name} = {self.start}"
        kind = f"any {self.name}" if self.step == 1 else f"{self.name} = {self.start % self.step} mod {self.step}"
        return f"{kind} from {self.least} on" if self.least > max(self.step, 1) else kind


@dataclass(frozen=True)
class Law:
    """Closed forms of counts; `LayerCost.law` and `ModelCost.law` return it.

    Attributes:
        expressions: sympy expressions by the count's name, of the variables N (batch), L or H and W or D, H and W
            (size), m (factor of the channels), k (factor of the kernel size).
        variables: variables, with the values for which the law holds.
        checked: number of other points at which the model was counted again, with equal results.

    Example:
        >>> import convolith as cl
        >>> layer = cl.ConvSpec(in_channels=4, out_channels=8, size=(16, 16), kernel_size=3, padding=1)
        >>> law = cl.cost(layer).law("batch")
        >>> law.expressions["forward multiplications"], law.at(3)["forward multiplications"]
        (73728*N, 221184)
    """

    expressions: dict[str, Any]
    variables: tuple[Variable, ...]
    checked: int

    @property
    def period(self) -> tuple[int, ...]:
        """Pixels along each axis between sizes for which the law holds; 0 if it holds for the given size only."""
        return tuple(variable.step for variable in self.variables if variable.name in SIZES)

    def at(self, batch: int | None = None, size: Sequence[int] = (), **times: int) -> Counts:
        """Return the counts at other values of the variables; those that are left out keep the value of the cost.

        Args:
            batch: number of images.
            size: spatial size of the input, one number per axis.
            times: factors of `channels` and `kernel_size`.

        Returns:
            The counts by name, as in `expressions`.

        Raises:
            ConvolithError: a name that is not a variable of the law, a value for which the law does not hold.
        """
        given = self._given(batch, size, times)
        if any(not variable.holds(given[variable.name]) for variable in self.variables):
            values = ", ".join(f"{name} = {value}" for name, value in given.items())
            raise ConvolithError(
                f"{values} was requested; the law holds for {self._where()}; count the model at this size instead"
            )
        return {name: int(expression.subs(given)) for name, expression in self.expressions.items()}

    def _given(self, batch: int | None, size: Any, times: dict[str, int]) -> dict[str, int]:
        """Return the value of each variable, by its name."""
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
                raise ConvolithError(f"{name} is given; the law is of {', '.join(values)}; leave {name} out")
            values[name] = check_whole(name, value, 0)
        return values

    def table(self) -> Table:
        """Return a table with one row for each count."""
        rows = [{"count": name, "law": str(expression)} for name, expression in self.expressions.items()]
        return Table(f"How it grows, for {self._where()}; counted again at {self.checked} others", rows)

    def _where(self) -> str:
        return " and ".join(str(variable) for variable in self.variables if variable.name != BATCH) or "any N"


def law_of(
    counts_at: Callable[..., Counts], shape: tuple[int, ...], strides: Iterable[tuple[Fraction, ...]], of: Sequence[str]
) -> Law:
    """Find the law of a model or a layer; only of macs, if other counts are not polynomials.

    Args:
        counts_at: function of an input shape and of the two factors of channels and kernel size, which returns counts.
        shape: input shape (N, channels, *size) from which on the law holds.
        strides: cumulative strides of all windows.
        of: variables of the law, some of OF.

    Raises:
        ConvolithError: unknown names, counts that are not polynomials.
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
        def selected(**at: int) -> Counts:
            return {name: n for name, n in counted(**at).items() if name.endswith(kinds)}

        variables = [Variable(BATCH, batch, 1, 1)] * ("batch" in of)
        if "size" in of:
            axes = zip(names, size, steps, strict=True)
            variables += [axis(name, n, step, partial(_along, selected, name)) for name, n, step in axes]
        variables += [Variable(CHANNELS, 1, 1, 2)] * ("channels" in of)
        variables += [Variable(KERNEL_SIZE, 1, 2, len(size))] * ("kernel_size" in of)
        return through(selected, variables)

    try:
        return law("")
    except ConvolithError:
        return law("macs")


def _steps(strides: Iterable[tuple[Fraction, ...]], axes: int) -> list[int]:
    """Return for each axis a number of pixels that is a multiple of the strides of all windows."""
    full = [step for step in strides if len(step) == axes]
    others = lcm(*(n.numerator for step in strides if len(step) != axes for n in step))
    return [lcm(others, *(step[axis].numerator for step in full)) for axis in range(axes)]


def _along(count: Counter, name: str, value: int) -> Counts:
    """Return the counts at a value of one variable, with the given values of the others."""
    return count(**{name: value})


def through(count: Counter, variables: Sequence[Variable]) -> Law:
    """Interpolate counts by a law, and check it at other points.

    Args:
        count: function from the values of variables, by their names, to counts.
        variables: variables with their start, step and degree.

    Raises:
        ConvolithError: counts that are not polynomials of these degrees.
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
        if {name: int(expression.subs(where)) for name, expression in expressions.items()} != at(point):
            raise ConvolithError(
                f"the counts of this model at {where} are not what those of smaller ones lead to, so that there is no "
                "law; call cost for each size instead"
            )
    return Law(expressions, tuple(variables), len(others))


def axis(name: str, start: int, step: int, count: Callable[[int], Counts]) -> Variable:
    """Return the length of an axis as a variable: with its smallest period and the degree of its polynomials.

    Args:
        name: name of the variable.
        start: the given length.
        step: number of pixels that is a multiple of the strides of all windows.
        count: function of a length; raises ConvolithError for a length that the model does not take.

    Raises:
        ConvolithError: counts that are not polynomials for any period that is tried.
    """

    @cache
    def counted(n: int) -> Counts | None:
        try:
            return count(n) if n > 0 else None
        except ConvolithError:  # the model does not take this length
            return None

    if counted(start + step) is None and counted(start + lcm(step, PERIODS[-1])) is None:
        return Variable(name, start, 0, 0, start)

    def away(period: int) -> Away:
        return lambda i: counted(start + period * i)

    for period in (lcm(step, more) for more in PERIODS):
        degree = _degree(away(period))
        if degree is None:
            continue
        for prime in (5, 3, 2):  # a law for every sixth size may hold for every second
            while period % (prime * step) == 0 and (smaller := _degree(away(period // prime))) is not None:
                period, degree = period // prime, smaller
        return Variable(name, start, period, degree, start - period * _below(away(period), degree))
    raise ConvolithError(
        f"the counts of this model are no polynomials of {name}, on every {lcm(step, PERIODS[-1])}th size either; "
        'there is no law of its size; call law("batch"), or cost for each size'
    )


Away = Callable[[int], Counts | None]
"""Function from a number of periods to the counts at that distance, or None if the model does not take that size."""


def _degree(away: Away) -> int | None:
    """Return the lowest of DEGREES with which polynomials fit the counts, near and far, or None if none fits."""
    for degree in DEGREES:
        near = [away(i) for i in range(degree + 3)]
        if None not in near and all(_holds(near, degree, i, away(i)) for i in (0, *FAR)):
            return degree
    return None


def _below(away: Away, degree: int) -> int:
    """Return the number of periods below the given size down to which all counts follow the law, at most NEAR."""
    near = [away(i) for i in range(degree + 3)]
    for i in range(1, NEAR + 1):
        counts = away(-i)
        if counts is None or not _holds(near, degree, -i, counts):
            return i - 1
    return NEAR


def _holds(told: Sequence[Any], degree: int, i: int, found: Counts | None) -> bool:
    """Return whether counts at equally spaced sizes, and those at the i-th size if known, follow one polynomial."""
    for name in told[0]:
        rows = [[counts[name] for counts in told]]
        for _ in range(degree + 1):
            rows.append([b - a for a, b in pairwise(rows[-1])])
        predicted = sum(row[0] * _choose(i, j) for j, row in enumerate(rows))  # Newton's form
        if any(rows[-1]) or (found is not None and found[name] != predicted):
            return False
    return True


def _choose(i: int, j: int) -> int:
    """Return a binomial coefficient; `i` may be negative."""
    return prod(range(i - j + 1, i + 1)) // factorial(j)


def _interpolated(variables: Sequence[Variable], values: dict[tuple[int, ...], int]) -> Any:
    """Return the polynomial that takes given values on the grid of the variables' nodes."""
    import sympy

    table: dict[tuple[int, ...], Fraction] = {point: Fraction(value) for point, value in values.items()}
    for place, variable in enumerate(variables):  # values at the nodes become coefficients, one variable at a time
        bases = dict(zip(variable.nodes(), map(_basis, repeat(variable.nodes()), variable.nodes()), strict=True))
        coefficients: defaultdict[tuple[int, ...], Fraction] = defaultdict(Fraction)
        for point, value in table.items():
            for power, share in enumerate(bases[point[place]]):
                coefficients[(*point[:place], power, *point[place + 1 :])] += value * share
        table = coefficients
    symbols = [sympy.Symbol(variable.name) for variable in variables]
    terms = {powers: sympy.Rational(c.numerator, c.denominator) for powers, c in table.items() if c}
    return sympy.Poly.from_dict(terms, *symbols).as_expr() if symbols else sympy.Integer(int(table[()]))


def _basis(nodes: Sequence[int], at: int) -> list[Fraction]:
    """Return the coefficients of Lagrange's polynomial that is 1 at one node and 0 at the others."""
    result = [Fraction(1)]
    for other in nodes:
        if other != at:
            times_x, scaled = [Fraction(0), *result], [-other * c for c in [*result, Fraction(0)]]
            result = [(a + b) / (at - other) for a, b in zip(times_x, scaled, strict=True)]
    return result
