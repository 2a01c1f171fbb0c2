"""`python -m bench grid`: one row a shape, Convolith against every peer that takes it."""

from __future__ import annotations

import platform
import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import click
import numpy as np
import torch

import convolith as cl
from bench.peers import PEERS, Operands, Peer, missing
from bench.timing import CONTROL_TOLERANCE, race
from convolith import ConvSpec
from convolith.dtypes import is_float
from convolith.engines.protocol import error_scale
from convolith.planner.machine import memory_bytes
from convolith.report.plain import to_json
from convolith.report.progress import track
from convolith.report.table import Table

AGREEMENT = {"float32": 1e-3, "float64": 1e-11}
"""How far a peer's result may be from float64, relative to max|x| sum|k|: loose, for a peer may be less exact."""


def image(size: int, kernel_size: int, **options: Any) -> ConvSpec:
    """One channel in, one out, as large an output as its input."""
    return layer(1, 1, size, kernel_size, **options)


def layer(in_channels: int, out_channels: int, size: int, kernel_size: int, **options: Any) -> ConvSpec:
    """A layer on a square picture, padded by half its kernel."""
    return ConvSpec(
        in_channels=in_channels,
        out_channels=out_channels,
        size=(size, size),
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        **options,
    )


ROWS = {
    "image 512, 3x3": image(512, 3),
    "image 1024, 3x3": image(1024, 3),
    "image 1024, 7x7": image(1024, 7),
    "image 1024, 15x15": image(1024, 15),
    "image 512, 31x31": image(512, 31),
    "image 1024, 5x5, uint8": image(1024, 5, dtype="uint8", kernel_dtype="float32"),
    "image 1024, 5x5, float64": image(1024, 5, dtype="float64"),
    "3 -> 64, 7x7, stride 2, 224": layer(3, 64, 224, 7, stride=2),
    "1 -> 16, 7x7, 512": layer(1, 16, 512, 7),
    "depthwise 128, 3x3, 56": layer(128, 128, 56, 3, groups=128),
    "depthwise 128, 31x31, 56": layer(128, 128, 56, 31, groups=128),
    "64 -> 64, 3x3, 56": layer(64, 64, 56, 3),
    "256 -> 256, 3x3, 14, batch 8": layer(256, 256, 14, 3, batch=8),
    "256 -> 64, 1x1, 56": layer(256, 64, 56, 1),
    "64 -> 256, 1x1, 56, batch 8": layer(64, 256, 56, 1, batch=8),
    "1-d, 101 taps, 100000": ConvSpec(in_channels=1, out_channels=1, size=100_000, kernel_size=101, padding=50),
    "3-d, 8 -> 8, 3x3x3, 32": ConvSpec(
        in_channels=8, out_channels=8, size=(32, 32, 32), kernel_size=(3, 3, 3), padding=1
    ),
}
"""The grid. Later engines bring more rows; a row is never taken out because it is lost."""

CONTROL = layer(16, 16, 64, 3)
"""The control row: torch under two names."""


@dataclass(frozen=True)
class Outcome:
    """One row: median seconds by name, and what was skipped or failed, with the reason."""

    name: str
    spec: ConvSpec
    engine: str
    seconds: dict[str, float]
    skipped: dict[str, str]
    failed: dict[str, str]

    @property
    def ratios(self) -> dict[str, float]:
        """Each peer's time over Convolith's: above 1, Convolith is faster."""
        return {name: time / self.seconds["convolith"] for name, time in self.seconds.items() if name != "convolith"}

    @property
    def best(self) -> float | None:
        """The fastest peer's time over Convolith's."""
        return min(self.ratios.values(), default=None)


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
    return cl.plan(wide, engine="reference")(x, k), error_scale(wide, x, k)


def disagreement(result: Any, expected: torch.Tensor, scale: float) -> float:
    """A result's largest error, relative; results without batch and channel count as one plane."""
    found = torch.as_tensor(np.asarray(result)).double().reshape(expected.shape)
    return float((found - expected).abs().max()) / scale


