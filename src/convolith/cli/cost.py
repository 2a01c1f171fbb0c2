"""`convolith cost`: a layer's operations and bytes."""

from __future__ import annotations

from typing import Any

import click

from convolith.cli.options import emit, geometry_options, json_option, parse_factor, shape
from convolith.cli.shapes import layer_spec
from convolith.costing import cost
from convolith.errors import ConvolithError
from convolith.work import CONVENTIONS


@click.command()
@click.argument("x_shape", type=shape)
@click.argument("k_shape", type=shape)
@geometry_options
@click.option("--dtype", default="float32", show_default=True, help="The dtype of x and the kernel.")
@click.option("--bias", is_flag=True, help="With a bias.")
@click.option("--convention", type=click.Choice(CONVENTIONS), default="dense", show_default=True)
@click.option("--no-input-gradient", is_flag=True, help="A first layer: its input needs no gradient.")
@click.option("--scale", multiple=True, metavar="NAME=FACTOR", help="What if, such as in_channels=2; may be repeated.")
@json_option
def command(
    *,
    x_shape: Any,
    k_shape: Any,
    convention: str,
    no_input_gradient: bool,
    scale: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Count multiplications, additions and bytes of a layer, forward and backward.

    Shapes are (N, in_channels, *size) and (out_channels, in_channels/groups, *kernel_size). "dense" counts products
    with the zeros of the padding, "effective" leaves them out.

    Example: convolith cost 1,64,56,56 64,64,3,3 --padding 1 --scale in_channels=2 --scale out_channels=2
    """
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
