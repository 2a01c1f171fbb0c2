"""Correlations from store to store, for the commands `correlate` and `plan`."""

from __future__ import annotations

import sys
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import click

from convolith import big
from convolith.big.cluster import connected
from convolith.big.stores.places import FITS, NPZ, SCHEME, needed, selected
from convolith.big.stores.sources import TIFF, ZARR, ZARR_FILES
from convolith.cli.io.events import INTERRUPTED, events
from convolith.cli.io.files import read_kernel
from convolith.cli.io.fits_headers import of_wrong_coordinates
from convolith.cli.io.results import ALPHA, ALPHA_NOTICE, of_broken_weights, of_overflow
from convolith.cli.words import GENERAL, in_words_of_the_command
from convolith.conv import Conv
from convolith.correlation.result_dtypes import say_changed
from convolith.errors import ConvolithError, warn

READ = (*TIFF, ".npy", NPZ, *FITS)
"""Endings of files that are read block by block where `--memory` is given, and else as a whole."""
ALONE = ("mask", "origin")
"""Options of `correlate` that apply to a picture or an array in memory alone."""
WORDS = (
    *GENERAL,
    (r"; pass a larger block=, or correlate", "; correlate"),
    (r"; pass at least (\d+MB), or a smaller block=$", r"; pass at least --memory \1"),
    (r"^memory is\b", "--memory is"),
    (r"^target is\b", "--output is"),
    (r"^scheduler is\b", "--scheduler is"),
    (r"^missing is 'renormalise'", "--missing is renormalise"),
    (r"^nodata is\b", "--nodata is"),
    (r"^source\b", "INPUT"),
    (r"\bof source\b", "of INPUT"),
    (r"\bthe source\b", "INPUT"),
    (r" with resume=False \(--anew\)", " with --anew"),
    (r"skip_bad=True \(--skip-bad\)", "--skip-bad"),
)
"""Words of `big.plan` and its run, in those of the command."""
MISSING = {"propagate": "propagate", "omit": "renormalise"}
"""Values of `--nan`, and the values of `missing=` in `big.plan` that they stand for."""


def is_store(path: str | None) -> bool:
    """Return whether a path is that of a Zarr array or group, or a URL."""
    if path is None:
        return False
    if SCHEME in path:
        return True
    with suppress(OSError, ValueError):  # a name that no file can have
        if any((Path(path) / name).exists() for name in ZARR_FILES):
            return True
    return path.rstrip("/").endswith(ZARR)


def is_read_in_blocks(path: str) -> bool:
    """Return whether a path is that of a file that is no store, but can be read block by block."""
    return selected(path)[0].lower().endswith(READ)


def planned(source: str, kernel: str, output: str | None, given: dict[str, Any]) -> big.BigPlan:
    """Plan a correlation of a store.

    Args:
        source, kernel, output: as for the command.
        given: options that were given on the command line.
    """
    for name in ALONE:
        if name in given:
            raise ConvolithError(
                f"--{name} was given; it applies to pictures and arrays that fit into memory; leave --{name} out"
            )
    if given.get("nan") == "interpolate":
        raise ConvolithError("--nan is interpolate, which a store does not have; expected propagate or omit")
    geometry = ("stride", "padding", "dilation", "groups", "padding_mode")
    read = read_kernel("KERNEL", kernel, {name: given[name] for name in geometry if name in given})
    used = (*geometry, "nan") if isinstance(read, Conv) else ("nan",)
    options = {name: value for name, value in given.items() if name not in used}
    if "nan" in given:
        options["missing"] = MISSING[given["nan"]]
    taps = read
    if not isinstance(read, Conv) and read.ndim == 4 and read.shape[:2] == (1, 1):
        taps = read[0, 0]
        options.setdefault("padding_mode", "symmetric")
    return big.plan(source, taps, output, **options)


