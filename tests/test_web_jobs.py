"""What the page computes: pictures, fits and networks as streams of events; the queue, and jobs that are cancelled."""

import io
import json
import os
import socket
import time
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event, Thread

import numpy as np
import pytest
import torch
from torch import nn

import convolith as cl
from convolith.engines import TABLE
from convolith.report.plain import plain
from convolith.web import jobs as slots
from convolith.web.computing import compute as computing
from convolith.web.computing import tiles
from convolith.web.requests import Compute
from convolith.web.schema import build
from convolith.web.store import Stored
from tests.web_page import TOKEN, events, last, named, npy, png, sent, served, until

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 50)).astype(np.uint8)
COLOURS = RNG.integers(0, 256, (33, 31, 3)).astype(np.uint8)
SLOW = {"kernel": {"preset": "gabor", "arguments": {"wavelength": 12, "size": 31}}}


class Recorder:
    """Outbox that keeps what a computation finds."""

    def __init__(self):
        self.events, self.arrays = [], {}

    def send(self, event, **data):
        self.events.append({"event": event, **plain(data)})

    def put(self, stored):
        self.arrays[str(len(self.arrays))] = stored.array
        return str(len(self.arrays) - 1)


def broken(crashed):
    """End the process, and raise an error the next time."""
    if not crashed.exists():
        crashed.touch()
        os._exit(3)
    raise RuntimeError("no weights")


def stubborn():
    while True:
        with suppress(BaseException):
            time.sleep(1000)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


@pytest.fixture(scope="module")
def page():
    with served(network, "my_models:network") as client:
        yield client


def array(page, about):
    answer = page.get(f"/api/picture/{about['id']}?as=npy")
    return np.load(io.BytesIO(answer.content))


@pytest.mark.slow(quick=4)
@pytest.mark.parametrize(
    "options",
    [{}, {"dilation": [1, 2], "padding": "full", "padding_mode": "circular", "stride": 2, "flip": True, "dtype": "float64"},
     {"padding": "valid"}, {"padding": "full", "padding_mode": "zeros"}, {"stride": 2, "dtype": "float64"},
     {"dilation": [1, 2], "padding_mode": "circular"}, {"flip": True, "dtype": "float16", "padding_mode": "replicate"},
     {"accuracy": "exact", "padding_mode": "reflect", "stride": [3, 1]}],
)  # fmt: skip
@pytest.mark.parametrize("picture", [GREY, COLOURS], ids=["grey", "colours"])
def test_a_result_is_the_librarys(page, picture, options):
    kernel = [[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]]
    found = events(page, "/api/compute", {"picture": sent(page, png(picture)), "kernel": {"values": kernel}, **options})
    assert [event["event"] for event in found[:5]] == ["job", "started", "plan", "result", "reference"]
    assert last(found, "done")
    result = last(found, "result")
    geometry = {
        name: options.get(name, default)
        for name, default in (
            ("padding", "same"),
            ("padding_mode", "symmetric"),
            ("stride", 1),
            ("dilation", 1),
            ("flip", False),
        )
    }
    dtype = options.get("dtype", "float32")
    expected = cl.filter_image(picture.astype(dtype), np.array(kernel), **geometry)
    np.testing.assert_allclose(
        array(page, result["result"]), expected, rtol=2e-3 if dtype == "float16" else 1e-5, atol=1e-4
    )
    assert result["result"]["dtype"] == dtype
    if expected.shape == picture.shape:
        np.testing.assert_allclose(
            array(page, result["difference"]), array(page, result["result"]) - picture.astype(dtype), atol=0.5
        )
    else:
        assert result["difference"] is None
        assert "size" in result["why_no_difference"]


