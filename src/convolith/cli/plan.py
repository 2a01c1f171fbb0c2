"""`convolith plan`: the engine that computes a layer, and the reason for its choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import numpy as np

from convolith.cli.options import (
    MEMORY,
    axes_or_names,
    emit,
    engine_options,
    geometry_options,
    json_option,
    shape_or_kernel,
    shape_or_path,
)
from convolith.cli.shapes import layer_spec
from convolith.cli.words import GENERAL, in_words_of_the_command
from convolith.dtypes import check_dtype
from convolith.errors import ConvolithError

if TYPE_CHECKING:
    import torch

WORDS = (
    *GENERAL,
    (r": plan with kernel=", ": give the kernel in place of K_SHAPE, a file or a list such as [[1,2,1]]"),
)
"""Words of `plan`, in those of the command."""
OF_SHAPES = ("kernel_dtype", "bias", "measure", "budget")
"""Options that apply to a layer given by shapes."""
OF_STORES = ("axes", "memory")
"""Options that apply to a store."""


@click.command()
@click.argument("x_shape", type=shape_or_path)
@click.argument("k_shape", type=shape_or_kernel)
@geometry_options(padding_default="0; for a store as in correlate", mode_default="zeros; for a store as in correlate")
@engine_options
@click.option("--dtype", default="float32", show_default=True, help="Dtype of x.")
@click.option("--kernel-dtype", help="Dtype of the kernel, if it differs.")
@click.option("--bias", is_flag=True, help="Add a bias.")
@click.option("--measure", is_flag=True, help="Time the engines on this machine, and store the result.")
@click.option("--budget", default=2.0, show_default=True, metavar="SECONDS", help="Time limit for --measure.")
@click.option("--axes", type=axes_or_names, help="For a store: the axes that the kernel slides along, such as yx.")
@click.option("--memory", help=f"For a store: {MEMORY}  [default: 1GB]")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
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

    Shapes are (N, in_channels, *size) and (out_channels, in_channels/groups, *kernel_size). A kernel in place of
    K_SHAPE shows the engines that depend on its values too.

    With a store in place of X_SHAPE, such as scan.zarr, and a kernel in place of K_SHAPE, show the blocks and the
    memory of a correlation from store to store.

    Example: convolith plan 1,64,56,56 64,64,3,3 --padding 1
    """
    source = click.core.ParameterSource.DEFAULT
    of_store = isinstance(x_shape, str)
    for name in OF_SHAPES if of_store else OF_STORES:
        if ctx.get_parameter_source(name) is not source:
            kinds = ("shapes", "a store") if of_store else ("a store, such as scan.zarr", "a shape")
            option = f"--{name.replace('_', '-')}"
            raise ConvolithError(
                f"{option} was given; it applies to {kinds[0]}, and X_SHAPE is {kinds[1]}; leave {option} out"
            )
    if of_store:
        from convolith.cli.io.stores import plan_store

        given = {name: value for name, value in options.items() if ctx.get_parameter_source(name) is not source}
        given |= {} if engine == "auto" else {"engine": engine}
        named = k_shape if isinstance(k_shape, str) else ",".join(map(str, k_shape))
        plan_store(x_shape, named, given | {"accuracy": accuracy}, as_json=as_json)
        return
    from convolith.planner import plan

    effort = "measure" if measure else "estimate"
    kernel = _weights(k_shape, options) if isinstance(k_shape, str) else None
    options = {name: value for name, value in options.items() if name not in OF_STORES}
    spec = layer_spec(x_shape, k_shape if kernel is None else tuple(kernel.shape), **options)
    with in_words_of_the_command(WORDS):
        chosen = plan(spec, kernel, accuracy=accuracy, engine=engine, effort=effort, budget=budget)
    table = chosen.table()
    data = {
        "layer": table.title,
        "engine": chosen.engine,
        "accuracy": accuracy,
        "effort": effort,
        "candidates": table.rows,
    }
    emit(as_json=as_json, data=data, tables=[table])


def _weights(text: str, options: dict[str, Any]) -> torch.Tensor:
    """Return a kernel in the dtype of the layer."""
    import torch

    from convolith.cli.io.files import read_kernel
    from convolith.conv import Conv
    from convolith.tensors import torch_dtype

    read = read_kernel("K_SHAPE", text, {})
    if isinstance(read, Conv):
        raise ConvolithError(f"K_SHAPE is {text}, which has options of its own; expected a bare kernel, or a shape")
    name = options["kernel_dtype"] or options["dtype"]
    check_dtype("--kernel-dtype" if options["kernel_dtype"] else "--dtype", name)
    return torch.from_numpy(np.ascontiguousarray(read)).to(torch_dtype(name))
