"""`python -m bench.zoo.row TITLE`: one model in a process of its own, what is known of it printed after each check."""

from __future__ import annotations

import copy
import json
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import nn

import convolith as cl
from bench.networks.randomise import randomised
from bench.zoo import checks
from bench.zoo.models import MODELS, Model, Shape
from bench.zoo.verdict import GRADIENT_ERROR, OUTPUT_ERROR
from convolith.report.plain import to_json

GAIN = 0.8
"""Of the random weights, so that the numbers of a deep network of many branches stay near one size."""


def shape_at(model: Model, side: int | None) -> Shape:
    """Return a row's input shape, images and volumes cut to a side where the model takes other sizes."""
    if side is None or not model.sizes:
        return model.shape
    first = min(2, len(model.shape) - 1)
    return (*model.shape[:first], *(min(n, max(side, model.smallest)) for n in model.shape[first:]))


def measured(model: Model, side: int | None) -> Iterator[dict[str, Any]]:
    """Yield what is known of a row after each check; its stage names the check that comes next."""
    shape = shape_at(model, side if len(model.shape) > 3 else None)
    row: dict[str, Any] = {"package": model.package, "model": model.name, "shape": shape, "stage": "build"}
    yield row
    torch.manual_seed(0)
    network = randomised(model.factory(), gain=GAIN)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    row["stage"] = "count"
    yield row
    before = checks.watched(network, x)
    row["norms"], row["norms behind"] = before.norms, len(before.behind)
    row["call seconds"] = checks.seconds(lambda: network(x))
    row["stage"] = "fold"
    yield row
    start = time.perf_counter()
    folded = None
    try:
        folded = cl.fold(network, x)
    except Exception as problem:  # noqa: BLE001 - a row that fails is a row
        row["fold problem"] = _told(problem)
    row["fold seconds"] = time.perf_counter() - start
    if folded is not None:
        yield from _folded(row, model, network, folded, before, x)
    row["stage"] = "train"
    yield row
    small = (2, *shape_at(model, model.smallest)[1:])
    batch = torch.randn(small, generator=torch.Generator().manual_seed(3))
    row["gradient error"] = checks.gradient_error(network, batch)
    if not row["gradient error"] <= GRADIENT_ERROR:
        row["own gradient error"] = checks.gradient_rounding(network, batch)
    row["stage"] = "done"
    yield row


def _folded(
    row: dict[str, Any], model: Model, network: nn.Module, folded: Any, before: checks.Watch, x: torch.Tensor
) -> Iterator[dict[str, Any]]:
    report = folded.report
    row["convolutions"], row["convolutions after"] = report.convolutions_before, report.convolutions_after
    row["published"], row["most seconds"] = model.convolutions, model.most_seconds
    row["rewrites"] = len(report.rewrites)
    row["parts only"] = any(entry.module == "the model" and "parts" in entry.reason for entry in report.skipped)
    row["reasons"] = [f"{s.kind}: {s.module} {s.node}: {s.reason}"[:300] for s in report.skipped]
    row["stage"] = "outputs"
    yield row
    try:
        after = checks.watched(folded.model, x)
        left = checks.norms_left(before, after)
        row["norms after"], row["norms unnamed"] = len(left), checks.unnamed_norms(left, report)
        inputs = checks.other_inputs(network, tuple(x.shape), sizes=model.sizes)
        row["errors"] = checks.output_errors(network, folded.model, inputs)
        if max(row["errors"].values(), default=0.0) > OUTPUT_ERROR:
            row["own error"] = checks.rounding_error(network, inputs)
    except Exception as problem:  # noqa: BLE001 - as above
        row["output problem"] = _told(problem)
    row["stage"] = "convert"
    yield row
    try:
        converted = cl.nn.convert(copy.deepcopy(folded.model))
        row["plain"] = checks.plain_layers(converted, x)
    except Exception as problem:  # noqa: BLE001 - as above
        row["convert problem"] = _told(problem)


def _told(problem: BaseException) -> str:
    """Return a problem's type, its message and the last line of code outside of torch."""
    frames = [f for f in traceback.extract_tb(problem.__traceback__) if "/torch/" not in f.filename]
    where = f" ({'/'.join(frames[-1].filename.split('/')[-3:])}:{frames[-1].lineno})" if frames else ""
    return f"{type(problem).__name__}: {str(problem).strip()[:600]}{where}"


def main(title: str, side: int | None) -> None:
    """Print one line of JSON after each check."""
    table = {model.title: model for model in MODELS}
    if title not in table:
        sys.exit(f"no model {title}")
    out = sys.stdout
    row: dict[str, Any] = {}
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for row in measured(table[title], side):
                print(json.dumps(json.loads(to_json(row))), file=out, flush=True)
        except Exception as problem:  # noqa: BLE001 - as above
            row["problem"] = _told(problem)
            print(json.dumps(json.loads(to_json(row))), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
