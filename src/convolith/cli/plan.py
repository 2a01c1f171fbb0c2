"""`convolith plan`: the engine that computes a layer, and the reason for its choice."""

from __future__ import annotations

from typing import Any

import click

from convolith.cli.options import emit, engine_options, geometry_options, json_option, shape
from convolith.cli.shapes import layer_spec
from convolith.planner import plan
from convolith.planner.choose import BUDGET_SECONDS


@click.command()
@click.argument("x_shape", type=shape)
@click.argument("k_shape", type=shape)
@geometry_options
@engine_options
@click.option("--dtype", default="float32", show_default=True, help="Dtype of x.")
@click.option("--kernel-dtype", help="Dtype of the kernel, if it differs.")
@click.option("--bias", is_flag=True, help="Add a bias.")
@click.option("--measure", is_flag=True, help="Time the engines on this machine, and store the result.")
@click.option(
    "--budget", default=BUDGET_SECONDS, show_default=True, metavar="SECONDS", help="Time that measuring may take."
)
@json_option
def command(
    *,
    x_shape: Any,
    k_shape: Any,
    engine: str,
    accuracy: str,
    measure: bool,
    budget: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Show every engine's time and work for correlating X_SHAPE with K_SHAPE, and the choice with its reason.

    Times are estimates from counted work and the machine's limits, or earlier measurements on this machine.

    Shapes are (N, in_channels, *size) and (out_channels, in_channels/groups, *kernel_size).

    Example: convolith plan 1,64,56,56 64,64,3,3 --padding 1
    """
    effort = "measure" if measure else "estimate"
    spec = layer_spec(x_shape, k_shape, **options)
    chosen = plan(spec, accuracy=accuracy, engine=engine, effort=effort, budget=budget)
    table = chosen.table()
    data = {
        "layer": table.title,
        "engine": chosen.engine,
        "accuracy": accuracy,
        "effort": effort,
        "candidates": table.rows,
    }
    emit(as_json=as_json, data=data, tables=[table])
