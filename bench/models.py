"""`python -m bench models`: whole networks, optimised, against the runtimes that people use on a CPU, in turn."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from itertools import pairwise
from math import exp, log, prod
from pathlib import Path
from shutil import which
from typing import Any

import click
import torch
from torch import nn

import convolith as cl
from bench.networks.deployed import BATCHES, DEPLOYED, Deployed
from bench.runs import Run, json_option
from bench.timing import CONTROL_TOLERANCE, race
from convolith.report.progress import track

Runner = Callable[[], Any]
CLASSIFIERS = ("ResNet-50", "MobileNetV2", "ConvNeXt-T", "RegNet-Y", "RepVGG-A0", "EfficientNet-B0", "DenseNet-121")
EAGER = ("eager", "channels_last")


def by_torch(model: nn.Module, x: torch.Tensor) -> Runner:
    """The model as it is."""
    return lambda: model(x)


def by_torch_channels_last(model: nn.Module, x: torch.Tensor) -> Runner:
    """The model and its input in torch's other format."""
    import copy

    layout = {4: torch.channels_last, 5: torch.channels_last_3d}[x.ndim]
    other, y = copy.deepcopy(model).to(memory_format=layout), x.to(memory_format=layout)
    return lambda: other(y)


def exported(model: nn.Module, x: torch.Tensor) -> bytes:
    """The model in ONNX."""
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), target, input_names=["x"], dynamo=False)
    return target.getvalue()


def by_onnxruntime(model: nn.Module, x: torch.Tensor) -> Runner:
    """ONNX Runtime with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exported(model, x), options, providers=["CPUExecutionProvider"])
    given = {"x": x.numpy()}
    return lambda: session.run(None, given)


def by_openvino(model: nn.Module, x: torch.Tensor) -> Runner:
    """OpenVINO in float32, as one stream."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(exported(model, x)), "CPU", settings).create_infer_request()
    given = x.numpy()
    return lambda: request.infer({0: given}, share_inputs=True, share_outputs=True)


def by_ncnn(model: nn.Module, x: torch.Tensor) -> Runner:
    """The program ncnn in float32, which takes one image."""
    import ncnn
    import pnnx

    if len(x) > 1:
        raise ValueError("ncnn takes one image")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = str(Path(folder) / "model")
        torch.jit.trace(model, x).save(f"{path}.pt")
        shape = f"inputshape=[{','.join(map(str, x.shape))}]"
        subprocess.run(  # noqa: S603 - the program of the package
            [pnnx.EXEC_PATH, f"{path}.pt", shape, "fp16=0"], check=True, capture_output=True
        )
        net = ncnn.Net()
        net.opt.num_threads = torch.get_num_threads()
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(net.opt, f"use_{option}", False)
        if net.load_param(f"{path}.ncnn.param") or net.load_model(f"{path}.ncnn.bin"):
            raise ValueError("ncnn cannot read it")
    given = ncnn.Mat(x[0].numpy())

    def run() -> Any:
        extractor = net.create_extractor()
        extractor.input("in0", given)
        status, result = extractor.extract("out0")
        if status:
            raise ValueError("ncnn cannot run it")
        return result

    return run


def by_compiler(model: nn.Module, x: torch.Tensor) -> Runner:
    """`torch.compile` with frozen weights, by torch's own default back end, which needs a C++ compiler."""
    import torch._inductor.config as settings

    with settings.patch(freezing=True):
        compiled = torch.compile(model)
        compiled(x)
    return lambda: compiled(x)


PEERS: dict[str, tuple[str, Callable[[nn.Module, torch.Tensor], Runner]]] = {
    "eager": ("torch", by_torch),
    "channels_last": ("torch", by_torch_channels_last),
    "ONNX Runtime": ("onnxruntime", by_onnxruntime),
    "OpenVINO": ("openvino", by_openvino),
    "ncnn": ("pnnx", by_ncnn),
    "torch.compile": ("torch", by_compiler),
}
"""Package and runner of each peer."""


SLOW_TO_MAKE = ("torch.compile",)
"""Peers that are made on request only: a minute for each network."""


