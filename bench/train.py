"""`python -m bench train`: kernels that change between calls, in training steps and in plain calls, against torch's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import click
import torch

import convolith as cl
from bench.grid import make_operands
from bench.peers import beyond_torch
from bench.rows import GRID, depthwise, image, layer
from bench.runs import Run, json_option
from bench.timing import race
from convolith import ConvSpec
from convolith.engines import aten
from convolith.planner.calibrate import calibrate
from convolith.planner.gradients import pays
from convolith.report.progress import track

STEPS: dict[str, ConvSpec] = {
    "16 -> 16, 3x3, 8": layer(16, 16, 8, 3),
    "16 -> 16, 3x3, 14": layer(16, 16, 14, 3),
    "1 -> 1, 3x3, 28, batch 8": layer(1, 1, 28, 3, batch=8),
    "64 -> 64, 3x3, 56": layer(64, 64, 56, 3),
    "128 -> 128, 3x3, 28": layer(128, 128, 28, 3),
    "256 -> 256, 3x3, 14, batch 4": layer(256, 256, 14, 3, batch=4),
    "512 -> 512, 3x3, 8": layer(512, 512, 8, 3),
    "16 -> 16, 3x3, 224": layer(16, 16, 224, 3),
    "32 -> 32, 5x5, 56": layer(32, 32, 56, 5),
    "3 -> 64, 7x7, stride 2, 224": layer(3, 64, 224, 7, stride=2),
    "64 -> 128, 3x3, stride 2, 56": layer(64, 128, 56, 3, stride=2),
    "128 -> 256, 1x1, stride 2, 28": layer(128, 256, 28, 1, stride=2),
    "64 -> 256, 1x1, 56": layer(64, 256, 56, 1),
    "512 -> 128, 1x1, 28": layer(512, 128, 28, 1),
    "1024 -> 256, 1x1, 14": layer(1024, 256, 14, 1),
    "depthwise 32, 3x3, 112": depthwise(32, 112, 3),
    "depthwise 512, 3x3, 14": depthwise(512, 14, 3),
    "depthwise 96, 7x7, 56": depthwise(96, 56, 7),
    "depthwise 144, 3x3, stride 2, 56": layer(144, 144, 56, 3, groups=144, stride=2),
    "image 224, 7x7": image(224, 7),
}
"""Layers of training: dense, strided, depthwise and 1x1 ones, from 8x8 to 224x224."""
CONTROL_STEP = "64 -> 64, 3x3, 56"
CHANGE = -(1 + 2.0**-20)
"""Factor by which a kernel changes between calls: no earlier one comes back."""
AGAIN = "torch again"
"""Second name of torch's step within each row."""
AGREEMENT = 1e-3
"""How far results and gradients may be apart, relative to the largest."""


@dataclass(frozen=True)
class Race:
    """One row: median seconds by name; the ratio is Convolith's time over that of the fastest peer."""

    row: str
    engine: str
    seconds: dict[str, float]
    control: float | None = None
    """Torch's time under a second name over its time: as far from 1 as this row is uncertain."""

    @property
    def ratio(self) -> float:
        """Convolith's time over the fastest peer's: below 1, Convolith is faster."""
        return self.seconds["convolith"] / min(time for name, time in self.seconds.items() if name != "convolith")


def step_of(module: torch.nn.Conv2d, x: torch.Tensor, grad: torch.Tensor) -> Callable[[], list[torch.Tensor]]:
    """A training step of one layer, which ends with another kernel than it began with."""

    def step() -> list[torch.Tensor]:
        module.zero_grad(set_to_none=True)
        x.grad = None
        y = module(x)
        y.backward(grad)
        with torch.no_grad():
            module.weight.mul_(CHANGE)
        return [y.detach(), x.grad, module.weight.grad]  # type: ignore[list-item]  # there after backward

    return step


def train_step(name: str, spec: ConvSpec, rounds: int) -> Race:
    """Race a training step of `cl.nn.Conv2d` against the one of torch's, on the same memory.

    Where both compute with torch's operator, operands at other addresses alone make up to a tenth of the time.
    """
    theirs = torch.nn.Conv2d(
        spec.in_channels,
        spec.out_channels,
        spec.kernel_size,  # type: ignore[arg-type]  # two of them
        stride=spec.stride,  # type: ignore[arg-type]  # as many numbers as axes
        padding=tuple(before for before, _ in spec.padding),  # type: ignore[arg-type]  # as above
        groups=spec.groups,
    )
    ours = cl.nn.convert(torch.nn.Sequential(copy.deepcopy(theirs)))[0]  # type: ignore[index]  # a Sequential stays one
    grad = torch.randn(spec.output_shape, generator=torch.Generator().manual_seed(1))
    x = make_operands(spec).x.requires_grad_()
    modules = {"convolith": ours, "torch": theirs}
    _check(name, {label: step_of(copy.deepcopy(module), x, grad) for label, module in modules.items()})
    ours.weight, ours.bias = theirs.weight, theirs.bias
    runners = {label: step_of(module, x, grad) for label, module in (*modules.items(), (AGAIN, theirs))}
    seconds = race(runners, rounds)
    control = seconds.pop(AGAIN) / seconds["torch"]
    forward = cl.plan(spec)
    engine = forward.for_new_kernels.engine if pays(forward, (True, True)) else aten.contiguous.name
    return Race(name, engine, seconds, control)


