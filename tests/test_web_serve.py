"""`convolith serve` as people start it: the address, the time until it listens, its end, its browser, its mistakes."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import webbrowser
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from convolith.cli import main
from convolith.web import server
from tests.web_page import events, last

MODEL = "from torch import nn\n\n\ndef small():\n    print('made')\n    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())\n"


@contextmanager
def started(*options, cwd):
    """Yield a process, what it printed, and a client with its token."""
    command = [sys.executable, "-m", "convolith", "serve", "--no-browser", "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)  # noqa: S603
    try:
        printed = ""
        while "}" not in printed:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            printed += line
        said = json.loads(printed)
        base, token = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/#t=([\w-]{43})", said["address"]).groups()
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=base, headers=headers, timeout=60, trust_env=False) as client:
            yield process, said, client
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.slow
def test_it_serves_before_torch_is_there_and_ends_with_ctrl_c(tmp_path):
    (tmp_path / "my_models.py").write_text(MODEL)
    start = time.perf_counter()
    with started("my_models:small", cwd=tmp_path) as (process, said, client):
        assert time.perf_counter() - start < 20, "0.5 s after the start of `main` on a quiet machine"
        assert said["model"] == "my_models:small"
        assert client.get("/api/about").json()["model"] == "my_models:small"
        if sys.platform == "linux":
            assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        found = events(client, "/api/network", {"inputs": [[1, 1, 8, 8]], "fold": False})
        assert last(found, "model")["kind"] == "Sequential"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0
        assert out == ""
        assert err.replace("made\n", "") == ""


@pytest.mark.slow
def test_ctrl_c_ends_a_computation_too(tmp_path):
    with started(cwd=tmp_path) as (process, _, client):
        request = {"before": "noise", "after": "noise", "kernel_size": 5, "method": "adam", "steps": 20_000}
        with client.stream("POST", "/api/fit", json=request) as answer:
            for line in answer.iter_lines():
                if json.loads(line)["event"] == "losses":
                    break
            start = time.perf_counter()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert "Traceback" not in err
        assert time.perf_counter() - start < 20


@pytest.fixture
def quiet(monkeypatch):
    """Commands that end at once instead of serving; the list has what they would have served."""
    served = []
    monkeypatch.setattr("convolith.cli.serve.run", lambda *given: served.append(given))
    return served


def test_a_port_that_is_taken_is_said_in_a_sentence(quiet):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = CliRunner().invoke(main, ["serve", "--no-browser", "--port", str(port)])
    assert answer.exit_code == 2
    assert f"--port is {port}, which cannot be opened" in answer.output
    assert not quiet


def test_a_port_can_be_chosen_and_the_factory_must_be_one(quiet):
    free = server.listen()
    port = free.getsockname()[1]
    free.close()
    answer = CliRunner().invoke(main, ["serve", "--no-browser", "--port", str(port)])
    assert f"The page is at http://127.0.0.1:{port}/#t=" in answer.output
    assert len(quiet) == 1
    for wrong in ("models", "models:", ":factory"):
        refused = CliRunner().invoke(main, ["serve", "--no-browser", wrong])
        assert refused.exit_code == 2
        assert "expected package.module:factory" in refused.output
    assert CliRunner().invoke(main, ["serve", "--port", "70000"]).exit_code == 2


def test_it_listens_on_this_machine_alone():
    with server.listen() as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        assert listening.proto == socket.IPPROTO_TCP, "asyncio sends small answers late otherwise"
    assert server.new_token() != server.new_token()
    assert len(server.new_token()) == 43


class Browser(webbrowser.BaseBrowser):
    opened: list

    def open(self, url, new=0, autoraise=True):
        self.opened.append((url, Path(url.removeprefix("file://")).read_text(), os.stat(url.removeprefix("file://"))))
        return True


def test_the_browser_is_led_by_a_file_that_others_cannot_read(quiet, monkeypatch):
    browser = Browser()
    browser.opened = []
    monkeypatch.setattr(webbrowser, "get", lambda: browser)
    monkeypatch.setattr("convolith.cli.serve.run", lambda *given: time.sleep(0.3))
    answer = CliRunner().invoke(main, ["serve"])
    ((url, contents, status),) = browser.opened
    address = re.search(r"http://\S+", answer.output)[0]
    assert f"url={address}" in contents
    assert address.partition("#t=")[2] not in url
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert not Path(url.removeprefix("file://")).exists()


@pytest.mark.parametrize("browser", [None, webbrowser.GenericBrowser("lynx")])
def test_without_a_browser_the_address_is_enough(quiet, monkeypatch, browser):
    def get():
        if browser is None:
            raise webbrowser.Error("could not locate runnable browser")
        return browser

    monkeypatch.setattr(webbrowser, "get", get)
    answer = CliRunner().invoke(main, ["serve"])
    assert answer.exit_code == 0
    assert "No browser was found" in answer.output
    assert "http://127.0.0.1:" in answer.output


@pytest.mark.parametrize("module", ["starlette", "uvicorn", "PIL"])
def test_a_missing_package_is_named_with_its_extra(quiet, monkeypatch, module):
    from convolith.cli import serve

    found = serve.find_spec
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == module else found(name))
    answer = CliRunner().invoke(main, ["serve"])
    assert answer.exit_code == 2
    assert "pip install 'convolith[web]'" in answer.output
