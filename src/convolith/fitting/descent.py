"""Kernels fitted by iteration: the textbook loop of gradient descent, and torch's optimisers.

The optimisers are meant for losses that are not sums of squares and so have no closed form: Huber's loss, which
tolerates outlying pixels, and the likelihood of photon counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, isfinite, log10
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch

from convolith.correlation import correlate
from convolith.errors import ConvolithError, check_option
from convolith.fitting.data.problem import Problem
from convolith.fitting.gram import Accumulator
from convolith.fitting.results import is_number
from convolith.geometry import check_whole
from convolith.report.progress import track

SAFE_SHARE = 0.9
"""Fraction of the largest stable learning rate that is chosen or recommended."""
BLOWN_UP = 1e3
"""Rise of the loss, as a multiple of the first loss, that counts as divergence at once."""
NOISE_FLOOR = 1e-24
"""Fraction of the first loss below which a rise is rounding, not divergence (two float64 roundings, squared)."""

Callback = Callable[[int, float, np.ndarray], Any]


OPTIMIZERS: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "gd": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate),
    "momentum": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
    "adam": lambda parameters, rate: torch.optim.Adam(parameters, lr=rate),
    "lbfgs": lambda parameters, rate: torch.optim.LBFGS(
        parameters,
        lr=rate,
        max_iter=1,
        max_eval=50,  # evaluations per line search; torch's default for max_iter=1 is one
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    ),
}
"""Optimisers by the name of the method; one step of an optimiser is one step of `descend`."""
STEEPEST = ("gd", "momentum")
"""Methods whose learning rate multiplies the gradient itself, and so has a unit."""
LOSSES = ("squares", "huber", "poisson")
LAST_STEPS, CHANGING = 0.1, 1e-3
"""Share of the steps at the end, and share of the whole fall of the loss from which it still changes there."""
ROUNDING = 1e-10
"""Least delta of Huber's loss, relative to the largest y."""
TINY = 1e-300
"""Least number that stands for zero in a logarithm."""
ADAM_SHARE = 0.02
"""Learning rate of Adam, relative to the largest initial weight: about the distance a weight moves per step."""


@dataclass(frozen=True)
class Descent:
    """Method of `fit` that approaches the kernel step by step.

    `"gd"` follows the gradient as the textbook loop does, for teaching rather than for use: it needs a learning rate
    below 1 over the largest eigenvalue of the normal matrix, and a number of steps that grows with the condition number
    of that matrix. `"momentum"`, `"adam"` and `"lbfgs"` are torch's optimisers, for losses that have no closed form.

    Attributes:
        method: `"gd"`, `"momentum"`, `"adam"` or `"lbfgs"`.
        learning_rate: factor of the step. By default, for `"gd"` and `"momentum"`, 0.9 over the largest eigenvalue of
            the normal matrix plus the ridge (with the loss `"poisson"` they need a rate); for `"adam"`, 2% of the
            largest initial weight; for `"lbfgs"`, 1, shortened by a line search.
        steps: number of steps.
        seed: seed of the initial kernel; Huber's loss begins at the least-squares kernel instead if that is better.
        callback: called as `callback(step, loss, kernel)` after each step: the number of the step, from 0, the loss
            before it, and the kernel after it, (out_channels, in_channels, *kernel_size), a NumPy array in float64, as
            `correlate` takes it.
        progress: whether to show a progress bar on stderr.

    Raises:
        ConvolithError: an unknown method, no positive learning rate, no whole number of steps, or a negative seed.

    References:
        Kingma and Ba, "Adam", ICLR 2015; Liu and Nocedal, "On the limited memory BFGS method for large scale
        optimization", Math. Programming 45, 1989.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> x = np.random.default_rng(0).normal(size=(1, 16, 16))
        >>> found = cl.fit(x, 2 * x, kernel_size=1, method=cl.Descent("lbfgs", steps=30))
        >>> found.kernel.round(4).tolist(), found.method
        ([[[[2.0]]]], 'lbfgs')
    """

    method: str = "gd"
    learning_rate: float | None = None
    steps: int = 1000
    seed: int = 0
    callback: Callback | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        check_option("method", self.method, (*OPTIMIZERS,))
        check_whole("steps", self.steps, 1)
        check_whole("seed", self.seed, 0)
        if self.learning_rate is not None and not (is_number(self.learning_rate) and self.learning_rate > 0):
            raise ConvolithError(f"learning_rate is {self.learning_rate!r}; expected a positive number")


