"""`python -m bench without-torch`: the installed packages, what programs import, and engines on NumPy arrays alone.

docs/without-torch.md is written from its newest run, by `python -m bench report`.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import median
from typing import Any

import click
from packaging.requirements import Requirement

import convolith
from bench.runs import Run, json_option
from bench.stand_in import LAYERS
from convolith.jit.threads import thread_count

SOURCE = Path(convolith.__file__).parent
HERE = Path(__file__).resolve().parent.parent
FEW_MB = 1.0
"""Packages below it share a row."""
MEASURED = """
import json, sys, time
named = [name for name in ("torch", "numpy", "llvmlite", "sympy") if name in sys.modules]
found = {"imports": ", ".join(named) or "none of them", "modules": len(sys.modules)}
seconds = time.process_time()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps(found | {"s": seconds, "MB": int(peak.split()[1]) * 1024 / 1e6}))
"""
"""The end of a program: what it has imported and taken."""
ARRAYS = "import numpy as np, convolith as cl\nx, k = np.ones((1, 64, 64)), np.ones((1, 1, 3, 3))\n"
MODEL = (
    "import torch, convolith as cl\n"
    "model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).eval()\n"
)
PROGRAMS = {
    "`import convolith`": "import convolith",
    "`convolith --help`": (
        "import io, sys\nfrom contextlib import redirect_stdout\nfrom convolith.__main__ import run\n"
        "sys.argv = ['convolith', '--help']\n"
        "with redirect_stdout(io.StringIO()):\n    try:\n        run()\n    except SystemExit:\n        pass\n"
    ),
    "`cl.kernels.box(3)`": "import convolith as cl\ncl.kernels.box(3)",
    "`cl.correlate` of NumPy arrays": ARRAYS + "cl.correlate(x, k)",
    "`cl.fit` of NumPy arrays": ARRAYS
    + "cl.fit(np.random.default_rng(0).random(x.shape), x[:, 1:-1, 1:-1], kernel_size=3)",
    "`cl.fold` of a model": MODEL + "cl.fold(model, torch.zeros(1, 3, 16, 16))",
    "`cl.cost` of a model": MODEL + "cl.cost(model, input_shape=(1, 3, 16, 16))",
}
"""Programs of a few lines; those with a model include torch's own import."""
WAYS = {"torch": "with torch", "libgomp": "NumPy, the system's libgomp", "threads": "NumPy, Python threads"}


@click.command("without-torch")
@click.option("--rounds", default=5, show_default=True, help="Processes of each program; the median counts.")
@json_option
def without_torch(rounds: int, path: Path | None) -> None:
    """Measure the part of torch in an install and in what programs import, and run engines on NumPy without it."""
    run = Run("without_torch", rounds=rounds, unit="processes")
    installed = packages()
    run.add("Installed packages", installed)
    files = sorted(SOURCE.rglob("*.py"))
    total = sum(row["MB"] for row in installed)
    only = sum(row["MB"] for row in installed if row["needed by"] == "torch")
    laws = sum(row["MB"] for row in installed if row["package"] in ("sympy", "mpmath"))
    tour = set().union(*(needed(name) for extra in ("image", "plot") for name in _required("convolith", extra)))
    tour -= set().union(*(needed(name) for name in _required("convolith")))
    run.figures = {
        "GB of all packages": total / 1e3,
        "GB with the extras image and plot": (total + sum(map(_megabytes, tour))) / 1e3,
        "GB without torch and what torch alone needs": (total - only) / 1e3,
        "GB without sympy and mpmath too": (total - only - laws) / 1e3,
        "Python files of Convolith": len(files),
        "of these import torch": sum(map(imports_torch, files)),
        "Python files in jit/": len(list((SOURCE / "jit").glob("*.py"))),
        "of these in jit/ import torch": sum(map(imports_torch, (SOURCE / "jit").glob("*.py"))),
    }
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"CONVOLITH_CACHE_DIR": home, "PYTHONPATH": str(SOURCE.parent)}
        environment["CONVOLITH_BENCH_THREADS"] = str(thread_count())
        rows = []
        for name, program in PROGRAMS.items():
            found = repeated(["-c", program + "\n" + MEASURED], environment, rounds)
            rows.append({"program": name, **found})
        run.add("Programs", rows)
        measured = {(how, name): printed_by(how, name, environment, rounds) for how, name in _wanted()}
    rows = []
    for how, words in WAYS.items():
        found = measured[how, "direct"]
        rows.append(
            {
                "direct, 7x7 on 1024x1024": words,
                "s of the program": found.get("seconds"),
                "MB at its peak": found.get("megabytes"),
                "ms of a call": found.get("milliseconds"),
                "error": found.get("error"),
            }
        )
    run.add("The engine direct", rows)
    rows = []
    for name in (*LAYERS, "fit"):
        found, usual = measured["libgomp", name], measured["torch", name]
        rows.append(
            {
                "program": f"`{name}`",
                "error with torch": usual.get("error"),
                "error on NumPy": found.get("error"),
                "stops at": found.get("failed", ""),
            }
        )
    run.add("Engines on NumPy", rows)
    run.close(path)


