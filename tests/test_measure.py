"""Measured plans: wisdom kept, signed, all or nothing, safe under many writers; the machine's limits; prepared kernels."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import convolith as cl
from convolith import ConvolithError, ConvSpec
from convolith.engines import BY_NAME, MachineLimits
from convolith.planner import calibrate, machine, measure, store, wisdom

SPEC = ConvSpec(in_channels=3, out_channels=4, size=(20, 20), kernel_size=3)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CONVOLITH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(wisdom, "_known", {})
    monkeypatch.setattr(machine, "_limits", {})
    monkeypatch.setattr(measure, "BLOCK_SECONDS", 1e-4)
    for name, value in (("BLOCKS", 1), ("ROUNDS", 1), ("PAUSE_SECONDS", 0.0)):
        monkeypatch.setattr(calibrate, name, value)
    monkeypatch.setattr(measure, "STEADY", float("inf"))  # whatever else this machine does


@pytest.mark.slow
def test_measuring_times_the_engines_and_is_remembered(monkeypatch):
    before = cl.plan(SPEC)
    assert {c.timed for c in before.candidates} == {False}
    measured = cl.plan(SPEC, effort="measure", budget=0.2)
    timed = {c.engine: c.seconds for c in measured.candidates if c.timed}
    assert len(timed) >= 3
    assert measured.engine == min(timed, key=timed.get)
    assert "measured" in measured.explain()
    monkeypatch.setattr(measure, "times", lambda *a: pytest.fail("timed again"))
    for plan in (cl.plan(SPEC, effort="measure"), cl.plan(SPEC)):
        assert {c.engine: c.seconds for c in plan.candidates if c.timed} == timed
    wisdom._known.clear()  # as in the next process
    assert cl.plan(SPEC, effort="measure").engine == measured.engine


@pytest.mark.parametrize("preempted", ["aten", "aten_channels_last", "direct", "winograd_4x4", "pointwise", "fft"])
@pytest.mark.parametrize("turn", [0, 1, 4])
def test_one_sample_that_was_preempted_decides_nothing(monkeypatch, preempted, turn):
    """Times are played: each engine takes its own, but for one turn of one of them; the oracle is never even tried."""
    usual = {"direct": 1e-3, "winograd_4x4": 2e-3, "winograd_2x2": 3e-3, "aten": 4e-3}
    calls = dict.fromkeys(BY_NAME, 0)

    def played(name, state, x, repeats):
        calls[name] += 1
        return 5.0 if name == preempted and calls[name] == turn + 1 else usual.get(name, 5e-3)

    monkeypatch.setattr(measure, "_timed", played)
    monkeypatch.setattr(measure, "_turn", played)
    chosen = cl.plan(SPEC, effort="measure", budget=0.05)
    assert chosen.engine == "direct"
    assert not calls["reference"]


def test_what_contradicts_the_estimates_is_measured_again():
    estimates = {"direct": 1e-3, "aten": 2e-3, "fft": 3e-3, "winograd_4x4": 1e-3}
    assert not measure.contradicting({"direct": 2e-3, "aten": 3e-3, "fft": 9e-3}, estimates)
    found = measure.contradicting({"direct": 2e-3, "aten": 3e-3, "fft": 5.0, "winograd_4x4": 1e-3}, estimates)
    assert found == ["fft", "winograd_4x4"]
    assert measure.contradicting({"direct": 1e-5, "aten": 2e-3, "fft": 3e-3}, estimates) == ["direct"]


def test_what_is_noisy_is_not_remembered(monkeypatch):
    monkeypatch.setattr(measure, "STEADY", 1.25)
    assert measure.steady({"direct": [1.0, 3.0, 1.1, 1.2], "aten": [9.0, 1.7, 2.0]})
    assert not measure.steady({"direct": [1.0, 3.0, 1.1, 1.9], "aten": [9.0, 1.7, 2.0]})
    assert not measure.steady({"direct": [1.0, 1.1, 1.2], "aten": [1.4, 9.0, 9.0]})
    assert not measure.steady({"direct": [1.0, 1.0]})
    monkeypatch.setattr(measure, "times", lambda *_: measure.Times({"direct": 1.0, "aten": 2.0}, steady=False))
    assert cl.plan(SPEC, effort="measure").engine == "direct"
    assert wisdom.recall(SPEC, "default") is None
    monkeypatch.setattr(measure, "times", lambda *_: measure.Times({"direct": 1.0, "aten": 2.0}, steady=True))
    cl.plan(SPEC, effort="measure")
    assert wisdom.recall(SPEC, "default") == {"direct": 1.0, "aten": 2.0}


@pytest.mark.slow
def test_one_engine_measured_by_itself_does_not_decide_for_all():
    cl.plan(SPEC, effort="measure", budget=0.05, engine="reference")
    assert cl.plan(SPEC).engine != "reference"
    assert wisdom.recall(SPEC, "default") is None


def test_a_separable_kernel_is_still_seen_after_others_were_measured():
    spec = ConvSpec(in_channels=1, out_channels=1, size=(400, 500), kernel_size=15, padding=7)
    wisdom.remember(spec, "default", {"direct": 1.0, "aten": 2.0})
    assert cl.plan(spec).engine == "direct"
    assert cl.plan(spec, gaussian(15)).engine == "separable"


@pytest.mark.slow
def test_measuring_stores_the_limits_once():
    assert not machine.measured()
    cl.plan(SPEC, effort="measure", budget=0.05)
    found = machine.limits()
    assert machine.measured()
    machine._limits.clear()
    assert machine.limits() == found


@pytest.mark.slow
def test_the_budget_is_kept(monkeypatch):
    """By a clock on which every turn takes a tenth of a second: three rounds at least, fifteen at most."""
    now, turns = [0.0], []

    def turn(*_):
        now[0] += 0.1
        turns.append(now[0])
        return 1e-3

    def rounds(budget):
        now[0] = 0.0
        turns.clear()
        measure.times(SPEC, [row for row in cl.plan(SPEC).candidates if row.reason is None], None, budget)
        return len(turns)

    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: now[0], sleep=lambda _: None))
    monkeypatch.setattr(machine, "measured", lambda: True)
    monkeypatch.setattr(measure, "_tried", lambda *_: 1e-3)
    monkeypatch.setattr(measure, "_turn", turn)
    monkeypatch.setattr(measure, "contradicting", lambda *_: [])
    engines = rounds(1e-9) // measure.FEWEST_ROUNDS
    assert engines > 1
    assert rounds(1e-9) == measure.FEWEST_ROUNDS * engines
    assert rounds(0.65 * engines) == 7 * engines
    assert rounds(1e9) == measure.MOST_ROUNDS * engines


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effort": "guess"}, "effort is 'guess'; expected one of estimate, measure"),
        ({"effort": "measure", "budget": 0}, "budget is 0; expected seconds above zero"),
    ],
)
def test_bad_efforts(options, message):
    with pytest.raises(ConvolithError, match=message):
        cl.plan(SPEC, **options)


def test_wisdom_is_believed_as_a_whole_or_not_at_all():
    wisdom.remember(SPEC, "default", {"aten": 1.0, "direct": 2.0})
    path = store.path_of("wisdom")
    good = json.loads(path.read_text())
    entry = next(iter(good["entries"]))
    changes = [
        "",
        "{",
        "[]",
        json.dumps(good | {"signature": good["signature"] | {"threads": 99}}),
        json.dumps(good | {"entries": good["entries"] | {"other": {"no such engine": 1.0}}}),
        json.dumps(good | {"entries": {entry: {"aten": -1.0}}}),
        json.dumps(good | {"entries": {entry: {"aten": "fast"}}}),
    ]
    for text in changes:
        path.write_text(text)
        wisdom._known.clear()
        with pytest.warns(RuntimeWarning, match="damaged or not ours"):
            assert wisdom.recall(SPEC, "default") is None
    path.write_text(json.dumps(good))
    wisdom._known.clear()
    assert wisdom.recall(SPEC, "default") == {"aten": 1.0, "direct": 2.0}


def test_damaged_limits_give_way_to_the_shipped_ones():
    machine.keep(MachineLimits(float32_products_per_second=1e9))
    store.path_of("machine").write_text('{"entries": {"float32_products_per_second": "much"}, "signature": {}}')
    machine._limits.clear()
    with pytest.warns(RuntimeWarning, match="damaged or not ours"):
        assert machine.limits() == MachineLimits()


WRITER = """
import sys
from convolith import ConvSpec
from convolith.planner import wisdom
for size in range(10, 20):
    wisdom.remember(ConvSpec(in_channels=1, out_channels=int(sys.argv[1]), size=size, kernel_size=3), "default", {"aten": 1.0})
"""


@pytest.mark.slow
def test_many_writers_lose_nothing():
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(n)]) for n in range(1, 5)]  # noqa: S603 - ours
    assert [writer.wait(timeout=120) for writer in writers] == [0] * 4
    assert len(json.loads(store.path_of("wisdom").read_text())["entries"]) == 40


def test_threads_have_wisdom_of_their_own():
    before, path = torch.get_num_threads(), store.path_of("wisdom")
    torch.set_num_threads(before + 1)
    try:
        assert store.path_of("wisdom") != path
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_nothing_is_stored_where_nothing_shall_be(monkeypatch):
    monkeypatch.setenv("CONVOLITH_CACHE_DIR", "")
    assert cl.plan(SPEC, effort="measure", budget=0.05).engine in BY_NAME
    assert store.path_of("wisdom") is None


def gaussian(size: int) -> torch.Tensor:
    line = torch.exp(-((torch.arange(size) - size // 2) ** 2) / size)
    return (line[:, None] * line)[None, None] / line.sum() ** 2
