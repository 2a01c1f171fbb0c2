"""`python -m bench cost`: what counts, memory and peaks are held against, who else is right, and how long it takes."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import click
import torch
from torch import nn

import convolith as cl
from bench.counters import LAYERS, Case, fake, judged
from bench.naive import enumerate_work
from bench.networks.classics import PRODUCTS, classic
from bench.networks.patterns import PATTERNS, SHAPE, kept_bytes
from bench.networks.trained import CONVERTED, NETWORKS
from bench.runs import Run, json_option
from bench.timing import race
from convolith import ConvolithError, ConvSpec
from convolith.work import CONVENTIONS, layer_work

DRAWN = 1000
"""Random layers that are held against loops over every product."""


def drawn_layer(random: Random) -> ConvSpec:
    """A small layer with any option."""
    axes, groups = random.choice((1, 1, 2, 2, 2, 3)), random.choice((1, 1, 2, 3))
    each = lambda *values: tuple(random.choice(values) for _ in range(axes))  # noqa: E731 - a short name for it
    transposed, stride = random.random() < 0.3, each(1, 1, 2, 3)
    pairs = tuple((random.randint(0, 2), random.randint(0, 2)) for _ in range(axes))
    return ConvSpec(
        batch=random.randint(1, 2),
        in_channels=groups * random.randint(1, 2),
        out_channels=groups * random.randint(1, 2),
        size=each(3, 4, 5, 6),
        kernel_size=each(1, 2, 3),
        stride=stride,
        padding=tuple((a, a) for a, _ in pairs) if transposed else pairs,
        dilation=each(1, 1, 2),
        groups=groups,
        transposed=transposed,
        output_padding=tuple(random.randint(0, s - 1) for s in stride) if transposed else 0,
        padding_mode="zeros" if transposed else random.choice(("zeros", "zeros", "reflect", "replicate", "circular")),
        bias=random.random() < 0.5,
    )


def brute_force() -> dict[str, int]:
    """How many random layers count, in all passes and both conventions, as loops over their products do."""
    random, layers, equal = Random(0), 0, 0  # noqa: S311 - no secret
    while layers < DRAWN:
        try:
            spec = drawn_layer(random)
        except ConvolithError:  # a kernel larger than its image, and the like
            continue
        layers += 1
        equal += all(_as_enumerated(spec, convention) for convention in CONVENTIONS)
    return {"random layers": layers, "equal to loops over every product and sum": equal}


def _as_enumerated(spec: ConvSpec, convention: str) -> bool:
    counted, work = enumerate_work(spec, convention == "effective"), layer_work(spec, convention)
    products, outputs = counted["products"], spec.batch * spec.out_channels
    for n in spec.output_size:
        outputs *= n
    passes = {"forward": work.forward, "input": work.backward.input_gradient, "weight": work.backward.weight_gradient}
    biased = {"forward": outputs * spec.bias}
    by_bias = work.backward.bias_gradient.additions == max(outputs - spec.out_channels, 0) * spec.bias
    return by_bias and all(
        count.multiplications == products and count.additions == products - counted[name] + biased.get(name, 0)
        for name, count in passes.items()
    )


def saved() -> dict[str, int]:
    """On how many patterns the saved bytes are those that torch's hooks report."""
    equal = 0
    for make in PATTERNS.values():
        model = make()
        found = cl.cost(model, input_shape=SHAPE).memory.backward.saved_activations
        equal += found == kept_bytes(model, torch.randn(SHAPE))
    return {"patterns": len(PATTERNS), "saved bytes equal to saved_tensors_hooks": equal}


def peaks() -> list[dict[str, Any]]:
    """Predicted over measured peaks of training steps, with oneDNN and without, and by Convolith's engines."""
    steps = {name: (make, shape) for name, (make, shape) in NETWORKS.items()}
    steps |= {f"{name} at 224": (partial(classic, name), (2, 3, 224, 224)) for name in PRODUCTS}
    rows = []
    for name, (make, shape) in steps.items():
        row: dict[str, Any] = {"network": name, "input": "x".join(map(str, shape))}
        for column, onednn in (("with oneDNN", True), ("without", False)):
            with torch.backends.mkldnn.flags(enabled=onednn):
                row |= _peak(make().train(), shape, column)
        if name in CONVERTED or name.endswith("at 224"):
            row |= _peak(cl.nn.convert(make().train()), shape, "by Convolith")
        rows.append(row)
    return rows


def _peak(model: nn.Module, shape: tuple[int, ...], column: str) -> dict[str, Any]:
    found = cl.cost(model, input_shape=shape, backward=False, optimizer="sgd", verify=True).peak
    return {
        f"{column}, MB": round(found.measured / 1e6, 1),
        f"{column}: predicted / measured": found.bytes / found.measured,
    }


def timed(name: str, batch: int, rounds: int) -> dict[str, Any]:
    """Seconds of counting a network forward and backward on fake tensors, of both that can."""
    model, x = classic(name).eval(), torch.zeros(1, 3, 224, 224).expand(batch, 3, 224, 224)
    shape = tuple(x.shape)
    runners = {
        "convolith": lambda: cl.cost(model, input_shape=shape),
        "torch": lambda: fake(model, torch.empty(shape, device="cpu")),
        "peak": lambda: cl.cost(model, input_shape=shape, optimizer="sgd"),
        "control": lambda: cl.cost(model, input_shape=shape),
    }
    times = race(runners, rounds)
    return {
        "network": f"{name}, batch {batch}",
        "s": times["convolith"],
        "FlopCounterMode / convolith": times["torch"] / times["convolith"],
        "s with the peak": times["peak"],
        "control": times["convolith"] / times["control"],
    }


MEMORY = """
import torch, convolith as cl
from bench.networks.classics import classic
model = classic("resnet50")
cl.cost(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), input_shape=(1, 3, 8, 8), optimizer="sgd")
open("/proc/self/clear_refs", "w").write("5")
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024
before = peak()
cl.cost(model, input_shape=(256, 3, 224, 224), optimizer="sgd")
print(peak() - before)
"""


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Timed blocks of each.")
@json_option
def cost(rounds: int, path: Path | None) -> None:
    """Hold counts, saved bytes and peaks against what is true, compare counters, and time them."""
    run = Run("cost", rounds=rounds)
    run.add("Exact", [brute_force() | saved()])
    networks = []  # before the layers, whose refusals leave some counters' patches behind
    for name, products in PRODUCTS.items():
        first = next(module for module in classic(name).modules() if isinstance(module, nn.Conv2d))
        size = 55 if name == "alexnet" else 224 // first.stride[0]
        backward = 2 * products - first.weight.numel() * size**2
        networks.append(judged(name, Case(partial(classic, name), (1, 3, 224, 224), products, backward)))
    run.add("Networks at 224x224: products, forward / backward", networks)
    run.add("Awkward layers: products, forward / backward", [judged(name, case) for name, case in LAYERS.items()])
    run.add("Peaks of training steps", peaks())
    times = [timed(name, batch, rounds) for name, batch in (("resnet50", 1), ("resnet50", 256), ("efficientnet_b0", 1))]
    run.add("Seconds, forward and backward", times)
    measured = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)  # noqa: S603
    run.figures["MB in addition to torch and ResNet-50, batch 256 with the peak"] = float(measured.stdout)
    run.close(path)