@dataclass(frozen=True)
class Huber:
    """Huber's loss, which is linear from `delta` on and so tolerates outlying pixels.

    `r^2` for a residual of at most `delta`, `delta (2 |r| - delta)` beyond.

    Attributes:
        delta: in the units of y; by default 1.345 standard deviations of the least-squares residuals, estimated from
            the median of their magnitudes: 95% efficient for normal noise.

    Raises:
        ConvolithError: a delta that is not positive.

    References:
        Huber, "Robust Statistics", 1981.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> x = np.random.default_rng(0).normal(size=(1, 16, 16))
        >>> y = 2 * x
        >>> y[0, 3, 4] = 1000.0
        >>> found = cl.fit(x, y, kernel_size=1, method="lbfgs", loss=cl.Huber(0.1), steps=50)
        >>> found.kernel.round(2).tolist()
        [[[[2.0]]]]
    """

    delta: float | None = None

    def __post_init__(self) -> None:
        if self.delta is not None and not (is_number(self.delta) and self.delta > 0):
            raise ConvolithError(f"delta is {self.delta!r}; expected a positive number")


class DescentKeywords(TypedDict, total=False):
    """Fields of `Descent` and `Huber` that `fit` takes as keywords of its own too."""

    learning_rate: float | None
    steps: int
    seed: int
    callback: Callback | None
    progress: bool
    huber_delta: float | None


class Descended(NamedTuple):
    """Result of a descent.

    Attributes:
        coefficients: (unknowns, out_channels).
        squares: sum of squared residuals.
        losses: loss before each step.
        learning_rate: the rate.
        changing: whether the loss still changed in the last steps.
    """

    coefficients: np.ndarray
    squares: float
    losses: list[float]
    learning_rate: float
    changing: bool


class Units(NamedTuple):
    """Units of x, y and the weights of pixels in which an optimiser sees numbers near one."""

    x: float = 1.0
    y: float = 1.0
    weight: float = 1.0

    @property
    def kernel(self) -> float:
        """Unit of the kernel."""
        return self.y / self.x

    @property
    def curvature(self) -> float:
        """Unit of the second derivatives of a loss that is quadratic in y, with respect to the kernel."""
        return self.weight * self.x**2

    @property
    def loss(self) -> float:
        """Unit of a loss that is quadratic in y."""
        return self.weight * self.y**2

    @staticmethod
    def of(problem: Problem) -> Units:
        """Return the root mean squares of x and y, and the mean weight; 1 where that is 0."""
        weight = float(problem.weights.mean()) or 1.0
        x, y = (float(np.abs(array).max()) or 1.0 for array in (problem.padded, problem.y))
        x, y = (u * float(np.sqrt(np.mean((a / u) ** 2))) for u, a in ((x, problem.padded), (y, problem.y)))
        return Units(x or 1.0, y or 1.0, weight)


