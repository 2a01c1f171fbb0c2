"""Measurement of engines on random data: in turn, over several rounds, the least time of each, within a budget."""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import prod
from statistics import median
from typing import Any, NamedTuple

import torch

from convolith.dtypes import ITEMSIZE, is_float
from convolith.engines import BY_NAME
from convolith.engines.reference import reference
from convolith.planner import calibrate, machine
from convolith.planner.plan import Candidate
from convolith.report.progress import track
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype

HOPELESS = 30.0
"""Ratio of an engine's estimate to the best measured time above which the engine is not tried."""
BEATEN = 3.0
"""Ratio to the best time above which an engine is not run again, if both its first runs and its estimate exceed it.

First runs alone prove little: for some ten milliseconds, both threads may share one core.
"""
BLOCK_SECONDS, CHUNK_SECONDS = 0.01, 0.001
"""Length of an engine's turn, and of the repeated calls between two readings of the clock: the least time counts. A
turn ends by the clock: while both threads share one core, a call may take a thousand times as long."""
TURN_PAUSE_SECONDS = 0.003
"""Pause before a turn of short calls: waiting threads go to sleep, and may wake on a core of their own."""
TRIES, LONG_SECONDS = 4, 0.1
"""Additional first calls before an engine can be dropped, and the time of a call from which on there are none."""
MOST_ROUNDS, FEWEST_ROUNDS, MORE_ROUNDS = 15, 3, 4
"""Most rounds, least rounds for any budget, and additional rounds if a result contradicts the estimates."""
CONTRADICTION = 10.0
"""Factor by which an engine's ratio of time to estimate may differ from the median ratio of the engines."""
NEAR, STEADY = 1.5, 1.25
"""Ratio to the fastest up to which engines decide, and ratio of their best turns up to which results are stored."""
LONG_BAR_SECONDS = 1.0
"""Budget from which on progress is shown, on a terminal."""


class Times(NamedTuple):
    """Seconds of a call by engine, and whether the rounds agreed well enough to be stored."""

    seconds: dict[str, float]
    steady: bool


def times(spec: ConvSpec, candidates: list[Candidate], kernel: torch.Tensor | None, budget: float) -> Times:
    """Measure the seconds of a call by each engine worth trying; the machine's limits are measured first, once.

    The least time of all blocks counts, since other processes can only add to the time of an engine. The reference
    engine is timed only if it is the only candidate.

    Args:
        spec: spec as the engines see it.
        candidates: engines that can compute the spec, with their estimates.
        kernel: weights, or None for random ones.
        budget: seconds for all calls together, without preparations and the least number of rounds.
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
        engine.apply(states[candidate.engine], x, None)  # a first call compiles code and fills caches
        deadline += time.perf_counter() - start
        first[candidate.engine] = _tried(candidate.engine, states[candidate.engine], x)
    best = min(first.values())
    estimates = {candidate.engine: candidate.seconds or 0.0 for candidate in candidates}
    racing = {name: [seconds] for name, seconds in first.items() if min(seconds, estimates[name]) <= BEATEN * best}
    repeats = {name: max(1, round(CHUNK_SECONDS / seconds)) for name, seconds in first.items()}

    def turns(number: int, names: list[str]) -> None:
        """Give every engine a turn, with another one first in each round."""
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
    """Return engines whose ratio of time to estimate is ten times off the median, if any, and the fastest engine."""
    ratios = {name: time / estimates[name] for name, time in seconds.items() if estimates[name] > 0}
    if not ratios:
        return []
    usual = median(ratios.values())
    suspects = [name for name, ratio in ratios.items() if not usual / CONTRADICTION < ratio < usual * CONTRADICTION]
    return list(dict.fromkeys([*suspects, min(seconds, key=lambda name: seconds[name])])) if suspects else []


def steady(racing: dict[str, list[float]]) -> bool:
    """Return whether the best turns of every engine near the fastest agree: a single turn proves nothing."""
    best = min(min(found) for found in racing.values())
    near = [sorted(found) for found in racing.values() if min(found) <= NEAR * best]
    return all(len(found) >= FEWEST_ROUNDS and found[FEWEST_ROUNDS - 1] <= STEADY * found[0] for found in near)


def _rounds(deadline: float, budget: float) -> Iterator[int]:
    """Yield numbers of rounds until the time or the most rounds are reached, but a few in any case."""
    for number in track(range(MOST_ROUNDS), "measuring", MOST_ROUNDS, shown=budget >= LONG_BAR_SECONDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() > deadline:
            return
        yield number


def _tried(name: str, state: Any, x: torch.Tensor) -> float:
    """Return the least time of a few calls: a single call may include a pause of the system."""
    first = _timed(name, state, x, 1)
    return first if first > LONG_SECONDS else min(first, *(_timed(name, state, x, 1) for _ in range(TRIES)))


def _turn(name: str, state: Any, x: torch.Tensor, repeats: int) -> float:
    """Return the least time of a call in an engine's turn, after a pause and a warm-up call."""
    if repeats > 1:
        time.sleep(TURN_PAUSE_SECONDS)
        _timed(name, state, x, 1)
    end = time.perf_counter() + BLOCK_SECONDS
    least = _timed(name, state, x, repeats)
    while time.perf_counter() < end:
        least = min(least, _timed(name, state, x, repeats))
    return least


def _timed(name: str, state: Any, x: torch.Tensor, repeats: int) -> float:
    """Return the seconds of one call, as the mean over several."""
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