def new_kernel(name: str, spec: ConvSpec, rounds: int) -> Race:
    """Race plain calls with another kernel each against torch in either memory format."""
    operands = make_operands(spec)
    x = operands.x if spec.dtype == spec.kernel_dtype else operands.x.to(operands.k.dtype)
    options: dict[str, Any] = {
        "stride": spec.stride,
        "dilation": spec.dilation,
        "groups": spec.groups,
        "padding": tuple(before for before, _ in spec.padding),
    }
    kernels = {label: operands.k.clone() for label in ("convolith", "torch", "torch channels_last")}

    def run(label: str, compute: Callable[..., torch.Tensor], given: torch.Tensor) -> Callable[[], list[torch.Tensor]]:
        return lambda: [compute(given, kernels[label].mul_(CHANGE), **options)]

    runners = {"convolith": run("convolith", cl.correlate, operands.x), "torch": run("torch", aten.PLAIN[spec.axes], x)}
    if spec.axes in aten.CHANNELS_LAST:
        last = x.contiguous(memory_format=aten.CHANNELS_LAST[spec.axes])
        runners["torch channels_last"] = run("torch channels_last", aten.PLAIN[spec.axes], last)
    _check(name, runners)
    return Race(name, cl.plan(spec).for_new_kernels.engine, race(runners, rounds))


def _check(name: str, runners: Mapping[str, Callable[[], list[torch.Tensor]]]) -> None:
    """Refuse to time what does not give the same, in the first call and in the second."""
    for _ in range(2):
        found = {label: run() for label, run in runners.items()}
        first = found.pop("convolith")
        for label, results in found.items():
            for ours, theirs in zip(first, results, strict=True):
                if float((ours - theirs).abs().max()) > AGREEMENT * float(theirs.abs().max()):
                    raise click.ClickException(f"{name}: convolith and {label} do not agree")


def control(rounds: int) -> float:
    """A training step of torch under one name over the same under another: 1.00 if the run can be trusted."""
    spec = STEPS[CONTROL_STEP]
    module = torch.nn.Conv2d(spec.in_channels, spec.out_channels, 3, padding=1)
    step = step_of(module, make_operands(spec).x.requires_grad_(), torch.ones(spec.output_shape))
    times = race({"once": step, "again": step}, 4 * rounds)
    return times["again"] / times["once"]


def rows_of(races: list[Race]) -> list[dict[str, Any]]:
    """Milliseconds of every runner, and Convolith's time over the fastest peer's."""
    rows: list[dict[str, Any]] = []
    for each in races:
        times = {f"{name}, ms": float(f"{1e3 * seconds:.3g}") for name, seconds in each.seconds.items()}
        control = {} if each.control is None else {"control": round(each.control, 2)}
        rows.append(
            {"row": each.row, "engine": each.engine, **times, "over the fastest": round(each.ratio, 2), **control}
        )
    return rows


def summary(races: list[Race]) -> dict[str, float]:
    """The worst row, and by how much Convolith is faster in the geometric mean."""
    ratios = [each.ratio for each in races]
    return {"worst over the fastest": max(ratios), "times faster, geometric mean": 1 / geometric_mean(ratios)}


@click.command()
@click.option("--rows", default="", help="Only rows whose name contains this.")
@click.option("--rounds", default=41, show_default=True, help="Timed blocks of each runner.")
@click.option("--threads", default=0, help="Threads; by default torch's.")
@click.option("--only", type=click.Choice(["steps", "calls"]), help="One of the two tables.")
@json_option
def train(rows: str, rounds: int, threads: int, only: str | None, path: Path | None) -> None:
    """Race training steps, and calls with another kernel each, against torch's; exit 1 if the run cannot be trusted."""
    if threads:
        torch.set_num_threads(threads)
    calibrate()
    run = Run("train" + (f"_{only}" if only else ""), controls=[control(rounds)], rounds=rounds)
    kinds: dict[str, tuple[str, Callable[[str, ConvSpec, int], Race], dict[str, ConvSpec]]] = {
        "steps": ("Training steps: forward, backward, another kernel", train_step, STEPS),
        "calls": ("Plain calls with another kernel each", new_kernel, GRID),
    }
    for kind, (title, measure, specs) in kinds.items():
        names = [name for name, spec in specs.items() if rows in name and beyond_torch(spec) is None]
        if (only and kind != only) or not names:
            continue
        numbers = track(range(len(names)), kind, len(names), shown=True)
        races = [measure(names[i], specs[names[i]], rounds) for i in numbers]
        run.add(title, rows_of(races))
        run.figures |= {f"{kind}, {label}": value for label, value in summary(races).items()}
    run.controls.append(control(rounds))
    run.close(path, complete=not rows)
    run.refuse_if_disturbed()
