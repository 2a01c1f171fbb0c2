"""`convolith doctor`: the command; it imports torch only once the packages were looked at."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import click

from convolith import __version__
from convolith.cli.doctor.installation import CORE, Cache, cache_state, extra_rows, package_rows, requirements
from convolith.cli.options import emit, json_option
from convolith.errors import ConvolithError
from convolith.report.table import Table

if TYPE_CHECKING:
    from convolith.cli.doctor.engines import Engines

SOURCES = "Convolith is not installed as a package, so that its extras are not known; in its folder: pip install -e ."


@click.command()
@click.option("--calibrate", "calibrating", is_flag=True, help="Measure the machine's limits first, and store them.")
@json_option
def command(*, calibrating: bool, as_json: bool) -> None:
    """Show the installation, and how to mend what does not work; check every engine, with exit code 1 if one fails.

    It needs no network. Without torch, or with one that is too old, it says so and ends with exit code 1.
    """
    needed = requirements()
    advice = [
        f"Convolith needs {one.wanted}: pip install --upgrade '{one.package}{f'>={one.least}' if one.least else ''}'"
        for one in needed
        if one.extra == CORE and one.wanted
    ]
    engines = None
    try:
        engines = _examined(calibrating=calibrating)
    except (ImportError, OSError, ConvolithError) as problem:  # OSError: a library that torch or llvmlite cannot load
        advice.append(f"nothing can be computed: {problem}")
    cache = cache_state()
    if not needed:
        advice.append(SOURCES)
    advice += [] if cache.advice is None else [cache.advice]
    advice += [] if engines is None else engines.advice
    emit(as_json=as_json, **_report(needed, cache, engines, advice))
    if engines is None or not all(row["good"] for row in engines.checks):
        raise click.exceptions.Exit(1)


def _examined(*, calibrating: bool) -> Engines:
    from convolith.cli.doctor.engines import examined

    return examined(calibrating=calibrating)


def _report(needed: Any, cache: Cache, engines: Engines | None, advice: list[str]) -> dict[str, Any]:
    """Return the report as data and as tables."""
    machine = {
        "convolith": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": None if engines is None else engines.threads,
        "vectors": None if engines is None else engines.target.name,
        "processor": None if engines is None else engines.target.cpu,
    }
    kept = {
        "folder": None if cache.directory is None else str(cache.directory),
        "state": cache.problem or "compiled code and measurements are kept here",
        "files": cache.files,
        "megabytes": round(cache.megabytes, 1),
    }
    packages, extras = package_rows(needed), extra_rows(needed) if needed else []
    tables = [Table("Machine", [machine]), Table("Packages", packages), Table("Extras", extras), Table("Cache", [kept])]
    data: dict[str, Any] = {"machine": machine, "packages": packages, "extras": extras, "cache": kept}
    if engines is not None:
        limits = [{"limit": name.replace("_", " "), "value": float(f"{v:.3g}")} for name, v in engines.limits.items()]
        source = "measured here" if engines.measured else "as shipped"
        tables += [Table(f"Limits ({source})", limits), Table("Engines against the oracle", engines.checks)]
        data |= {"limits": engines.limits, "measured": engines.measured, "checks": engines.checks}
    tables.append(Table("What to do", [{"advice": line} for line in advice or ["nothing: everything works"]]))
    return {"data": data | {"advice": advice}, "tables": tables}
