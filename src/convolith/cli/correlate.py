"""`convolith correlate`: correlation of an image or an array with a kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
import numpy as np

from convolith.cli.io.files import WRITABLE, Output, is_image, read_array, read_kernel, read_varying
from convolith.cli.options import emit, engine_options, geometry_options, json_option
from convolith.conv import Conv
from convolith.correlation import correlate
from convolith.dtypes import is_float
from convolith.errors import ConvolithError
from convolith.fitting import VaryingKernel
from convolith.report.table import Table


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path())
@click.argument("kernel", type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="FILE",
    help="Output file: an image, .npy, .npz or .fits.",
)
@geometry_options
@engine_options
@click.option(
    "--flip", is_flag=True, help="Flip the kernel first, which makes it a convolution in the mathematical sense."
)
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, source: str, kernel: str, output: str | None, *, flip: bool, as_json: bool, **options: Any
) -> None:
    """Correlate INPUT, an image or an array (.npy, .npz, FITS), with KERNEL.

    KERNEL is a file that `fit` or `compose` wrote, a bare array in a .npy or .npz file, or a list such as
    "[[0,1,0],[1,-4,1],[0,1,0]]". A kernel with two axes filters each channel of an image separately, by default with
    padding "same"; a kernel with channels is applied to all channels of the image together.

    Example: convolith correlate photo.png "[[-1,0,1],[-2,0,2],[-1,0,1]]" -o edges.tif
    """
    target = None if output is None else Output(output, WRITABLE)
    x = read_array("INPUT", source)
    if target:
        target.refuse_input(source)
    if is_image(source) and x.ndim == 3 and x.shape[2] in (2, 4):
        click.echo("warning: the picture's alpha channel is filtered like a colour", err=True)
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    chosen = {name: options[name] for name in names if _was_given(ctx, name)}
    engine = {"engine": options["engine"], "accuracy": options["accuracy"], "flip": flip}
    varying = read_varying("KERNEL", kernel, chosen)
    if varying is not None:
        _refuse_engine(ctx)
        y = _varying(x, varying, channels_last=is_image(source))
    else:
        y = _through(x, read_kernel("KERNEL", kernel, chosen), chosen, engine, picture=is_image(source))
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


def _through(
    x: np.ndarray, kernel: np.ndarray | Conv, given: dict[str, Any], engine: dict[str, Any], *, picture: bool
) -> np.ndarray:
    """Correlate x with a constant kernel: each channel separately, or all channels together."""
    k = _matched(kernel, x)
    shape = (k.weight if isinstance(k, Conv) else k).shape
    if len(shape) == 4 and shape[:2] == (1, 1) and (x.ndim == 2 or (x.ndim == 3 and picture)):
        usual = {} if isinstance(k, Conv) else {"padding": "same"}
        return _each_channel(x, k, usual | given | engine)
    return _all_channels(x, k, given | engine, channels_last=picture and len(shape) == 4)


def _varying(x: np.ndarray, kernel: VaryingKernel, *, channels_last: bool) -> np.ndarray:
    """Apply a kernel that varies with position; the image is x."""
    if is_float(str(x.dtype)) and not np.iscomplexobj(x):
        sky = None if kernel.background is None else kernel.background.astype(x.dtype)
        kernel = replace(kernel, weights=kernel.weights.astype(x.dtype), background=sky)
    planes = np.moveaxis(x[..., None], -1, 0) if x.ndim == 2 else np.moveaxis(x, -1, 0) if channels_last else x
    each = kernel.weights.shape[1:3] == (1, 1) and channels_last
    y: np.ndarray = kernel.apply(planes[:, None] if each else planes)
    y = y[:, 0] if each else y
    if x.ndim == 2:
        return y[0] if len(y) == 1 else y
    return np.moveaxis(y, 0, -1) if channels_last else y


def _refuse_engine(ctx: click.Context) -> None:
    for name in ("engine", "accuracy", "flip"):
        if _was_given(ctx, name):
            raise ConvolithError(f"--{name} was given, but the kernel varies with position and uses its own plan")


def _was_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _number(value: Any) -> Any:
    return None if value is None else value.item() if not np.iscomplexobj(value) else str(value)


def _matched(kernel: np.ndarray | Conv, x: np.ndarray) -> np.ndarray | Conv:
    """Return the kernel in the float dtype of x, since files of images and kernels often differ in dtype."""
    weight = kernel.weight if isinstance(kernel, Conv) else kernel
    if not is_float(str(x.dtype)) or np.iscomplexobj(weight) != np.iscomplexobj(x):
        return kernel
    if not isinstance(kernel, Conv):
        return kernel.astype(x.dtype)
    return Conv(weight.astype(x.dtype), None if kernel.bias is None else kernel.bias.astype(x.dtype), **kernel.options)


def _each_channel(x: np.ndarray, kernel: Any, options: dict[str, Any]) -> np.ndarray:
    """Correlate (H, W), or each channel of (H, W, channels) separately, with a single-channel kernel."""
    planes = np.moveaxis(x[..., None] if x.ndim == 2 else x, -1, 0)[:, None]
    y: np.ndarray = np.moveaxis(correlate(planes, kernel, **options)[:, 0], 0, -1)
    return y[..., 0] if x.ndim == 2 else y


def _all_channels(x: np.ndarray, kernel: Any, options: dict[str, Any], *, channels_last: bool) -> np.ndarray:
    """Correlate all channels of x with a kernel with channels; the channels of images come last."""
    if not channels_last:
        y: np.ndarray = correlate(x, kernel, **options)
        return y
    y = correlate(np.moveaxis(x[..., None] if x.ndim == 2 else x, -1, 0), kernel, **options)
    return y[0] if len(y) == 1 else np.moveaxis(y, 0, -1)
