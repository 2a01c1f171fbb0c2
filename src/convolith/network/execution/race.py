"""The ways to compute each node, timed inside the network, where weights and inputs are as warm as they will be."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from convolith.network.execution.compiled import Compiled

ROUNDS, MOST_ROUNDS, ENOUGH_SECONDS = 5, 25, 1.0
"""Number of calls of the network in which each way to compute its layers is timed: at least, at most, and the seconds
after which no more than the least are made."""
CLEARLY = 0.97
"""Ratio of a measured time to that of the way that is estimated to be fastest, below which another way is taken."""


def choose_fastest(compiled: Compiled, inputs: Sequence[torch.Tensor], budget_seconds: float) -> None:
    """Time every way of every node inside the network, and choose the fastest.

    All nodes take their n-th way in the n-th network, so that a few networks show the time of every way.
    """
    start = time.perf_counter()
    most = max(map(len, compiled.ways), default=1)
    times: list[list[list[float]]] = [[[] for _ in ways] for ways in compiled.ways]
    variants = [[min(v, len(ways) - 1) for ways in compiled.ways] for v in range(most)]
    instances = [compiled.instance(variant) for variant in variants]
    for turn in range(MOST_ROUNDS + 1):
        for variant, instance in zip(variants, instances, strict=True):
            found = instance.timed(inputs)
            if not turn:
                continue  # the first call finds cold caches
            for node, (way, seconds) in enumerate(zip(variant, found, strict=True)):
                times[node][way].append(seconds)
        spent = time.perf_counter() - start
        if turn and (spent > budget_seconds or (turn >= ROUNDS and spent > ENOUGH_SECONDS)):
            break
    usual = [[_usual(found) if found else float("inf") for found in each] for each in times]
    chosen = [_fastest(each) for each in usual]
    compiled.choose(chosen, [each[n] if each else None for each, n in zip(usual, chosen, strict=True)])


def time_chosen(compiled: Compiled, inputs: Sequence[torch.Tensor]) -> None:
    """Time the chosen way of every node inside the network."""
    instance = compiled.instance()
    found = [instance.timed(inputs) for _ in range(ROUNDS + 1)][1:]
    compiled.choose(compiled.chosen, [_usual(times) for times in zip(*found, strict=True)])


def _fastest(seconds: Sequence[float]) -> int:
    """Return the number of the fastest way; the first, unless another is clearly faster."""
    best = min(range(len(seconds)), key=seconds.__getitem__, default=0)
    return best if seconds and seconds[best] <= CLEARLY * seconds[0] else 0


def _usual(times: Sequence[float]) -> float:
    """Return the lower quartile of some times: a system may take a core away for more than half of them."""
    return sorted(times)[len(times) // 4]
