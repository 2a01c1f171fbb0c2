"""What is released: the wheel and the sdist, the version, the citation, the lines that a newcomer follows."""

import ast
import importlib.util
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import convolith as cl

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the wheel and the sdist by the backend itself, as `python -m build --no-isolation` does."""
    folder = tmp_path_factory.mktemp("dist")
    for kind in ("wheel", "sdist"):
        script = f"from hatchling.build import build_{kind} as build; print(build({str(folder)!r}))"
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)  # noqa: S603 - our own script
    return folder


def test_the_wheel(built):
    (path,) = built.glob("*.whl")
    assert path.name == f"convolith-{cl.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        metadata = wheel.read(next(name for name in names if name.endswith("METADATA"))).decode()
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*") if path.is_file()}
    expected = {name for name in sources if "__pycache__" not in name}
    assert {name for name in names if name.startswith("convolith/")} == expected
    assert {name.split("/")[0] for name in names} == {"convolith", f"convolith-{cl.__version__}.dist-info"}
    assert {"convolith/py.typed", "convolith/web/static/index.html"} <= set(names)
    assert any("notices" in name.lower() or "license" in name.lower() for name in names if "/static/" in name)
    assert "License-Expression: BSD-3-Clause" in metadata
    assert "Requires-Python: >=3.11" in metadata


def test_the_sdist_has_what_its_tests_need(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files"],  # noqa: S607 - whichever git is there
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if not tracked:
        pytest.skip("no git repository")
    left_out = (".git", ".pre-commit")
    assert {name for name in tracked if name and not name.startswith(left_out)} <= names


def test_one_version_everywhere():
    newest = re.findall(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", CHANGELOG, re.MULTILINE)[0]
    citation = (ROOT / "CITATION.cff").read_text()
    assert newest[0] == cl.__version__
    assert f"\nversion: {cl.__version__}\ndate-released: {newest[1]}\n" in citation


def test_the_changelog_has_room_for_what_comes():
    assert CHANGELOG.index("## [Unreleased]") < CHANGELOG.index("## [0.3.0]")
    kinds = re.findall(r"^### (.*)$", CHANGELOG.split("## [0.3.0]")[1].split("\n## [")[0], re.MULTILINE)
    assert kinds == [
        "For networks",
        "For images and signals",
        "For learners and the page",
        "For everyone: command line, install",
        "Fixed",
        "Changed: who should care",
    ]


def test_the_support_table_states_the_oldest_versions():
    project = (ROOT / "pyproject.toml").read_text()
    support = (ROOT / "docs" / "support.md").read_text()
    for package, name in (("torch", "torch"), ("numpy", "NumPy"), ("llvmlite", "llvmlite")):
        least = re.search(rf'"{package}>=([\d.]+)"', project)[1]
        assert f"| {name} | {least} |" in support
        tested = re.search(rf"\| {name} \| [\d.]+ \| (?:[\d.]+ and )?([\d.]+)", support)[1]
        assert re.search(rf"^{package}=={re.escape(tested)}", CONSTRAINTS, re.MULTILINE)
    assert f'requires-python = ">={re.search(r"Python . ([0-9.]+) .", support)[1]}"' in project


def newcomer():
    spec = importlib.util.spec_from_file_location("newcomer", ROOT / "tools" / "newcomer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_newcomers_lines_are_those_of_the_readme():
    tool = newcomer()
    assert "pip install" in tool.first_block(README, "sh")
    assert ast.parse(tool.first_block(README, "python"))
    size, time = tool.stated(README)
    assert 100 < size < 10_000
    assert "minute" in time or "second" in time


def test_the_newcomer_reads_sizes_and_times():
    tool = newcomer()
    page = "About 650 MB, 40 to 90 seconds:\n\n```sh\npip install .\nrun\n```\n\n```python\na = 1\n```\n"
    assert tool.stated(page) == (650.0, "40 to 90 seconds")
    assert (tool.first_block(page, "sh"), tool.first_block(page, "python")) == ("pip install .\nrun\n", "a = 1\n")
    assert tool.stated(page.replace("650 MB", "1.5 GB"))[0] == 1500.0
    with pytest.raises(SystemExit, match="states no size"):
        tool.stated("nothing\n```sh\n```")
