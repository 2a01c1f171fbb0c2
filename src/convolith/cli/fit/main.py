"""Options of `convolith fit`; `run` has the work, and is imported when the command is called."""

from __future__ import annotations

from typing import Any

import click

from convolith.cli.options import (
    MEMORY,
    PADDING,
    PADDING_MODE,
    axes_or_names,
    html_option,
    json_option,
    level,
    number_or_auto,
    numbers,
    numbers_or_auto,
    padding,
)
from convolith.geometry import CONV_MODES


@click.command()
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
@click.option(
    "--size", "kernel_size", type=numbers_or_auto, required=True, help="Kernel size: 5, or 5,7 (one per axis), or auto."
)
@click.option("--max-size", type=int, help="Largest size that --size auto tries.")
@click.option(
    "--size-tolerance",
    type=float,
    help="Share of what the kernel's size explains that --size auto may give up for a smaller one.  [default: 0.0003]",
)
@click.option(
    "--method",
    default="lstsq",
    show_default=True,
    help="lstsq (closed form), or gd, momentum, adam, lbfgs (gradient descent).",
)
@click.option(
    "--loss", default="squares", show_default=True, help="squares; with gradient descent also huber or poisson."
)
@click.option("--huber-delta", type=float, help="Residual beyond which Huber's loss is linear, in units of AFTER.")
@click.option(
    "--stride",
    type=numbers,
    default=1,
    show_default=True,
    help="Stride from BEFORE to AFTER: one number, or one per axis.",
)
@click.option("--padding", type=padding, default="valid", show_default=True, help=PADDING)
@click.option(
    "--padding-mode",
    type=click.Choice(CONV_MODES),
    default="zeros",
    show_default=True,
    help=f"{PADDING_MODE} It must be the one that AFTER was made with.",
)
@click.option(
    "--dilation",
    type=numbers,
    default=1,
    show_default=True,
    help="Pixels from one weight of the kernel to the next: one number, or one per axis.",
)
@click.option("--offset", "--background", is_flag=True, help="Fit a constant background as well.")
@click.option(
    "--mask",
    type=click.Path(),
    metavar="FILE",
    help="Mask of the pixels of AFTER to ignore: nonzero where ignored.",
)
@click.option(
    "--before-mask",
    type=click.Path(),
    metavar="FILE",
    help="Mask of the bad pixels of BEFORE: nonzero where bad. Pixels of AFTER that read them are ignored.",
)
@click.option(
    "--variance",
    type=click.Path(),
    metavar="FILE",
    help="Variance of each pixel of AFTER: pixels are weighted by its inverse, and ignored where it is not positive.",
)
@click.option(
    "--before-variance", type=click.Path(), metavar="FILE", help="Variance of each pixel of BEFORE, for --noise."
)
@click.option("--matched", type=click.Path(), metavar="FILE", help="File for BEFORE filtered by the kernel.")
@click.option("--difference", type=click.Path(), metavar="FILE", help="File for AFTER less the matched picture.")
@click.option(
    "--noise", type=click.Path(), metavar="FILE", help="File for the standard deviation of the difference's noise."
)
@click.option(
    "--ignore-nan/--refuse-nan",
    default=None,
    help="Ignore pixels of BEFORE and AFTER that are NaN or infinite, as is usual for stores, or refuse them.",
)
@click.option(
    "--saturation",
    type=level,
    metavar="LEVEL[,LEVEL]",
    help="Ignore pixels from this level on: of both, or BEFORE,AFTER.",
)
@click.option(
    "--origin",
    type=numbers,
    default=0,
    show_default=True,
    help="Shift of the kernel's centre from the middle, such as 14,-15, for pictures that are shifted.",
)
@click.option(
    "--flip",
    is_flag=True,
    help="Give the kernel of a convolution, a point-spread function or impulse response, instead of a correlation's.",
)
@click.option("--mix-channels", is_flag=True, help="Fit one kernel from all channels of an image to all channels.")
@click.option(
    "--ridge",
    type=number_or_auto,
    default="0",
    show_default=True,
    help="Weight of the penalty on the squared kernel, or auto.",
)
@click.option(
    "--smoothness",
    type=float,
    default=0.0,
    show_default=True,
    help="Weight of the penalty on differences between neighbouring weights.",
)
@click.option(
    "--basis", metavar="NAME|FILE", help="gaussian-hermite, or a file of basis kernels of shape (count, *kernel_size)."
)
@click.option(
    "--nonnegative", "constraints", flag_value="nonnegative", multiple=True, help="Allow no negative weights."
)
@click.option(
    "--sum-to-one", "constraints", flag_value="sum-to-one", multiple=True, help="Make the weights add up to one."
)
@click.option(
    "--symmetric", "constraints", flag_value="symmetric", multiple=True, help="Make the kernel equal its mirror image."
)
@click.option("--x-noise-variance", type=float, default=0.0, help="Variance of the white noise in BEFORE.")
@click.option(
    "--errors",
    type=click.Choice(["white", "jackknife"]),
    default="white",
    show_default=True,
    help="Noise that the standard errors assume: white, or correlated between pixels (jackknife).",
)
@click.option(
    "--degree", type=int, help="Fit a kernel that is a polynomial of position, of this degree (usually 1 or 2)."
)
@click.option(
    "--modulation",
    type=click.Choice(["output", "input", "update"]),
    help="Position that a kernel with --degree depends on: that of the output pixel (output), of each input pixel "
    "(input), or one for each image, from --positions (update).  [default: output; update with --positions]",
)
@click.option(
    "--background-degree", type=int, help="Fit a background that is a polynomial of position, of this degree."
)
@click.option(
    "--constant",
    type=numbers,
    metavar="N,...",
    help="Kernels of --basis, counted from 0, whose coefficients do not vary with position, such as 0 or 0,2.",
)
@click.option(
    "--positions",
    type=click.Path(),
    metavar="FILE",
    help="Array file with one row for each image or pair: its position, a number from -1 to 1 for each axis.",
)
@click.option(
    "--learning-rate",
    type=float,
    help="Learning rate of gradient descent; by default 0.9 times the largest stable one.",
)
@click.option("--steps", type=int, default=1000, show_default=True, help="Steps of gradient descent.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the kernel that gradient descent starts from."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="FILE.npz",
    help="File for the kernel, which `correlate` and `compose` read; for stores also .npy, the kernel alone.",
)
@click.option("--memory", help=f"For stores: {MEMORY}.  [default: 1GB]")
@click.option(
    "--checkpoint",
    type=click.Path(),
    metavar="FILE.npz",
    help="For stores: file for the sums, every minute and at an interrupt, from which the same command goes on.",
)
@click.option(
    "--axes",
    type=axes_or_names,
    help="Axes that the kernel runs along, such as 1,2, or yx where the files name their axes; all others are images.",
)
@click.option("--channel-axis", type=axes_or_names, help="For stores: axis of the channels.")
@click.option("--pair-axis", type=axes_or_names, help="For stores: axes along which pairs of images lie.")
@click.option("--nodata", type=float, help="For stores: number that stands for a missing pixel.")
@click.option(
    "--folds",
    type=int,
    help="For stores: number of parts of the data that --size auto, --ridge auto and --errors jackknife leave out in "
    "turn.  [default: 10]",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="For stores: compute on the workers of a Dask cluster, given as tcp://HOST:PORT; --memory is per worker.",
)
@click.option(
    "--passes",
    type=int,
    help="For stores: number of passes over the data; each one after the first refines the kernel.  [default: 1]",
)
@html_option
@json_option
def command(**given: Any) -> None:
    """Find the kernel for which the correlation of BEFORE with it is nearest to AFTER.

    Files are images, or arrays of (in_channels, *size) or (N, in_channels, *size). An array of two axes is a picture,
    or a signal of (channels, samples) if it has fewer rows than the kernel. Patterns in quotes, such as
    "before*.fits", match many pairs, in the order of their names, which are read one after another.

    For two images, one kernel is fitted, which filters each channel separately; with --mix-channels, a kernel from all
    channels to all channels. A stack of more than four planes needs --axes, such as 1,2 (images with one kernel, along
    any axes), or --mix-channels (channels). With --degree, the kernel varies with position.

    If AFTER is as large as BEFORE, its border is ignored, since the pixels beyond it are unknown; --padding same
    includes it, with the padding of --padding-mode. If the border is ignored, the kernel that -o writes repeats the
    edge (padding same, symmetric), so that `correlate` makes a picture as large as BEFORE without dark edges;
    otherwise it has the padding of the fit. A kernel fitted with --flip is for `correlate --flip`.

    --difference, --matched and --noise write pictures as large as AFTER, NaN where a pixel is not known, with the FITS
    header of AFTER.

    Stores, such as before.zarr, are read block by block within --memory. All axes except those of the kernel and of
    --channel-axis are pairs of images, and missing pixels (NaN, --nodata) are ignored. With --json, a fit of stores
    prints events, one line each.

    Example: convolith fit before.png after.png --size 7 -o kernel.npz
    """
    from convolith.cli.fit.run import run

    run(**given)
