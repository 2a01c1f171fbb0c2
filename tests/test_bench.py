"""The bench's own logic: who takes a row, who is skipped or failed, and what is written; nothing here is timed."""

import json
import os
import sys

import pytest
from click import ClickException
from click.testing import CliRunner

import convolith as cl
from bench import big as bench_big
from bench import grid as bench_grid
from bench import machine as bench_machine
from bench import page as bench_page
from bench import report as bench_report
from bench import timing
from bench import train as bench_train
from bench import without_torch as bench_without_torch
from bench.grid_report import CLAIMS
from bench.peers import PEERS, Peer
from bench.rows import GRID, RANDOM, drawn
from convolith import ConvSpec
from tests.web_browser import NEEDS_BROWSER


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Blocks of one call without pauses; what is measured stays out of other tests."""
    monkeypatch.setenv("CONVOLITH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    monkeypatch.setattr(timing, "BLOCK", 0.0)
    monkeypatch.setattr(bench_grid, "limit_memory", lambda: None)


SMALL = ConvSpec(in_channels=1, out_channels=1, size=(24, 20), kernel_size=5, padding=2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_peer_agrees_with_the_oracle(dtype):
    spec = ConvSpec(in_channels=1, out_channels=1, size=(24, 20), kernel_size=5, padding=2, dtype=dtype)
    outcome = bench_grid.measure("small", spec, rounds=1)
    assert not outcome.failed
    names = {"convolith", *(peer.name for peer in PEERS)}
    assert (set(outcome.seconds) | set(outcome.skipped)) - {"convolith estimate"} == names
    assert "torch" in outcome.ratios


@pytest.mark.slow
def test_peers_that_fail_or_are_wrong_or_missing_are_named():
    def out_of_memory(operands):
        def run():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 309 GB\nmore")

        return run

    peers = (
        Peer("greedy", "torch", lambda spec: None, out_of_memory),
        Peer("wrong", "torch", lambda spec: None, lambda operands: lambda: operands.x * 0),
        Peer("absent", "no_such_package", lambda spec: None, lambda operands: None),
        Peer("picky", "torch", lambda spec: "takes nothing", lambda operands: None),
    )
    outcome = bench_grid.measure("small", SMALL, 1, peers)
    assert "309 GB" in outcome.failed["greedy"]
    assert "its result is off by" in outcome.failed["wrong"]
    assert outcome.skipped == {"absent": "no_such_package is not installed", "picky": "takes nothing"}
    assert set(outcome.seconds) - {"convolith estimate"} == {"convolith"}


@pytest.mark.slow
def test_the_command_prints_and_writes(monkeypatch, tmp_path):
    monkeypatch.setitem(bench_grid.SETS, "grid", {"small": SMALL})
    monkeypatch.setattr(bench_grid, "control", lambda rounds: 1.0)
    path = tmp_path / "run.json"
    result = CliRunner().invoke(bench_grid.grid, ["--rounds", "1", "--json", str(path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "small" in result.output
    assert json.loads(path.read_text())["tables"][0]["rows"][0]["row"] == "small"
    assert CliRunner().invoke(bench_grid.grid, ["--rows", "none such"]).exit_code == 1


@pytest.mark.slow
def test_a_run_that_cannot_be_trusted_says_so(monkeypatch):
    monkeypatch.setitem(bench_grid.SETS, "grid", {"small": SMALL})
    monkeypatch.setattr(bench_grid, "control", lambda rounds: 1.3)
    result = CliRunner().invoke(bench_grid.grid, ["--rounds", "1"])
    assert result.exit_code == 1
    assert "this run cannot be trusted" in result.output


def test_every_turn_runs_everyone_once_and_the_order_rotates(monkeypatch):
    order = []
    monkeypatch.setattr(timing, "_block", lambda run, repeats: order.append(run()) or 1.0)
    timing.race({name: lambda name=name: name for name in "abc"}, rounds=3)
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]


def test_a_runner_that_compiles_in_its_first_call_is_raced(monkeypatch):
    """A first call of three seconds decides nothing; a peer that takes minutes is called once."""
    now, calls = [0.0], {"compiles": 0, "endless": 0}

    def call(name, first, later):
        calls[name] += 1
        now[0] += later if calls[name] > 1 else first

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: None)
    runners = {"compiles": lambda: call("compiles", 3.0, 0.01), "endless": lambda: call("endless", 300.0, 300.0)}
    times = timing.race(runners, rounds=3)
    assert times["compiles"] == pytest.approx(0.01)
    assert times["endless"] == 300.0
    assert calls["endless"] == 1


@pytest.mark.slow
def test_what_the_grid_does_not_show(monkeypatch):
    """The other commands run, on shapes that take no time."""
    small = {"deep": ConvSpec(in_channels=32, out_channels=32, size=(12, 12), kernel_size=3)}
    monkeypatch.setattr(bench_machine, "GRID", small)
    monkeypatch.setattr(bench_machine, "image", lambda size, kernel: SMALL)
    monkeypatch.setitem(bench_machine.DEEP, "64 -> 64, 3x3, 56", small["deep"])
    result = CliRunner().invoke(bench_machine.scaling, ["--rounds", "1", "--least", "0"], catch_exceptions=False)
    assert "deep" in result.output
    result = CliRunner().invoke(bench_machine.denormals, ["--rounds", "1"], catch_exceptions=False)
    assert "winograd_4x4" in result.output
    result = CliRunner().invoke(bench_machine.overhead, ["--rounds", "1"], catch_exceptions=False)
    assert "in the next process" in result.output


def test_what_needs_torch(tmp_path):
    needed_by = {row["package"]: row["needed by"] for row in bench_without_torch.packages()}
    assert needed_by["torch"] == "torch"
    assert needed_by["llvmlite"] == needed_by["numpy"] == "Convolith"
    assert needed_by["sympy"] == "both"
    for text, expected in (("def f():\n    from torch.nn import Module", True), ("import torchvision, numpy", False)):
        (tmp_path / "file.py").write_text(text)
        assert bench_without_torch.imports_torch(tmp_path / "file.py") is expected


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("name", ["direct", "depthwise", "pointwise", "im2col", "winograd_4x4"])
def test_an_engine_runs_on_numpy_arrays_without_torch(name):
    found = bench_without_torch.printed_by("threads", name, os.environ, rounds=1)
    assert "failed" not in found
    assert found["error"] < 1e-3
    assert not found["torch"]


@pytest.mark.parametrize("template", bench_report.TEMPLATES, ids=lambda path: path.stem)
def test_a_page_of_measurements_is_what_the_kept_runs_say(template):
    page = bench_report.page(template, bench_report.newest(bench_report.RUNS))
    assert page == (bench_report.PAGES / template.name).read_text()
    assert "{{" not in page


@pytest.mark.parametrize("page", bench_report.TEMPLATES, ids=lambda path: path.stem)
def test_each_bench_on_a_page_says_when_and_where_it_ran(page):
    template = page.read_text()
    for place in bench_report.PLACE.finditer(template):
        assert f"{{{{ {place['bench']} }}}}" in template, place["bench"]


def _row(run, title, column, name):
    (table,) = (table for table in run["tables"] if table["title"].startswith(title))
    (row,) = (row for row in table["rows"] if row[column] == name)
    return row


def test_the_numbers_of_the_readme_are_those_of_the_kept_runs():
    runs = bench_report.newest(bench_report.RUNS)
    figures = {name: run["figures"] for name, run in runs.items()}
    fitted = _row(runs["fit"], "Seconds over seconds", "problem", "1024x1024, k = 21")
    subtracted = _row(runs["fit"], "Programs", "problem", "1024x1024, k = 21, degree 0")
    folded = _row(runs["fold"], "Seconds before", "network", "ecbsr")
    stated = {
        "{:.1f} times as fast as the fastest of torch, OpenCV": figures["grid"]["geometric mean over the fastest peer"],
        "{:.1f} times for shapes drawn at random": figures["random"]["geometric mean over the fastest peer"],
        "{:.1f} times as fast as torch, ": figures["models"]["geometric mean over the better of torch's formats"],
        ", {:.1f} times as fast as the fastest of torch, ONNX": figures["models"]["geometric mean over the best peer"],
        "{:.0f} convolutions become ": folded["convolutions"],
        " become {:.0f}]": folded["then"],
        "{:.1f} times as fast |": folded["before / after"],
        "[in {:.2f} s]": subtracted["s"],
        "{:.0f} times as fast as with the im2col": fitted["tiled im2col / fit"],
        "({:.2f} of the fastest library": figures["strided"]["geometric mean over the fastest peer"],
        "{:.0f} microseconds (torch": _row(runs["overhead"], "1x1x8x8", "call", "correlate")["microseconds"],
        "(torch: {:.0f})": _row(runs["overhead"], "1x1x8x8", "call", "torch")["microseconds"],
    }
    call = {
        row["call"]: f"{row['microseconds']:.0f}" for table in runs["overhead"]["tables"][:1] for row in table["rows"]
    }
    engineers, programs = (
        (bench_report.PAGES / page).read_text() for page in ("guide/engineers.md", "how/programs.md")
    )
    assert (
        f"{call['correlate']} microseconds for a tiny layer, a bound plan {call['a bound plan']}, torch {call['torch']}"
        in engineers
    )
    assert f"[{call['torch']} microseconds with torch and {call['correlate']} with `cl.correlate`]" in programs
    readme = (bench_report.PAGES.parent / "README.md").read_text()
    missing = [sentence for sentence, number in stated.items() if sentence.format(number) not in readme]
    assert not missing, [sentence.format(stated[sentence]) for sentence in missing]
    table = [line.replace("](docs/", "](") for line in readme.splitlines() if line.startswith("|")]
    assert all(line in (bench_report.PAGES / "index.md").read_text() for line in table)


def test_the_newest_run_of_each_bench_counts(tmp_path):
    for name, date, value in (("a", "2026-01-02", 2.0), ("b", "2026-01-01", 1.0)):
        run = {"bench": "grid", "date": date, "tables": [{"title": "Rows", "rows": [{"row": "x", "ms": value}]}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
    runs = bench_report.newest(tmp_path)
    assert bench_report.filled("{{ grid: Rows }}", runs).endswith("| row | ms |\n| --- | ---: |\n| x | 2 |")
    with pytest.raises(ClickException, match="has no table 'Other'"):
        bench_report.filled("{{ grid: Other }}", runs)
    with pytest.raises(ClickException, match="no complete run of fold"):
        bench_report.filled("{{ fold }}", runs)


def test_the_rows_are_drawn_the_same_every_time():
    assert drawn(8) == {name: RANDOM[name] for name in list(RANDOM)[:8]}
    assert len(RANDOM) >= 30
    assert len(GRID) >= 45


def test_every_claim_has_rows_and_peers():
    peers = {peer.name for peer in PEERS}
    for wanted, against in CLAIMS.values():
        assert any(map(wanted, GRID.values()))
        assert set(against) <= peers


@pytest.mark.slow
def test_training_steps_and_calls_with_new_kernels(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_train, "STEPS", {"small": bench_train.layer(4, 4, 8, 3)})
    monkeypatch.setattr(
        bench_train, "GRID", {"few": SMALL, "bytes": bench_train.image(16, 3, dtype="uint8", kernel_dtype="float32")}
    )
    monkeypatch.setattr(bench_train, "calibrate", lambda: None)
    monkeypatch.setattr(bench_train, "control", lambda rounds: 1.0)
    path = tmp_path / "run.json"
    result = CliRunner().invoke(bench_train.train, ["--rounds", "1", "--json", str(path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "over the fastest" in result.output
    kept = json.loads(path.read_text())
    assert [row["row"] for table in kept["tables"] for row in table["rows"]] == ["small", "few", "bytes"]
    monkeypatch.setattr(bench_train, "control", lambda rounds: 1.3)
    result = CliRunner().invoke(bench_train.train, ["--rounds", "1", "--only", "steps"])
    assert result.exit_code == 1
    assert "this run cannot be trusted" in result.output


def test_figures_of_the_page_have_bounds():
    assert bench_page.row("ping, ms", 99, 100) == {"figure": "ping, ms", "value": 99, "at most": 100, "holds": "yes"}
    assert bench_page.row("ping, ms", 101, 100)["holds"] == "no"
    assert bench_page.percentile(range(1, 101), 0.95) == 95
    assert bench_page.percentile([7], 0.95) == 7
    assert all(found["holds"] == "yes" for found in bench_page.sizes(1))


@pytest.mark.slow
@NEEDS_BROWSER
def test_the_page_is_measured(monkeypatch, tmp_path):
    for name, value in {"MOVES": 10, "UPLOADS": (1, 2), "UPLOADED": 64, "COMPUTED": 1024, "PING_SECONDS": 0.01}.items():
        monkeypatch.setattr(bench_page, name, value)
    path = tmp_path / "run.json"
    result = CliRunner().invoke(bench_page.page, ["--rounds", "1", "--json", str(path)], catch_exceptions=False)
    assert result.exit_code == 0
    kept = json.loads(path.read_text())
    assert kept["complete"]
    rows = [row for table in kept["tables"] for row in table["rows"]]
    assert len([row for row in rows if "holds" in row]) == 10
    assert all(row["value"] > 0 for row in rows)


def test_a_process_is_killed_once_its_journal_has_a_number_of_blocks(tmp_path):
    """The number is drawn once, and not at every look at the journal."""
    journal = tmp_path / "journal"
    code = f"import time\nfor _ in range(100): open({str(journal)!r}, 'a').write('line\\n'); time.sleep(0.02)"
    bench_big._killed_after(7, journal, [sys.executable, "-c", code])
    assert 7 <= bench_big._stored(journal) < 90


def test_a_wrong_training_step_is_not_timed(monkeypatch):
    monkeypatch.setattr(cl, "correlate", lambda x, k, **_: x)
    with pytest.raises(ClickException, match="convolith and torch do not agree"):
        bench_train.new_kernel("small", SMALL, 1)
