"""Options of `convolith compose`; `run` has the work, and is imported when the command is called."""

from __future__ import annotations

from typing import Any

import click

from convolith.cli.options import json_option, numbers, padding
from convolith.geometry import CONV_MODES


def _layer_options(command: Any) -> Any:
    for which in ("second", "first"):
        for name, kind in (
            ("padding-mode", click.Choice(CONV_MODES)),
            ("groups", int),
            ("dilation", numbers),
            ("padding", padding),
            ("stride", numbers),
        ):
            option = click.option(
                f"--{which}-{name}", type=kind, help=f"The {name.replace('-', ' ')} of {which.upper()}."
            )
            command = option(command)
    return command


@click.command()
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
@click.option("-o", "--output", type=click.Path(), metavar="FILE.npz", help="File for the composed convolution.")
@_layer_options
@json_option
def command(**given: Any) -> None:
    """Compose SECOND after FIRST into one convolution, and report where it is exact.

    Kernels are files (.npz from `fit` or `compose`, or bare arrays) or lists such as "[[0,1],[2,3]]". The result is
    checked against the two on random input; exit code 1 if it differs.

    Example: convolith compose "[[1,2],[3,4]]" "[[0,1,0],[1,-4,1],[0,1,0]]" -o both.npz
    """
    from convolith.cli.compose.run import run

    run(**given)
