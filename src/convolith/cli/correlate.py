"""`convolith correlate`: a picture or an array through a kernel."""

from __future__ import annotations

from typing import Any

import click
import numpy as np

from convolith.cli.files import ARRAYS, IMAGES, Output, is_image, read_array, read_kernel
from convolith.cli.options import emit, engine_options, geometry_options, json_option
from convolith.conv import Conv
from convolith.correlation import correlate
from convolith.dtypes import is_float
from convolith.report.table import Table


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path())
@click.argument("kernel", type=click.Path())
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Where to write the result: a picture, .npy or .npz."
)
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
    target = None if output is None else Output(output, IMAGES + ARRAYS)
    x = read_array("INPUT", source)
    if target:
        target.refuse_input(source)
    if is_image(source) and x.ndim == 3 and x.shape[2] in (2, 4):
        click.echo("warning: the picture's alpha channel is filtered like a colour", err=True)
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    given = {name: options[name] for name in names if _was_given(ctx, name)}
    engine = {"engine": options["engine"], "accuracy": options["accuracy"], "flip": flip}
    k = _matched(read_kernel("KERNEL", kernel, given), x)
    shape = (k.weight if isinstance(k, Conv) else k).shape
    if len(shape) == 4 and shape[:2] == (1, 1) and (x.ndim == 2 or (x.ndim == 3 and is_image(source))):
        usual = {} if isinstance(k, Conv) else {"padding": "same"}
        y = _each_channel(x, k, usual | given | engine)
    else:
        y = _all_channels(x, k, given | engine, channels_last=is_image(source) and len(shape) == 4)
    clipped = target.write_array(y, x.dtype) if target else 0
    if clipped:
        click.echo(
            f"warning: {clipped:,} values were clipped to the picture's range; a .tif or .npy keeps them", err=True
        )
    row = {
        "dtype": str(y.dtype),
        "least": _number(y.min() if y.size else None),
        "mean": _number(y.mean() if y.size else None),
        "greatest": _number(y.max() if y.size else None),
    }
    data = {"input": x.shape, "output": y.shape, **row, "clipped": clipped, "written_to": output}
    shapes = {name: " x ".join(map(str, shape)) for name, shape in (("input", x.shape), ("output", y.shape))}
    emit(as_json=as_json, data=data, tables=[Table("Correlated", [shapes | row | {"written to": output or "-"}])])


def _was_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _number(value: Any) -> Any:
    return None if value is None else value.item() if not np.iscomplexobj(value) else str(value)


def _matched(kernel: np.ndarray | Conv, x: np.ndarray) -> np.ndarray | Conv:
    """The kernel in the float dtype of x: on disk, pictures and arrays come in another one than their kernels."""
    weight = kernel.weight if isinstance(kernel, Conv) else kernel
    if not is_float(str(x.dtype)) or np.iscomplexobj(weight) != np.iscomplexobj(x):
        return kernel
    if not isinstance(kernel, Conv):
        return kernel.astype(x.dtype)
    return Conv(weight.astype(x.dtype), None if kernel.bias is None else kernel.bias.astype(x.dtype), **kernel.options)


def _each_channel(x: np.ndarray, kernel: Any, options: dict[str, Any]) -> np.ndarray:
    """One plane in, one out: (H, W), or each channel of (H, W, channels) by itself."""
    planes = np.moveaxis(x[..., None] if x.ndim == 2 else x, -1, 0)[:, None]
    y: np.ndarray = np.moveaxis(correlate(planes, kernel, **options)[:, 0], 0, -1)
    return y[..., 0] if x.ndim == 2 else y


def _all_channels(x: np.ndarray, kernel: Any, options: dict[str, Any], *, channels_last: bool) -> np.ndarray:
    """The channels of x together; a picture's stand last."""
    if not channels_last:
        y: np.ndarray = correlate(x, kernel, **options)
        return y
    y = correlate(np.moveaxis(x[..., None] if x.ndim == 2 else x, -1, 0), kernel, **options)
    return y[0] if len(y) == 1 else np.moveaxis(y, 0, -1)
