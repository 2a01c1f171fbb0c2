"""Do what the README tells a newcomer, in a fresh environment, and compare with the size and the time that it states.

    python -m tools.newcomer [--keep FOLDER]

The README's first block of shell commands is run in this repository as it stands there, then `convolith doctor`, and
then its first block of Python in an empty folder. Exits 1 if one of them fails, if the size of what is installed is
more than a tenth off the size that the README states, or if the first block takes over twice the stated time.
"""

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tools.environments import fresh_environment, timed

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 0.1
"""Share of the stated size by which the measured one may differ."""
SLOWER = 2.0
"""How many times the stated time may be taken: registries and machines differ."""
MEGABYTES = {"MB": 1.0, "GB": 1000.0}
SECONDS = {"s": 1.0, "second": 1.0, "seconds": 1.0, "min": 60.0, "minute": 60.0, "minutes": 60.0}
WORDS = {word: n for n, word in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven"))}
NUMBER = rf"(\d+(?:\.\d+)?|{'|'.join(WORDS)})"
SIZE = re.compile(rf"\b{NUMBER} ?({'|'.join(MEGABYTES)})\b")
TIME = re.compile(rf"\b(?:{NUMBER}(?: to |-))?{NUMBER} ?({'|'.join(SECONDS)})\b", re.IGNORECASE)


class Stated(NamedTuple):
    """What the README states about its first shell commands."""

    megabytes: float
    seconds: float
    """Upper end, where it states a range."""
    time: str
    """The time in the words of the README."""


def first_block(text: str, language: str) -> str:
    """Return the first block of a language in a page of Markdown."""
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    if found is None:
        sys.exit(f"the README has no block of {language}")
    return found[1]


def stated(text: str) -> Stated:
    """Return the size and the time that are stated next to the first shell commands.

    Those are the last ones before the commands, in their section, or else the first ones after them.
    """
    first_block(text, "sh")
    before, _, after = text.partition("```sh\n")
    before = re.split(r"^#+ ", before, flags=re.MULTILINE)[-1]
    after = re.split(r"^```sh\n|^#+ ", after.partition("\n```")[2], flags=re.MULTILINE)[0]
    size, time = ([*pattern.finditer(before)][-1:] or [*pattern.finditer(after)][:1] for pattern in (SIZE, TIME))
    if not size or not time:
        sys.exit(f"the README states no {'time' if size else 'size in MB or GB'} next to its first shell commands")
    seconds = number(time[0][2]) * SECONDS[time[0][3].lower()]
    return Stated(number(size[0][1]) * MEGABYTES[size[0][2]], seconds, time[0][0])


def number(text: str) -> float:
    """Return a number from its digits or its English word."""
    return float(WORDS.get(text.lower(), text))


def megabytes(folder: Path) -> float:
    """Return the size of the files in a folder, in units of a million bytes."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def differences(promise: Stated, installed: float, seconds: float) -> list[str]:
    """Return what the README states that does not hold, one sentence each."""
    found = []
    if abs(installed - promise.megabytes) > TOLERANCE * promise.megabytes:
        found.append(
            f"the README states {promise.megabytes:.0f} MB, but {installed:.0f} MB were installed; they may differ by "
            f"{TOLERANCE:.0%}: state the size that was measured"
        )
    if seconds > SLOWER * promise.seconds:
        found.append(
            f"the README states {promise.time}, but its first commands took {seconds:.0f} s, over {SLOWER:g} times as "
            "long: make them quicker, or state the time that was measured"
        )
    return found


def main() -> int:
    """Run the README's first commands, and compare their size and time with what it states."""
    parser = argparse.ArgumentParser(prog="python -m tools.newcomer", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="Folder for the environment, which is kept.")
    options = parser.parse_args()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    setup, picture = first_block(readme, "sh").strip(), first_block(readme, "python")
    promise = stated(readme)
    with tempfile.TemporaryDirectory(prefix="convolith-newcomer-") as temporary:
        home = (options.keep or Path(temporary)).resolve()
        environment, work = home / "venv", home / "work"
        variables = fresh_environment(environment)
        megabytes_before = megabytes(environment)
        setup_seconds = timed(["sh", "-c", setup], ROOT, variables)
        installed = megabytes(environment) - megabytes_before
        doctor_seconds = timed(["convolith", "doctor"], home, variables)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        first, second = (timed(["python", "-c", picture], work, variables) for _ in range(2))
        pictures = [path.name for path in work.iterdir() if path.stat().st_size]
    print(f"{setup}\n    {setup_seconds:.0f} s (the README: {promise.time})")
    print(f"    {installed:.0f} MB installed (the README: {promise.megabytes:.0f} MB)")
    print(f"convolith doctor: {doctor_seconds:.1f} s")
    made = ", ".join(pictures) or "nothing"
    print(f"the README's first Python: {first:.1f} s, a second time {second:.1f} s, makes {made}")
    problems = differences(promise, installed, setup_seconds)
    if any(environment.glob("lib/python*/site-packages/nvidia")):
        print("NOT COMPARED: this index gave torch's build for GPUs; the README states the size of its build for CPUs")
        problems = []
    if not pictures:
        problems.append("the README's first Python makes no file")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
