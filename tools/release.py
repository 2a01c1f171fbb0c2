"""Check what a release consists of: build the wheel and the sdist, and use both outside of this repository.

    python -m tools.release [--full] [--out FOLDER]

1. The wheel and the sdist are built and checked by twine and check-wheel-contents. The wheel holds every file of the
   package, the sdist every file of the repository, and the wheel that the unpacked sdist gives is equal byte for byte.
2. The wheel is installed in a fresh environment: `convolith doctor`, `convolith tour`, and the README's first Python.
3. All tests of the unpacked sdist are collected there, and those in `TESTS` are run.

The fresh environment reads other packages from the environment that runs this script; with `--full` it installs all of
them anew (2.7 GB). Needs the extras all, test, bench and release. Exits 1 at the first step that fails.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tools.environments import fresh_environment, timed
from tools.newcomer import first_block

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = "all,test,bench"
TESTS = (
    "README.md",
    "tests/test_docstrings.py",
    "tests/test_extras.py",
    "tests/test_how_pages.py",
    "tests/test_kernels.py",
    "tests/test_links.py",
    "tests/test_pages.py",
    "tests/test_public_names.py",
    "tests/test_reference.py",
    "tests/test_release.py",
    "tests/test_repository.py",
    "tests/test_site.py",
)
"""Tests of the sdist that are run: those that read the project's files, and some of numbers."""
NOT_IN_THE_SDIST = (".git", ".pre-commit")
"""Beginnings of the names of tracked files that only a clone needs."""


def build(source: Path, folder: Path, kinds: tuple[str, ...] = ("sdist", "wheel")) -> list[Path]:
    """Build the sdist and the wheel of a folder of sources, and return them in the order of `kinds`."""
    targets = [part for kind in kinds for part in ("-t", kind)]
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), *targets]
    ended = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{source} could not be built:\n{ended.stdout}\n{ended.stderr}")
    patterns = {"sdist": "*.tar.gz", "wheel": "*.whl"}
    return [path for kind in kinds for path in folder.glob(patterns[kind])]


def problems_of_wheel(path: Path) -> list[str]:
    """Return what is wrong with the names in a wheel and with its metadata, one sentence each."""
    version = re.findall(r'^__version__ = "(.+)"', (ROOT / "src/convolith/version.py").read_text(), re.MULTILINE)[0]
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
        metadata = wheel.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    sources = {one.relative_to(ROOT / "src").as_posix() for one in (ROOT / "src").rglob("*") if one.is_file()}
    sources = {name for name in sources if "__pycache__" not in name}
    needed = {"convolith/py.typed", "convolith/web/static/index.html"} | sources
    info = f"convolith-{version}.dist-info/"
    found = [f"the wheel has no {name}" for name in sorted(needed - names)]
    found += [f"the wheel has {name}" for name in sorted(names - sources) if not name.startswith(info)]
    if path.name != f"convolith-{version}-py3-none-any.whl":
        found.append(f"the wheel is called {path.name}")
    if not any("/static/" in name and re.search("notices|license", name, re.IGNORECASE) for name in names):
        found.append("the wheel has no licences of the packages in its page")
    needed_lines = ("License-Expression: BSD-3-Clause", "Requires-Python: >=3.11")
    return found + [f"the wheel's metadata have no line {line}" for line in needed_lines if line not in metadata]


def problems_of_sdist(path: Path) -> list[str]:
    """Return which tracked files an sdist lacks; nothing where there is no git repository."""
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    command = ["git", "ls-files"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
    missing = sorted({name for name in tracked if not name.startswith(NOT_IN_THE_SDIST)} - names)
    return [f"the sdist has no {name}" for name in missing]


def check_files(sdist: Path, wheel: Path, sources: Path) -> None:
    """Check both files by the tools of packagers and by their contents, and unpack the sdist; end if one is wrong."""
    timed([sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)], ROOT)
    timed([sys.executable, "-m", "check_wheel_contents", str(wheel)], ROOT)
    problems = problems_of_wheel(wheel) + problems_of_sdist(sdist)
    with tarfile.open(sdist) as archive:
        archive.extractall(sources.parent, filter="data")
    (again,) = build(sources, sources.parent / "again", ("wheel",))
    if again.read_bytes() != wheel.read_bytes():
        problems.append("the unpacked sdist gives another wheel than the repository")
    if problems:
        sys.exit("\n".join(problems))


def environment_of(wheel: Path, folder: Path, *, full: bool) -> dict[str, str]:
    """Install a wheel in a fresh environment, its dependencies too or shared with this one; return the variables."""
    variables = fresh_environment(folder)
    install = ["python", "-m", "pip", "install", "--quiet"]
    if full:
        constraints = str(ROOT / "constraints.txt")
        timed([*install, "-c", constraints, f"convolith[{EXTRAS}] @ {wheel.as_uri()}"], folder, variables)
        return variables
    timed([*install, "--no-deps", str(wheel)], folder, variables)
    (packages,) = folder.glob("lib/python*/site-packages")
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "shared.pth").write_text("\n".join(shared) + "\n")  # their own .pth files are not read
    return variables


def main() -> int:
    """Run all steps, and print the seconds that each takes."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--full", action="store_true", help="Install all packages anew in the fresh environment.")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="Folder in which the wheel and the sdist stay.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="convolith-release-") as temporary:
        home = Path(temporary).resolve()
        sdist, wheel = build(ROOT, home / "dist")
        sources = home / sdist.name.removesuffix(".tar.gz")
        check_files(sdist, wheel, sources)
        print(f"{wheel.name}, {sdist.name}: their files are complete, and the sdist gives that wheel")
        variables, work = environment_of(wheel, home / "venv", full=options.full), home / "work"
        work.mkdir()
        python = first_block((ROOT / "README.md").read_text(encoding="utf-8"), "python")
        installed = "import convolith, sys; sys.exit(not convolith.__file__.startswith(sys.prefix))"
        timed(["python", "-c", installed], work, variables)
        for words, command in (
            ("convolith doctor", ["convolith", "doctor"]),
            ("convolith tour", ["convolith", "tour"]),
            ("the README's first Python", ["python", "-c", python]),
        ):
            print(f"{words}, from the wheel: {timed(command, work, variables):.1f} s")
        variables["PYTHONPATH"] = str(sources / "src")
        variables.pop("PYTEST_ADDOPTS", None)
        tests = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        print(f"all tests of the sdist collected: {timed([*tests, '--collect-only'], sources, variables):.1f} s")
        seconds = timed([*tests, "-m", "not slow", *TESTS], sources, variables)
        print(f"some of them run ({', '.join(TESTS)}): {seconds:.1f} s")
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            for file in (sdist, wheel):
                shutil.copy2(file, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
