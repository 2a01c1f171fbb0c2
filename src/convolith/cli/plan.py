"""`convolith plan`: which engine computes a layer, and why."""

from __future__ import annotations

from typing import Any

import click

from convolith.cli.options import emit, engine_options, geometry_options, json_option, shape
from convolith.cli.shapes import layer_spec
from convolith.planner import plan


@click.command()
@click.argument("x_shape", type=shape)
@click.argument("k_shape", type=shape)
@geometry_options
@engine_options
@click.option("--dtype", default="float32", show_default=True, help="The dtype of x.")
@click.option("--kernel-dtype", help="The dtype of the kernel, if it is another.")
@click.option("--bias", is_flag=True, help="With a bias.")
@json_option
def command(*, x_shape: Any, k_shape: Any, engine: str, accuracy: str, as_json: bool, **options: Any) -> None:
    """Show every engine's counted work for correlating X_SHAPE with K_SHAPE, which one is chosen, and why.

    Shapes are (N, in_channels, *size) and (out_channels, in_channels/groups, *kernel_size).

    Example: convolith plan 1,64,56,56 64,64,3,3 --padding 1
    """
    chosen = plan(layer_spec(x_shape, k_shape, **options), accuracy=accuracy, engine=engine)
    table = chosen.table()
    data = {"layer": table.title, "engine": chosen.engine, "accuracy": accuracy, "candidates": table.rows}
    emit(as_json=as_json, data=data, tables=[table])