def measure(name: str, spec: ConvSpec, rounds: int, peers: tuple[Peer, ...] = PEERS) -> Outcome:
    """Check every peer that takes the row against float64, then race those that agree."""
    operands = make_operands(spec)
    expected, scale = oracle(operands)
    chosen = cl.plan(spec)
    bound = chosen.bind(operands.k)
    candidates: dict[str, Callable[[], Any]] = {"convolith": lambda: bound(operands.x)}
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
    return Outcome(name, spec, chosen.engine, race(good, rounds), skipped, failed)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def control(rounds: int) -> float:
    """The time of one function under one name over its time under another: 1.00 if the run can be trusted."""
    run = PEERS[0].runner(make_operands(CONTROL))
    times = race({"once": run, "again": run}, 4 * rounds)
    return times["again"] / times["once"]


def limit_memory() -> None:
    """Let an allocation beyond this machine's memory fail, where it would otherwise be overcommitted and killed."""
    memory = memory_bytes()
    if memory is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2 * memory, hard))


def table(outcomes: list[Outcome]) -> Table:
    """Milliseconds of Convolith, and each peer's time over it."""
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        row: dict[str, Any] = {
            "row": outcome.name,
            "engine": outcome.engine,
            "convolith ms": 1e3 * outcome.seconds["convolith"],
        }
        for peer in PEERS:
            row[peer.name] = "failed" if peer.name in outcome.failed else outcome.ratios.get(peer.name)
        rows.append(row | {"fastest peer": outcome.best})
    return Table("Peers' time over Convolith's (above 1: Convolith is faster)", rows)


@click.command()
@click.option("--rows", default="", help="Only rows whose name contains this.")
@click.option("--rounds", default=9, show_default=True, help="Timed blocks of each peer.")
@click.option("--threads", default=0, help="Threads of every peer that can be told; by default torch's.")
@click.option("--json", "output", metavar="FILE", help="Write everything as JSON.")
@torch.no_grad()
def grid(rows: str, rounds: int, threads: int, output: str | None) -> None:
    """Race Convolith against its peers over a grid of shapes; exit code 1 if the run cannot be trusted."""
    if threads:
        torch.set_num_threads(threads)
    limit_memory()
    for name, reason in missing().items():
        click.echo(f"skipped: {name}: {reason}", err=True)
    wanted = [name for name in ROWS if rows in name]
    if not wanted:
        raise click.ClickException(f"no row contains {rows!r}; rows: {', '.join(ROWS)}")
    controls = [control(rounds)]
    outcomes = [
        measure(wanted[i], ROWS[wanted[i]], rounds) for i in track(range(len(wanted)), "rows", len(wanted), shown=True)
    ]
    controls.append(control(rounds))
    click.echo(table(outcomes).text())
    for outcome in outcomes:
        for name, reason in outcome.failed.items():
            click.echo(f"failed: {name} on {outcome.name}: {reason}")
    contested = [outcome.best for outcome in outcomes if outcome.best is not None]
    by_torch = [outcome.ratios["torch"] for outcome in outcomes if "torch" in outcome.ratios]
    click.echo(f"\ngeometric mean: {geometric_mean(by_torch):.2f} over torch" if by_torch else "")
    if contested:
        click.echo(f"geometric mean: {geometric_mean(contested):.2f} over the fastest peer of each row")
    shown = ", ".join(f"{ratio:.3f}" for ratio in controls)
    trusted = all(abs(ratio - 1) <= CONTROL_TOLERANCE for ratio in controls)
    click.echo(f"control (one function under two names, before and after): {shown}")
    if output:
        Path(output).write_text(to_json(record(outcomes, controls, rounds)))
    if not trusted:
        raise click.ClickException(
            "the control is off by more than 5%: this run cannot be trusted; quieten the machine"
        )


def record(outcomes: list[Outcome], controls: list[float], rounds: int) -> dict[str, Any]:
    """A run as plain data: the machine, the date, every time."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "architecture": platform.machine(),
            "threads": torch.get_num_threads(),
            "vector instructions": torch.backends.cpu.get_cpu_capability(),
        },
        "versions": {"convolith": cl.__version__, "torch": torch.__version__, "numpy": np.__version__},
        "rounds": rounds,
        "control": controls,
        "rows": [
            {
                "row": outcome.name,
                "engine": outcome.engine,
                "seconds": outcome.seconds,
                "skipped": outcome.skipped,
                "failed": outcome.failed,
            }
            for outcome in outcomes
        ],
    }
