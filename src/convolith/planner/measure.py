"""Times engines against each other on random data: in turn, in rounds, the least of each, within a budget."""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import prod
from statistics import median
from typing import Any, NamedTuple

import torch

from convolith.dtypes import ITEMSIZE, is_float
from convolith.engines import BY_NAME, reference
from convolith.planner import calibrate, machine
from convolith.planner.plan import Candidate
from convolith.report.progress import track
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype

HOPELESS = 30.0
"""Engines whose estimate is this many times the best measured time are not tried."""
BEATEN = 3.0
"""Engines whose first runs and whose estimate are this many times the best are not run again.

First runs alone say little: for some ten milliseconds, both threads may find themselves on one core.
"""
BLOCK_SECONDS, CHUNK_SECONDS = 0.01, 0.001
"""An engine's turn, and the repeated calls between two looks at the clock: the least of them counts. A turn ends by the
clock: while both threads are on one core, a call may take a thousand times as long."""
TURN_PAUSE_SECONDS = 0.003
"""Before a turn of short calls: threads that wait go to sleep, and may wake on a core of their own."""
TRIES, LONG_SECONDS = 4, 0.1
"""More calls before an engine can be dropped, unless they take this long."""
MOST_ROUNDS, FEWEST_ROUNDS, MORE_ROUNDS = 15, 3, 4
"""At most, at least whatever the budget, and again where a result contradicts the estimates."""
CONTRADICTION = 10.0
"""Times an engine's time over its estimate may be off from what is usual among the engines."""
NEAR, STEADY = 1.5, 1.25
"""Engines this near to the fastest decide; the best turns of each may differ this much if they are to be remembered."""
LONG_BAR_SECONDS = 1.0
"""Budgets from which progress is shown, on a terminal."""


class Times(NamedTuple):
    """Seconds of a call by engine, and whether the rounds agreed well enough to be remembered."""

    seconds: dict[str, float]
    steady: bool


def times(spec: ConvSpec, candidates: list[Candidate], kernel: torch.Tensor | None, budget: float) -> Times:
    """Seconds of a call by engine, of those worth trying; the machine's limits are measured first, once.

    The least of all blocks counts: what else the machine does can only add to the time that an engine takes. The
    oracle is timed only where nothing else is asked for.

    Args:
        spec: as the engines see it.
        candidates: who may compute it, with their estimates.
        kernel: its weights, or None for random ones.
        budget: seconds for all calls together, preparations and the fewest rounds not counted.
    """
    machine.check_memory(
        f"measuring {spec.input_shape} -> {spec.output_shape} takes",
        prod(spec.input_shape) * ITEMSIZE[spec.dtype] + prod(spec.output_shape) * ITEMSIZE[spec.out_dtype],
    )
    if not machine.measured():
        calibrate.calibrate()
    x = _random(spec.input_shape, spec.dtype)
    weights = _random(spec.kernel_shape, spec.kernel_dtype) if kernel is None else kernel
    weights = weights.to(torch_dtype(spec.kernel_dtype))
    candidates = [c for c in candidates if c.engine != reference.name] or candidates
    time.sleep(calibrate.PAUSE_SECONDS)
    deadline = time.perf_counter() + budget
    first: dict[str, float] = {}
    states: dict[str, Any] = {}
    for candidate in sorted(candidates, key=lambda c: c.seconds or 0.0):
        best = min(first.values(), default=float("inf"))
        if first and ((candidate.seconds or 0.0) > HOPELESS * best or time.perf_counter() > deadline):
            continue
        engine, start = BY_NAME[candidate.engine], time.perf_counter()
        states[candidate.engine] = engine.prepare(spec, weights)
        engine.apply(states[candidate.engine], x, None)  # what is compiled, opened or cached on a first call
        deadline += time.perf_counter() - start
        first[candidate.engine] = _tried(candidate.engine, states[candidate.engine], x)
    best = min(first.values())
    estimates = {candidate.engine: candidate.seconds or 0.0 for candidate in candidates}
    racing = {name: [seconds] for name, seconds in first.items() if min(seconds, estimates[name]) <= BEATEN * best}
    repeats = {name: max(1, round(CHUNK_SECONDS / seconds)) for name, seconds in first.items()}

    def turns(number: int, names: list[str]) -> None:
        """Every engine's turn, each time another one first."""
        start = number % len(names)
        for name in names[start:] + names[:start]:
            racing[name].append(_turn(name, states[name], x, repeats[name]))

    for number in _rounds(deadline, budget):
        turns(number, list(racing))
    again = contradicting({name: min(found) for name, found in racing.items()}, estimates)
    for number in range(MORE_ROUNDS if again else 0):
        time.sleep(calibrate.PAUSE_SECONDS)
        turns(number, again)
    return Times(first | {name: min(found) for name, found in racing.items()}, steady(racing))


def contradicting(seconds: dict[str, float], estimates: dict[str, float]) -> list[str]:
    """Engines whose time is ten times as far from its estimate as is usual among them, and the fastest beside them."""
    ratios = {name: time / estimates[name] for name, time in seconds.items() if estimates[name] > 0}
    if not ratios:
        return []
    usual = median(ratios.values())
    found = [name for name, ratio in ratios.items() if not usual / CONTRADICTION < ratio < usual * CONTRADICTION]
    return list(dict.fromkeys([*found, min(seconds, key=lambda name: seconds[name])])) if found else []


def steady(racing: dict[str, list[float]]) -> bool:
    """Whether the best turns of every engine that is near the fastest agree: a single one proves nothing."""
    best = min(min(found) for found in racing.values())
    near = [sorted(found) for found in racing.values() if min(found) <= NEAR * best]
    return all(len(found) >= FEWEST_ROUNDS and found[FEWEST_ROUNDS - 1] <= STEADY * found[0] for found in near)


def _rounds(deadline: float, budget: float) -> Iterator[int]:
    """Numbers until the time is up or enough is known, but a few in any case."""
    for number in track(range(MOST_ROUNDS), "measuring", MOST_ROUNDS, shown=budget >= LONG_BAR_SECONDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() > deadline:
            return
        yield number


def _tried(name: str, state: Any, x: torch.Tensor) -> float:
    """The least time of a few calls: one alone may have met with a pause of the system."""
    first = _timed(name, state, x, 1)
    return first if first > LONG_SECONDS else min(first, *(_timed(name, state, x, 1) for _ in range(TRIES)))


def _turn(name: str, state: Any, x: torch.Tensor, repeats: int) -> float:
    """The least time of a call in an engine's turn, after a pause and a call that does not count."""
    if repeats > 1:
        time.sleep(TURN_PAUSE_SECONDS)
        _timed(name, state, x, 1)
    end = time.perf_counter() + BLOCK_SECONDS
    least = _timed(name, state, x, repeats)
    while time.perf_counter() < end:
        least = min(least, _timed(name, state, x, repeats))
    return least


def _timed(name: str, state: Any, x: torch.Tensor, repeats: int) -> float:
    """Seconds of one call, over some in a row."""
    apply = BY_NAME[name].apply
    start = time.perf_counter()
    for _ in range(repeats):
        apply(state, x, None)
    return (time.perf_counter() - start) / repeats


def _random(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if is_float(dtype):
        real = torch.randn(shape, generator=generator, device="cpu")
        return real.to(torch_dtype(dtype))
    return torch.randint(0, 100, shape, generator=generator).to(torch_dtype(dtype))
