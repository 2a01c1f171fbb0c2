"""`python -m bench fold`: networks in the form in which they are trained, before and after folding, in turn."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

import convolith as cl
from bench.networks import NETWORKS
from bench.networks.depth import DepthNeck, reassembled
from bench.networks.randomise import randomised
from bench.networks.vae import Upsample
from bench.networks.widened import widened
from bench.runs import Run, json_option
from bench.timing import CONTROL_TOLERANCE, race
from convolith.report.progress import track

Shape = tuple[int, ...]


class Row(NamedTuple):
    """A network, the input that it is timed on, and how many times faster it is to be at least."""

    factory: Callable[[], nn.Module]
    shape: Shape
    target: float = 0.98


CLAIMED = {"repvgg_a0": 1.5}
WIDE = {
    "vae upsampler, 128 channels": Row(lambda: randomised(Upsample(128)), (1, 128, 64, 64), 1.3),
    "vae upsampler, 512 channels": Row(lambda: randomised(Upsample(512)), (1, 512, 32, 32), 1.3),
    "depth neck, times 4": Row(lambda: randomised(reassembled(384, 48, 64, 4)), (1, 384, 24, 32), 1.3),
    "depth neck, times 2": Row(lambda: randomised(reassembled(384, 96, 64, 2)), (1, 384, 24, 32), 1.3),
    "depth neck, fusions and head too": Row(
        lambda: randomised(DepthNeck(384, (48, 96, 192, 384), 64)), (1, 384, 24, 32)
    ),
    "two padded 3x3, 16 -> 96 -> 16": Row(lambda: widened(16, 96), (1, 16, 128, 128)),
}
"""Stages at the widths that published models have."""
SIZES: dict[str, Shape] = {"ecbsr": (1, 1, 128, 128), "ecbsr_zeros_between": (1, 1, 128, 128)}


def rows() -> dict[str, Row]:
    """Every network of `bench.networks` at the size that it is made for, and the wide stages."""
    found = {}
    for name, network in NETWORKS.items():
        shape = SIZES.get(name, (1, 3, 224, 224) if network.input_shape[1] == 3 else network.input_shape)
        found[name] = Row(network.factory, shape, CLAIMED.get(name, 0.98))
    found["repvgg_a0, batch 8"] = Row(NETWORKS["repvgg_a0"].factory, (8, 3, 224, 224), 1.5)
    return found | WIDE


@click.command()
@click.argument("names", nargs=-1)
@click.option("--rounds", default=9, show_default=True, help="Timed blocks of each.")
@click.option("--measure", is_flag=True, help="Let fold measure each rewrite too.")
@json_option
def fold(names: tuple[str, ...], rounds: int, path: Path | None, *, measure: bool) -> None:
    """Time networks as they are trained, folded, with Convolith's layers too, and with torch.fx's fusion of norms."""
    table = rows()
    if set(names) - set(table):
        raise click.UsageError(f"no network {', '.join(set(names) - set(table))}; there are {', '.join(table)}")
    wanted = list(names or table)
    steps = track(range(len(wanted)), "networks", len(wanted), shown=True)
    found = [measured(wanted[at], table[wanted[at]], rounds, measure=measure) for at in steps]
    run = Run("fold", rounds=rounds)
    run.add("Seconds before over seconds after (above 1: faster folded)", found)
    slow = [row["network"] for row in found if row["before / after"] < row["target"]]
    far = [row["network"] for row in found if abs(row["control"] - 1) > CONTROL_TOLERANCE]
    run.figures = {
        "rows below their target": ", ".join(slow) or "none",
        f"rows whose control is more than {CONTROL_TOLERANCE} off": ", ".join(far) or "none",
    }
    run.close(path, complete=not names)


def measured(name: str, row: Row, rounds: int, *, measure: bool) -> dict[str, Any]:
    """One network: its convolutions, the seconds that folding took, and the ratios."""
    model = row.factory()
    x = torch.randn(row.shape, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    folded = cl.fold(model, x, measure=measure)
    seconds = time.perf_counter() - start
    runners: dict[str, nn.Module] = {"before": model, "after": folded.model, "control": row.factory()}
    runners["converted"] = cl.nn.convert(copy.deepcopy(folded.model))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            runners["torch.fx fuse"] = fuse(model)
            runners["torch.fx fuse"](x)
        except Exception:  # noqa: BLE001 - it raises whatever tracing meets
            runners.pop("torch.fx fuse", None)
        times = race({which: partial(runner, x) for which, runner in runners.items()}, rounds)
    return {
        "network": name,
        "convolutions": folded.report.convolutions_before,
        "then": folded.report.convolutions_after,
        "ms before": 1e3 * times["before"],
        "before / after": times["before"] / times["after"],
        "target": row.target,
        "before / converted": times["before"] / times["converted"],
        "torch.fx fuse / after": times["torch.fx fuse"] / times["after"] if "torch.fx fuse" in times else None,
        "control": times["before"] / times["control"],
        "error": max(folded.report.error.values()),
        "seconds to fold": seconds,
    }