def packages() -> list[dict[str, Any]]:
    """Return a row for each package that Convolith needs without extras: its megabytes, and what needs it."""
    ours = set().union(*(needed(name) for name in _required("convolith") if name != "torch"))
    theirs = needed("torch")
    rows, rest = [], {"torch": [], "Convolith": [], "both": []}
    for name in sorted(ours | theirs):
        by = "both" if name in ours & theirs else "Convolith" if name in ours else "torch"
        size = _megabytes(name)
        if size < FEW_MB:
            rest[by].append((name, size))
        else:
            rows.append({"package": name, "MB": size, "needed by": by})
    for by, few in rest.items():
        if few:
            names = ", ".join(name for name, _ in few)
            rows.append({"package": names, "MB": sum(size for _, size in few), "needed by": by})
    own = sum(file.stat().st_size for file in SOURCE.rglob("*") if file.is_file())
    rows.append({"package": "convolith", "MB": own / 1e6, "needed by": ""})
    return sorted(rows, key=lambda row: -row["MB"])


def needed(name: str) -> set[str]:
    """Return a package and all that it needs, directly or not, without extras."""
    found, waiting = set(), [name]
    while waiting:
        package = waiting.pop()
        if package not in found:
            try:
                waiting += _required(package)
            except PackageNotFoundError:  # for other systems or versions
                continue
            found.add(package)
    return found


def _required(name: str, extra: str = "") -> list[str]:
    """Return the names of the packages that a package, with an extra, needs on this machine."""
    wanted = map(Requirement, distribution(name).requires or ())
    return [one.name.lower() for one in wanted if one.marker is None or one.marker.evaluate({"extra": extra})]


def _megabytes(name: str) -> float:
    """Return the size of a package's files, in units of a million bytes, with the Python that pip compiled."""
    files = (file.locate() for file in distribution(name).files or ())
    return sum(Path(file).stat().st_size for file in files if Path(file).is_file()) / 1e6


def imports_torch(path: Path) -> bool:
    """Return whether a file imports torch, at its top or in a function."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return any(name.partition(".")[0] == "torch" for name in names)


def _wanted() -> list[tuple[str, str]]:
    names = (*LAYERS, "fit")
    return [*((how, name) for how in ("torch", "libgomp") for name in names), ("threads", "direct")]


def printed_by(how: str, name: str, environment: Mapping[str, str], rounds: int) -> dict[str, Any]:
    """Return what a program of `bench.stand_in` prints; the median of several processes for the engine direct."""
    arguments = ["-m", "bench.stand_in", how, name]
    found = repeated(arguments, environment, rounds) if name == "direct" else _printed(arguments, environment)
    if found["torch"] != (how == "torch"):
        raise click.ClickException(f"the program {how} {name} imported torch: {found['torch']}")
    return found


def repeated(arguments: Sequence[str], environment: Mapping[str, str], rounds: int) -> dict[str, Any]:
    """Run a program once to fill its caches, then several times; return what it prints, with medians of its numbers."""
    found = [_printed(arguments, environment) for _ in range(rounds + 1)][1:]
    return {
        name: median(one[name] for one in found) if isinstance(value, float) else value
        for name, value in found[0].items()
    }


def _printed(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        raise click.ClickException(f"{' '.join(arguments)[:80]} ended with {done.returncode}:\n{done.stderr}")
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return printed
