"""`correlate` and `plan` on stores: what they print, and how they end."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from rich.console import Console

import convolith as cl
from convolith import big
from convolith.big.blocks import Filter
from convolith.cli.io.events import Events
from convolith.errors import warn
from convolith.report import progress
from convolith.report.progress import State
from tests.test_cli import refused, run

zarr = pytest.importorskip("zarr")


@pytest.fixture
def store(tmp_path):
    x = np.random.default_rng(0).standard_normal((60, 70)).astype(np.float32)
    array = zarr.create_array(str(tmp_path / "x.zarr"), shape=x.shape, chunks=(20, 30), dtype="float32")
    array[...] = x
    return tmp_path


def events_of(result):
    """Return the events that a command printed."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_store_is_correlated_to_a_store(store):
    source, target = str(store / "x.zarr"), str(store / "y.zarr")
    kernel = "[[1,2,1],[2,4,2],[1,2,1]]"
    found = events_of(run("correlate", source, kernel, "-o", target, "--memory", "200MB", "--json"))[-1]
    assert found["blocks"] == 1
    expected = cl.filter_image(zarr.open(source)[...], json.loads(kernel), padding_mode="symmetric")
    np.testing.assert_allclose(zarr.open(target)[...], expected, atol=1e-5)
    run("correlate", source, kernel, "-o", target, "--padding-mode", "zeros", "--flip", "--axes", "0,1", "--anew")
    expected = cl.filter_image(zarr.open(source)[...], json.loads(kernel), flip=True)
    np.testing.assert_allclose(zarr.open(target)[...], expected, atol=1e-5)


def test_missing_pixels_of_a_store(store):
    array = zarr.open_array(str(store / "x.zarr"), mode="r+")
    array[5, 6] = -1
    source, target = str(store / "x.zarr"), str(store / "y.zarr")
    run("correlate", source, "[[1,1,1]]", "-o", target, "--nodata", "-1", "--missing", "renormalise")
    holes = np.where(array[...] == -1, np.float32(np.nan), array[...])
    expected = cl.filter_image(holes, np.ones((1, 3)), nan="omit", padding_mode="symmetric")
    np.testing.assert_allclose(zarr.open(target)[...], expected, atol=1e-5)
    run("correlate", source, "[[1,1,1]]", "-o", target, "--nodata", "-1", "--nan", "omit")
    np.testing.assert_allclose(zarr.open(target)[...], expected, atol=1e-5)


def test_a_picture_goes_to_a_store(store):
    np.save(store / "p.npy", np.ones((8, 9), np.float32))
    run("correlate", str(store / "p.npy"), "[[1,1]]", "-o", str(store / "y.zarr"))
    np.testing.assert_array_equal(zarr.open(store / "y.zarr")[...], np.full((8, 9), 2, np.float32))


def test_the_plan_of_a_store_is_shown(store):
    text = run("plan", str(store / "x.zarr"), "[[1,2,1]]", "--memory", "500MB").stdout
    assert "60 x 70 float32" in text
    assert "500 MB that may be taken" in text
    assert events_of(run("plan", str(store / "x.zarr"), "[[1,2,1]]", "--json"))[0]["shape"] == [60, 70]


def test_what_does_not_fit_is_refused_in_the_words_of_the_command(store):
    source, target = str(store / "x.zarr"), str(store / "y.zarr")
    for arguments, words in (
        ((source, "[[1]]", "-o", target, "--memory", "1MB"), "--memory is 1 MB"),
        ((source, "[[1]]", "-o", str(store / "y.png")), "ends with .zarr"),
        ((source, "[[1]]"), "ends with .zarr"),
        ((source, "[[1]]", "-o", source), "--output is"),
        ((source, "[[1]]", "-o", target, "--origin", "1"), "--origin was given"),
        ((source, "[[1]]", "-o", target, "--nan", "interpolate"), "expected propagate or omit"),
        ((source, "[[1,-1]]", "-o", target, "--missing", "renormalise"), "--missing is renormalise"),
        ((source, "[[1]]", "-o", target, "--missing", "none"), "none of propagate"),
        ((source, "[[1]]", "-o", target, "--axes", "yx"), "the axes of INPUT are not named"),
        ((str(store / "none.zarr"), "[[1]]", "-o", target), "INPUT is"),
    ):
        assert words in refused("correlate", *arguments), arguments
    np.save(store / "p.npy", np.ones((8, 9)))
    names = {"--anew": "--resume/--anew", "--compressed": "--compressed/--uncompressed"}
    for option in ("--memory=1GB", "--nodata=1", "--anew", "--skip-bad", "--missing=1", "--axes=yx", "--compressed"):
        named = names.get(option, option.split("=")[0])
        assert named in refused("correlate", str(store / "p.npy"), "[[1]]", option)
    assert "--memory was given" in refused("plan", "1,1,8,8", "1,1,3,3", "--memory", "1GB")
    assert "K_SHAPE" in refused("plan", "1,1,8,8", "[[1], 2]")
    assert not (store / "y.zarr").exists()


