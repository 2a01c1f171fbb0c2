"""Options that several commands share, and the parsers of their values."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from convolith.errors import ConvolithError
from convolith.geometry import CONV_MODES, PADDING_NAMES
from convolith.report.plain import to_json
from convolith.report.table import Table


def numbers(text: str) -> int | tuple[int, ...]:
    """Parse integers separated by commas, such as `3` or `2,1`; a single one is returned as a number."""
    try:
        entries = tuple(int(part) for part in str(text).split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a whole number, or several separated by commas") from None
    return entries[0] if len(entries) == 1 else entries


def axes_or_names(text: str) -> int | tuple[int, ...] | str:
    """Parse axes as integers separated by commas, or as names such as `yx`."""
    return str(text) if str(text).isalpha() else numbers(text)


def missing_pixels(text: str) -> float | str:
    """Parse `propagate`, `renormalise`, or a number."""
    if text in ("propagate", "renormalise"):
        return text
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is none of propagate and renormalise, and no number") from None


def numbers_or_auto(text: str) -> int | tuple[int, ...] | str:
    """Parse integers separated by commas, or `auto`."""
    return "auto" if text == "auto" else numbers(text)


def number_or_auto(text: str) -> float | str:
    """Parse a number, or `auto`."""
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number, and not auto") from None


def level(text: str) -> float | tuple[float, float]:
    """Parse a number, or two separated by a comma."""
    try:
        entries = tuple(float(part) for part in str(text).split(","))
    except ValueError:
        entries = ()
    if len(entries) not in (1, 2):
        raise click.BadParameter(f"{text!r} is not a number, or two separated by a comma")
    return entries[0] if len(entries) == 1 else (entries[0], entries[1])


SUFFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def quantity(text: str) -> float:
    """Parse a number with an optional suffix k, M, G or T for 10^3 to 10^12, such as `5G`; a final B is ignored."""
    digits = str(text).strip().removesuffix("B").strip()
    factor = SUFFIXES.get(digits[-1:], 1.0)
    try:
        value = float(digits.rstrip("kMGT")) * factor
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise click.BadParameter(f"{text!r} is not a number such as 5G, 0 or more")
    return value


def megabytes(text: str) -> float:
    """Parse a number of 10^6 bytes, such as `4000`; a suffix is refused, since `4G` would be 4 * 10^15 bytes."""
    if str(text).strip()[-1:].isalpha():
        raise click.BadParameter(f"{text!r} has a suffix; expected a number of MB (10^6 bytes), such as 4000")
    return quantity(text)


def shape(text: str) -> tuple[int, ...]:
    """Parse a shape of at least two integers, such as `1,3,224,224`."""
    entries = numbers(text)
    if isinstance(entries, int):
        raise click.BadParameter(f"{text!r} is one number; expected a shape such as 1,3,224,224")
    return entries


def shape_or_path(text: str) -> tuple[int, ...] | str:
    """Parse a shape, or return a URL, or the name of a file or a folder that exists."""
    if "://" in str(text):
        return str(text)
    with suppress(OSError, ValueError):  # a name that no file can have
        if Path(str(text)).exists():
            return str(text)
    return shape(text)


def shape_or_kernel(text: str) -> tuple[int, ...] | str:
    """Parse a shape, or return the name of a file that exists or a kernel in brackets."""
    return str(text) if str(text).lstrip().startswith("[") else shape_or_path(text)


def input_of_model(text: str) -> tuple[tuple[int, ...], str | None]:
    """Parse a shape of one or more integers, with an optional dtype: `1,3,224,224`, `2,128:int64`."""
    sizes, _, dtype = str(text).partition(":")
    entries = numbers(sizes)
    return (entries,) if isinstance(entries, int) else entries, dtype or None


def padding(text: str) -> Any:
    """Parse `same`, `valid`, `full`, a number, one per axis (`1,2`), or pairs before:after (`1:2,0:0`)."""
    if str(text) in PADDING_NAMES:
        return str(text)
    try:
        entries = [tuple(int(n) for n in part.split(":")) for part in str(text).split(",")]
    except ValueError:
        entries = [()]
    if not all(len(entry) in (1, 2) for entry in entries):
        raise click.BadParameter(
            f"{text!r} is none of {', '.join(PADDING_NAMES)}, and not numbers or pairs before:after"
        )
    if len(entries) == 1 and len(entries[0]) == 1:
        return entries[0][0]
    return tuple(entry if len(entry) == 2 else entry * 2 for entry in entries)


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
html_option = click.option("--html", metavar="FILE", help="File for the report as an HTML page.")
input_option = click.option(
    "--input",
    "shapes",
    type=shape,
    multiple=True,
    required=True,
    help="Shape of one model input, such as 1,3,224,224 (repeatable).",
)


def budget_option(words: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option --budget-seconds with its help text."""
    kind = click.FloatRange(min=0, min_open=True)
    return click.option("--budget-seconds", type=kind, default=60.0, show_default=True, help=words)