def test_every_engine_has_a_reason_a_time_and_an_error(page):
    found = events(page, "/api/compute", {"picture": sent(page, png(GREY)), "kernel": {"preset": "sobel"}})
    plan = last(found, "plan")
    rows = {row["engine"]: row for row in plan["engines"]}
    assert set(rows) == {engine.name for engine in TABLE}
    assert plan["engines"][0]["verdict"] == "chosen"
    assert plan["engines"][0]["engine"] == plan["engine"]
    assert all(row["verdict"] for row in rows.values())
    assert "is not 1" in rows["pointwise"]["verdict"]
    assert "times as long" in rows["reference"]["verdict"]
    timed = {event["engine"]: event for event in named(found, "engine")}
    assert set(timed) == {name for name, row in rows.items() if row["is_timed"]}
    assert plan["engine"] in timed
    for event in timed.values():
        assert event["seconds"] > 0
        assert event["relative_error"] <= event["bound"]
        assert event["bytes"] > 0
        assert event["workspace"] >= 0


def test_whole_numbers_stay_exact(page):
    picture = sent(page, npy(np.array([[2**30, 1], [2, 3]])))
    found = events(page, "/api/compute", {"picture": picture, "kernel": {"values": [[8]]}, "dtype": "int32"})
    assert array(page, last(found, "result")["result"])[0, 0] == 2**33
    assert all(event["error"] == 0 for event in named(found, "engine"))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"kernel": {"values": [[0.5]]}, "dtype": "int32"}, "has fractions"),
        ({"kernel": {"values": [[1e30]]}, "dtype": "float16"}, "too large for float16"),
        ({"kernel": {"preset": "box", "arguments": {"size": 99}}, "padding": "valid"}, "kernel"),
        ({"kernel": {"values": [[1]]}, "engines": ["quick"]}, "engine 'quick' is unknown"),
        ({"kernel": {"values": [[1]]}, "engines": ["winograd_2x2"]}, "is not 3x3"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_the_stream(page, request_, words):
    found = events(page, "/api/compute", {"picture": sent(page, png(GREY)), **request_})
    assert found[-1]["event"] == "refused"
    assert words in found[-1]["reason"]
    assert page.server.slot.jobs == 0


def test_missing_pixels_and_kernels_of_zeros(page):
    holes = sent(page, npy(np.array([[1.0, np.nan], [2.0, 3.0]])))
    assert "NaN" in events(page, "/api/compute", {"picture": holes, "kernel": {"values": [[1]]}})[-1]["reason"]
    found = events(page, "/api/compute", {"picture": sent(page, png(GREY)), "kernel": {"values": [[0, 0], [0, 0]]}})
    assert found[-1] == {"event": "done"}
    assert not array(page, last(found, "result")["result"]).any()


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("mode", ["reflect", "zeros", "symmetric", "replicate", "circular"])
def test_a_kernel_larger_than_the_picture_is_computed_or_refused(page, mode):
    picture = sent(page, npy(GREY[:7, :9]))
    for padding in ("same", "valid", "full"):
        request = {"picture": picture, "kernel": {"preset": "box", "arguments": {"size": 21}}}
        found = events(page, "/api/compute", request | {"padding": padding, "padding_mode": mode})[-1]
        assert found == {"event": "done"} or (found["event"] == "refused" and found["reason"])
    for padding in ("same", "valid"):
        request = {"before": picture, "after": picture, "kernel_size": 21, "padding": padding, "padding_mode": mode}
        found = events(page, "/api/fit", request)[-1]
        assert found == {"event": "done"} or (found["event"] == "refused" and found["reason"])


def test_engines_can_be_named_and_too_much_work_is_refused(page, monkeypatch):
    request = {"picture": sent(page, png(GREY)), **SLOW, "engines": ["reference", "fft"]}
    assert {event["engine"] for event in named(events(page, "/api/compute", request), "engine")} == {"reference", "fft"}
    monkeypatch.setattr(computing, "PLANNED_SECONDS", 1e-7)
    asked = build(Compute, request | {"picture": "it"}, "the request")
    with pytest.raises(cl.ConvolithError, match="is estimated to take 0 s, and the page computes for at most"):
        computing.compute(Recorder(), asked, {"it": Stored(GREY)})


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize(
    "options",
    [
        {"padding_mode": "circular", "padding": "full"},
        {},
        {"padding": "valid", "stride": 2},
        {"padding_mode": "zeros", "dilation": 2},
    ],
)
def test_strips_give_the_result_of_the_whole(monkeypatch, options):
    monkeypatch.setattr(tiles, "STRIP_SECONDS", 1e-9)
    request = {"picture": "it", "kernel": {"preset": "gabor", "arguments": {"size": 9}}, "dtype": "float64", **options}
    box = Recorder()
    computing.compute(box, build(Compute, request, "the request"), {"it": Stored(COLOURS)})
    found = box.events
    result = last(found, "result")
    assert result["strips"] > 5
    assert named(found, "progress")
    kernel = cl.kernels.gabor(8.0, size=9)
    expected = cl.filter_image(COLOURS.astype(float), kernel, **({"padding_mode": "symmetric"} | options))
    np.testing.assert_allclose(box.arrays[result["result"]["id"]], expected, atol=1e-10)
    assert all(event["relative_error"] < 1e-13 for event in named(found, "engine"))


def test_the_crossover_has_every_size_and_engine(page):
    request = {"size": [64, 64], "kernel_sizes": [1, 3, 9, 3], "measured": True, "separable": True}
    found = named(events(page, "/api/crossover", request), "size")
    assert [event["kernel_size"] for event in found] == [1, 3, 9]
    assert all(event["chosen"] in event["engines"] for event in found)
    assert found[2]["engines"]["separable"]["measured"] > 0
    assert "3x3" in found[2]["engines"]["winograd_4x4"]["reason"]
    estimated = last(events(page, "/api/crossover", {"size": [8, 8], "kernel_sizes": [63]}), "size")
    assert estimated["engines"]["direct"]["measured"] is None


@pytest.fixture(scope="module")
def pair(page):
    kernel = RNG.normal(size=(3, 3))
    x = RNG.normal(size=(48, 40))
    y = cl.filter_image(x, kernel) + 0.5
    return kernel, sent(page, npy(x)), sent(page, npy(y))


def test_a_fit_finds_the_kernel_with_its_errors_and_residual(page, pair):
    kernel, before, after = pair
    found = events(page, "/api/fit", {"before": before, "after": after, "kernel_size": 3, "offset": True})
    assert [event["event"] for event in found] == ["job", "started", "closed", "residual", "done"]
    closed = last(found, "closed")
    np.testing.assert_allclose(closed["kernel"], kernel, atol=1e-9)
    assert closed["offset"] == pytest.approx(0.5)
    assert np.shape(closed["stderr"]) == (3, 3)
    residual = array(page, last(found, "residual")["residual"])
    assert residual.shape == (46, 38)
    assert np.abs(residual).max() < 1e-9
    sized = events(
        page, "/api/fit", {"before": before, "after": after, "kernel_size": "auto", "ridge": "auto", "offset": True}
    )
    assert len(last(sized, "closed")["kernel"]) == 3
    assert last(sized, "closed")["selection"]


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("method", ["gd", "momentum", "adam", "lbfgs"])
def test_a_descent_streams_every_loss_and_comes_near_the_closed_form(page, pair, method):
    _, before, after = pair
    request = {"before": before, "after": after, "kernel_size": [3, 3], "method": method, "steps": 60, "offset": True}
    found = events(page, "/api/fit", request)
    losses = [loss for event in named(found, "losses") for loss in event["losses"]]
    assert named(found, "losses")[0]["first"] == 0
    assert len(losses) == 60
    assert losses[-1] < losses[0]
    assert last(found, "closed")["loss"] <= last(found, "descent")["loss"] * (1 + 1e-9)
    assert last(found, "descent")["learning_rate"] > 0


def test_a_rate_that_diverges_is_refused_with_a_smaller_one(page, pair):
    _, before, after = pair
    found = events(
        page, "/api/fit", {"before": before, "after": after, "kernel_size": 3, "method": "gd", "learning_rate": 1e6}
    )
    assert "diverges" in found[-1]["reason"]


def test_data_that_cannot_identify_the_kernel_are_said_so(page):
    flat = sent(page, npy(np.full((20, 20), 3.0)))
    found = events(page, "/api/fit", {"before": flat, "after": flat, "kernel_size": 3})
    said = " ".join(last(found, "closed")["warnings"]) if named(found, "closed") else found[-1]["reason"]
    assert "determine" in said or "flat" in said or "constant" in said
    huge = sent(page, npy(np.zeros((3000, 2900), np.uint8)))
    assert "convolith fit" in events(page, "/api/fit", {"before": huge, "after": huge})[-1]["reason"]
    colours = sent(page, png(COLOURS))
    assert "reason" in events(page, "/api/fit", {"before": colours, "after": flat})[-1]


def test_the_network_of_the_command_line_is_taken_apart(page):
    request = {"inputs": [[2, 3, 16, 16]], "memory": 1e6}
    found = events(page, "/api/network", request)
    assert [event["event"] for event in found] == ["job", "started", "model", "cost", "peak", "batch", "fold", "done"]
    counted = cl.cost(network().eval(), input_shape=(2, 3, 16, 16), optimizer="sgd")
    cost = last(found, "cost")
    assert cost["forward"]["macs"] == counted.forward.macs
    assert [module["depth"] for module in cost["modules"]] == [0, 1, 1, 1, 1]
    peak = last(found, "peak")
    assert peak["bytes"] == counted.peak.bytes == max(peak["moments"]["bytes"])
    assert peak["moments"]["phase"][-1] == "optimizer"
    assert len(set(map(len, peak["moments"].values()))) == 1
    assert "moments" not in counted.as_dict()["peak"]
    assert last(found, "batch")["largest"] == counted.largest_batch(1e6)
    assert len(last(found, "fold")["rewrites"]) == 1
    alone = events(page, "/api/network", {"inputs": [[2, 3, 16, 16]], "optimizer": None, "fold": False})
    assert [event["event"] for event in alone][2:] == ["model", "cost", "done"]
    assert "reason" in events(page, "/api/network", {"inputs": [[2, 4, 16, 16]]})[-1]


def test_a_process_that_crashes_is_said_so_and_the_next_one_says_what_a_model_raises(capfd, tmp_path):
    with served(partial(broken, tmp_path / "crashed"), "broken:model") as page:
        found = events(page, "/api/network", {"inputs": [[1, 3, 8, 8]]})
        assert found[-1]["event"] == "failed"
        assert "has ended with 3" in found[-1]["reason"]
        found = events(page, "/api/network", {"inputs": [[1, 3, 8, 8]]})
        assert found[-1] == {"event": "failed", "reason": "RuntimeError: no weights"}
        assert page.get("/api/ping").json()["jobs"] == 0
    assert "no weights" in capfd.readouterr().err


class Streaming:
    """A stream that is read in the background."""

    def __init__(self, page, path, request):
        self.events, self.started = [], Event()
        self.thread = Thread(target=self.read, args=(page, path, request), daemon=True)
        self.thread.start()
        until(lambda: self.events)
        self.id = self.events[0]["id"]

    def read(self, page, path, request):
        with page.stream("POST", path, json=request) as answer:
            for line in answer.iter_lines():
                self.events.append(json.loads(line))

    def ended(self):
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.events[-1]


@pytest.fixture
def long(page, monkeypatch):
    """A fit of many steps, which takes minutes."""
    picture = sent(page, npy(RNG.normal(size=(300, 300))))
    return {
        "before": picture,
        "after": picture,
        "kernel_size": 5,
        "method": "adam",
        "steps": 20_000,
        "learning_rate": 1e-9,
    }


def test_pings_are_answered_while_a_job_computes_and_a_cancellation_frees_the_slot(page, long):
    stream = Streaming(page, "/api/fit", long)
    until(lambda: named(stream.events, "losses"), 60)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        assert page.get("/api/ping").json()["jobs"] == 1
        times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 2] < 1, "a tenth of a second on a quiet machine"
    start = time.perf_counter()
    assert page.post(f"/api/cancel/{stream.id}").json() == {"cancelled": stream.id}
    assert stream.ended() == {"event": "cancelled"}
    until(lambda: page.get("/api/ping").json()["jobs"] == 0)
    assert time.perf_counter() - start < 30, "half a second on a quiet machine"
    assert events(page, "/api/crossover", {"kernel_sizes": [3]})[-1] == {"event": "done"}
    again = page.post(f"/api/cancel/{stream.id}")
    assert again.status_code == 404
    assert "may have ended" in again.json()["error"]
    assert page.post("/api/cancel/unknown").status_code == 404


