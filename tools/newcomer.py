#!/usr/bin/env python3
"""Do what the README tells a newcomer, in a fresh environment, and print the seconds and the megabytes that it takes.

    python tools/newcomer.py [--keep FOLDER]

The first block of shell commands and the first block of Python are run as they stand there, the first in this
repository, the second in an empty folder. Exits 1 if one of them fails, or if what is installed differs by more than a
quarter from the size that the README states; times are printed with those of the README, and decide nothing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 0.25
"""Share of the stated size by which the measured one may differ."""
SIZES = {"MB": 1.0, "GB": 1000.0}


def first_block(text: str, language: str) -> str:
    """Return the first block of a language in a page of Markdown."""
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    if found is None:
        sys.exit(f"the README has no block of {language}")
    return found[1]


def stated(text: str) -> tuple[float, str]:
    """Return the megabytes that the README states before its first shell commands, and the words about the time."""
    before = text[: text.index("```sh\n")]
    size = re.findall(r"(\d+(?:\.\d+)?) (MB|GB)", before)
    if not size:
        sys.exit("the README states no size in MB or GB before its first shell commands")
    time = re.findall(r"[\w-]+(?: to [\w-]+)? (?:seconds?|minutes?)", before)
    return float(size[-1][0]) * SIZES[size[-1][1]], time[-1] if time else "no time"


def megabytes(folder: Path) -> float:
    """Return what the files of a folder take, in units of a million bytes."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def timed(command: Sequence[str], folder: Path, environment: dict[str, str]) -> float:
    """Run a command, and return its seconds; end with its output if it fails."""
    start = perf_counter()
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(command)[:200]} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}")
    return perf_counter() - start


def main() -> int:
    """Run the README's first commands, and compare their size with what it states."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="Folder for the environment, which is kept.")
    options = parser.parse_args()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    says, time = stated(readme)
    with tempfile.TemporaryDirectory(prefix="convolith-newcomer-") as temporary:
        home = (options.keep or Path(temporary)).resolve()
        place, scripts = home / "venv", "Scripts" if os.name == "nt" else "bin"
        venv.create(place, with_pip=True, clear=True)
        alone = megabytes(place)
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        environment |= {"VIRTUAL_ENV": str(place), "PATH": f"{place / scripts}{os.pathsep}{os.environ['PATH']}"}
        environment |= {"MPLBACKEND": "Agg", "CONVOLITH_CACHE_DIR": str(home / "cache")}
        setup, picture = first_block(readme, "sh").strip(), first_block(readme, "python")
        seconds = timed(["sh", "-c", setup], ROOT, environment)
        installed = megabytes(place) - alone
        shutil.rmtree(home / "work", ignore_errors=True)
        (home / "work").mkdir()
        shown = timed([str(place / scripts / "python"), "-c", picture], home / "work", environment)
        again = timed([str(place / scripts / "python"), "-c", picture], home / "work", environment)
        pictures = [path.name for path in (home / "work").iterdir() if path.stat().st_size]
        print(f"{setup}\n    {seconds:.0f} s (the README: {time})")
        print(f"    {installed:.0f} MB installed (the README: {says:.0f} MB)")
        made = ", ".join(pictures) or "nothing"
        print(f"the README's first Python: {shown:.1f} s, again {again:.1f} s, makes {made}")
    if not pictures:
        print("the README's first Python makes no file", file=sys.stderr)
        return 1
    if abs(installed - says) > TOLERANCE * says:
        print(f"the README states {says:.0f} MB, which is off by more than {TOLERANCE:.0%}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
