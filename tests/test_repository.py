"""The repository keeps its own promises: public names, commands, layers, lean files, documents that are true."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import convolith as cl
from convolith.cli import COMMANDS
from convolith.engines import TABLE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SOURCES = sorted((ROOT / "src").rglob("*.py"))
LIMIT = 600


def test_public_names_are_the_documented_ones():
    listed = set(re.findall(r"^\| `cl\.(\w+)", (ROOT / "docs" / "names.md").read_text(), re.MULTILINE))
    assert set(cl.__all__) == listed
    assert list(cl.__all__) == sorted(cl.__all__)
    for name in cl.__all__:
        assert getattr(cl, name) is not None
        assert name in dir(cl)
    with pytest.raises(AttributeError, match="no attribute 'optimize'"):
        _ = cl.optimize


def test_importing_convolith_is_light():
    script = "import sys, convolith; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603 - our own script


def test_files_stay_readable():
    assert not [f"{path}: {n}" for path in SOURCES if (n := len(path.read_text().splitlines())) > LIMIT]


def test_every_module_opens_with_a_sentence():
    for path in SOURCES:
        assert path.read_text().startswith('"""'), path


def test_the_readme_names_every_command_and_engine():
    for name in [*COMMANDS, *(engine.name for engine in TABLE)]:
        assert f"`{name}`" in README or f"convolith {name}" in README, name


def test_the_readmes_setup_is_two_commands_and_ci_runs_the_second():
    setup = README.split("## Set up")[1].split("\n## ")[0]
    commands = re.findall(r"```sh\n(.*?)```", setup, re.DOTALL)
    assert len(commands) == 2
    assert all(len(command.strip().splitlines()) == 1 for command in commands)
    assert "convolith tour" in commands[0]
    assert commands[1].strip() in (ROOT / ".ci" / "run").read_text()


def test_nothing_is_left_undone():
    for path in SOURCES:
        assert not re.search(r"TODO|FIXME|XXX|NotImplementedError", path.read_text()), path  # what it looks for
