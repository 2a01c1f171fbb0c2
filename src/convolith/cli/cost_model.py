"""`convolith cost` of a model: what is counted, what more is asked, what is written, and what is over budget."""

from __future__ import annotations

import csv
import io
import sys
from contextlib import redirect_stdout
from typing import Any

import click
import torch

from convolith.cli.cost_page import cost_page
from convolith.cli.factory import model_of
from convolith.cli.files import Output
from convolith.cli.options import emit, factors_of
from convolith.costing import ModelCost, budget, cost
from convolith.engines.protocol import torch_dtype
from convolith.errors import ConvolithError
from convolith.report.plots import check_available
from convolith.report.table import Table


def count(factory: str, options: dict[str, Any], *, as_json: bool) -> None:
    """Count a model and tell of it; exit with 1 if it is over budget.

    Args:
        factory: package.module:factory.
        options: those of the command, by name.
        as_json: whether what is told is JSON.
    """
    _check(factory, options)
    endings = {"csv_file": (".csv",), "html": (".html",), "save_baseline": (".json",)}
    files = {name: Output(options[name], ends) for name, ends in endings.items() if options[name] is not None}
    if "html" in files:
        check_available()
    before = None if options["baseline_file"] is None else budget.read_baseline(options["baseline_file"])
    with redirect_stdout(sys.stderr):  # whatever the model's own code prints
        model = model_of(factory).train(options["train"])
        counted = cost(
            model,
            **_inputs(model, options),
            convention=options["convention"],
            backward=not options["forward_only"],
            input_gradient=options["input_gradient"],
            optimizer=options["peak"],
            verify=options["verify"],
        )
        data, tables = _told(counted, options)
    exceeded = budget.over(counted, _limits(options))
    changed, grew = ([], False) if before is None else budget.changes(before, counted)
    data |= {"over_budget": None if exceeded is None else exceeded.rows, "grew": grew}
    texts = {
        "csv_file": lambda: _csv(counted.table(depth=None, sort=options["sort"], full=True).rows),
        "html": lambda: cost_page(counted, factory, options["shapes"]),
        "save_baseline": lambda: budget.baseline(counted),
    }
    for name, file in files.items():
        _write(file, texts[name]())
    emit(as_json=as_json, data=data, tables=[*tables, *([exceeded] if exceeded else []), *changed])
    unknown = sorted(counted.unknown) if options["strict"] else []
    if unknown:
        told = ", ".join(unknown)
        click.echo(f"--strict: operators without a rule: {told}; the totals are lower bounds", err=True)
    if exceeded or grew or unknown:
        sys.exit(1)


def _write(file: Output, text: str) -> None:
    file.write(lambda stream: stream.write(text.encode()))


def _check(factory: str, options: dict[str, Any]) -> None:
    if not options["shapes"]:
        raise ConvolithError(
            f"--input is missing: the model {factory} needs the shape of its input, such as 1,3,224,224"
        )
    for name in ("verify", "fits", "max_peak_mb"):
        if options[name] and options["peak"] is None:
            option = name.replace("_", "-")
            raise ConvolithError(f"--{option} was given without --peak, the optimizer of the step; pass --peak sgd")


def _inputs(model: torch.nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """How `cost` is told of the inputs: by shape, or as random numbers."""
    shapes, dtype = options["shapes"], options["dtype"]
    if not options["real"]:
        return {"input_shape": shapes, "input_dtype": dtype}
    usual = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    kind = usual if dtype is None else torch_dtype(dtype)
    drawn = torch.Generator().manual_seed(0)
    return {"example_input": tuple(torch.randn(one, generator=drawn).to(kind) for one in shapes), "run": True}


def _told(counted: ModelCost, options: dict[str, Any]) -> tuple[dict[str, Any], list[Table]]:
    """The cost, and what else is asked of it, as data and as tables."""
    data, tables = counted.as_dict(), counted.tables(**{name: options[name] for name in ("depth", "sort", "top")})
    if options["scale"]:
        scaled = counted.scaled(**factors_of(options["scale"]))
        data["scaled"] = {"by": scaled.by, "factors": scaled.factors, "after": scaled.after.counts()}
        tables.append(scaled.table())
    if options["law"]:
        law = counted.law()
        data["law"] = {name: str(found) for name, found in law.expressions.items()}
        data["law_period"] = law.period
        tables.append(law.table())
    if options["fits"] is not None:
        data["largest_batch"] = counted.largest_batch(options["fits"])
        tables.append(Table(f"The largest batch in {options['fits']:,.0f} bytes", [{"batch": data["largest_batch"]}]))
    return data, tables


def _limits(options: dict[str, Any]) -> dict[str, float]:
    """Of totals by their names, those that were given."""
    most = options["max_peak_mb"]
    limits = {
        "forward macs": options["max_macs"],
        "parameters": options["max_parameters"],
        "peak, bytes": None if most is None else 1e6 * most,
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


def _csv(rows: Any) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
