"""Installed packages, of Convolith itself and of its extras, and the cache; looked at without importing any."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, NamedTuple

from convolith.storage import DIRECTORY, cache_directory, problem_of

CORE = "core"
"""Name of the dependencies that every installation has, where the others have that of their extra."""
EXTRAS = {
    "image": "pictures and TIFF files, the tour's photograph, Wiener's filter",
    "plot": "charts and pictures of results",
    "fit": "kernels without negative weights",
    "fits": "FITS files and astropy's data",
    "big": "arrays larger than memory, in Zarr and TIFF files",
    "remote": "such arrays in object stores",
    "cluster": "such arrays on Dask's clusters",
    "notebook": "live figures in notebooks",
    "web": "the page of convolith serve",
}
"""Extras, and what each gives; those that only developers need are left out."""
BYTES_PER_MB = 1e6


class Requirement(NamedTuple):
    """A package that Convolith or an extra of it needs, and what is installed of it."""

    package: str
    extra: str
    least: str
    """Oldest version that is promised to work, or nothing."""
    version: str | None
    """Version that is installed, or None."""

    @property
    def wanted(self) -> str | None:
        """Package that is needed and not there, with the oldest version if an older one is installed; or None."""
        if self.version is None:
            return self.package
        if self.least and _numbers(self.version) < _numbers(self.least):
            return f"{self.package} {self.least} or newer (now {self.version})"
        return None


def requirements() -> list[Requirement]:
    """Return what Convolith and each extra of it need, the core first; nothing if Convolith itself is not installed."""
    try:
        lines = requires("convolith") or []
    except PackageNotFoundError:  # a folder of sources on the path
        return []
    return [one for extra in (CORE, *EXTRAS) for one in of_extra(lines, extra)]


def of_extra(lines: list[str], extra: str) -> Iterator[Requirement]:
    """Yield the requirements of an extra, from lines such as `dask[array]>=2026.3; extra == "cluster"`."""
    for line in lines:
        what, _, condition = line.partition(";")
        named = re.search(r"extra\s*==\s*['\"]([\w-]+)", condition)
        if (named[1] if named else CORE) != extra:
            continue
        package, inner = re.findall(r"^([\w.-]+)\s*(?:\[([\w\s,-]*)\])?", what)[0]
        least = re.search(r">=\s*([\w.]+)", what)
        if package == "convolith":  # another extra of ours
            for name in inner.split(","):
                yield from (one._replace(extra=extra) for one in of_extra(lines, name.strip()))
        else:
            yield Requirement(package, extra, least[1] if least else "", _version(package))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def package_rows(needed: list[Requirement]) -> list[dict[str, Any]]:
    """Return a row for each package: what needs it, its version, and the oldest that serves."""
    rows: dict[str, dict[str, Any]] = {}
    for one in needed:
        row = rows.setdefault(one.package, {"package": one.package, "for": one.extra})
        if one.extra not in row["for"].split(", "):
            row["for"] += f", {one.extra}"
        oldest = max(one.least, row.get("oldest", ""), key=_numbers)
        row |= {"version": one.version or "not installed", "oldest": oldest}
    return list(rows.values())


def extra_rows(needed: list[Requirement]) -> list[dict[str, Any]]:
    """Return a row for each extra: what it gives, what is missing, and the line that installs it."""
    rows = []
    for extra, gives in EXTRAS.items():
        missing = [one.wanted for one in needed if one.extra == extra and one.wanted]
        row = {"extra": extra, "gives": gives, "missing": ", ".join(missing) or "nothing"}
        rows.append(row | ({"install": install_line(extra)} if missing else {}))
    return rows


def install_line(extra: str) -> str:
    """Return the line that installs what an extra needs."""
    return f"pip install 'convolith[{extra}]'"


class Cache(NamedTuple):
    """The directory of compiled code and measurements, and why nothing is kept there, or None."""

    directory: Path | None
    problem: str | None
    files: int = 0
    megabytes: float = 0.0

    @property
    def advice(self) -> str | None:
        """Sentence on what to do where nothing is kept; None where files are, or where it is switched off."""
        if self.problem is None or os.environ.get(DIRECTORY) == "":
            return None
        return (
            f"nothing is kept on disk, so that every process compiles its code again: {self.problem}; name a folder in "
            f"{DIRECTORY}"
        )


def cache_state() -> Cache:
    """Return the state of the cache; its directory is created if it is missing."""
    if os.environ.get(DIRECTORY) == "":
        return Cache(None, f"switched off: {DIRECTORY} is empty")
    directory = cache_directory()
    if directory is None:
        return Cache(None, "there is no home directory")
    problem = problem_of(directory)
    if problem is None and not os.access(directory, os.W_OK):
        problem = f"{directory} cannot be written"
    if problem is not None:
        return Cache(directory, problem)
    sizes = []
    for path in directory.iterdir():
        with suppress(FileNotFoundError):  # another process has just replaced it
            sizes += [path.stat().st_size] if path.is_file() else []
    return Cache(directory, None, len(sizes), sum(sizes) / BYTES_PER_MB)
