"""Timing that can be trusted on a shared machine: peers in turn, a pause and a warm-up before each block, medians.

Other runtimes' threads go on spinning for a while after their work and slow down whoever comes next, hence the pause;
the machine's speed drifts, hence the turns; the first of a round may fare worse, hence the rotated order.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from math import inf
from statistics import median

PAUSE = 0.05
"""Seconds before each timed block: OpenMP's threads spin for some milliseconds, OpenCV's likewise."""
BLOCK, CHUNK = 0.02, 0.001
"""Seconds that a timed block lasts at least, and those of the repeated calls between two looks at the clock: the median
of them counts, since a system may run both threads on one core for a while and let one call take a thousand times as
long."""
BEATEN, LOOKS = 5.0, 2
"""Runners that take this many times the fastest are timed in so many blocks only: they decide nothing."""
SLOW = 0.5
"""Seconds of a call after which a beaten runner is not called again."""
FIRST, ENDLESS = 5, 20.0
"""Calls of each runner whose least time is taken first: a single one may have compiled its code, or met both threads on
one core; and the seconds after which a first call is not repeated."""
CONTROL_TOLERANCE = 0.05
"""How far the two names of one function may come out apart."""


def race(runners: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds per call of each runner, timed in turn."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    gc.collect()
    gc.disable()
    try:
        first = {name: _once(run) for name, run in runners.items()}
        repeats = {name: max(1, round(CHUNK / max(seconds, 1e-7))) for name, seconds in first.items()}
        best = min(first.values(), default=0.0)
        for name, seconds in first.items():
            if seconds > max(SLOW, BEATEN * best):
                times[name].append(seconds)
        called = [name for name in runners if not times[name]]
        for turn in range(rounds):
            if turn == LOOKS:
                least = {name: min(times[name]) for name in called}
                called = [name for name in called if least[name] <= BEATEN * min(least.values())]
            names = called
            start = turn % len(names) if names else 0
            for name in names[start:] + names[:start]:
                times[name].append(_block(runners[name], repeats[name]))
    finally:
        gc.enable()
    return {name: median(values) for name, values in times.items()}


def _once(run: Callable[[], object]) -> float:
    """Seconds of a call, to know how many fill a block: the least of a few, unless they take long."""
    least = inf
    for call in range(FIRST):
        start = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - start)
        if least > (SLOW if call else ENDLESS):
            break
    return least


def _block(run: Callable[[], object], repeats: int) -> float:
    """Seconds per call of one block."""
    time.sleep(PAUSE)
    run()
    found: list[float] = []
    end = time.perf_counter() + BLOCK
    while not found or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        found.append((time.perf_counter() - start) / repeats)
    return median(found)