def row(name: str, network: Deployed, rounds: int, peers: Sequence[str]) -> tuple[dict[str, Any], float]:
    """Time a network and some peers, and return its row and its control."""
    model = network.factory().eval()
    x = torch.randn(network.shape, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = cl.optimize(model, x)
    preparing = time.perf_counter() - start
    runners: dict[str, Runner] = {"convolith": by_torch(fast.model, x), "control": by_torch(fast.model, x)}
    missing = []
    with torch.no_grad():
        for peer in peers:
            package, make = PEERS[peer]
            if find_spec(package) is None or (peer == "channels_last" and x.ndim < 4):
                continue
            try:
                runners[peer] = make(model, x)
                runners[peer]()
            except Exception as problem:  # noqa: BLE001 - whatever a peer raises
                missing.append(f"{peer}: {str(problem).splitlines()[0][:60]}")
        times = race(runners, rounds)
    for problem in missing:
        click.echo(f"{name}: {problem}", err=True)
    ours = times.pop("convolith")
    control = times.pop("control") / ours
    best = min(times.values()) / ours
    found = {"network": name, "ms": 1e3 * ours, **{peer: t / ours for peer, t in times.items()}}
    found |= {
        "best": best,
        "target": network.target,
        "eager's better": min(times[p] for p in EAGER if p in times) / ours,
    }
    return found | {
        "by torch": sum(fast.report.islands.values()),
        "error": fast.report.error,
        "s to optimise": preparing,
        "control": control,
    } | inside(fast.report, ours), control


def inside(report: Any, seconds: float) -> dict[str, float]:
    """Return the share of a call between the steps, and the memory of weights and tensors in units of the least."""
    steps = [step for step in report.steps if step.seconds is not None]
    sizes = [4 * prod(step.shape) for step in report.steps]
    pair = max((a + b for a, b in pairwise(sizes)), default=0)
    return {
        "between": max(0.0, 1 - sum(step.seconds for step in steps) / seconds),
        "weights": 1 + report.prepared_bytes / max(report.weight_bytes, 1),
        "arena": report.arena_bytes / max(pair, 1),
    }


def equal_classes(network: Deployed, count: int) -> int:
    """Return for how many random inputs a classifier's largest output is the same before and after."""
    model = network.factory().eval()
    generator = torch.Generator().manual_seed(1)
    fast = cl.optimize(model, torch.randn(network.shape, generator=generator), measure=False).model
    equal = 0
    with torch.no_grad():
        for _ in track(range(count), "comparing", count, shown=True):
            x = torch.randn(network.shape, generator=generator)
            equal += int(fast(x).argmax()) == int(model(x).argmax())
    return equal


@contextmanager
def a_busy_core() -> Iterator[None]:
    """Keep another process busy."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()


@click.command()
@click.option("--count", default=1000, show_default=True, help="Random inputs of each classifier.")
@json_option
def classes(count: int, path: Path | None) -> None:
    """Count for how many random inputs optimised classifiers give the class that they gave before."""
    rows = []
    for name in CLASSIFIERS:
        rows.append({"network": name, "same class": equal_classes(DEPLOYED[name], count), "of": count})
        click.echo(rows[-1], err=True)
    run = Run("classes")
    run.add("Classes of random inputs", rows)
    run.close(path)


@click.command()
@click.option("--only", help="Networks whose name contains this.")
@click.option("--rounds", default=5, show_default=True, help="Timed blocks of each runner.")
@click.option("--threads", type=click.IntRange(1), help="Threads of every runner; by default torch's.")
@click.option("--compile", "compiling", is_flag=True, help="Time torch.compile too, which takes a minute per network.")
@click.option("--busy", is_flag=True, help="Keep another process busy, and compare with eager torch alone.")
@json_option
def models(
    only: str | None, rounds: int, threads: int | None, *, compiling: bool, busy: bool, path: Path | None
) -> None:
    """Whole networks, optimised, against torch, ONNX Runtime, OpenVINO and ncnn, where these are installed."""
    peers = [peer for peer in PEERS if peer not in SLOW_TO_MAKE or (compiling and which("g++"))]
    if threads is not None:
        torch.set_num_threads(threads)
    networks = {name: n for name, n in {**DEPLOYED, **BATCHES}.items() if only is None or only.lower() in name.lower()}
    run = Run("busy" if busy else "models", rounds=rounds)
    rows = []
    with a_busy_core() if busy else nullcontext():
        for name in track(list(networks), "timing", len(networks), shown=len(networks) > 1):
            found, control = row(name, networks[name], rounds, EAGER[:1] if busy else peers)
            rows.append(found)
            run.controls.append(control)
            shown = [f"{key} {value:.3g}" if isinstance(value, float) else f"{value}" for key, value in found.items()]
            click.echo("  ".join(shown), err=True)
    run.add("Time of a peer over Convolith's (above 1: Convolith is faster)", rows)
    run.figures["geometric mean over the best peer"] = _mean([r["best"] for r in rows])
    run.figures["least over the best peer"] = min(r["best"] for r in rows)
    run.figures["geometric mean over the better of torch's formats"] = _mean([r["eager's better"] for r in rows])
    run.figures["rows whose control is off"] = sum(abs(c - 1) > CONTROL_TOLERANCE for c in run.controls)
    run.close(path, complete=only is None)


def _mean(values: list[float]) -> float:
    return exp(sum(map(log, values)) / len(values))
