"""`convolith fit`: the kernel that turned one picture or array into another."""

from __future__ import annotations

from typing import Any

import click
import numpy as np

from convolith.cli.files import Output, conv_arrays, is_image, read_array
from convolith.cli.fit_page import fit_page
from convolith.cli.options import emit, json_option, number_or_auto, numbers, numbers_or_auto, padding
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.fitting import Fit, fit
from convolith.fitting.problem import spatial_axes
from convolith.geometry import PADDING_MODES, per_axis, same_padding
from convolith.report.plots import check_available
from convolith.report.table import Table


@click.command()
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
@click.option(
    "--size", "kernel_size", type=numbers_or_auto, required=True, help="Kernel size: 5, or 5,7 (one per axis), or auto."
)
@click.option("--max-size", type=int, help="The largest that --size auto looks at.")
@click.option(
    "--method", default="lstsq", show_default=True, help="lstsq (closed form), or descent: gd, momentum, adam, lbfgs."
)
@click.option("--loss", default="squares", show_default=True, help="squares; of descent huber and poisson too.")
@click.option("--huber-delta", type=float, help="From where on Huber's loss is linear, in units of AFTER.")
@click.option("--stride", type=numbers, default=1, show_default=True)
@click.option("--padding", type=padding, default="valid", show_default=True, help="valid, same, full, 1 or 1:2,0:0.")
@click.option("--padding-mode", type=click.Choice(PADDING_MODES), default="zeros", show_default=True)
@click.option("--dilation", type=numbers, default=1, show_default=True)
@click.option("--offset", "--background", is_flag=True, help="Fit a constant (a background) too.")
@click.option(
    "--mask",
    "mask_file",
    type=click.Path(),
    metavar="FILE",
    help="Pixels of AFTER to leave out: not zero where left out.",
)
@click.option("--mix-channels", is_flag=True, help="Of pictures: a kernel from all channels to all.")
@click.option(
    "--ridge", type=number_or_auto, default="0", show_default=True, help="Penalty on the squared kernel, or auto."
)
@click.option("--smoothness", type=float, default=0.0, show_default=True, help="Penalty on differences of neighbours.")
@click.option("--basis", metavar="NAME|FILE", help="gaussian-hermite, or a file of kernels (count, *kernel_size).")
@click.option("--nonnegative", "constraints", flag_value="nonnegative", multiple=True, help="No negative weights.")
@click.option("--sum-to-one", "constraints", flag_value="sum-to-one", multiple=True, help="Weights that add up to one.")
@click.option("--symmetric", "constraints", flag_value="symmetric", multiple=True, help="Its own mirror image.")
@click.option("--x-noise-variance", type=float, default=0.0, help="Of white noise in BEFORE.")
@click.option(
    "--errors",
    type=click.Choice(["white", "jackknife"]),
    default="white",
    show_default=True,
    help="What noise standard errors are for: white, or alike in neighbouring pixels.",
)
@click.option(
    "--learning-rate", type=float, help="Of gradient descent; by default nine tenths of the largest that works."
)
@click.option("--steps", type=int, default=1000, show_default=True, help="Of gradient descent.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the kernel that gradient descent starts from.")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="FILE.npz",
    help="Where to write the kernel, for `correlate` and `compose`.",
)
@click.option("--html", metavar="FILE", help="Where to write the report as a page.")
@json_option
def command(
    *,
    before: str,
    after: str,
    mask_file: str | None,
    mix_channels: bool,
    output: str | None,
    basis: str | None,
    html: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the kernel for which BEFORE, correlated with it, comes nearest to AFTER.

    Files are pictures or arrays of (in_channels, *size) or (N, in_channels, *size); two axes are one channel. Of two
    pictures one kernel is sought for all channels, each filtered by itself, unless --mix-channels asks for a kernel
    from all channels to all. Where AFTER is as large as BEFORE, its border is left out, since nobody knows what was
    beyond; --padding same takes it in, made as --padding-mode says.

    Example: convolith fit before.png after.png --size 7 -o kernel.npz
    """
    target = None if output is None else Output(output, (".npz",))
    sheet = None if html is None else Output(html, (".html",))
    if sheet:
        check_available()
    mix = mix_channels or not (is_image(before) and is_image(after))
    x, y = (_channels(name, path, mix=mix) for name, path in (("BEFORE", before), ("AFTER", after)))
    if basis is not None:
        options["basis"] = basis if basis == "gaussian-hermite" else read_array("--basis", basis)
    mask = None if mask_file is None else read_array("--mask", mask_file) != 0
    inside = None
    chosen = options["kernel_size"] == "auto"
    if not chosen and options["padding"] == "valid" and options["stride"] == 1 and x.ndim == y.ndim:
        inside = inner_part(x, y, options["kernel_size"], options["dilation"])
    if inside is not None:
        mask = mask if mask is None or mask.shape[-len(inside) :] != y.shape[-len(inside) :] else crop(mask, inside)
        y = crop(y, inside)
        click.echo("AFTER is as large as BEFORE: its border is left out (--padding same takes it in)", err=True)
    found = fit(x, y, mask=mask, progress=True, **options)
    if target:
        same = inside is not None or chosen
        arrays = conv_arrays(with_same_padding(found.conv) if same else found.conv)
        if found.stderr is not None:
            arrays["stderr"] = found.stderr
        target.write(lambda file: np.savez(file, **arrays))
    tables = _tables(found, output)
    if sheet:
        closed = options | {"method": "lstsq", "learning_rate": None}
        learned = found.method != "lstsq" and options["loss"] == "squares"
        solved = fit(x, y, mask=mask, **closed) if learned else None
        text = fit_page(found, solved, x, y, tables)
        sheet.write(lambda file: file.write(text.encode()))
    emit(as_json=as_json, data=_data(found), tables=tables)


def inner_part(x: np.ndarray, y: np.ndarray, kernel_size: Any, dilation: Any) -> tuple[slice, ...] | None:
    """The outputs of y that read no padding, if y is as large as x; None if it is not, or nothing would be left."""
    axes = spatial_axes(kernel_size, x.ndim)
    size = x.shape[-axes:]
    if y.shape[-axes:] != size:
        return None
    taps, steps = per_axis("kernel_size", kernel_size, axes, 1), per_axis("dilation", dilation, axes, 1)
    pads = [same_padding(n, k, 1, d) for n, k, d in zip(size, taps, steps, strict=True)]
    if not any(map(any, pads)) or any(sum(pair) >= n for pair, n in zip(pads, size, strict=True)):
        return None
    return tuple(slice(before, n - after) for (before, after), n in zip(pads, size, strict=True))


def crop(array: np.ndarray, inside: tuple[slice, ...]) -> np.ndarray:
    """The last axes cut."""
    return array[tuple([...] + list(inside))]  # noqa: RUF005 - NumPy's stubs know no tuple that begins with an ellipsis


def with_same_padding(conv: Conv) -> Conv:
    """The kernel as it is applied to whole pictures: its result is as large as they are."""
    return Conv(conv.weight, conv.bias, **{**conv.options, "padding": "same"})


def _channels(argument: str, path: str, *, mix: bool) -> np.ndarray:
    """(channels, 1, H, W) of a picture, or (channels, H, W) to mix them; an array as it is."""
    array = read_array(argument, path)
    if array.ndim == 2:
        return array[None]
    if is_image(path):
        planes = np.moveaxis(array, -1, 0)
        return planes if mix else planes[:, None]
    if array.ndim < 2:
        raise ConvolithError(f"{argument} has shape {array.shape}; expected (in_channels, *size)")
    return array


def _data(found: Fit) -> dict[str, Any]:
    names = ("method", "residual_rms", "condition", "learning_rate", "kernel", "offset", "stderr", "loss")
    more = {"coefficients": found.coefficients, "selection": [one._asdict() for one in found.selection]}
    return {**{name: getattr(found, name) for name in names}, **more}


def _tables(found: Fit, output: str | None) -> list[Table]:
    summary = {
        "kernel size": "x".join(map(str, found.kernel.shape[2:])),
        "method": found.method,
        "residual rms": found.residual_rms,
        "loss": found.loss[-1],
        "steps": len(found.loss) if found.method != "lstsq" else None,
        "condition": found.condition,
        "sum of kernel": float(found.kernel.sum()),
        "largest standard error": None if found.stderr is None else float(np.max(found.stderr)),
        "offset": None if found.offset is None else ", ".join(f"{value:.4g}" for value in found.offset),
        "written to": output or "-",
    }
    tables = [Table("Fit", [summary])]
    if found.selection:
        rows: list[dict[str, Any]] = [
            {
                "kernel size": "x".join(map(str, one.kernel_size)),
                "ridge": one.ridge,
                "rms of tiles left out": one.rms,
                "mean square above the least": one.worse,
                "standard error": one.spread,
            }
            for one in found.selection
        ]
        tables.append(Table("Cross-validation", rows))
    if found.kernel.shape[:2] == (1, 1) and found.kernel.ndim == 4 and found.kernel.shape[3] <= 15:
        rows = [{str(column): float(value) for column, value in enumerate(row)} for row in found.kernel[0, 0]]
        tables.append(Table("Kernel (rows and columns)", rows))
    return tables