def correlate_store(
    source: str,
    kernel: str,
    output: str | None,
    given: dict[str, Any],
    *,
    as_json: bool,
    resume: bool,
    skip_bad: bool,
    scheduler: str | None,
) -> None:
    """Run `correlate` from store to store, here or on a cluster, and print what it did.

    An interrupt ends with the exit status 130, after what is in flight is stored.
    """
    with events(wanted=as_json) as stream:
        try:
            with in_words_of_the_command(WORDS) as warnings, connected(scheduler) as (executor, in_flight):
                _check_output(source, output)
                plan = planned(source, kernel, output, given)
                stream.say("plan", **_plan_data(plan))
                if not as_json:
                    click.echo(repr(plan), err=True)
                _warn_of_input(plan)
                report = plan.run(
                    executor, resume=resume, skip_bad=skip_bad, in_flight=in_flight, listener=stream.progress
                )
                _warn_of_results(plan, report)
        except KeyboardInterrupt:
            click.echo("interrupted; what is stored stays: give the same command again to go on, or --anew", err=True)
            sys.exit(INTERRUPTED)
        stream.done(report.tables(), warnings, **_report_data(report), written_to=output)


def _warn_of_input(plan: big.BigPlan) -> None:
    """Warn of the input and the kernel as `correlate` does in memory."""
    source = plan.source
    if len(source.shape) == 3 and (source.axes or ("",))[-1] == "s" and source.shape[2] in ALPHA:
        warn(ALPHA_NOTICE)
    header = source.attributes.get("fits_header")
    notices = [of_broken_weights(plan.filter.kernel)]
    if isinstance(header, str):
        notices.append(of_wrong_coordinates(needed("astropy.io.fits", "fits").Header.fromstring(header, sep="\n")))
    for notice in notices:
        if notice:
            warn(notice)


def _warn_of_results(plan: big.BigPlan, report: big.BigReport) -> None:
    """Warn of the results as `correlate` does in memory."""
    size, dtype = prod(plan.layout.shape), plan.filter.out_dtype
    if report.empty:
        warn("all pixels of INPUT are missing")
    if report.overflowed and of_broken_weights(plan.filter.kernel) is None:
        warn(of_overflow(report.overflowed, size, dtype))
    if dtype.kind in "iu":
        say_changed(report.clipped, report.missing if plan.filter.nodata is None else 0, size, dtype.name)


def _check_output(source: str, output: str | None) -> None:
    """Refuse a result that cannot be written block by block."""
    if output is None or not (is_store(output) or output.lower().endswith(TIFF)):
        reason = "for a result of this size" if is_store(source) else "since --memory was given"
        raise ConvolithError(
            f"--output is {output!r}; expected a name that ends with {ZARR}, {' or '.join(TIFF)}, {reason}"
        )


def _report_data(report: big.BigReport) -> dict[str, Any]:
    """Return a report as plain data."""
    names = ("blocks", "resumed", "read_bytes", "written_bytes", "seconds", "predicted_bytes", "measured_bytes")
    data = {name: getattr(report, name) for name in (*names, "clipped", "overflowed", "missing", "absent")}
    return data | {"bad": {"/".join(map(str, block)): reason for block, reason in report.bad.items()}}


def _plan_data(plan: big.BigPlan) -> dict[str, Any]:
    """Return a plan as plain data."""
    return {
        "shape": plan.layout.shape,
        "block": plan.layout.block,
        "blocks": plan.layout.blocks,
        "engine": plan.filter.engine,
        "read_bytes": plan.read_bytes,
        "written_bytes": plan.written_bytes,
        "predicted_bytes": plan.layout.predicted_bytes,
    }


def plan_store(source: str, kernel: str, given: dict[str, Any], *, as_json: bool) -> None:
    """Print the plan of a correlation from store to store."""
    with events(wanted=as_json) as stream:
        with in_words_of_the_command(WORDS) as warnings:
            plan = planned(source, kernel, None, given)
        stream.say("plan", **_plan_data(plan))
        stream.done(plan.tables(), warnings)
