"""`convolith fit`: the kernel that turned one picture or array into another."""

from __future__ import annotations

from typing import Any

import click
import numpy as np

from convolith.cli.files import Output, conv_arrays, is_image, read_array
from convolith.cli.options import emit, json_option, numbers, padding
from convolith.errors import ConvolithError
from convolith.fitting import Fit, fit
from convolith.geometry import PADDING_MODES
from convolith.report.table import Table


@click.command()
@click.argument("before")
@click.argument("after")
@click.option("--size", "kernel_size", type=numbers, required=True, help="Kernel size: 5, or 5,7 (one per axis).")
@click.option("--method", default="lstsq", show_default=True, help="lstsq (closed form) or gd (gradient descent).")
@click.option("--stride", type=numbers, default=1, show_default=True)
@click.option("--padding", type=padding, default="valid", show_default=True, help="valid, same, full, 1 or 1:2,0:0.")
@click.option("--padding-mode", type=click.Choice(PADDING_MODES), default="zeros", show_default=True)
@click.option("--dilation", type=numbers, default=1, show_default=True)
@click.option("--offset", is_flag=True, help="Fit a constant (a background) too.")
@click.option("--mask", "mask_file", metavar="FILE", help="Pixels of AFTER to leave out: not zero where left out.")
@click.option("--ridge", type=float, default=0.0, show_default=True, help="Penalty on the squared kernel.")
@click.option(
    "--learning-rate", type=float, help="Of gradient descent; by default nine tenths of the largest that works."
)
@click.option("--steps", type=int, default=1000, show_default=True, help="Of gradient descent.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the kernel that gradient descent starts from.")
@click.option("-o", "--output", metavar="FILE.npz", help="Where to write the kernel, for `correlate` and `compose`.")
@json_option
def command(
    *, before: str, after: str, mask_file: str | None, output: str | None, as_json: bool, **options: Any
) -> None:
    """Find the kernel for which BEFORE, correlated with it, comes nearest to AFTER.

    Files are pictures, whose channels stand last, or arrays of (in_channels, *size) or (N, in_channels, *size); an
    array of two axes is one channel.

    Example: convolith fit before.png after.png --size 7 --padding same -o kernel.npz
    """
    target = None if output is None else Output(output, (".npz",))
    x, y = (_channels_first(name, path) for name, path in (("BEFORE", before), ("AFTER", after)))
    mask = None if mask_file is None else read_array("--mask", mask_file) != 0
    found = fit(x, y, mask=mask, progress=True, **options)
    if target:
        arrays = conv_arrays(found.conv)
        if found.stderr is not None:
            arrays["stderr"] = found.stderr
        target.write(lambda file: np.savez(file, **arrays))
    emit(as_json=as_json, data=_data(found), tables=_tables(found, output))


def _channels_first(argument: str, path: str) -> np.ndarray:
    array = read_array(argument, path)
    if array.ndim == 2:
        return array[None]
    if is_image(path):
        return np.moveaxis(array, -1, 0)
    if array.ndim < 2:
        raise ConvolithError(f"{argument} has shape {array.shape}; expected (in_channels, *size)")
    return array


def _data(found: Fit) -> dict[str, Any]:
    names = ("method", "residual_rms", "condition", "learning_rate", "kernel", "offset", "stderr", "loss")
    return {name: getattr(found, name) for name in names}


def _tables(found: Fit, output: str | None) -> list[Table]:
    summary = {
        "method": found.method,
        "residual rms": found.residual_rms,
        "loss": found.loss[-1],
        "steps": len(found.loss) if found.method == "gd" else None,
        "condition": found.condition,
        "sum of kernel": float(found.kernel.sum()),
        "largest standard error": None if found.stderr is None else float(np.max(found.stderr)),
        "offset": None if found.offset is None else ", ".join(f"{value:.4g}" for value in found.offset),
        "written to": output or "-",
    }
    tables = [Table("Fit", [summary])]
    if found.kernel.shape[:2] == (1, 1) and found.kernel.ndim == 4 and found.kernel.shape[3] <= 15:
        rows = [{str(column): float(value) for column, value in enumerate(row)} for row in found.kernel[0, 0]]
        tables.append(Table("Kernel (rows and columns)", rows))
    return tables
