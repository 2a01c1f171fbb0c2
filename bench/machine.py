"""`python -m bench overhead | scaling | memory | denormals`: what the grid does not show."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch.nn import functional

import convolith as cl
from bench.grid import make_operands, roofline_seconds
from bench.rows import DEEP, GRID, image
from bench.runs import Run, json_option
from bench.timing import race
from convolith import ConvSpec
from convolith.engines import BY_NAME
from convolith.planner import machine
from convolith.work import layer_work

TINY = ConvSpec(in_channels=1, out_channels=1, size=(8, 8), kernel_size=3)
FIRST = """
import time, torch
from convolith import ConvSpec, correlate, plan
from convolith.engines import direct
x, k = torch.randn(1, 2, {n}, {n}), torch.randn(3, 2, 5, 4)
torch.nn.functional.conv2d(x, k)
correlate(torch.ones(1, 1, 300, 300), torch.ones(1, 1, 2, 2), engine="aten")
start = time.perf_counter()
correlate(x, k, padding=2, engine="direct")
print(time.perf_counter() - start)
"""
"""The first call of a spec, in a process where the packages are loaded and nothing was compiled for it."""


@click.command()
@click.option("--rounds", default=15, show_default=True, help="Timed blocks of each.")
@json_option
@torch.no_grad()
def overhead(rounds: int, path: Path | None) -> None:
    """Time what a call takes in addition to its sums: a tiny layer against torch, first calls, and a new process."""
    operands = make_operands(TINY)
    x, k = operands.x, operands.k
    bound = cl.plan(TINY).bind(k)
    times = race(
        {
            "torch": lambda: functional.conv2d(x, k),
            "torch again": lambda: functional.conv2d(x, k),
            "a bound plan": lambda: bound(x),
            "correlate": lambda: cl.correlate(x, k),
        },
        rounds,
    )
    rows = [
        {"call": name, "microseconds": 1e6 * seconds, "over torch": seconds / times["torch"]}
        for name, seconds in times.items()
    ]
    run = Run("overhead", rounds=rounds)
    run.add("1x1x8x8 with 3x3", rows)
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"CONVOLITH_CACHE_DIR": home}
        made = [_first(n, environment) for n in (64, 64, 96)]
    names = ("first call of a new spec", "in the next process", "in another, with another image size")
    rows = [{"call": name, "milliseconds": 1e3 * seconds} for name, seconds in zip(names, made, strict=True)]
    run.add("Compiling and loading", rows)
    run.close(path)


def _first(n: int, environment: dict[str, str]) -> float:
    script = FIRST.format(n=n)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    return float(done.stdout)


@click.command()
@click.option("--rounds", default=9, show_default=True, help="Timed blocks of each.")
@click.option("--least", default=1.0, show_default=True, help="Milliseconds of a row on two threads, at least.")
@json_option
@torch.no_grad()
def scaling(rounds: int, least: float, path: Path | None) -> None:
    """What a second thread brings, on rows that memory does not bound."""
    rows = []
    for name, spec in GRID.items():
        layer, limits = layer_work(spec), machine.limits()
        if limits.moving_seconds(layer.memory.forward.bytes) >= roofline_seconds(spec):
            continue  # bound by memory
        runners = {str(n): _on_threads(spec, n) for n in (1, 2)}
        times = race(runners, rounds)
        if 1e3 * times["2"] >= least:
            engine = cl.plan(spec).engine
            rows.append(
                {"row": name, "engine": engine, "ms on two": 1e3 * times["2"], "speed-up": times["1"] / times["2"]}
            )
    torch.set_num_threads(2)
    run = Run("scaling", rounds=rounds)
    run.add("Two threads against one", rows)
    run.close(path)


def _on_threads(spec: ConvSpec, count: int) -> Callable[[], Any]:
    torch.set_num_threads(count)
    operands = make_operands(spec)
    bound = cl.plan(spec, operands.k).bind(operands.k)

    def run() -> None:
        torch.set_num_threads(count)
        bound(operands.x)

    return run


MEMORY = """
import sys, torch, convolith as cl
k = int(sys.argv[1])
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
def now():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) * 1024
x, kernel = torch.randn(1, 1, 4096, 4096), torch.randn(1, 1, k, k)
small = torch.randn(1, 1, 600, 600)
cl.correlate(small, torch.randn(1, 1, min(k, 301), min(k, 301)), padding=k // 2)
open("/proc/self/clear_refs", "w").write("5")
before = now()
y = cl.correlate(x, kernel, padding=k // 2)
print(peak() - before, y.nbytes)
"""


@click.command()
@json_option
def memory(path: Path | None) -> None:
    """Measure the peak of memory in addition to the input, on a 4096x4096 image."""
    rows = []
    for k in (3, 7, 15, 31, 63, 127, 255, 511):
        done = subprocess.run([sys.executable, "-c", MEMORY, str(k)], capture_output=True, text=True, check=True)  # noqa: S603 - ours
        peak, output = map(int, done.stdout.split())
        added = (peak - output) / 2**20
        engine = cl.plan(image(4096, k)).engine
        rows.append({"kernel": f"{k}x{k}", "engine": engine, "MiB in addition to one output": added})
    run = Run("memory")
    run.add("Peak extra memory, 4096x4096 float32", rows)
    run.close(path)


@click.command()
@click.option("--rounds", default=9, show_default=True, help="Timed blocks of each.")
@json_option
@torch.no_grad()
def denormals(rounds: int, path: Path | None) -> None:
    """How much longer engines take on denormal numbers than on ordinary ones."""
    shapes = {"image 512, 7x7": image(512, 7), "64 -> 64, 3x3, 56": DEEP["64 -> 64, 3x3, 56"]}
    rows = []
    for name, spec in shapes.items():
        operands = make_operands(spec)
        small = replace(operands, x=operands.x * 1e-39)
        for engine in BY_NAME.values():
            if engine.refuse(spec) is None and engine.name != "reference":
                accuracy = "fast" if engine.only_fast else "default"
                bound = cl.plan(spec, engine=engine.name, accuracy=accuracy).bind(operands.k)
                runners = {"usual": partial(bound, operands.x), "denormal": partial(bound, small.x)}
                times = race(runners, rounds)
                rows.append({"row": name, "engine": engine.name, "times as long": times["denormal"] / times["usual"]})
    run = Run("denormals", rounds=rounds)
    run.add("Denormal inputs against ordinary ones", rows)
    run.close(path)
