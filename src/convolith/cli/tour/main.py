"""Options of `convolith tour`; `run` has the work, and is imported when the command is called."""

from __future__ import annotations

from typing import Any

import click

from convolith.cli.options import json_option


@click.command()
@click.option(
    "--html",
    "html",
    type=click.Path(),
    metavar="FILE",
    help="File for the tour with its pictures, as one self-contained HTML page.",
)
@json_option
def command(**given: Any) -> None:
    """Walk through the chapter: channels, 1x1, two kernels as one, a learned kernel, and the cost of a layer.

    Each part shows the Python code that it runs and the resulting values.
    """
    from convolith.cli.tour.run import run

    run(**given)
