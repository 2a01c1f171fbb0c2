"""Outputs that README and start show are those of their own blocks and commands; the README's picture is that of the kept run."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from imageio.v3 import imread

from bench import picture
from convolith.cli import main
from convolith.planner import machine, wisdom

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
START = (ROOT / "docs" / "start.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MEASURED = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")
"""A number that depends on the machine: a time, or an error in the last digits."""


def run(*arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def cells(line):
    return re.split(r" {2,}", line.strip())


def table_after(title, lines):
    """Return the cells of the rows below a title, up to an empty line or dots."""
    begin = next(n for n, line in enumerate(lines) if line.startswith(title))
    rows = []
    for line in lines[begin + 1 :]:
        if not line.strip() or line == "...":
            break
        rows.append(cells(line))
    return rows


def shown(title):
    """Return the lines of the block of text in start that begins with a title."""
    return next(text for kind, text in BLOCK.findall(START) if kind == "text" and text.startswith(title)).splitlines()


@pytest.mark.slow
def test_the_readmes_blocks_print_what_it_shows(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    namespace, blocks, compared = {}, BLOCK.findall(README), 0
    for (kind, code), (following, text) in zip(blocks, [*blocks[1:], ("", "")]):
        if kind == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "README.md", "exec"), namespace)  # noqa: S102 - the README's own code
            lines = printed.getvalue().splitlines()
            if following == "text":  # of a long report, its first lines in part
                compared += 1
                assert [line for line in lines if line in text.splitlines()] == text.splitlines(), printed.getvalue()
            else:
                assert not lines, code
    assert compared == sum(kind == "text" for kind, _ in blocks) == 3
    drawn, committed = imread(tmp_path / "motion.png")[..., 0], imread(ROOT / "docs" / "images" / "motion.png")
    assert abs(drawn.astype(int) - committed).max() <= 1  # the last digits of the kernel may change a grey level by one


@pytest.mark.slow
def test_start_shows_what_doctor_prints():
    title = "Engines against the oracle"
    head, *rows = table_after(title, shown(title))
    found = table_after(title, run("doctor"))
    assert head == found[0]
    error = head.index("error")
    without_error = [row[:error] + row[error + 1 :] for row in found]
    for row in rows:
        assert row[:error] + row[error + 1 :] in without_error


def test_start_shows_what_plan_prints(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOLITH_CACHE_DIR", str(tmp_path))  # with the limits of the package, and nothing measured
    monkeypatch.setattr(wisdom, "_known", {})
    monkeypatch.setattr(machine, "_limits", {})
    title = "1 x 1 x 4096 x 4096 ->"
    head, *rows = table_after(title, shown(title))
    found = run("plan", "1,1,4096,4096", "1,1,31,31")
    assert shown(title)[0] in found
    names, *engines = table_after(title, found)
    assert set(head) <= set(names)
    real = {row[0]: row for row in engines}
    for engine, verdict, *_ in rows:
        assert MEASURED.sub("#", verdict) == MEASURED.sub("#", real[engine][1]), engine


def words(drawing):
    """Return the texts of a picture, which matplotlib draws as paths below a comment each."""
    return re.findall(r"<!-- (.*?) -->", drawing.read_text())


@pytest.mark.slow
def test_the_readmes_picture_is_that_of_the_kept_run(tmp_path, monkeypatch):
    for name in ("matplotlib", "skimage"):
        pytest.importorskip(name)
    kept = picture.IMAGES
    monkeypatch.setattr(picture, "IMAGES", tmp_path)
    CliRunner().invoke(picture.picture, catch_exceptions=False)
    for scheme in picture.INK:
        name = f"overview-{scheme}.svg"
        drawn = words(tmp_path / name)
        assert sum("times as long" in text for text in drawn) == len(picture.PEERS)
        assert drawn == words(kept / name)
