"""`python -m bench grid`: one row a shape, Convolith against every peer that takes it."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import convolith as cl
from bench.grid_report import plot, summary, table
from bench.peers import PEERS, Operands, Peer, missing
from bench.rows import CONTROL, SETS
from bench.runs import Run, json_option
from bench.timing import race
from convolith import ConvSpec
from convolith.dtypes import is_float
from convolith.engines.error_bounds import error_scale
from convolith.engines.machine_limits import sum_dtype_name
from convolith.engines.padding import pad
from convolith.planner import machine
from convolith.planner.calibrate import calibrate
from convolith.report.progress import track
from convolith.work import layer_work

AGREEMENT = {"float32": 1e-3, "float64": 1e-11}
"""How far a peer's result may be from float64, relative to max|x| sum|k|: loose, for a peer may be less exact."""
ORACLE_PRODUCTS = 1e9
"""Products above which the oracle gives way to a float64 transform: it would take minutes."""


@dataclass(frozen=True)
class Outcome:
    """One row: median seconds by name, and what was skipped or failed, with the reason."""

    name: str
    spec: ConvSpec
    engine: str
    estimated_engine: str
    roofline_seconds: float
    seconds: dict[str, float]
    skipped: dict[str, str]
    failed: dict[str, str]

    @property
    def ratios(self) -> dict[str, float]:
        """Each peer's time over Convolith's: above 1, Convolith is faster."""
        ours = ("convolith", "convolith estimate")
        return {name: time / self.seconds["convolith"] for name, time in self.seconds.items() if name not in ours}

    @property
    def best(self) -> float | None:
        """The fastest peer's time over Convolith's."""
        return min(self.ratios.values(), default=None)

    @property
    def estimate(self) -> float:
        """The time of the engine that the estimate chose, over the time of the one that measuring chose."""
        return self.seconds.get("convolith estimate", self.seconds["convolith"]) / self.seconds["convolith"]

    @property
    def roofline(self) -> float:
        """The share of the machine's limits, of direct sums: above 1 where an algorithm needs fewer products."""
        return self.roofline_seconds / self.seconds["convolith"]


def make_operands(spec: ConvSpec, seed: int = 0) -> Operands:
    """Random arrays for a spec."""
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        values = rng.normal(size=shape) if is_float(dtype) else rng.integers(0, 256, shape)
        return torch.from_numpy(values.astype(dtype))

    return Operands(spec, draw(spec.input_shape, spec.dtype), draw(spec.kernel_shape, spec.kernel_dtype))


def oracle(operands: Operands) -> tuple[torch.Tensor, float]:
    """The result in float64, and what errors are relative to."""
    wide = replace(operands.spec, dtype="float64", kernel_dtype="float64")
    x, k = operands.x.double(), operands.k.double()
    products = layer_work(wide).forward.multiplications
    simple = (
        wide.padding_mode == "zeros" and not wide.transposed and max(*wide.stride, *wide.dilation, wide.groups) == 1
    )
    if products > ORACLE_PRODUCTS and simple:
        return transformed(wide, x, k), error_scale(wide, x, k)
    return cl.plan(wide, engine="reference")(x, k), error_scale(wide, x, k)


