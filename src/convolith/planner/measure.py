"""Times engines against each other on random data: in turn, in rounds, medians, within a budget."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

from convolith.dtypes import is_float
from convolith.engines import BY_NAME
from convolith.engines.protocol import torch_dtype
from convolith.planner import calibrate, machine
from convolith.planner.plan import Candidate
from convolith.report.progress import track
from convolith.spec import ConvSpec

HOPELESS = 30.0
"""Engines whose estimate is this many times the best measured time are not tried."""
BEATEN = 3.0
"""Engines whose first run takes this many times the best are not run again."""
BLOCK_SECONDS = 0.01
"""Of repeated calls between two looks at the clock: long beside its resolution, and beside a pause of the system."""
TRIES, LONG_SECONDS = 4, 0.1
"""More calls before an engine can be dropped, unless they take this long."""
SETTLING_SECONDS = 0.05
"""After which other libraries' threads no longer spin in wait for work."""
MOST_ROUNDS = 15
LONG_BAR_SECONDS = 1.0
"""Budgets from which progress is shown, on a terminal."""


def times(spec: ConvSpec, candidates: list[Candidate], kernel: torch.Tensor | None, budget: float) -> dict[str, float]:
    """Median seconds of a call by engine, of those worth trying; the machine's limits are measured first, once.

    Args:
        spec: as the engines see it.
        candidates: who may compute it, with their estimates.
        kernel: its weights, or None for random ones.
        budget: seconds for all calls together; every engine that is tried runs at least once.
    """
    if not machine.measured():
        calibrate.calibrate()
    x = _random(spec.input_shape, spec.dtype)
    weights = _random(spec.kernel_shape, spec.kernel_dtype) if kernel is None else kernel
    deadline = time.perf_counter() + budget
    first: dict[str, float] = {}
    states: dict[str, Any] = {}
    for candidate in sorted(candidates, key=lambda c: c.seconds or 0.0):
        best = min(first.values(), default=float("inf"))
        if first and ((candidate.seconds or 0.0) > HOPELESS * best or time.perf_counter() > deadline):
            continue
        engine = BY_NAME[candidate.engine]
        started = time.perf_counter()
        states[candidate.engine] = engine.prepare(spec, weights.to(torch_dtype(spec.kernel_dtype)))
        engine.apply(states[candidate.engine], x, None)  # what is compiled, opened or cached on a first call
        deadline += time.perf_counter() - started  # none of which is the calls' own time
        first[candidate.engine] = _tried(candidate.engine, states[candidate.engine], x)
    best = min(first.values())
    for candidate in candidates:  # far slower than estimated: others' threads may still have been spinning
        name = candidate.engine
        if first.get(name, 0.0) > BEATEN * best >= BEATEN * (candidate.seconds or 0.0):
            time.sleep(SETTLING_SECONDS)
            first[name] = min(first[name], _tried(name, states[name], x))
    best = min(first.values())
    racing = {name: [seconds] for name, seconds in first.items() if seconds <= BEATEN * best}
    repeats = {name: max(1, round(BLOCK_SECONDS / seconds)) for name, seconds in first.items()}
    for number in _rounds(deadline, budget):
        order = list(racing)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            racing[name].append(_timed(name, states[name], x, repeats[name]))
    return first | {name: median(found[1:] or found) for name, found in racing.items()}


def _rounds(deadline: float, budget: float) -> Iterator[int]:
    """Numbers until the time is up or enough is known."""
    for number in track(range(MOST_ROUNDS), "measuring", MOST_ROUNDS, shown=budget >= LONG_BAR_SECONDS):
        if time.perf_counter() > deadline:
            return
        yield number


def _tried(name: str, state: Any, x: torch.Tensor) -> float:
    """The least time of a few calls: one alone may have met with a pause of the system."""
    first = _timed(name, state, x, 1)
    return first if first > LONG_SECONDS else min(first, *(_timed(name, state, x, 1) for _ in range(TRIES)))


def _timed(name: str, state: Any, x: torch.Tensor, repeats: int) -> float:
    """Seconds of one call, over some in a row after one that does not count."""
    apply = BY_NAME[name].apply
    if repeats > 1:
        apply(state, x, None)
    start = time.perf_counter()
    for _ in range(repeats):
        apply(state, x, None)
    return (time.perf_counter() - start) / repeats


def _random(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if is_float(dtype):
        real = torch.randn(shape, generator=generator)
        return real.to(torch_dtype(dtype))
    return torch.randint(0, 100, shape, generator=generator).to(torch_dtype(dtype))
