"""A run of a bench: what it prints, and what it keeps as JSON with the date, the machine and the versions.

`python -m bench report` writes `docs/performance.md` and `docs/without-torch.md` from the runs in `bench/runs`.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import torch

import convolith as cl
from bench.timing import CONTROL_TOLERANCE
from convolith.jit import host
from convolith.planner import machine
from convolith.report.plain import to_json
from convolith.report.table import Table, quantity

PACKAGES = ("torch", "numpy", "scipy", "opencv-python-headless", "onnxruntime", "openvino", "ncnn")
"""Packages whose versions a run keeps."""
NOT_TRUSTED = "the control is off by more than 5%: this run cannot be trusted; quieten the machine"

json_option: Callable[[Any], Any] = click.option(
    "--json", "path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Keep the run as JSON."
)


@dataclass
class Run:
    """Tables, single figures and controls of one run; `details` is kept but not shown."""

    bench: str
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    controls: list[float] = field(default_factory=list)
    rounds: int | None = None
    unit: str = "blocks"
    """Things that `rounds` counts."""
    details: Any = None
    complete: bool = False
    """Whether all rows were run to the end; `bench report` takes no other run."""

    def add(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print a table and keep it."""
        self.tables.append(Table(title, rows))
        click.echo(self.tables[-1].text() + "\n")

    def close(self, path: Path | None, *, complete: bool = True) -> None:
        """Print the figures and controls, and write everything if a path is given."""
        self.complete = complete
        for name, value in self.figures.items():
            click.echo(f"{name}: {quantity(value)}")
        if self.controls:
            shown = ", ".join(f"{ratio:.3f}" for ratio in self.controls)
            click.echo(f"control (one function under two names): {shown}")
        self.write(path)

    def write(self, path: Path | None) -> None:
        """Write the run as JSON, if a path is given."""
        if path is not None:
            tables = [{"title": table.title, "rows": list(table.rows)} for table in self.tables]
            path.write_text(to_json(_surroundings() | vars(self) | {"tables": tables}) + "\n")

    def refuse_if_disturbed(self) -> None:
        """Raise an error, so that the command fails, if a control is far from 1."""
        if not all(abs(ratio - 1) <= CONTROL_TOLERANCE for ratio in self.controls):
            raise click.ClickException(NOT_TRUSTED)


def _surroundings() -> dict[str, Any]:
    """Return the date, the machine and the versions of the packages that are installed."""
    versions = {"convolith": cl.__version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "vectors": host().name,
            "limits": asdict(machine.limits()),
        },
        "versions": versions,
    }


def _processor() -> str:
    """Return the processor's name, as Linux gives it, or its architecture."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()