SLOW = """
import os, sys, time
from convolith.big.blocks import Filter
compute = Filter.compute
def slow(*arguments):
    os.write(2, b"block\\n")
    while not os.path.exists(sys.argv[2] + ".go"):
        time.sleep(0.01)
    return compute(*arguments)
Filter.compute = slow
from convolith.cli import main
sys.argv = ["convolith", *sys.argv[1:]]
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
def test_an_interrupt_says_how_to_go_on(store):
    source, target = str(store / "x.zarr"), str(store / "y.zarr")
    x = zarr.create_array(str(store / "wide.zarr"), shape=(1024, 9000), chunks=(1024, 1024), dtype="float32")
    x[...] = 1
    source = str(store / "wide.zarr")
    command = [sys.executable, "-c", SLOW, "correlate", source, "[[1,2]]", "-o", target]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 - ours
    while process.stderr.readline() != "block\n":
        pass
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    (store / "wide.zarr.go").touch()  # what is in flight ends
    _, said = process.communicate()
    assert process.returncode == 130
    assert "give the same command again" in said
    found = events_of(run("correlate", source, "[[1,2]]", "-o", target, "--json"))[-1]
    assert 0 < found["resumed"] < found["blocks"] == 9


# Events.


def test_json_is_a_stream_of_events(store):
    tall = zarr.create_array(str(store / "tall.zarr"), shape=(9000, 64), chunks=(1024, 64), dtype="float32")
    tall[...] = 1
    source, target = str(store / "tall.zarr"), str(store / "y.tif")
    said = events_of(run("correlate", source, "[[1,2]]", "-o", target, "--json"))
    assert [one["event"] for one in (said[0], said[-1])] == ["plan", "done"]
    assert (said[0]["blocks"], said[-1]["blocks"]) == (9, 9)
    assert said[-1]["written_to"] == target
    progress = [one for one in said if one["event"] == "progress"]
    assert len(progress) == len(said) - 2
    last = {one["phase"]: one for one in progress}
    assert last["correlating"] | {"done": 9, "total": 9, "bytes": 9000 * 64 * 4} == last["correlating"]
    assert last["writing"]["done"] == last["writing"]["total"] == 9000 * 64 * 4
    for one in progress:
        assert one["bytes_per_second"] > 0
        assert one["seconds_left"] >= 0


def test_progress_is_not_printed_for_every_block():
    said = []
    stream = Events(wanted=True)
    stream.say = lambda event, **data: said.append(data["done"])
    for done in range(1, 1001):
        stream.progress(State("correlating", done, 1000, done, done / 1000))
    assert said[0] == 1
    assert said[-1] == 1000
    assert len(said) < 10


def test_a_command_that_fails_says_so_in_an_event(store, monkeypatch):
    source, target = str(store / "x.zarr"), str(store / "y.zarr")
    for command in (("correlate", source, "[[1]]", "-o", target), ("plan", source, "[[1]]")):
        ended = run(*command, "--memory", "1MB", "--json", code=2)
        (said,) = events_of(ended)
        assert said | {"event": "failed", "exit_status": 2} == said
        assert said["reason"].startswith("--memory is 1 MB")
        assert said["reason"] in ended.stderr
    (said,) = events_of(run("correlate", source, "[[1]]", "-o", str(store / "y.png"), "--json", code=2))
    assert "ends with .zarr" in said["reason"]
    monkeypatch.setattr(Filter, "compute", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    said = events_of(run("correlate", source, "[[1]]", "-o", target, "--json", code=130))
    assert said[-1] == {"event": "failed", "reason": "interrupted", "exit_status": 130}


def test_warnings_are_events(store, monkeypatch):
    plan = big.plan
    monkeypatch.setattr(big, "plan", lambda *a, **o: (warn("memory is small"), plan(*a, **o))[1])
    for command in ("plan", "correlate"):
        output = ("-o", str(store / "y.zarr")) if command == "correlate" else ()
        said = events_of(run(command, str(store / "x.zarr"), "[[1]]", *output, "--json"))
        assert [one for one in said if one["event"] == "warning"] == [
            {"event": "warning", "message": "--memory is small"}
        ]


def test_a_bar_shows_throughput_and_time_left(monkeypatch):
    text = io.StringIO()
    shown = partial(Console, file=text, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", lambda **_: shown())
    with progress.Meter("writing", 40, shown=True) as meter:
        for _ in range(3):
            meter.step(50_000_000)
            time.sleep(0.15)
    assert re.search(r"writing.*\d+%.*\d MB/s.*0:00:\d\d", text.getvalue())