class Goal(NamedTuple):
    """Objective to minimise: squares or the likelihood of counts, or Huber's loss with a delta, and a ridge."""

    loss: str = "squares"
    delta: float | None = None
    ridge: float = 0.0

    def of(self, predicted: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the loss of each pixel."""
        if self.delta is not None:
            return 2 * torch.nn.functional.huber_loss(predicted, y, reduction="none", delta=self.delta)
        if self.loss == "poisson":
            positive = predicted.clamp_min(torch.finfo(torch.float64).tiny)
            return positive - y * positive.log()
        return (predicted - y) ** 2

    def within(self, units: Units) -> Goal:
        """Return the same objective for data in other units."""
        delta = None if self.delta is None else self.delta / units.y
        return self._replace(delta=delta, ridge=self.ridge / units.curvature)


def descend(problem: Problem, gram: Accumulator, closed: Closed, goal: Goal, descent: Descent) -> Descended:
    """Minimise an objective step by step, in units in which the data are near one.

    For squares, the loss is `sum of w (correlate(x, kernel) + offset - y)^2 + ridge |kernel|^2`. Gradient descent
    subtracts the learning rate times its gradient, and converges if and only if the rate is below 1/lambda_max of the
    normal matrix; Huber's loss converges there too, since its curvature is nowhere larger. For counts, kernel and
    offset are exponentials of the parameters. The result is the best kernel met.

    Args:
        problem: the equations.
        gram: their sums.
        closed: their solution in closed form, for squares.
        goal: the objective; Huber's delta 0 stands for the usual one.
        descent: the method and its options.
    """
    method, steps = descent.method, descent.steps
    spec, counts = problem.spec, goal.loss == "poisson"
    if goal.delta == 0:
        goal = goal._replace(delta=_delta(problem, closed.residual))
    bound = (spec.in_channels * spec.taps) ** -0.5  # torch's own initialisation of a layer
    units = Units() if counts else Units.of(problem)
    rate_unit = units.kernel if method == "adam" else 1 / units.curvature if method in STEEPEST else 1.0
    largest = steepest(gram, goal.ridge, units, offset=bool(problem.used))
    rate = descent.learning_rate
    rate = _rate(method, goal, largest / units.curvature, bound) * rate_unit if rate is None else rate
    losses: list[float] = []
    with torch.inference_mode(mode=False), torch.enable_grad():
        objective = Objective(problem, goal.within(units), units)
        parameters, first = _first(objective, closed, bound, descent.seed)
        first *= units.loss
        optimizer = OPTIMIZERS[method](parameters, rate / rate_unit)

        def closure() -> float:
            optimizer.zero_grad()
            loss, _ = objective.at(parameters)
            torch.autograd.backward([loss])
            return loss.item()

        best: list[torch.Tensor] = parameters
        for step in track(range(steps), "descent", steps, shown=descent.progress):
            before = [part.detach().clone() for part in parameters]
            losses.append(units.loss * float(optimizer.step(closure)))
            best = before if losses[-1] <= min(losses) else best
            if blown_up(losses, first):
                raise diverged(method, largest, rate, losses)
            if descent.callback is not None:
                kernel = objective.values(parameters)[0].detach().numpy()
                descent.callback(step, losses[-1], units.kernel * kernel)
        last, squares = (units.loss * value.item() for value in objective.at(parameters))
        if last <= min(losses):
            best = parameters
        else:
            squares = units.loss * objective.at(best)[1].item()
    all_losses = [*losses, last]
    rises = all_losses[-1] > 2 * min(all_losses) + NOISE_FLOOR * first
    if blown_up(all_losses, first) or (method == "gd" and not counts and rises and rate * largest > 1):
        raise diverged(method, largest, rate, all_losses)
    columns = [
        unit * value.detach().reshape(spec.out_channels, -1)
        for unit, value in zip((units.kernel, units.y), objective.values(best), strict=False)
    ]
    coefficients = torch.cat(columns, dim=1).T.numpy()
    return Descended(
        coefficients, squares, losses, rate, not _settled(all_losses, first, squared=goal.loss == "squares")
    )


def _settled(losses: list[float], first: float, *, squared: bool) -> bool:
    """Return whether the loss has stopped to change, or is next to nothing.

    Args:
        losses: the loss before each step, and at the end.
        first: magnitude of the loss of a random kernel.
        squared: whether the loss is zero for exact data.
    """
    least, tail = min(losses), losses[-1 - max(1, int(LAST_STEPS * (len(losses) - 1))) :]
    if squared and least <= CHANGING**2 * first:
        return True
    return max(tail) - min(tail) <= CHANGING * max(losses[0] - least, CHANGING * first)


class Closed(NamedTuple):
    """Least-squares solution, to begin with and to compare with.

    Attributes:
        coefficients: (unknowns, out_channels).
        residual: y less the prediction.
        determined: projection on the kernels that the data determine, (windows, windows); None if they determine all.
    """

    coefficients: np.ndarray
    residual: np.ndarray
    determined: np.ndarray | None


def _delta(problem: Problem, residual: np.ndarray) -> float:
    """Return where Huber's loss becomes linear: 1.345 deviations lose only 5% for normal noise (Huber 1981).

    Residuals of exact data are rounding, of which the loss shall not depend.
    """
    used = np.broadcast_to(problem.weights[:, None] > 0, problem.y.shape)
    largest = float(np.abs(problem.y).max())
    deviation = 1.345 * 1.4826 * float(np.median(np.abs(residual[used])))
    return max(deviation, ROUNDING * largest, float(np.finfo(float).tiny))


class Objective:
    """Objective of a descent as a function of its parameters, in its own units."""

    def __init__(self, problem: Problem, goal: Goal, units: Units) -> None:
        self.problem, self.goal, self.units = problem, goal, units
        self.counts = goal.loss == "poisson"
        self.x, self.y = torch.from_numpy(problem.padded / units.x), torch.from_numpy(problem.y / units.y)
        self.weights = torch.from_numpy(problem.weights / units.weight)[:, None]

    def values(self, parameters: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the kernel, and the offset if there is one."""
        return [p.exp() if self.counts else p for p in parameters]

    def at(self, parameters: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss and the sum of squared residuals."""
        spec, values = self.problem.spec, self.values(parameters)
        predicted = correlate(self.x, *values, stride=spec.stride, dilation=spec.dilation)
        loss = (self.weights * self.goal.of(predicted, self.y)).sum() + self.goal.ridge * (values[0] ** 2).sum()
        return loss, (self.weights * (predicted - self.y) ** 2).sum()


def _rate(method: str, goal: Goal, largest: float, bound: float) -> float:
    if method == "lbfgs":
        return 1.0
    if method == "adam":
        return ADAM_SHARE * (1.0 if goal.loss == "poisson" else bound)
    if goal.loss == "poisson":
        raise ConvolithError(
            f'learning_rate was not given, and method="{method}" has none that suits loss="poisson" in general; pass '
            'learning_rate=, or method="lbfgs"'
        )
    return SAFE_SHARE / largest


def _first(objective: Objective, closed: Closed, bound: float, seed: int) -> tuple[list[torch.Tensor], float]:
    """Return initial parameters, random weights and zero offset, and the magnitude of their loss.

    For counts, they are logarithms that predict about y's mean.

    Kernels differ from zero only where the data determine them; Huber's loss begins at the least-squares kernel if its
    loss is lower there.
    """
    problem, units = objective.problem, objective.units
    spec = problem.spec
    shape = (spec.out_channels, spec.in_channels, *spec.kernel_size)
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")
    kernel, offset = (2 * drawn - 1) * bound, torch.zeros(spec.out_channels, dtype=torch.float64, device="cpu")
    if objective.counts:
        share = max(problem.y.mean(), TINY) / max(problem.padded.mean() * spec.in_channels * spec.taps, TINY)
        kernel = share * (0.5 + drawn)
        offset = offset + max(0.1 * problem.y.mean(), TINY)
    if closed.determined is not None:
        kernel = (kernel.flatten(1) @ torch.from_numpy(closed.determined.T)).reshape(shape)
    start = [kernel, offset] if problem.used else [kernel]
    if objective.counts:
        start = [part.clamp_min(TINY).log() for part in start]
    magnitude = abs(float(objective.at(start)[0]))
    if objective.goal.delta is not None:
        kernel, offset = torch.from_numpy(closed.coefficients.T).tensor_split((problem.windows,), 1)
        solved = [kernel.reshape(shape) / units.kernel, offset.flatten() / units.y][: len(start)]
        start = min(start, solved, key=lambda values: float(objective.at(values)[0]))
    return [part.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for part in start], magnitude


def blown_up(losses: list[float], first: float) -> bool:
    """Return whether the last loss is not finite, or far above the first; `first` is the magnitude of a loss."""
    return not isfinite(losses[-1]) or losses[-1] > losses[0] + BLOWN_UP * first


def steepest(gram: Accumulator, ridge: float, units: Units, *, offset: bool) -> float:
    """Return the largest eigenvalue of the normal matrix plus ridge; descent converges at rates below 1 over it.

    The column of the offset has the unit of x.
    """
    columns = gram.windows + offset
    scale = np.where(np.arange(columns) < gram.windows, 1.0, units.x)
    matrix = gram.moments[:columns, :columns] * scale * scale[:, None]
    return float(max(np.linalg.eigvalsh(matrix)[-1] + ridge, np.finfo(float).tiny))


def diverged(method: str, steepest: float, rate: float, losses: list[float]) -> ConvolithError:
    """Return the error for a descent that diverges, with a smaller learning rate to use instead."""
    largest = 1 / steepest
    if method != "gd":
        return ConvolithError(
            f"learning_rate is {rate:g}: {method} diverges (the loss went from {losses[0]:.3g} to {losses[-1]:.3g} in "
            f"{len(losses)} steps); expected a smaller one, such as {rate / 10:g}"
        )
    digits = 1 - floor(log10(SAFE_SHARE * largest))
    advised = floor(SAFE_SHARE * largest * 10**digits) / 10**digits
    return ConvolithError(
        f"learning_rate is {rate:g}: gradient descent diverges (the loss went from {losses[0]:.3g} to {losses[-1]:.3g} "
        f"in {len(losses)} steps); expected less than {largest:.4g}, which is 1 over the largest eigenvalue of the "
        f"normal matrix; learning_rate={advised:g} converges"
    )
