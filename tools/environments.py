"""Fresh virtual environments, and commands that run in them."""

import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter


def fresh_environment(folder: Path) -> dict[str, str]:
    """Create a virtual environment with pip, in place of what the folder held; return the variables that activate it.

    The variables are those of this process without `PYTHONPATH`, with a cache of Convolith's own and no screen.
    """
    try:
        venv.create(folder, with_pip=True, clear=True)
    except subprocess.CalledProcessError:  # Debian's Python without its package python3-venv
        with tempfile.TemporaryDirectory() as packages:
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", packages, "virtualenv"]
            create = [sys.executable, "-m", "virtualenv", "--quiet", "--clear", str(folder)]
            subprocess.run(install, check=True)
            subprocess.run(create, check=True, env={**os.environ, "PYTHONPATH": packages})
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    variables |= {"VIRTUAL_ENV": str(folder), "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    return variables | {"MPLBACKEND": "Agg", "CONVOLITH_CACHE_DIR": f"{folder}-cache"}


def timed(command: Sequence[str], folder: Path, variables: dict[str, str] | None = None) -> float:
    """Run a command in a folder, and return its seconds; end this process with the command's output if it fails.

    The environment variables are those of this process unless others are given.
    """
    start = perf_counter()
    ended = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(command)[:200]} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}")
    return perf_counter() - start
