"""Gradient descent on the sum of squared errors: the chapter's loop, which learns what a closed form knows at once."""

from __future__ import annotations

from collections.abc import Callable
from math import floor, isfinite, log10
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.correlation import correlate
from convolith.errors import ConvolithError
from convolith.fitting.gram import Gram
from convolith.fitting.problem import Problem
from convolith.report.progress import track

SAFE_SHARE = 0.9
"""The share of the largest stable learning rate that is chosen or recommended."""
BLOWN_UP = 1e3
"""A loss this many times the first one is taken for divergence at once."""
NOISE_FLOOR = 1e-24
"""The share of the first loss below which a rise is rounding, not divergence (two float64 roundings, squared)."""

Callback = Callable[[int, float, np.ndarray], Any]


class Descent(NamedTuple):
    """Coefficients (unknowns, out_channels), their sum of squares, the loss before each step, and the rate."""

    coefficients: np.ndarray
    squares: float
    losses: list[float]
    learning_rate: float


def descend(
    problem: Problem,
    largest: float,
    *,
    ridge: float,
    learning_rate: float | None,
    steps: int,
    seed: int,
    callback: Callback | None,
    progress: bool,
) -> Descent:
    """Take the steps.

    The loss is `sum of w (correlate(x, kernel) + offset - y)^2 + ridge |kernel|^2`; each step subtracts the learning
    rate times its gradient. It converges if and only if the rate is below 1/lambda_max of the normal matrix.

    Args:
        problem: the equations.
        largest: lambda_max, with the ridge: see `steepest`.
    """
    spec = problem.spec
    rate = SAFE_SHARE / largest if learning_rate is None else learning_rate
    generator = torch.Generator().manual_seed(seed)
    bound = (spec.in_channels * spec.taps) ** -0.5  # torch's own initialisation of a layer
    shape = (spec.out_channels, spec.in_channels, *spec.kernel_size)
    losses: list[float] = []
    with torch.inference_mode(mode=False), torch.enable_grad():
        kernel = (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * bound
        parameters = [kernel.requires_grad_()]
        if problem.offset:
            parameters.append(torch.zeros(spec.out_channels, dtype=torch.float64, requires_grad=True))
        x, y = torch.from_numpy(problem.padded), torch.from_numpy(problem.y)
        weights = torch.from_numpy(problem.weights)[:, None]

        def squares() -> torch.Tensor:
            predicted = correlate(x, *parameters, stride=spec.stride, dilation=spec.dilation)
            total: torch.Tensor = (weights * (predicted - y) ** 2).sum()
            return total

        for step in track(range(steps), "gradient descent", steps, shown=progress):
            loss = squares() + ridge * (kernel**2).sum()
            losses.append(loss.item())
            if blown_up(losses):
                raise diverged(largest, rate, losses)
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter -= rate * gradient
            if callback is not None:
                callback(step, losses[-1], kernel.detach().numpy().copy())
        last = squares().item()
        reached = [*losses, last + ridge * (kernel**2).sum().item()]
    rises = reached[-1] > 2 * min(reached) + NOISE_FLOOR * reached[0]
    if blown_up(reached) or (rises and rate * largest > 1):
        raise diverged(largest, rate, reached)
    columns = [p.detach().reshape(spec.out_channels, -1) for p in parameters]
    return Descent(torch.cat(columns, dim=1).T.numpy(), last, losses, rate)


def blown_up(losses: list[float]) -> bool:
    """Whether the last loss is no number any more, or far above the first."""
    return not isfinite(losses[-1]) or losses[-1] > BLOWN_UP * losses[0]


def steepest(gram: Gram, ridge: float, *, offset: bool) -> float:
    """The largest eigenvalue of the normal matrix (with the ridge): 1 over it is where descent stops converging."""
    columns = gram.windows + offset
    matrix = gram.moments[:columns, :columns]
    return float(max(np.linalg.eigvalsh(matrix)[-1] + ridge, np.finfo(float).tiny))


def diverged(steepest: float, rate: float, losses: list[float]) -> ConvolithError:
    """The refusal that names a rate which converges."""
    largest = 1 / steepest
    digits = 1 - floor(log10(SAFE_SHARE * largest))
    advised = floor(SAFE_SHARE * largest * 10**digits) / 10**digits
    return ConvolithError(
        f"learning_rate is {rate:g}: gradient descent diverges (the loss went from {losses[0]:.3g} to {losses[-1]:.3g} "
        f"in {len(losses)} steps); expected less than {largest:.4g}, which is 1 over the largest eigenvalue of the "
        f"normal matrix; learning_rate={advised:g} converges"
    )
