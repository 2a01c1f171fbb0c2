"""Run the tests with the oldest and the newest promised torch, each in a virtual environment of its own.

    python -m tools.versions [VERSION ...] [-- PYTEST ARGUMENTS]

Without versions: the oldest of pyproject.toml and the one of constraints.txt. The environments are made in a temporary
folder; on Linux a torch from PyPI brings its CUDA libraries, 3 to 5 GB for each version. Exits 1 if a run failed.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.environments import fresh_environment

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = "all,test"


def promised() -> list[str]:
    """Return the oldest version that pyproject.toml admits, and the one that constraints.txt pins."""
    oldest = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    newest = re.search(r"^torch==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.M)
    return [found[1] + ".0" * (2 - found[1].count(".")) for found in (oldest, newest) if found]


def run(version: str, arguments: list[str]) -> bool:
    """Return whether the tests pass with a version of torch."""
    with tempfile.TemporaryDirectory(prefix=f"torch-{version}-") as folder:
        variables = fresh_environment(Path(folder) / "venv")
        pinned = (ROOT / "constraints.txt").read_text().splitlines()
        others = [line for line in pinned if not line.startswith("torch==")]
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join([*others, f"torch=={version}"]) + "\n")
        install = ["python", "-m", "pip", "install", "--quiet", "-c", str(constraints), "-e", f"{ROOT}[{EXTRAS}]"]
        commands = (install, ["python", "-m", "pytest", "-q", *arguments])
        return all(subprocess.run(one, cwd=ROOT, env=variables, check=False).returncode == 0 for one in commands)


def main() -> int:
    """Run every version, and list which passed."""
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    results = {version: run(version, given[at + 1 :]) for version in given[:at] or promised()}
    for version, passed in results.items():
        print(f"torch {version}: {'passed' if passed else 'FAILED'}")
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
