"""`python -m bench decompose`: how long the search for a chain takes, and what it finds."""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np

import convolith as cl
from bench.runs import Run, json_option
from convolith import kernels

COMMON = {
    "Gaussian 21x21": kernels.gaussian(3.0, size=21),
    "disk 21x21": kernels.disk(10),
    "Laplacian of a Gaussian 21x21": kernels.laplacian_of_gaussian(3.0, size=21),
    "Gabor 21x21": kernels.gabor(3.0, 8.0, size=21),
    "motion 21": kernels.motion(21, 30),
}
"""Kernels that people type, by name."""


def layer(out: int, into: int, size: int) -> cl.Conv:
    """A dense layer with random weights, as before training: the hardest case, since nothing can be left out."""
    return cl.Conv(np.random.default_rng(0).standard_normal((out, into, size, size)), padding="same")


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Searches of each; the median counts.")
@json_option
def decompose(rounds: int, path: Path | None) -> None:
    """Time the search for a chain of smaller convolutions, on common kernels and on dense layers."""
    problems = [
        (name, cl.Conv(one, padding="same"), tolerance) for name, one in COMMON.items() for tolerance in (0, 0.05)
    ]
    problems += [(f"{n} -> {n} channels, 3x3", layer(n, n, 3), tolerance) for n in (16, 64) for tolerance in (0, 0.5)]
    rows = []
    for name, conv, tolerance in problems:
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            found = cl.decompose(conv, tolerance=tolerance)
            seconds.append(time.perf_counter() - start)
        rows.append(
            {
                "kernel": name,
                "tolerance": tolerance,
                "s": float(np.median(seconds)),
                "method": found.method if found.parts else "none",
                "products": found.multiplications_before,
                "after": found.multiplications_after,
                "relative error at most": found.relative,
            }
        )
    run = Run("decompose", rounds=rounds)
    run.add("Searches", rows)
    run.close(path)
