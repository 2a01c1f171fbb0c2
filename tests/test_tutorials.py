"""Tutorials run from the first line to the last; their asserts are the tests."""

import runpy
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch
from matplotlib import pyplot

QUICKEST = "room_response"
TUTORIALS = sorted(
    (Path(__file__).parents[1] / "tutorials").glob("*.py"), key=lambda path: (path.stem != QUICKEST, path.stem)
)


@pytest.fixture
def drawing(tmp_path, monkeypatch) -> Iterator[None]:
    """Draw without windows, in a folder of its own, and leave neither figures nor a number of threads behind."""
    monkeypatch.chdir(tmp_path)
    before, threads = matplotlib.get_backend(), torch.get_num_threads()
    pyplot.close("all")
    matplotlib.use("Agg")
    yield
    pyplot.close("all")
    matplotlib.use(before)
    torch.set_num_threads(threads)


@pytest.mark.slow(quick=1)
@pytest.mark.filterwarnings("ignore:gd has not converged")  # which one of them shows
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")  # where there is a screen
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_and_draws_one_picture(path, drawing, tmp_path):
    assert "# %%" in path.read_text()
    runpy.run_path(str(path))
    assert len(pyplot.get_fignums()) == 1
    assert not list(tmp_path.iterdir())
