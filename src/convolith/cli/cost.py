"""`convolith cost`: a layer's operations and bytes in closed form, or a model's, counted before it runs."""

from __future__ import annotations

import csv
import io
import sys
from contextlib import redirect_stdout
from typing import Any

import click

from convolith.cli.factory import model_of
from convolith.cli.files import Output
from convolith.cli.options import emit, geometry_options, json_option, parse_factor, quantity, shape
from convolith.cli.shapes import layer_spec
from convolith.errors import ConvolithError
from convolith.report.plots import check_available
from convolith.report.table import Table
from convolith.work import CONVENTIONS

OF_LAYERS = ("stride", "padding", "dilation", "groups", "padding_mode", "bias", "no_input_gradient", "scale")
OF_MODELS = (
    "shapes",
    "real",
    "train",
    "forward_only",
    "input_gradient",
    "strict",
    "depth",
    "sort",
    "top",
    "csv_file",
    "html",
)
OF_STEPS = (
    "law",
    "peak",
    "verify",
    "fits",
    "max_macs",
    "max_parameters",
    "max_peak_mb",
    "baseline_file",
    "save_baseline",
)


@click.command()
@click.argument("subject", metavar="X_SHAPE|PACKAGE.MODULE:FACTORY")
@click.argument("k_shape", type=shape, required=False)
@geometry_options
@click.option("--dtype", default="float32", show_default=True, help="Of x and the kernel, or of a model's input.")
@click.option("--bias", is_flag=True, help="A layer with a bias.")
@click.option("--convention", type=click.Choice(CONVENTIONS), default="dense", show_default=True)
@click.option("--no-input-gradient", is_flag=True, help="A first layer: its input needs no gradient.")
@click.option("--scale", multiple=True, metavar="NAME=FACTOR", help="What if, such as in_channels=2; may be repeated.")
@click.option(
    "--input", "shapes", type=shape, multiple=True, help="Of a model, the shape of an input: 1,3,224,224; one each."
)
@click.option("--train", is_flag=True, help="The model in training mode.")
@click.option("--forward-only", is_flag=True, help="No backward pass of the model.")
@click.option("--input-gradient", is_flag=True, help="The model's input has a gradient.")
@click.option("--run", "real", is_flag=True, help="Count for a random example, which decides what the model computes.")
@click.option("--strict", is_flag=True, help="Exit with 1 if an operator of the model has no rule.")
@click.option("--depth", type=int, default=2, show_default=True, help="How deep the model's modules are shown.")
@click.option("--sort", default="order", show_default=True, help="Modules by macs, parameters, backward and others.")
@click.option("--top", type=int, help="How many modules are shown.")
@click.option("--peak", metavar="OPTIMIZER", help="The most memory of a training step: with sgd, momentum or adam.")
@click.option("--verify", is_flag=True, help="Run such a step too, and measure it.")
@click.option("--fits", type=quantity, metavar="BYTES", help="The largest batch of a step in so much memory: 16G.")
@click.option("--law", is_flag=True, help="How the counts grow with the batch and the size of the input.")
@click.option("--max-macs", type=quantity, help="Exit with 1 above so many forward: 5G.")
@click.option("--max-parameters", type=quantity, help="Likewise of parameters: 25M.")
@click.option("--max-peak-mb", type=float, help="Likewise of the peak, in 10^6 bytes; needs --peak.")
@click.option("--baseline", "baseline_file", metavar="FILE", help="Exit with 1 if a total grew since it was saved.")
@click.option("--save-baseline", metavar="FILE", help="Where to save the totals as a baseline.")
@click.option("--csv", "csv_file", metavar="FILE", help="Where to write every module as a row.")
@click.option("--html", metavar="FILE", help="Where to write the model's report as a page.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, subject: str, k_shape: Any, *, as_json: bool, **options: Any) -> None:
    """Count multiplications, additions and bytes of a layer or a model, forward and backward.

    Of a layer, shapes are (N, in_channels, *size) and (out_channels, in_channels/groups, *kernel_size). A model is what
    FACTORY gives, a function without arguments, imported from the current folder too; nothing is allocated or computed.
    "dense" counts products with the zeros of the padding, "effective" leaves them out.

    Example: convolith cost 1,64,56,56 64,64,3,3 --padding 1 --scale in_channels=2 --scale out_channels=2

    Example: convolith cost my_models:resnet --input 1,3,224,224 --train --sort macs --top 10
    """
    of_model = ":" in subject
    wrong = OF_LAYERS if of_model else (*OF_MODELS, *OF_STEPS)
    default = click.core.ParameterSource.DEFAULT
    given = [name for name in wrong if ctx.get_parameter_source(name) not in (default, None)]
    if given:
        name = {"shapes": "input", "csv_file": "csv", "baseline_file": "baseline", "real": "run"}.get(
            given[0], given[0]
        ).replace("_", "-")
        kind = "a model" if of_model else "a layer"
        raise ConvolithError(f"--{name} was given, but {subject} is {kind}, which has no such option")
    if of_model:
        if k_shape is not None:
            raise ConvolithError(f"K_SHAPE was given beside the model {subject}; its inputs are --input")
        dtype = None if ctx.get_parameter_source("dtype") is default else options["dtype"]
        _model(
            subject,
            as_json=as_json,
            dtype=dtype,
            **{name: options[name] for name in (*OF_MODELS, *OF_STEPS, "convention")},
        )
    else:
        if k_shape is None:
            raise ConvolithError(
                f"K_SHAPE is missing beside {subject}; expected (out_channels, in_channels/groups, *kernel_size), such "
                "as 64,64,3,3"
            )
        rest = {name: options[name] for name in (*OF_LAYERS, "convention", "dtype")}
        _layer(shape(subject), k_shape, as_json=as_json, **rest)


def _layer(
    x_shape: Any, k_shape: Any, *, convention: str, no_input_gradient: bool, scale: Any, as_json: bool, **options: Any
) -> None:
    from convolith.costing import cost

    spec = layer_spec(x_shape, k_shape, **options)
    counted = cost(spec, convention=convention, input_gradient=not no_input_gradient)
    data, tables = counted.as_dict(), counted.tables()
    if scale:
        factors = dict(map(parse_factor, scale))
        if len(factors) < len(scale):
            raise ConvolithError(f"scale is {', '.join(scale)}; expected each name once")
        scaled = counted.scaled(**factors)
        data["scaled"] = {"by": scaled.by, "factors": scaled.factors, "after": scaled.after.as_dict()}
        tables.append(scaled.table())
    emit(as_json=as_json, data=data, tables=tables)


def _model(
    factory: str,
    *,
    shapes: tuple[tuple[int, ...], ...],
    train: bool,
    forward_only: bool,
    input_gradient: bool,
    real: bool,
    strict: bool,
    depth: int,
    sort: str,
    top: int | None,
    csv_file: str | None,
    html: str | None,
    peak: str | None,
    verify: bool,
    law: bool,
    fits: float | None,
    max_macs: float | None,
    max_parameters: float | None,
    max_peak_mb: float | None,
    baseline_file: str | None,
    save_baseline: str | None,
    convention: str,
    dtype: str | None,
    as_json: bool,
) -> None:
    if not shapes:
        raise ConvolithError(
            f"--input is missing: the model {factory} needs the shape of its input, such as 1,3,224,224"
        )
    sheet = None if csv_file is None else Output(csv_file, (".csv",))
    page = None if html is None else Output(html, (".html",))
    if page:
        check_available()
    kept = None if save_baseline is None else Output(save_baseline, (".json",))
    for name, value in (("verify", verify or None), ("fits", fits), ("max-peak-mb", max_peak_mb)):
        if value is not None and peak is None:
            raise ConvolithError(f"--{name} was given without --peak, the optimizer of the step; pass --peak sgd")
    from convolith.costing import budget, cost

    before = None if baseline_file is None else budget.read_baseline(baseline_file)

    with redirect_stdout(sys.stderr):  # whatever the model's own code prints
        model = model_of(factory).train(train)
        counted = cost(
            model,
            **_inputs(model, shapes, dtype, real=real),
            convention=convention,
            backward=not forward_only,
            input_gradient=input_gradient,
            optimizer=peak,
            verify=verify,
        )
        largest = None if fits is None else counted.largest_batch(fits)
    tables = counted.tables(depth=depth, sort=sort, top=top)
    if sheet:
        text = _csv(counted.table(depth=None, sort=sort, full=True).rows)
        sheet.write(lambda file: file.write(text.encode()))
    if page:
        from convolith.cli.cost_page import cost_page

        content = cost_page(counted, factory, shapes)
        page.write(lambda file: file.write(content.encode()))
    data = counted.as_dict()
    if law:
        grows = counted.law()
        data["law"] = {name: str(found) for name, found in grows.expressions.items()}
        data["law_period"] = grows.period
        tables.append(grows.table())
    if largest is not None:
        data["largest_batch"] = largest
        tables.append(Table(f"The largest batch in {fits:,.0f} bytes", [{"batch": largest}]))
    limits = {"forward macs": max_macs, "parameters": max_parameters}
    limits |= {"peak, bytes": None if max_peak_mb is None else 1e6 * max_peak_mb}
    exceeded = budget.over(counted, {name: limit for name, limit in limits.items() if limit is not None})
    changed, grew = ([], False) if before is None else budget.changes(before, counted)
    found = [*([exceeded] if exceeded else []), *changed]
    data["over_budget"] = None if exceeded is None else exceeded.rows
    data["grew"] = grew
    if kept:
        text = budget.baseline(counted)
        kept.write(lambda file: file.write(text.encode()))
    emit(as_json=as_json, data=data, tables=[*tables, *found])
    if strict and counted.unknown:
        names = ", ".join(sorted(counted.unknown))
        click.echo(f"--strict: operators without a rule: {names}; the totals are lower bounds", err=True)
    if exceeded or grew or (strict and counted.unknown):
        sys.exit(1)


def _inputs(model: Any, shapes: tuple[tuple[int, ...], ...], dtype: str | None, *, real: bool) -> dict[str, Any]:
    """How `cost` is told of the inputs: by shape, or as random numbers."""
    if not real:
        return {"input_shape": shapes, "input_dtype": dtype}
    import torch

    from convolith.engines.protocol import torch_dtype

    usual = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    kind = usual if dtype is None else torch_dtype(dtype)
    drawn = torch.Generator().manual_seed(0)
    return {"example_input": tuple(torch.randn(one, generator=drawn).to(kind) for one in shapes), "run": True}


def _csv(rows: Any) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
