"""The fit of one image, array or store to another, its files and its tables, for `convolith fit`."""

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
from convolith.cli.fit.solve import Outcome, Varying, solve
from convolith.cli.fit.varying_html_page import varying_page, varying_tables
from convolith.cli.fit.words import WORDS
from convolith.cli.io import big_fit
from convolith.cli.io.events import events
from convolith.cli.io.files import EXACT, Output, conv_arrays, read_array, varying_arrays
from convolith.cli.io.fits_headers import carried
from convolith.cli.io.stores import is_store
from convolith.cli.options import emit
from convolith.cli.words import in_words_of_the_command
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.fitting import Fit, VaryingFit, fit
from convolith.geometry import per_axis
from convolith.report.plots import check_available
from convolith.report.table import Table

LARGEST_SHIFT = 1 << 20
"""Largest shift of a kernel's centre, in pixels."""


def run(
    before: str,
    after: str,
    output: str | None,
    html: str | None,
    *,
    ignore_nan: bool | None,
    mix_channels: bool,
    basis: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit the kernel, write the files, and print the result; the parameters are the options."""
    _check_outputs()
    if is_store(before) or is_store(after):
        _fit_stores(before, after, options | {"basis": basis, "ignore_nan": ignore_nan}, output, as_json=as_json)
        return
    plane_axes = _axes(options, mix=mix_channels)
    big_fit.remove_stores_alone(options)
    target = None if output is None else Output(output, (".npz",))
    sheet = None if html is None else Output(html, (".html",), "--html")
    if sheet:
        check_available()
    if basis is not None:
        options["basis"] = basis if basis == "gaussian-hermite" else read_array("--basis", basis)
    varying = _varying(options)
    options["nan"] = "omit" if ignore_nan else "refuse"
    wanted = {name: Output(path, EXACT, f"--{name}") for name in PICTURES if (path := options.pop(name)) is not None}
    names = ("mask", "before_mask", "variance", "before_variance")
    files = pairs_of(before, after, **{name: options.pop(name) for name in names})
    for made in wanted.values():
        for source in files[0][:2]:
            made.refuse_input(source)
    _refuse_pictures(list(wanted), files)
    if len(files) == 1 and varying is None:
        _refuse_unused(options)
    with in_words_of_the_command(WORDS) as warnings:
        outcome = solve(files, options, varying, mix=mix_channels, plane_axes=plane_axes)
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
        raise ConvolithError(
            f"--{wanted[0]} was given for {len(files)} pairs; it is made of one pair; leave --{wanted[0]} out"
        )


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


def _varying(options: dict[str, Any]) -> Varying | None:
    """Take the options of a kernel that varies with position out of the others; return None for a constant kernel."""
    names = ("degree", "background_degree", "modulation", "constant", "positions")
    degree, background_degree, modulation, constant, positions = (options.pop(name) for name in names)
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
