"""The repository keeps its own promises: public names, commands, layers, lean files, documents that are true."""

import ast
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
LIMIT, MOST_FILES = 600, 14


def test_public_names_are_the_documented_ones():
    listed = set(re.findall(r"^\| `cl\.(\w+)", (ROOT / "docs" / "names.md").read_text(), re.MULTILINE))
    assert set(cl.__all__) == listed
    assert list(cl.__all__) == sorted(cl.__all__) == dir(cl)
    for name in cl.__all__:
        assert getattr(cl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'small'"):
        _ = cl.small


def test_importing_convolith_is_light():
    script = "import sys, convolith; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603 - our own script


def test_files_stay_readable():
    assert not [f"{path}: {n}" for path in SOURCES if (n := len(path.read_text().splitlines())) > LIMIT]


def test_every_module_opens_with_a_sentence():
    for path in SOURCES:
        assert path.read_text().startswith('"""'), path


MARKED = """
import pytest

pytestmark = pytest.mark.slow(quick=2)


@pytest.mark.parametrize("n", range(5))
def test_many(n): ...


def test_one(): ...


@pytest.mark.slow
def test_never(): ...


class TestClass:
    pytestmark = pytest.mark.slow(quick=1)

    @pytest.mark.parametrize("n", range(3))
    def test_of_a_class(self, n): ...
"""


def test_the_first_cases_of_slow_tests_are_quick(tmp_path, monkeypatch):
    """Also where the mark is that of a module or of a class."""
    from tests import conftest

    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    (tmp_path / "test_marked.py").write_text(MARKED)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow")
    found = []

    class Plugin:
        pytest_collection_modifyitems = staticmethod(conftest.pytest_collection_modifyitems)

        def pytest_collection_finish(self, session):
            found.extend(item.name for item in session.items)

    options = ["--collect-only", "-qq", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist"]
    assert pytest.main([*options, f"--rootdir={tmp_path}", str(tmp_path)], plugins=[Plugin()]) == 0
    assert found == ["test_many[0]", "test_many[1]", "test_one", "test_of_a_class[0]"]


def test_every_command_and_engine_is_in_the_tables():
    commands = (ROOT / "docs" / "command-line.md").read_text()
    for name in COMMANDS:
        assert f"| `convolith {name}` |" in commands, name
    engines = (ROOT / "docs" / "engines.md").read_text()
    for engine in TABLE:
        assert f"`{engine.name}`" in engines, engine.name


def test_the_examples_of_all_docstrings_and_pages_are_run():
    from conftest import docstrings, markdown

    assert [path for path in SOURCES if not docstrings.should_parse(path)] == []
    assert [page for page in (ROOT / "docs").rglob("*.md") if not markdown.should_parse(page)] == []


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 110


def test_every_folder_has_a_line_in_contributing_and_few_files():
    table = (ROOT / "CONTRIBUTING.md").read_text()
    for folder in {path.parent for path in SOURCES}:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder
        name = folder.relative_to(ROOT / "src" / "convolith").as_posix()
        assert name == "." or f"`{name}/`" in table or f"`{folder.name}/`" in table, name


LONG = {
    "correlate": "its docstring",
    "filter_image": "its docstring, and options for every kind of picture",
    "cost": "its docstring",
    "deconvolve": "its docstring",
    "optimize": "its docstring",
    "plan": "its docstring, and options of `big.plan` for every kind of source",
    "filter_of": "what `big.plan` and `big.correlate` are given",
    "fit": "its docstring, and options for every method",
    "fit_varying": "its docstring, and options for every method",
    "ConvSpec.__init__": "the geometry of a layer",
    "_block": "generates one loop nest, whose parts share thirty values",
}
"""Functions over 80 lines or with more than 12 parameters, with the reason."""


@pytest.mark.slow
def test_functions_are_short_and_have_few_parameters():
    long = set()
    for path in SOURCES:
        for owner in ast.walk(ast.parse(path.read_text())):
            for node in ast.iter_child_nodes(owner):
                if isinstance(node, ast.FunctionDef):
                    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                    if node.end_lineno - node.lineno + 1 > 80 or len(arguments) > 12:
                        long.add(f"{owner.name}.{node.name}" if isinstance(owner, ast.ClassDef) else node.name)
    assert long == set(LONG)


def test_the_readmes_setup_is_two_commands_and_ci_runs_the_second():
    setup = README.split("## Set up")[1].split("\n## ")[0]
    commands = re.findall(r"```sh\n(.*?)```", setup, re.DOTALL)
    assert len(commands) == 2
    assert all(len(command.strip().splitlines()) == 1 for command in commands)
    assert "convolith tour" in commands[0]
    assert commands[1].strip() in (ROOT / ".ci" / "run").read_text()


def test_nothing_is_left_undone():
    marks = r"TODO|FIXME|XXX|NotImplementedError"  # a pattern to search for, not a mark of unfinished work
    for path in SOURCES:
        assert not re.search(marks, path.read_text()), path


def test_sympy_is_imported_for_laws_alone():
    """By Convolith; torch imports it for its tensors without memory, which `cost` of a model uses."""
    script = (
        "import sys, numpy as np, torch, convolith as cl\n"
        "cl.correlate(np.ones((1, 9, 9)), np.ones((1, 1, 3, 3)))\n"
        "cl.fold(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval(), torch.zeros(1, 3, 9, 9))\n"
        "layer = cl.cost(cl.ConvSpec(in_channels=3, out_channels=4, size=(8, 8), kernel_size=3))\n"
        "assert 'sympy' not in sys.modules\n"
        "layer.law()\n"
        "assert 'sympy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603 - our own script