def test_a_job_that_waits_is_cancelled_at_once_and_in_nobodys_way(page, long, monkeypatch):
    monkeypatch.setattr(slots, "MOST_WAITING", 2)
    first = Streaming(page, "/api/fit", long)
    until(lambda: named(first.events, "started"))
    for _ in range(4):
        waiting = [Streaming(page, "/api/fit", long) for _ in range(2)]
        assert page.get("/api/ping").json()["jobs"] == 3
        for stream in waiting:
            assert page.post(f"/api/cancel/{stream.id}").is_success
            assert stream.ended() == {"event": "cancelled"}
            assert page.post(f"/api/cancel/{stream.id}").status_code == 404
    assert page.get("/api/ping").json()["jobs"] == 1
    with opened_stream(page, long) as connection:
        until(lambda: b"ahead" in connection.recv(65536))
        assert page.get("/api/ping").json()["jobs"] == 2
    until(lambda: page.get("/api/ping").json()["jobs"] == 1)
    answers = [page.post(f"/api/cancel/{first.id}").status_code for _ in range(3)]
    assert answers[0] == 200
    assert set(answers) <= {200, 404}
    assert first.ended() == {"event": "cancelled"}
    assert [event["event"] for event in first.events].count("cancelled") == 1


def test_jobs_wait_for_their_turn_and_too_many_are_refused(page, long, monkeypatch):
    monkeypatch.setattr(slots, "MOST_WAITING", 2)
    first, second, third = (Streaming(page, "/api/fit", long) for _ in range(3))
    assert [stream.events[0]["ahead"] for stream in (first, second, third)] == [0, 1, 2]
    refused = page.post("/api/fit", json=long)
    assert refused.status_code == 429
    assert "cancel one" in refused.json()["error"]
    assert page.post(f"/api/cancel/{second.id}").is_success
    assert page.post(f"/api/cancel/{second.id}").status_code in (200, 404)
    assert page.post(f"/api/cancel/{first.id}").is_success
    assert first.ended() == second.ended() == {"event": "cancelled"}
    assert [event["event"] for event in second.events] == ["job", "cancelled"]
    until(lambda: len(third.events) > 1)
    assert third.events[1] == {"event": "started"}
    page.post(f"/api/cancel/{third.id}")
    third.ended()


@contextmanager
def opened_stream(page, request):
    """Yield the connection of a fit, which is closed as that of a tab."""
    body = json.dumps(request).encode()
    head = (
        f"POST /api/fit HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        yield connection


def test_a_tab_that_is_closed_frees_the_slot(page, long):
    with opened_stream(page, long) as connection:
        while b"started" not in connection.recv(65536):
            pass
        assert page.get("/api/ping").json()["jobs"] == 1
    until(lambda: page.get("/api/ping").json()["jobs"] == 0)


def test_code_that_catches_everything_is_ended_too():
    with served(stubborn, "stubborn:model") as page:
        stream = Streaming(page, "/api/network", {"inputs": [[1, 3, 8, 8]]})
        until(lambda: named(stream.events, "started"))
        time.sleep(0.2)
        page.post(f"/api/cancel/{stream.id}")
        assert stream.ended() == {"event": "cancelled"}


def test_uploads_leave_the_memory_flat(page, monkeypatch):
    monkeypatch.setattr(page.server.pictures, "most_bytes", 16 << 20)
    body = npy(np.zeros((1000, 1000), np.uint8))
    for _ in range(20):
        sent(page, body)
    assert page.server.pictures.bytes <= 16 << 20
    assert len(page.server.pictures) == 16
