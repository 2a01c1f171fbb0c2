"""`convolith cost`: operations and bytes of a layer, in closed form, or of a model, counted before it runs."""

from __future__ import annotations

from typing import Any

import click

from convolith.cli.options import (
    emit,
    factors_of,
    geometry_options,
    html_option,
    input_of_model,
    json_option,
    megabytes,
    quantity,
    shape,
)
from convolith.cli.shapes import layer_spec
from convolith.errors import ConvolithError
from convolith.work import CONVENTIONS

SORTS = ("order", "macs", "multiplications", "additions", "backward", "parameters")
OPTIMIZERS = ("sgd", "momentum", "adam")
"""Values of --sort and --peak, which the cost of a model has too; it is not imported for them, since it needs torch."""
OF_LAYERS = ("stride", "padding", "dilation", "groups", "padding_mode", "bias", "no_input_gradient")
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
@geometry_options()
@click.option(
    "--dtype",
    default="float32",
    help="Dtype of x and the kernel, or of the model's inputs.  [default: float32; for a model, that of its "
    "parameters]",
)
@click.option("--bias", is_flag=True, help="Count a layer with a bias.")
@click.option(
    "--convention",
    type=click.Choice(CONVENTIONS),
    default="dense",
    show_default=True,
    help="Whether products with the zeros of the padding count: dense counts them, as most tools do; effective does "
    "not.",
)
@click.option("--no-input-gradient", is_flag=True, help="Leave out the gradient of the input, as for a first layer.")
@click.option(
    "--scale",
    multiple=True,
    metavar="NAME=FACTOR",
    help="Compare with a scaled layer or model, such as in_channels=2 (repeatable).",
)
@click.option(
    "--input",
    "shapes",
    type=input_of_model,
    multiple=True,
    metavar="SHAPE[:DTYPE]",
    help="Shape of one model input, such as 1,3,224,224 or 2,128:int64 (repeatable).",
)
@click.option("--train", is_flag=True, help="Count the model in training mode.")
@click.option("--forward-only", is_flag=True, help="Count the forward pass only.")
@click.option("--input-gradient", is_flag=True, help="Count the gradient of the model's input as well.")
@click.option(
    "--run", "real", is_flag=True, help="Run the model on a random input, for models whose code depends on values."
)
@click.option("--strict", is_flag=True, help="Exit with 1 if an operator of the model cannot be counted.")
@click.option("--depth", type=int, default=2, show_default=True, help="Depth to which the model's modules are shown.")
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default="order",
    show_default=True,
    help="Order of the modules: order (that of the model), or the largest first by macs, multiplications, additions, "
    "backward (macs) or parameters.",
)
@click.option("--top", type=int, help="Number of modules to show.")
@click.option(
    "--peak", type=click.Choice(OPTIMIZERS), help="Predict the peak memory of a training step with this optimizer."
)
@click.option("--verify", is_flag=True, help="Also run a training step, and measure its peak memory; needs --peak.")
@click.option(
    "--fits",
    type=quantity,
    metavar="BYTES",
    help="Find the largest batch whose training step fits into this memory, such as 16G (1G is 10^9 bytes); needs "
    "--peak.",
)
@click.option(
    "--law",
    is_flag=False,
    flag_value="batch,size",
    metavar="[NAMES]",
    help="Print how the counts grow with batch, size, channels, kernel_size (comma-separated; batch,size by default).",
)
@click.option("--max-macs", type=quantity, help="Exit with 1 if the forward pass takes more multiply-adds, such as 5G.")
@click.option("--max-parameters", type=quantity, help="Exit with 1 if the model has more parameters, such as 25M.")
@click.option(
    "--max-peak-mb",
    type=megabytes,
    metavar="MB",
    help="Exit with 1 if the peak memory of a training step is larger than this number of MB (10^6 bytes), such as "
    "4000; needs --peak.",
)
@click.option(
    "--baseline", "baseline_file", metavar="FILE", help="Exit with 1 if a total grew since this baseline was saved."
)
@click.option("--save-baseline", metavar="FILE", help="File to save the totals in, as a baseline.")
@click.option("--csv", "csv_file", metavar="FILE", help="CSV file with one row for each module.")
@html_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, subject: str, k_shape: Any, *, as_json: bool, **options: Any) -> None:
    """Count multiplications, additions and bytes of a layer or a model, forward and backward.

    A layer has the shapes (N, in_channels, *size) and (out_channels, in_channels/groups, *kernel_size). FACTORY is a
    function without arguments that returns a model; it may be in the current folder. Nothing is allocated or computed,
    unless --run or --verify is given.

    Example: convolith cost 1,64,56,56 64,64,3,3 --padding 1 --scale in_channels=2 --scale out_channels=2

    Example: convolith cost my_models:resnet --input 1,3,224,224 --train --sort macs --top 10
    """
    of_model = ":" in subject
    wrong = OF_LAYERS if of_model else (*OF_MODELS, *OF_STEPS)
    default = click.core.ParameterSource.DEFAULT
    unsuitable = [name for name in wrong if ctx.get_parameter_source(name) not in (default, None)]
    if unsuitable:
        name = {"shapes": "input", "csv_file": "csv", "baseline_file": "baseline", "real": "run"}.get(
            unsuitable[0], unsuitable[0]
        ).replace("_", "-")
        kind = "a model" if of_model else "a layer"
        raise ConvolithError(
            f"--{name} was given, but {subject} is {kind}, which has no such option; leave --{name} out"
        )
    if of_model:
        if k_shape is not None:
            raise ConvolithError(
                f"K_SHAPE was given together with the model {subject}; leave it out, and give the shapes of the "
                "model's inputs by --input"
            )
        from convolith.cli.cost.model import count

        dtype = None if ctx.get_parameter_source("dtype") is default else options["dtype"]
        count(subject, options | {"dtype": dtype}, as_json=as_json)
    else:
        if k_shape is None:
            raise ConvolithError(
                f"K_SHAPE is missing for the input {subject}; expected (out_channels, in_channels/groups, "
                "*kernel_size), such as 64,64,3,3"
            )
        rest = {name: options[name] for name in (*OF_LAYERS, "scale", "convention", "dtype")}
        _layer(shape(subject), k_shape, as_json=as_json, **rest)


def _layer(
    x_shape: Any, k_shape: Any, *, convention: str, no_input_gradient: bool, scale: Any, as_json: bool, **options: Any
) -> None:
    from convolith.costing import cost

    spec = layer_spec(x_shape, k_shape, **options)
    counted = cost(spec, convention=convention, input_gradient=not no_input_gradient)
    data, tables = counted.as_dict(), counted.tables()
    if scale:
        scaled = counted.scaled(**factors_of(scale))
        data["scaled"] = {"by": scaled.by, "factors": scaled.factors, "after": scaled.after.as_dict()}
        tables.append(scaled.table())
    emit(as_json=as_json, data=data, tables=tables)
