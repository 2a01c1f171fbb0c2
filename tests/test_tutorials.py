"""Tutorials run from the first line to the last; their asserts are the tests."""

import runpy
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.py"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:gd has not converged")  # which one of them shows
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(path):
    assert "# %%" in path.read_text()
    runpy.run_path(str(path))