PADDING = "same, valid, full, a number, one per axis such as 1,2, or before:after per axis such as 1:2,0:0."
"""Help of --padding."""
PADDING_MODE = (
    "Values beyond the edge: zeros, a mirror image without (reflect) or with (symmetric) the edge itself, the edge "
    "repeated (replicate), or the other side (circular)."
)
"""Help of --padding-mode."""
MEMORY = "memory limit, such as 2GB (1GB is 2^30 bytes)"
"""Beginning of the help of --memory."""
ACCURACIES = ("exact", "default", "fast", "double")
"""Accuracy classes of the planner, which is not imported for them, since it needs torch."""


def geometry_options(
    modes: Sequence[str] = CONV_MODES,
    *,
    padding_default: str = "0",
    mode_default: str = "zeros",
    mode_help: str = PADDING_MODE,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds --stride, --padding, --dilation, --groups and --padding-mode to a command.

    Args:
        modes: values of --padding-mode; "constant" is one for commands that have --padding-value.
        padding_default, mode_default: what the help shows as the defaults of --padding and --padding-mode.
        mode_help: help of --padding-mode.
    """
    options = [
        click.option("--stride", type=numbers, default=1, show_default=True, help="One number, or one per axis."),
        click.option("--padding", type=padding, default=0, help=f"{PADDING}  [default: {padding_default}]"),
        click.option("--dilation", type=numbers, default=1, show_default=True, help="One number, or one per axis."),
        click.option("--groups", type=int, default=1, show_default=True, help="Number of channel groups."),
        click.option(
            "--padding-mode", type=click.Choice(modes), default="zeros", help=f"{mode_help}  [default: {mode_default}]"
        ),
    ]
    return lambda command: functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


accuracy_option = click.option(
    "--accuracy",
    type=click.Choice(ACCURACIES),
    default="default",
    show_default=True,
    help="Bound on the errors: exact (direct sums in the dtype of the result), default (5e-6 in float32), fast (1e-4), "
    "or double (sums in float64).",
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --engine and --accuracy to a command; an engine's name is checked on use, so that help imports no engine."""
    engine = click.option(
        "--engine",
        default="auto",
        show_default=True,
        help="Algorithm that computes: auto, which takes the fastest within --accuracy, or a name from the table that "
        "`convolith plan` prints.",
    )
    return engine(accuracy_option(command))


def emit(*, as_json: bool, data: Any, tables: list[Table]) -> None:
    """Print a result on stdout: as JSON if requested, as tables with lines on a terminal, as plain text in a pipe."""
    if as_json:
        click.echo(to_json(data))
    elif sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        for table in tables:
            table.show(console)
    else:
        click.echo("\n\n".join(table.text() for table in tables))


def parse_factor(text: str) -> tuple[str, float]:
    """Parse `name=number`, such as `in_channels=2`."""
    name, _, number = text.partition("=")
    try:
        return name.strip().replace("-", "_"), float(number)
    except ValueError:
        raise ConvolithError(f"scale is {text!r}; expected name=factor, such as in_channels=2") from None


def factors_of(scale: tuple[str, ...]) -> dict[str, float]:
    """Parse several `name=number` into a dict; each name may occur once."""
    factors = dict(map(parse_factor, scale))
    if len(factors) < len(scale):
        raise ConvolithError(f"scale is {', '.join(scale)}; expected each name once")
    return factors
