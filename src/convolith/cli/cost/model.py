"""`convolith cost` of a model: counts, scalings and laws, output files, and the check of budgets."""

from __future__ import annotations

import csv
import io
import sys
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import click
import torch

from convolith.cli.cost import budget
from convolith.cli.cost.html_page import cost_page
from convolith.cli.factory import model_of
from convolith.cli.io.files import Output
from convolith.cli.options import emit, factors_of
from convolith.cli.words import Words, in_words_of_the_command
from convolith.costing import ModelCost, cost
from convolith.costing.api import model_dtype, usual_dtype
from convolith.errors import ConvolithError
from convolith.report.plots import check_available
from convolith.report.table import Table

WORDS: Words = (
    (r"^law was called with\b", "--law is"),
    (r"^(a law|scaled) is of one input\b.*", "--law and --scale take one input (N, channels, *size); pass one --input"),
    (r"\bpass run=True with an example_input\b", "pass --run"),
    (r"\bpass backward=False to count\b", "pass --forward-only to count"),
    (r"\bleave optimizer out$", "leave --peak out"),
)
"""Words of `cost`, in those of the command."""


def count(factory: str, options: dict[str, Any], *, as_json: bool) -> None:
    """Count a model and print the result; exit with 1 if it is over budget.

    Args:
        factory: package.module:factory.
        options: options of the command, by name.
        as_json: whether the output is JSON.
    """
    _check(factory, options)
    endings = {"csv_file": (".csv",), "html": (".html",), "save_baseline": (".json",)}
    files = {
        name: Output(options[name], ends, f"--{name.removesuffix('_file').replace('_', '-')}")
        for name, ends in endings.items()
        if options[name] is not None
    }
    if "html" in files:
        check_available()
    before = None if options["baseline_file"] is None else budget.read_baseline(options["baseline_file"])
    with redirect_stdout(sys.stderr), in_words_of_the_command(WORDS):  # the model's own code may print
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
        data, more = _requested(counted, options)
    exceeded = budget.over(counted, _limits(options))
    changed, grew = ([], False) if before is None else budget.changes(before, counted)
    data |= {"over_budget": None if exceeded is None else exceeded.rows, "grew": grew}
    more += [*([exceeded] if exceeded else []), *changed]
    texts = {
        "csv_file": lambda: _csv(counted.table(depth=None, sort=options["sort"], full=True).rows),
        "html": lambda: cost_page(counted, factory, more),
        "save_baseline": lambda: budget.baseline(counted),
    }
    for name, file in files.items():
        _write(file, texts[name]())
    shown = counted.tables(**{name: options[name] for name in ("depth", "sort", "top")})
    emit(as_json=as_json, data=counted.as_dict() | data, tables=[*shown, *more])
    if counted.unknown:
        names, kind = ", ".join(sorted(counted.unknown)), "--strict" if options["strict"] else "Warning"
        held = "; what is within a limit may be over it" * bool(_limits(options) or before)
        click.echo(f"{kind}: operators without a rule: {names}; the totals are lower bounds{held}", err=True)
    if exceeded or grew or (counted.unknown and options["strict"]):
        sys.exit(1)


def _write(file: Output, text: str) -> None:
    file.write(lambda stream: stream.write(text.encode()))


def _check(factory: str, options: dict[str, Any]) -> None:
    if not options["shapes"]:
        raise ConvolithError(
            f"--input is missing: the model {factory} needs the shape of its input, such as 1,3,224,224"
        )
    for name in ("verify", "fits", "max_peak_mb"):
        given = options[name] is not None and options[name] is not False
        if given and options["peak"] is None:
            option = name.replace("_", "-")
            raise ConvolithError(f"--{option} was given without --peak, the optimizer of the step; pass --peak sgd")
    for name in ("peak", "law", "scale"):
        if options["real"] and options[name] not in (None, ()):
            raise ConvolithError(f"--{name} was given together with --run, but needs shapes only; omit one of the two")


def _inputs(model: torch.nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `cost` for the inputs: shapes and dtypes, or random tensors."""
    usual = str(usual_dtype(model)).removeprefix("torch.")
    shapes = [shape for shape, _ in options["shapes"]]
    dtypes = [dtype or options["dtype"] or usual for _, dtype in options["shapes"]]
    named = ["--dtype" if dtype is None else "--input" for _, dtype in options["shapes"]]
    kinds = [model_dtype(option, dtype) for option, dtype in zip(named, dtypes, strict=True)]
    if not options["real"]:
        return {"input_shape": shapes, "input_dtype": dtypes}
    generator = torch.Generator().manual_seed(0)
    return {"example_input": tuple(map(partial(_drawn, generator), shapes, kinds)), "run": True}


def _drawn(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Draw normal numbers, or integers 0 and 1, which are valid indices for every embedding table."""
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def _requested(counted: ModelCost, options: dict[str, Any]) -> tuple[dict[str, Any], list[Table]]:
    """Compute the requested scalings, laws and batch sizes, as data and as tables."""
    data: dict[str, Any] = {}
    tables: list[Table] = []
    if options["scale"]:
        scaled = counted.scaled(**factors_of(options["scale"]))
        data["scaled"] = {"by": scaled.by, "factors": scaled.factors, "after": scaled.after.counts()}
        tables.append(scaled.table())
    if options["law"] is not None:
        law = counted.law(*options["law"].split(","))
        data["law"] = {name: str(expression) for name, expression in law.expressions.items()}
        data["law_period"] = law.period
        tables.append(law.table())
    if options["fits"] is not None:
        data["largest_batch"] = counted.largest_batch(options["fits"])
        tables.append(Table(f"The largest batch in {options['fits']:,.0f} bytes", [{"batch": data["largest_batch"]}]))
    return data, tables


def _limits(options: dict[str, Any]) -> dict[str, float]:
    """Return the limits that were passed, by the names of the totals."""
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
