"""Fits between stores, for the command `fit`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from convolith import big
from convolith.big.cluster import connected
from convolith.cli.io.events import INTERRUPTED
from convolith.errors import ConvolithError
from convolith.report.progress import State

STORES_ALONE = ("memory", "checkpoint", "axes", "channel_axis", "pair_axis", "nodata", "folds", "passes")
"""Options that apply to stores."""
SHARED = (
    "kernel_size",
    "max_size",
    "size_tolerance",
    "stride",
    "padding",
    "padding_mode",
    "dilation",
    "offset",
    "saturation",
    "origin",
    "ridge",
    "smoothness",
    "basis",
    "constraints",
    "x_noise_variance",
    "errors",
)
"""Options that apply to stores, and to pictures and arrays in memory."""
STORES = {"before": "x", "after": "y", "mask": "mask", "before_mask": "x_mask", "variance": "variance"}
"""Parameters of the command that name stores, and the arguments of `big.fit`."""
ELSEWHERE = ("output", "as_json", "ignore_nan", "method", "loss", "scheduler", *STORES)
"""Parameters of the command that are passed on in another form, or not at all."""
WORDS = (
    (r"; pass at least (\d+MB), or a smaller block=, kernel_size= or folds=$", r"; pass at least --memory \1"),
    (r"; pass a larger block=$", ""),
    (r"^memory is\b", "--memory is"),
    (r"^checkpoint is\b", "--checkpoint is"),
    (r"^scheduler is\b", "--scheduler is"),
    (r"^nodata is\b", "--nodata is"),
    (r"^(axes|folds|passes) is\b", r"--\1 is"),
    (r"^(channel|pair)_axis is\b", r"--\1-axis is"),
    (r"\bpass passes=", "pass --passes "),
    (r"\ba larger folds=", "a larger --folds"),
    (r"\bwith channel_axis=", "with --channel-axis"),
    (r"^x(\[\d+\])? (is|has)\b", r"BEFORE\1 \2"),
    (r"^y(\[\d+\])? (is|has|falls)\b", r"AFTER\1 \2"),
    (r"\bbut y(\[\d+\])?(?= \()", r"but AFTER\1"),
    (r"\bbut x(\[\d+\])?(?= \()", r"but BEFORE\1"),
)
"""Words of `big.fit`, in those of the command."""


def given_options() -> set[str]:
    """Return the names of the options that were given on the command line."""
    context = click.get_current_context()
    usual = click.core.ParameterSource.DEFAULT
    return {name for name in context.params if context.get_parameter_source(name) is not usual}


def words_of(name: str) -> str:
    """Return how an option is written."""
    context = click.get_current_context()
    return next((option.opts[0] for option in context.command.params if option.name == name), f"--{name}")


def remove_stores_alone(options: dict[str, Any]) -> None:
    """Remove the options of stores from those of a fit in memory.

    Raises:
        ConvolithError: one of them was given.
    """
    for name in (*STORES_ALONE, "scheduler"):
        if options.pop(name) is not None:
            option = words_of(name)
            raise ConvolithError(f"{option} was given; it applies to stores, such as scan.zarr; leave {option} out")


def fit_stores(
    stores: Mapping[str, Sequence[str]],
    options: dict[str, Any],
    listener: Callable[[State], object],
    on_plan: Callable[[big.FitPlan], object],
) -> big.BigFit:
    """Fit a kernel between stores, here or on a cluster.

    An interrupt ends with the exit status 130, after the checkpoint is written.

    Args:
        stores: names of the stores, and of what is said about their pixels, by the arguments of `big.fit`.
        options: values of the options of the command.
        listener, on_plan: as for `big.fit`.

    Raises:
        ConvolithError: options that apply to data in memory, and whatever `big.fit` refuses.
    """
    for name in sorted(given_options() - {*STORES_ALONE, *SHARED, *ELSEWHERE}):
        option = words_of(name)
        raise ConvolithError(
            f"{option} was given; it applies to pictures and arrays that fit into memory; leave {option} out"
        )
    for name, usual in (("method", "lstsq"), ("loss", "squares")):
        if options[name] != usual:
            option = words_of(name)
            raise ConvolithError(
                f"{option} is {options[name]}; expected {usual}, the only one for stores; leave {option} out"
            )
    chosen = {name: options[name] for name in (*SHARED, *STORES_ALONE) if options[name] is not None}
    chosen["nan"] = "refuse" if options["ignore_nan"] is False else "omit"
    chosen |= {name: list(paths) if len(paths) > 1 else paths[0] for name, paths in stores.items()}
    try:
        with connected(options["scheduler"]) as (executor, in_flight):
            return big.fit(**chosen, executor=executor, in_flight=in_flight, listener=listener, on_plan=on_plan)
    except KeyboardInterrupt:
        kept = options["checkpoint"] is not None
        again = "the sums are kept: give the same command again to go on" if kept else "--checkpoint keeps the sums"
        click.echo(f"interrupted; {again}", err=True)
        sys.exit(INTERRUPTED)


def about(found: big.BigFit) -> dict[str, Any]:
    """Return what a fit took, for JSON."""
    names = (
        "images",
        "blocks",
        "resumed",
        "missing",
        "passes",
        "accuracy",
        "read_bytes",
        "predicted_bytes",
        "measured_bytes",
    )
    return {name: getattr(found, name) for name in names} | {"seconds": dict(found.seconds)}
