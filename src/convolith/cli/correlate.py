"""`convolith correlate`: a picture or an array through a kernel."""

from __future__ import annotations

from typing import Any

import click
import numpy as np

from convolith.cli.files import ARRAYS, IMAGES, Output, is_image, read_array, read_kernel
from convolith.cli.options import emit, engine_options, geometry_options, json_option
from convolith.conv import Conv
from convolith.correlation import correlate, filter_image
from convolith.report.table import Table


@click.command()
@click.argument("source", metavar="INPUT")
@click.argument("kernel")
@click.option("-o", "--output", metavar="FILE", help="Where to write the result: a picture, .npy or .npz.")
@geometry_options
@engine_options
@click.option("--flip", is_flag=True, help="Reverse the kernel first: a convolution in the mathematical sense.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, source: str, kernel: str, output: str | None, *, flip: bool, as_json: bool, **options: Any
) -> None:
    """Correlate INPUT, a picture or an array (.npy, .npz), with KERNEL.

    KERNEL is a file that `fit` or `compose` wrote, a bare array in a .npy or .npz file, or a list such as
    "[[0,1,0],[1,-4,1],[0,1,0]]". A kernel of two axes filters each channel of a picture by itself, with padding "same"
    unless you say otherwise; a kernel with channels takes the picture's channels together.

    Example: convolith correlate photo.png "[[-1,0,1],[-2,0,2],[-1,0,1]]" -o edges.tif
    """
    target = Output(output, IMAGES + ARRAYS) if output else None
    x = read_array("INPUT", source)
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    given = {name: options[name] for name in names if _was_given(ctx, name)}
    engine = {"engine": options["engine"], "accuracy": options["accuracy"], "flip": flip}
    conv = read_kernel("KERNEL", kernel, given)
    plane = conv.in_channels == conv.out_channels == 1 and len(conv.kernel_size) == 2
    if x.ndim in (2, 3) and plane and (is_image(source) or x.ndim == 2):
        y = _filter(x, conv, given, engine)
    else:
        y = _correlate(x, conv, engine, channels_last=is_image(source))
    clipped = target.write_array(y, x.dtype) if target else 0
    if clipped:
        click.echo(
            f"warning: {clipped:,} values were clipped to the picture's range; a .tif or .npy keeps them", err=True
        )
    row = {
        "input": " x ".join(map(str, x.shape)),
        "output": " x ".join(map(str, y.shape)),
        "dtype": str(y.dtype),
        "least": _number(y.min() if y.size else None),
        "mean": _number(y.mean() if y.size else None),
        "greatest": _number(y.max() if y.size else None),
        "written to": output or "nowhere (no -o)",
    }
    emit(as_json=as_json, data=row | {"clipped": clipped}, tables=[Table("Correlated", [row])])


def _was_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _number(value: Any) -> Any:
    return None if value is None else value.item() if not np.iscomplexobj(value) else str(value)


def _filter(x: np.ndarray, conv: Conv, given: dict[str, Any], engine: dict[str, Any]) -> np.ndarray:
    """Each channel by itself; a bare kernel pads "same" unless a padding was given."""
    options = {name: value for name, value in conv.options.items() if name in ("stride", "dilation", "padding_mode")}
    bare = not any(map(any, conv.padding)) and "padding" not in given
    padding = "same" if bare and conv.bias is None else given.get("padding", conv.padding)
    y: np.ndarray = filter_image(x, conv.weight[0, 0], padding=padding, **options, **engine)
    return y if conv.bias is None else y + conv.bias[0]


def _correlate(x: np.ndarray, conv: Conv, engine: dict[str, Any], *, channels_last: bool) -> np.ndarray:
    """The channels of x together; a picture's stand last."""
    picture = channels_last and len(conv.kernel_size) == 2
    if picture:
        x = np.moveaxis(x[..., None] if x.ndim == 2 else x, -1, 0)
    y: np.ndarray = correlate(x, conv, **engine)
    if not picture:
        return y
    return y[0] if len(y) == 1 else np.moveaxis(y, 0, -1)
