"""`convolith fit`: the kernel that maps one image or array to another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
import numpy as np

from convolith.big import FitPlan
from convolith.cli.fit.data import CROPPED, Files, Pair, pairs_of, say_cropped
from convolith.cli.fit.difference import PICTURES, pictures
from convolith.cli.fit.html_page import Notes, fit_page
from convolith.cli.fit.outputs import check_distinct
from convolith.cli.fit.run import Outcome, Varying, run
from convolith.cli.fit.varying_html_page import varying_page, varying_tables
from convolith.cli.fit.words import WORDS
from convolith.cli.io import big_fit
from convolith.cli.io.events import events
from convolith.cli.io.files import EXACT, Output, conv_arrays, read_array, varying_arrays
from convolith.cli.io.fits_headers import carried
from convolith.cli.io.stores import is_store
from convolith.cli.options import (
    axes_or_names,
    emit,
    html_option,
    json_option,
    level,
    number_or_auto,
    numbers,
    numbers_or_auto,
    padding,
)
from convolith.cli.words import in_words_of_the_command
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.fitting import Fit, VaryingFit, fit
from convolith.fitting.selection.cross_validation import TOLERANCE
from convolith.geometry import PADDING_MODES, per_axis
from convolith.report.plots import check_available
from convolith.report.table import Table

LARGEST_SHIFT = 1 << 20
"""Largest shift of a kernel's centre, in pixels."""


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
    help="Share of what the kernel's size explains that --size auto may give up for a smaller one.  "
    f"[default: {TOLERANCE}]",
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
@click.option("--stride", type=numbers, default=1, show_default=True)
@click.option("--padding", type=padding, default="valid", show_default=True, help="valid, same, full, 1 or 1:2,0:0.")
@click.option("--padding-mode", type=click.Choice(PADDING_MODES), default="zeros", show_default=True)
@click.option("--dilation", type=numbers, default=1, show_default=True)
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
    help="Position that the kernel depends on: of the output pixel (default), of the input pixel, or --positions.",
)
@click.option(
    "--background-degree", type=int, help="Fit a background that is a polynomial of position, of this degree."
)
@click.option("--constant", type=numbers, metavar="N,...", help="Numbers of the --basis kernels that do not vary.")
@click.option(
    "--positions",
    type=click.Path(),
    metavar="FILE",
    help="File with one position for each image or pair, from -1 to 1 on each axis.",
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
@click.option("--memory", help="For stores: memory that may be taken, such as 2GB.  [default: 1GB]")
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
@click.option("--folds", type=int, help="For stores: parts that are left out in turn.  [default: 10]")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="For stores: compute on the workers of a Dask cluster, given as tcp://HOST:PORT; --memory is per worker.",
)
@click.option("--passes", type=int, help="For stores: passes over the data; more than one refine the kernel.")
@html_option
@json_option
def command(
    *,
    before: str,
    after: str,
    ignore_nan: bool | None,
    mix_channels: bool,
    output: str | None,
    basis: str | None,
    degree: int | None,
    modulation: str | None,
    background_degree: int | None,
    constant: Any,
    positions: str | None,
    html: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the kernel for which the correlation of BEFORE with it is nearest to AFTER.

    Files are images, or arrays of (in_channels, *size) or (N, in_channels, *size); two axes are a picture, or a signal
    of (channels, samples) where there are fewer rows than the kernel has. For two images, one kernel is fitted that
    filters each channel separately; with --mix-channels, a kernel from all channels to all channels. Patterns in
    quotes, such as "before*.fits", match many pairs, in the order of their names, which are read one after another.
    If AFTER is as large as BEFORE, its border is ignored, since the pixels beyond it are unknown; --padding same
    includes it, with the padding of --padding-mode. Where the border is ignored, the kernel that -o writes repeats the
    edge (padding same, symmetric), so that `correlate` makes a picture as large as BEFORE without dark edges; otherwise
    it has the padding of the fit. With --flip it is for `correlate --flip`. A stack of more than four planes needs
    --axes, such as 1,2 (images with one kernel, along any axes), or --mix-channels (channels). With --degree the kernel
    varies with position.
    --difference, --matched and --noise write pictures as large as AFTER, NaN where a pixel is not known, with the FITS
    header of AFTER. Stores, such as before.zarr, are read block by block within --memory; all axes but those of the
    kernel and --channel-axis are pairs of images, and missing pixels (NaN, --nodata) are ignored. With --json, a fit of
    stores prints events, one line each.

    Example: convolith fit before.png after.png --size 7 -o kernel.npz
    """
    _check_outputs()
    if is_store(before) or is_store(after):
        _fit_stores(before, after, options | {"basis": basis, "ignore_nan": ignore_nan}, output, as_json=as_json)
        return
    plane_axes = _axes(options, mix=mix_channels)
    big_fit.remove_stores_alone(options)
    target = None if output is None else Output(output, (".npz",))
    sheet = None if html is None else Output(html, (".html",))
    if sheet:
        check_available()
    if basis is not None:
        options["basis"] = basis if basis == "gaussian-hermite" else read_array("--basis", basis)
    varying = _varying(degree, modulation, background_degree, constant, positions)
    options["nan"] = "omit" if ignore_nan else "refuse"
    wanted = {name: Output(path, EXACT) for name in PICTURES if (path := options.pop(name)) is not None}
    names = ("mask", "before_mask", "variance", "before_variance")
    files = pairs_of(before, after, **{name: options.pop(name) for name in names})
    for made in wanted.values():
        for source in files[0][:2]:
            made.refuse_input(source)
    _refuse_pictures(list(wanted), files)
    if len(files) == 1 and varying is None:
        _refuse_unused(options)
    with in_words_of_the_command(WORDS) as warnings:
        outcome = run(files, options, varying, mix=mix_channels, plane_axes=plane_axes)
    found, pair = outcome.found, outcome.pair
    same = pair.cropped or (options["kernel_size"] == "auto" and options["padding"] == "valid")
    if isinstance(found, VaryingFit):
        tables = varying_tables(found, outcome.pairs, output)
    else:
        tables = _tables(found, outcome.pairs, output)
    for name, picture in (pictures(found, pair, options, list(wanted)) if wanted else {}).items():
        history = f"fit {before} {after}: {name}"
        header = None if pair.header is None else carried(pair.header, {}, picture.ndim, history)
        samples = True if pair.info.axes.endswith("S") and picture.ndim > 2 else None
        wanted[name].write_array(
            picture.astype(np.float32), header=header, picture=pair.picture, samples=samples, info=pair.info
        )
    if target:
        arrays = kernel_arrays(found, same=same, origin=options["origin"])
        target.write(lambda file: np.savez(file, **arrays))
    if sheet:
        notes = _notes(before, after, outcome, warnings)
        text = (
            varying_page(found, pair, tables, notes)
            if isinstance(found, VaryingFit)
            else _page(found, pair, options, tables, notes)
        )
        sheet.write(lambda file: file.write(text.encode()))
    emit(as_json=as_json, data=_data(found), tables=tables)


def _axes(options: dict[str, Any], *, mix: bool) -> Any:
    """Take --axes out of the options and return it; one number as the kernel's size then counts for each of them."""
    axes, options["axes"] = options["axes"], None
    if axes is None:
        return None
    if mix:
        raise ConvolithError("--mix-channels was given with --axes, whose other axes are images; leave one out")
    if isinstance(options["kernel_size"], int):
        options["kernel_size"] = (options["kernel_size"],) * (1 if isinstance(axes, int) else len(axes))
    return axes


def _fit_stores(before: str, after: str, options: dict[str, Any], output: str | None, *, as_json: bool) -> None:
    """Fit a kernel between stores, write it, and print it; with `as_json`, as events while it is found."""
    with events(wanted=as_json) as stream:
        target = None if output is None else Output(output, (".npz", ".npy"))
        basis = options["basis"]
        if basis is not None and basis != "gaussian-hermite":
            options["basis"] = read_array("--basis", basis)
        about = {name: options[name] for name in ("mask", "before_mask", "variance")}
        files = pairs_of(before, after, **about, before_variance=None)
        columns = {own: [getattr(pair, name) for pair in files] for name, own in big_fit.STORES.items()}
        stores = {name: paths for name, paths in columns.items() if paths[0] is not None}
        named = {"before": before, "after": after, "pairs_of_files": len(files), "size": options["kernel_size"]}

        def say_plan(plan: FitPlan) -> None:
            stream.say("plan", **plan._asdict(), written_bytes=0, **named)

        with in_words_of_the_command((*big_fit.WORDS, *WORDS)) as warnings:
            found = big_fit.fit_stores(stores, options, stream.progress, say_plan)
        if found.cropped and not as_json:
            say_cropped()
        if target:
            arrays = kernel_arrays(found.found, same=found.cropped, origin=options["origin"])
            bare = target.path.suffix.lower() == ".npy"
            target.write(lambda file: np.save(file, found.kernel) if bare else np.savez(file, **arrays))
        tables = [*_tables(found.found, found.images, output), found.tables()[-1]]
        stream.done(tables, warnings, **_data(found.found), **big_fit.about(found), written_to=output)


def _refuse_pictures(wanted: list[str], files: list[Files]) -> None:
    """Refuse pictures that the files do not give."""
    if "noise" in wanted and files[0].variance is None:
        raise ConvolithError("--noise was given without --variance, the variance of AFTER; pass it")
    if wanted and len(files) > 1:
        raise ConvolithError(f"--{wanted[0]} was given for {len(files)} pairs; it is made of one pair")


def _check_outputs() -> None:
    """Refuse outputs that would overwrite each other or an input."""
    context = click.get_current_context()
    files = {
        parameter.opts[-1] if isinstance(parameter, click.Option) else str(parameter.make_metavar(context)): parameter
        for parameter in context.command.params
        if isinstance(parameter.type, click.Path) or parameter.name in ("basis", "html")
    }
    paths = {name: context.params[str(parameter.name)] for name, parameter in files.items()}
    made = {name for name, parameter in files.items() if parameter.name in (*PICTURES, "output", "html", "checkpoint")}
    outputs, inputs = (
        {name: path for name, path in paths.items() if (name in made) == wanted} for wanted in (True, False)
    )
    check_distinct(outputs, inputs)


def _refuse_unused(options: dict[str, Any]) -> None:
    """Refuse options of a descent that a fit in closed form would ignore."""
    context = click.get_current_context()
    for name in ("steps", "seed"):
        given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        if given and options["method"] == "lstsq":
            raise ConvolithError(f"--{name} was given, but --method lstsq takes no steps; pass --method gd")


def _varying(
    degree: int | None,
    modulation: str | None,
    background_degree: int | None,
    constant: Any,
    positions: str | None,
) -> Varying | None:
    """Return the options of a kernel that varies with position, or None for a constant kernel."""
    if degree is None and background_degree is None:
        for name, value in (("modulation", modulation), ("constant", constant), ("positions", positions)):
            if value is not None:
                raise ConvolithError(f"--{name} was given, but no --degree of a kernel that varies; pass --degree 1")
        return None
    numbers = () if constant is None else (constant,) if isinstance(constant, int) else constant
    coordinates = None if positions is None else np.atleast_2d(read_array("--positions", positions))
    usual = "output" if positions is None else "update"
    return Varying(degree or 0, modulation or usual, background_degree, numbers, coordinates)


def kernel_arrays(found: Fit | VaryingFit, *, same: bool, origin: Any = 0) -> dict[str, Any]:
    """Return a kernel as named arrays for a .npz file.

    With `same`, whose border was left out of the fit, its outputs are as large as its inputs: the edge is repeated.
    """
    if isinstance(found, VaryingFit):
        wide = replace(found.kernel, padding="same", padding_mode="symmetric") if same else found.kernel
        arrays = varying_arrays(wide)
    else:
        arrays = conv_arrays(with_same_padding(found.conv, origin) if same else found.conv)
        if found.flip:
            arrays["weight"] = np.flip(arrays["weight"], tuple(range(2, arrays["weight"].ndim)))
    return arrays if found.stderr is None else arrays | {"stderr": found.stderr}


def with_same_padding(conv: Conv, origin: Any = 0) -> Conv:
    """Return the kernel with repeated edges for outputs as large as the inputs, its centre shifted by the origin.

    Where the centre lies outside the kernel, zeros are put around it.
    """
    weight, pairs = np.asarray(conv.weight), []
    around = [(0, 0), (0, 0)]
    shifts = per_axis("origin", origin, weight.ndim - 2, -LARGEST_SHIFT)
    for size, step, shift in zip(weight.shape[2:], conv.dilation, shifts, strict=True):
        first = (size - 1) // 2 + shift
        around.append((max(0, -first), max(0, first - size + 1)))
        reach = (size + sum(around[-1]) - 1) * step
        before = (first + around[-1][0]) * step
        pairs.append((before, reach - before))
    weight = np.pad(weight, around)
    edges = {"padding": tuple(pairs) if any(shifts) else "same", "padding_mode": "symmetric"}
    return Conv(weight, conv.bias, **conv.options | edges)


def _notes(before: str, after: str, outcome: Outcome, warnings: list[str]) -> Notes:
    pairs = f" ({outcome.pairs} pairs)" if outcome.pairs > 1 else ""
    border = [CROPPED] if outcome.pair.cropped else []
    return Notes(f"The first picture is {before}, the second one {after}{pairs}.", (*border, *warnings))


def _page(found: Fit, pair: Pair, options: dict[str, Any], tables: list[Table], notes: Notes) -> str:
    learned = found.method != "lstsq" and options["loss"] == "squares"
    closed = options | {"method": "lstsq", "learning_rate": None}
    solved = fit(pair.x, pair.y, **pair.pixels, **closed) if learned else None
    return fit_page(found, solved, pair, tables, notes, options["origin"])


def _data(found: Fit | VaryingFit) -> dict[str, Any]:
    if isinstance(found, VaryingFit):
        names: tuple[str, ...] = (
            "residual_rms",
            "explained",
            "sum_stderr",
            "held_out_rms",
            "condition",
            "loss",
            "stderr",
            "coefficients",
        )
        kernel = found.kernel
        about = ("weights", "background", "terms", "background_degree", "modulation", "frame")
        return {**{name: getattr(found, name) for name in names}, **{name: getattr(kernel, name) for name in about}}
    names = (
        "method",
        "residual_rms",
        "explained",
        "sum_stderr",
        "held_out_rms",
        "condition",
        "learning_rate",
        "kernel",
        "offset",
        "stderr",
        "loss",
    )
    more = {"coefficients": found.coefficients, "selection": [one._asdict() for one in found.selection]}
    return {**{name: getattr(found, name) for name in names}, **more}


def _tables(found: Fit, pairs: int, output: str | None) -> list[Table]:
    summary, *kernel = found.tables()
    size = {"kernel size": summary.rows[0]["kernel size"], "pairs": pairs if pairs > 1 else None}
    more = {
        "loss": found.loss[-1],
        "steps": len(found.loss) if found.method != "lstsq" else None,
        "written to": output,
    }
    tables = [Table(summary.title, [{**size, **summary.rows[0], **more}])]
    if found.selection:
        rows: list[dict[str, Any]] = [
            {
                "kernel size": "x".join(map(str, one.kernel_size)),
                "ridge": one.ridge,
                "rms of tiles left out": one.rms,
                "mean square above the least": one.excess_mse,
                "standard error": one.excess_mse_stderr,
            }
            for one in found.selection
        ]
        tables.append(Table("Cross-validation", rows))
    return [*tables, *kernel]
