"""Options of `convolith correlate`; `run` has the work, and is imported when the command is called."""

from __future__ import annotations

from typing import Any

import click

from convolith.cli.options import (
    MEMORY,
    PADDING_MODE,
    axes_or_names,
    engine_options,
    geometry_options,
    json_option,
    missing_pixels,
    numbers,
)
from convolith.geometry import PADDING_MODES


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path())
@click.argument("kernel", type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="FILE",
    help="Output file: an image, .npy, .npz or .fits; of a store, or with --memory, .zarr or .tif.",
)
@geometry_options(
    PADDING_MODES,
    padding_default="same for a kernel without channels, else 0",
    mode_default="symmetric for a kernel without channels, else zeros",
    mode_help=f"{PADDING_MODE} With constant, the value is --padding-value.",
)
@click.option(
    "--padding-value",
    type=float,
    default=0.0,
    show_default=True,
    help="Value beyond the edge, for --padding-mode constant.",
)
@click.option(
    "--axes",
    type=axes_or_names,
    help="Axes of INPUT that KERNEL runs along, such as 1,2 for a stack of pictures, or yx where INPUT names its axes: "
    "OME, ImageJ, FITS, stores.",
)
@click.option(
    "--origin",
    type=numbers,
    default=0,
    show_default=True,
    help="Pixels by which the kernel's centre is shifted from element (size - 1) // 2: one number, or one per axis, "
    "with the sign of SciPy's origin.",
)
@click.option(
    "--nan",
    type=click.Choice(("propagate", "omit", "interpolate")),
    default="propagate",
    show_default=True,
    help="Missing pixels (NaN, or those of --mask): propagate makes every result missing that reads one, omit leaves "
    "them out of the sums, interpolate fills them in first.",
)
@click.option(
    "--mask", type=click.Path(), metavar="FILE", help="Picture or array that is not 0 where INPUT is missing."
)
@click.option("--dtype", metavar="NAME", help="Type of the result, such as uint8: rounded and clipped.")
@engine_options
@click.option(
    "--missing",
    type=missing_pixels,
    help="For a store: missing pixels: propagate makes every result missing that reads one, renormalise leaves them "
    "out of the sums, and a number takes their place.  [default: propagate]",
)
@click.option("--nodata", type=float, help="For a store: number that stands for a missing pixel.")
@click.option(
    "--memory",
    help=f"For a store: {MEMORY}. A .tif, .npy, .npz or .fits INPUT is read and written block by block, as a store is, "
    "if this option is given.  [default: 1GB for a store]",
)
@click.option(
    "--compressed/--uncompressed",
    default=None,
    help="For a store: whether the result is compressed, without loss.  [default: as INPUT is]",
)
@click.option(
    "--resume/--anew",
    default=True,
    show_default=True,
    help="For a store: continue an interrupted run, or discard its results and begin again.",
)
@click.option(
    "--skip-bad",
    is_flag=True,
    help="For a store: fill blocks whose input cannot be read with missing pixels, and report them, instead of "
    "stopping.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="For a store: compute on the workers of a Dask cluster, given as tcp://HOST:PORT; --memory is per worker.",
)
@click.option(
    "--flip", is_flag=True, help="Flip the kernel first, which makes it a convolution in the mathematical sense."
)
@json_option
def command(**given: Any) -> None:
    """Correlate INPUT, an image, a stack of TIFF pages or an array (.npy, .npz, FITS), with KERNEL.

    KERNEL is a file that `fit` or `compose` wrote, a bare array in a .npy or .npz file, or a list such as
    "[[0,1,0],[1,-4,1],[0,1,0]]". A kernel with two axes filters each channel of an image, or each picture of a stack
    (with --axes), separately; the result has INPUT's size, and beyond the edge the picture continues in a mirror
    (--padding same --padding-mode symmetric), so that a blur leaves no dark edges. A kernel with channels is applied
    to all channels of the image together, by default without padding.

    Example: convolith correlate photo.png "[[-1,0,1],[-2,0,2],[-1,0,1]]" -o edges.tif
    """
    from convolith.cli.correlate.run import run

    run(**given)
