"""`convolith decompose`: one convolution as a chain of smaller ones, with a certified error bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import numpy as np

from convolith.cli.options import PADDING, PADDING_MODE, budget_option, emit, json_option, numbers, padding
from convolith.cli.words import in_words_of_the_command
from convolith.geometry import CONV_MODES
from convolith.report.table import Table

if TYPE_CHECKING:
    from convolith.algebra import Decomposition


@click.command()
@click.argument("kernel", type=click.Path())
@click.option(
    "--tolerance", type=float, default=0.0, show_default=True, help="Largest relative error that is accepted."
)
@budget_option("Seconds after which no further method is tried.")
@click.option("--stride", type=numbers, help="One number, or one per axis.  [default: 1]")
@click.option("--padding", type=padding, help=f"{PADDING}  [default: 0]")
@click.option("--dilation", type=numbers, help="One number, or one per axis.  [default: 1]")
@click.option("--groups", type=int, help="Number of channel groups.  [default: 1]")
@click.option("--padding-mode", type=click.Choice(CONV_MODES), help=f"{PADDING_MODE}  [default: zeros]")
@click.option("-o", "--output", type=click.Path(), metavar="FILE.npz", help="File for the parts.")
@json_option
def command(
    *, kernel: str, tolerance: float, budget_seconds: float, output: str | None, as_json: bool, **options: Any
) -> None:
    """Factor KERNEL into a chain of smaller convolutions, exactly or within a tolerance, with a certified error bound.

    KERNEL is a file (.npz from `fit` or `compose`, or a bare array) or a list such as "[[1,2,1],[2,4,2],[1,2,1]]" or
    "[1,4,6,4,1]". The parts are written as FILE.npz with 0.weight, 0.stride and so on, which `compose` and `correlate`
    read one by one as FILE.npz:0, FILE.npz:1. Exit code 1 if it does not decompose.

    Example: convolith decompose "[[1,2,1],[2,4,2],[1,2,1]]" --padding same -o parts.npz
    """
    from convolith.algebra import decompose
    from convolith.cli.io.files import Output, chain_arrays, read_kernel
    from convolith.conv import Conv

    target = None if output is None else Output(output, (".npz",))
    chosen = {name: value for name, value in options.items() if value is not None}
    read = read_kernel("KERNEL", kernel, chosen)
    if isinstance(read, np.ndarray):
        read = read[None, None] if read.ndim == 1 else read
        read = read.astype(np.float64) if read.dtype.kind in "biu" else read
    with in_words_of_the_command():
        conv = read if isinstance(read, Conv) else Conv(read, **chosen)
        found = decompose(conv, tolerance=tolerance, budget_seconds=budget_seconds)
    if target and found.parts:
        target.write(lambda file: np.savez(file, **chain_arrays(found.parts)))
    tables = found.tables()
    if target and found.parts:
        tables.append(Table("", [{"written to": output}]))
    emit(as_json=as_json, data=_data(found), tables=tables)
    if not found.parts:
        raise click.exceptions.Exit(1)


def _data(found: Decomposition) -> dict[str, Any]:
    return {
        "method": found.method,
        "reason": found.reason,
        "bound": found.bound,
        "relative": found.relative,
        "multiplications_before": found.multiplications_before,
        "multiplications_after": found.multiplications_after,
        "parts": [{"weight": np.asarray(part.weight), "bias": part.bias, **part.options} for part in found.parts],
    }
