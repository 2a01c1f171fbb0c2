"""The types that a user sees: a program that calls everything public passes `mypy --strict`, and runs."""

import ast
import inspect
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import convolith as cl
from tests import consumer

ROOT = Path(__file__).parents[1]


def public_names():
    """Public names of the package and of its public modules, such as `cl.fit` and `cl.big.plan`."""
    for name in cl.__all__:
        yield f"cl.{name}"
        if inspect.ismodule(module := getattr(cl, name)):
            yield from (f"cl.{name}.{inner}" for inner in module.__all__)


def used_names(program):
    """Dotted names in a program, with those of the modules that it imports from `convolith` as names of `cl`."""
    nodes = list(ast.walk(ast.parse(program)))
    imported = {one.name for node in nodes if isinstance(node, ast.ImportFrom) for one in node.names}
    for node in nodes:
        if isinstance(node, ast.Attribute | ast.Name):
            name = ast.unparse(node)
            yield f"cl.{name}" if name.partition(".")[0] in imported else name


def test_the_program_runs(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fits of few steps have not converged
        consumer.main(tmp_path)


def test_everything_public_is_in_it():
    assert set(public_names()) - set(used_names(Path(consumer.__file__).read_text())) == set()


def test_a_name_that_begins_like_another_is_not_it():
    program = "import convolith as cl\nfrom convolith import d2l\ncl.fit_varying(x)\ncl.big.plan(x)\nd2l.corr2d(x, k)"
    used = set(used_names(program))
    assert {"cl.fit_varying", "cl.big", "cl.big.plan", "cl.d2l.corr2d"} <= used
    assert not {"cl.fit", "cl.plan", "cl.d2l.corr2d_multi_in"} & used


WRONG = """
import numpy as np
import convolith as cl

cl.correlate(np.ones((1, 4, 4)), np.ones((1, 1, 3, 3)), strides=2)
cl.plan("a layer")
y: int = cl.correlate(np.ones((1, 4, 4)), np.ones((1, 1, 3, 3)))
"""


@pytest.mark.slow
def test_a_type_checker_accepts_it_and_refuses_what_is_wrong(tmp_path):
    """`mypy` of `.ci/run` checks it too; here as a user does, with no settings of this project."""
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "consumer.py").write_text(Path(consumer.__file__).read_text())
    options = ["--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={ROOT / '.mypy_cache'}"]
    environment = {"MYPYPATH": str(ROOT / "src"), "PATH": ""}
    ended = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "mypy", *options, "consumer.py", "wrong.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line.split(": ", 2) for line in ended.stdout.splitlines() if ": error: " in line]
    assert {place for place, *_ in found} == {"wrong.py:5", "wrong.py:6", "wrong.py:7"}, ended.stdout
