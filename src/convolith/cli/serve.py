"""`convolith serve`: the page, which computes on this machine and for this user alone."""

from __future__ import annotations

import sys
from functools import partial
from importlib.util import find_spec

import click

from convolith.cli.factory import model_of
from convolith.cli.options import json_option
from convolith.errors import ConvolithError, missing_extra
from convolith.report.plain import to_json
from convolith.web.server import address_of, listen, new_token, open_browser, redirect_file, run

PACKAGES = {"starlette": "starlette", "uvicorn": "uvicorn", "PIL": "pillow"}
"""Modules that the server needs, and the packages that have them."""


@click.command()
@click.argument("factory", metavar="[PACKAGE.MODULE:FACTORY]", required=False)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on.  [default: a free one]")
@click.option("--no-browser", is_flag=True, help="Print the address only.")
@json_option
def command(*, factory: str | None, port: int, no_browser: bool, as_json: bool) -> None:
    """Open the page in the browser: convolutions to look at, to compute, to fit and to count, until Ctrl-C.

    FACTORY is a function without arguments that returns a model, also from the current folder, as for `convolith cost`;
    the page then has its costs. The server listens on this machine alone, and answers only to the address that is
    printed, which has a secret in it. From another machine, forward the port: ssh -L 8000:127.0.0.1:8000 HOST.

    Example: convolith serve my_models:resnet --port 8000
    """
    for module, package in PACKAGES.items():
        if find_spec(module) is None:
            raise missing_extra(package, "web", "the page")
    if factory is not None and not all(factory.partition(":")):
        raise ConvolithError(f"FACTORY is {factory!r}; expected package.module:factory, such as my_models:repvgg")
    with listen(port) as listening:
        token = new_token()
        address = address_of(listening, token)
        click.echo(to_json({"address": address, "model": factory}) if as_json else f"The page is at {address}")
        sys.stdout.flush()
        with redirect_file(address) as file:
            if not no_browser and not open_browser(file):
                click.echo("No browser was found; open the address in one", err=True)
            if not as_json:
                click.echo("Ctrl-C ends it", err=True)
            run(listening, token, None if factory is None else partial(model_of, factory), factory)