def transformed(spec: ConvSpec, x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The same by torch's own Fourier transform of whole images."""
    axes = tuple(range(2, 2 + spec.axes))
    x = pad(x, spec.padding, "zeros")
    by_channel = torch.fft.rfftn(x, dim=axes), torch.fft.rfftn(k, x.shape[2:], dim=axes).conj()
    y = torch.fft.irfftn(torch.einsum("nc...,oc...->no...", *by_channel), x.shape[2:], dim=axes)
    return y[(..., *(slice(0, n) for n in spec.output_size))]


def disagreement(result: Any, expected: torch.Tensor, scale: float) -> float:
    """A result's largest error, relative; results without batch and channel count as one plane."""
    found = torch.as_tensor(np.asarray(result)).double().reshape(expected.shape)
    return float((found - expected).abs().max()) / scale


def roofline_seconds(spec: ConvSpec) -> float:
    """The longer of two times: all products at the machine's rate, and all bytes at the speed of a copy."""
    limits, layer = machine.limits(), layer_work(spec)
    products = layer.forward.multiplications / limits.products_per_second(sum_dtype_name(spec))
    return max(products, limits.moving_seconds(layer.memory.forward.bytes))


def measure(name: str, spec: ConvSpec, rounds: int, peers: tuple[Peer, ...] = PEERS, budget: float = 2.0) -> Outcome:
    """Check every peer that takes the row against float64, then race those that agree."""
    operands = make_operands(spec)
    expected, scale = oracle(operands)
    estimated = cl.plan(spec, operands.k)
    chosen = cl.plan(spec, operands.k, effort="measure", budget=budget)
    bound = chosen.bind(operands.k)
    candidates: dict[str, Callable[[], Any]] = {"convolith": lambda: bound(operands.x)}
    if estimated.engine != chosen.engine:
        guessed = estimated.bind(operands.k)
        candidates["convolith estimate"] = lambda: guessed(operands.x)
    skipped, failed = dict(missing(peers)), {}
    for peer in peers:
        reason = skipped.get(peer.name) or peer.refuse(spec)
        if reason:
            skipped[peer.name] = reason
            continue
        try:
            candidates[peer.name] = peer.runner(operands)
        except (RuntimeError, MemoryError, ValueError) as error:
            failed[peer.name] = _first_line(error)
    good = {}
    for candidate, run in candidates.items():
        try:
            error = disagreement(run(), expected, scale)
        except (RuntimeError, MemoryError, ValueError) as refusal:
            failed[candidate] = _first_line(refusal)
            continue
        if error <= AGREEMENT[spec.out_dtype]:
            good[candidate] = run
        else:
            failed[candidate] = f"its result is off by {error:.1e}"
    if "convolith" in failed:
        raise click.ClickException(f"{name}: convolith failed: {failed['convolith']}")
    times = race(good, rounds)
    return Outcome(name, spec, chosen.engine, estimated.engine, roofline_seconds(spec), times, skipped, failed)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def control(rounds: int) -> float:
    """The time of one function under one name over its time under another: 1.00 if the run can be trusted."""
    run = PEERS[0].runner(make_operands(CONTROL))
    times = race({"once": run, "again": run}, 4 * rounds)
    return times["again"] / times["once"]


def limit_memory() -> None:
    """Let an allocation beyond this machine's memory fail, where it would otherwise be overcommitted and killed."""
    memory = machine.memory_bytes()
    if memory is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2 * memory, hard))


@click.command()
@click.option("--set", "chosen", type=click.Choice(list(SETS)), default="grid", show_default=True, help="Which rows.")
@click.option("--rows", default="", help="Only rows whose name contains this.")
@click.option("--rounds", default=9, show_default=True, help="Timed blocks of each peer.")
@click.option("--threads", default=0, help="Threads of every peer that can be told; by default torch's.")
@click.option("--budget", default=2.0, show_default=True, help="Seconds that measuring a plan may take.")
@json_option
@click.option("--plot", "picture", metavar="FILE", help="Draw every row's share of the machine's limits.")
@torch.no_grad()
def grid(
    chosen: str, rows: str, rounds: int, threads: int, budget: float, path: Path | None, picture: str | None
) -> None:
    """Race Convolith against its peers over a grid of shapes; exit code 1 if the run cannot be trusted."""
    if threads:
        torch.set_num_threads(threads)
    limit_memory()
    for name, reason in missing().items():
        click.echo(f"skipped: {name}: {reason}", err=True)
    shapes = SETS[chosen]
    wanted = [name for name in shapes if rows in name]
    if not wanted:
        raise click.ClickException(f"no row contains {rows!r}; rows: {', '.join(shapes)}")
    calibrate()
    run = Run(chosen, controls=[control(rounds)], rounds=rounds)
    outcomes = []
    for i in track(range(len(wanted)), "rows", len(wanted), shown=True):
        outcomes.append(measure(wanted[i], shapes[wanted[i]], rounds, budget=budget))
        run.tables = [table(outcomes)]
        run.details = [vars(outcome) | {"spec": str(outcome.spec)} for outcome in outcomes]
        run.write(path)  # a long run that is stopped leaves what it found
    run.controls.append(control(rounds))
    click.echo(run.tables[0].text())
    for outcome in outcomes:
        for name, reason in outcome.failed.items():
            click.echo(f"failed: {name} on {outcome.name}: {reason}")
    run.figures = summary(outcomes)
    run.close(path, complete=not rows)
    if picture:
        plot(outcomes, Path(picture))
    run.refuse_if_disturbed()
