"""`convolith doctor`: installed packages, machine limits, and the check of every engine against the oracle."""

from __future__ import annotations

import platform
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click
import numpy as np
import torch

from convolith import __version__
from convolith.cli.options import emit, json_option
from convolith.engines import TABLE
from convolith.engines.error_bounds import error_scale
from convolith.jit import host
from convolith.planner import plan
from convolith.planner.calibrate import calibrate
from convolith.planner.machine import limits as known_limits
from convolith.planner.machine import measured
from convolith.report.table import Table
from convolith.spec import ConvSpec
from convolith.storage import cache_directory
from convolith.tensors import torch_dtype

PACKAGES = {
    "torch": "core",
    "numpy": "core",
    "llvmlite": "core",
    "click": "core",
    "rich": "core",
    "scikit-image": "image",
    "imageio": "image",
    "tifffile": "image",
    "matplotlib": "plot",
    "starlette": "web",
    "uvicorn": "web",
}
CASES: dict[str, dict[str, Any]] = {
    "3x3, padding 1": {"kernel_size": 3, "padding": 1},
    "1x1, stride 2": {"kernel_size": 1, "stride": 2},
    "5x5 depthwise, circular": {
        "in_channels": 16,
        "out_channels": 16,
        "groups": 16,
        "kernel_size": 5,
        "padding": 2,
        "padding_mode": "circular",
    },
    "3x3 transposed, stride 2": {"kernel_size": 3, "stride": 2, "transposed": True, "output_padding": 1},
}


@click.command()
@click.option("--calibrate", "calibrating", is_flag=True, help="Measure the machine's limits first, and store them.")
@json_option
def command(*, calibrating: bool, as_json: bool) -> None:
    """Show versions, threads and limits, and check every engine against the oracle; exit code 1 if an engine fails."""
    if calibrating:
        calibrate()
    installed = [{"package": name, "for": extra, "version": _version(name)} for name, extra in PACKAGES.items()]
    machine = {
        "convolith": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "vectors": host().name,
        "cache": str(cache_directory() or "switched off"),
    }
    limits = asdict(known_limits())
    limit_rows = [{"limit": name.replace("_", " "), "value": float(f"{value:.3g}")} for name, value in limits.items()]
    source = "measured here" if measured() else "as shipped; convolith doctor --calibrate measures this machine's"
    checks = [row for name, options in CASES.items() for row in _check(name, options)]
    tables = [
        Table("Machine", [machine]),
        Table("Packages", installed),
        Table(f"Limits ({source})", limit_rows),
        Table("Engines against the oracle", checks),
    ]
    data = {"machine": machine, "packages": installed, "limits": limits, "measured": measured(), "checks": checks}
    emit(as_json=as_json, data=data, tables=tables)
    if not all(row["good"] for row in checks):
        raise click.exceptions.Exit(1)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _check(name: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the error and the error bound of each engine that supports the case, in float32 and float64."""
    rows = []
    for dtype in ("float32", "float64"):
        layer = {"in_channels": 4, "out_channels": 4, **options}
        spec = ConvSpec(batch=2, size=(19, 23), dtype=dtype, **layer)
        generator = torch.Generator().manual_seed(0)
        x, k = (
            torch.randn(shape, generator=generator, dtype=torch_dtype(dtype))
            for shape in (spec.input_shape, spec.kernel_shape)
        )
        wide = replace(spec, dtype="float64", kernel_dtype="float64")
        expected = plan(wide, engine="reference")(x.double(), k.double())
        scale = error_scale(spec, x, k)
        for engine in TABLE:
            if engine.refuse(spec) is None:
                chosen = plan(spec, engine=engine.name, accuracy="fast" if engine.only_fast else "default")
                error = float((chosen(x, k) - expected).abs().max()) / scale
                bound = engine.error_bound(spec)
                row = {"case": name, "dtype": dtype, "engine": engine.name, "error": error, "bound": bound}
                rows.append(row | {"good": bool(np.isfinite(error)) and error <= bound})
    return rows
