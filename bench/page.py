"""`python -m bench page`: the page's server and its explorer in Chromium, each figure against its bound.

The server runs as people start it, in a process of its own; a browser without a window shows the page.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from math import ceil
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any

import click
import numpy as np

from bench.runs import Run, json_option
from bench.store_jobs import resident
from convolith.web import STATIC

PARTS = ("start", "look", "busy", "uploads", "bytes")
LOOK = "#v=1&channels=3x3&size=16x16&kernel=5x5&x=random.1&k=random.2&padding=2x2x2x2"
"""The layer that the pointer moves over: 3 -> 3 channels, 16x16, 5x5."""
MOVES, MOVE_MS = 250, 15
"""Number of moves of the pointer, and the time between two of them."""
PING_SECONDS = 0.05
UPLOADS = (20, 200)
"""Numbers of uploads after which the server's memory is compared."""
UPLOADED, COMPUTED = 4000, 4096
"""Sides of the pictures that are uploaded, and of the one that a computation takes."""
KERNEL = 31
MB, KB = 1 << 20, 1000
PAINTS = "() => performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)"
WATCH = """() => {
  window.latencies = [];
  window.works = [];
  addEventListener('pointerover', (event) => {
    if (!event.target.closest('[data-place]')) return;
    const start = performance.now();
    requestAnimationFrame(() => {
      const painted = new MessageChannel();
      painted.port1.onmessage = () => {
        latencies.push(performance.now() - event.timeStamp);
        works.push(performance.now() - start);
      };
      painted.port2.postMessage(0);
    });
  }, true);
}"""
"""Script that notes the time from each pointer event on a cell to the end of the frame that shows what it does, and how
much of it is left once the browser, which waits for the beginning of a frame, has delivered the event."""
CELLS = """() => [...document.querySelectorAll('svg[data-panel^="y"]')].map((svg) => {
  const { x, y, width, height } = svg.getBoundingClientRect();
  return [x, y, width, height];
})"""


class Page:
    """A server in a process of its own.

    Attributes:
        listening: seconds from the start of the process until it has said its address, at which it listens then.
        answering: seconds until it has answered for the first time.
    """

    def __init__(self) -> None:
        start = time.perf_counter()
        command = [sys.executable, "-m", "convolith", "serve", "--no-browser", "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
        said = ""
        for line in self.process.stdout or ():  # a pipe, as was asked for
            said += line
            if "}" in line:
                break
        self.listening = time.perf_counter() - start
        self.address, _, self._token = json.loads(said)["address"].partition("/#t=")
        with self._answer("GET", "/") as answer:
            answer.read()
        self.answering = time.perf_counter() - start

    @contextmanager
    def _answer(self, method: str, path: str, body: bytes | None = None) -> Iterator[HTTPResponse]:
        """Return a context with the answer to a request, whose body may still be on its way."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        with closing(HTTPConnection(self.address.removeprefix("http://"), timeout=120)) as connection:
            connection.request(method, path, body, headers)
            with connection.getresponse() as answer:
                if answer.status >= 400:
                    raise click.ClickException(f"{method} {path}: {answer.status} {answer.read()[:500]!r}")
                yield answer

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Return an answer in JSON."""
        with self._answer(method, path, body) as answer:
            return json.loads(answer.read())

    def upload(self, side: int) -> str:
        """Send a picture of bytes; return its identifier."""
        stream = io.BytesIO()
        np.save(stream, np.random.default_rng(0).integers(0, 256, (side, side), np.uint8))
        return str(self.ask("PUT", "/api/picture", stream.getvalue())["id"])

    def events(self, path: str, request: Any) -> Iterator[dict[str, Any]]:
        """Yield the events of a computation."""
        with self._answer("POST", path, json.dumps(request).encode()) as answer:
            for line in answer:
                yield json.loads(line)

    def memory(self) -> int:
        """Return the resident bytes of the server's process."""
        return resident("VmRSS", self.process.pid)

    def end(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.communicate()


@contextmanager
def served() -> Iterator[Page]:
    """Return a context with a server."""
    page = Page()
    try:
        yield page
    finally:
        page.end()


@contextmanager
def chromium() -> Iterator[Any]:
    """Return a context with a browser.

    Raises:
        click.ClickException: no Chromium, or no Playwright.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        raise click.ClickException("this part needs Chromium, and pip install playwright; leave it out by --parts")
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-background-networking"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, address: str) -> Iterator[Any]:
    """Return a context with a new window at an address, without anything that another one has stored."""
    context = browser.new_context(viewport={"width": 1280, "height": 1400})
    try:
        window = context.new_page()
        window.goto(address)
        window.wait_for_selector("main h2")
        yield window
    finally:
        context.close()


def row(figure: str, value: float, at_most: float | None = None) -> dict[str, Any]:
    """Return a row of a table: a figure, and its bound."""
    found: dict[str, Any] = {"figure": figure, "value": value}
    return found if at_most is None else found | {"at most": at_most, "holds": "yes" if value <= at_most else "no"}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least value that a share of all values do not exceed."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def starts(rounds: int) -> list[dict[str, Any]]:
    """Seconds from the start of the process to its first answers, and from a browser's request to its first paint."""
    listening, answering, paints = [], [], []
    with chromium() as browser:
        for _ in range(rounds):
            with served() as page:
                listening.append(page.listening)
                answering.append(page.answering)
                with opened(browser, page.address) as window:
                    paints += window.evaluate(PAINTS)
    return [
        row("listening, s", median(listening), 0.5),
        row("first answer, s", median(answering)),
        row("first paint, ms", median(paints), 300),
    ]


def moved(window: Any, count: int) -> list[float]:
    """Move the pointer over cells of the result; return the milliseconds from each event to the frame that shows it."""
    window.evaluate("() => { latencies.length = works.length = 0; }")
    boxes, rng = window.evaluate(CELLS), random.Random(0)  # noqa: S311 - the same places every time
    for _ in range(count):
        x, y, width, height = rng.choice(boxes)
        window.mouse.move(x + rng.random() * width, y + rng.random() * height)
        window.wait_for_timeout(MOVE_MS)
    return list(window.evaluate("() => latencies"))


def looks(rounds: int) -> list[dict[str, Any]]:
    """Time from the pointer's event to the paint in the view Look."""
    with served() as page, chromium() as browser, opened(browser, f"{page.address}/{LOOK}") as window:
        window.evaluate(WATCH)
        moved(window, MOVES // 5)  # so that the script is compiled
        found, work = [], []
        for _ in range(rounds):
            found += moved(window, MOVES)
            work += window.evaluate("() => works")
    return [
        row("pointer to paint, median, ms", median(found)),
        row("pointer to paint, 95%, ms", percentile(found, 0.95), 16),
        row("pointer to paint, 99%, ms", percentile(found, 0.99), 50),
        row("of which after the event is delivered, 95%, ms", percentile(work, 0.95)),
    ]


class Computing:
    """A computation that begins anew as long as it is needed."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.id, self.last = "", ""
        self.runs, self._over = Event(), Event()
        kernel = {"preset": "gabor", "arguments": {"wavelength": 12, "size": KERNEL}}
        self._request = {"picture": page.upload(COMPUTED), "kernel": kernel}
        self._thread = Thread(target=self._compute)
        self._thread.start()
        self.runs.wait()

    def _compute(self) -> None:
        while not self._over.is_set():
            for event in self.page.events("/api/compute", self._request):
                self.id, self.last = event.get("id", self.id), event["event"]
                if self.last == "plan":
                    self.runs.set()

    def cancel(self) -> float:
        """Cancel it; return the seconds until its stream has ended and the slot is free."""
        self._over.set()
        start = time.perf_counter()
        self.page.ask("POST", f"/api/cancel/{self.id}")
        self._thread.join()
        while self.page.ask("GET", "/api/ping")["jobs"]:
            time.sleep(0.001)
        return time.perf_counter() - start


@contextmanager
def pinged(page: Page) -> Iterator[list[float]]:
    """Return a context with the milliseconds that each ping took during it."""
    found: list[float] = []
    over = Event()

    def ping() -> None:
        while not over.wait(PING_SECONDS):
            start = time.perf_counter()
            page.ask("GET", "/api/ping")
            found.append(1e3 * (time.perf_counter() - start))

    thread = Thread(target=ping)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def busy(rounds: int) -> list[dict[str, Any]]:
    """Compare Look with and without a computation beside it, which pings and a cancellation meet too."""
    idle, during, pings, cancelled = [], [], [], []
    with served() as page, chromium() as browser, opened(browser, f"{page.address}/{LOOK}") as window:
        window.evaluate(WATCH)
        moved(window, MOVES // 5)
        for _ in range(rounds):
            idle.append(percentile(moved(window, MOVES), 0.95))
            computing = Computing(page)
            with pinged(page) as found:
                during.append(percentile(moved(window, MOVES), 0.95))
            pings += found
            cancelled.append(computing.cancel())
        again = percentile(moved(window, MOVES), 0.95)
    return [
        row("pointer to paint, 95%, ms, idle", median(idle)),
        row("the same once more / idle", again / median(idle)),
        row("the same while the server computes / idle", median(during) / median(idle), 1.2),
        row("ping, 95%, ms", percentile(pings, 0.95), 100),
        row("cancelled, ms", 1e3 * median(cancelled), 500),
    ]


def uploads(_: int) -> list[dict[str, Any]]:
    """Memory of the server after some uploads and after many."""
    found: list[int] = []
    with served() as page:
        for number in range(1, max(UPLOADS) + 1):
            page.upload(UPLOADED)
            if number in UPLOADS:
                found.append(page.memory())
    few, many = UPLOADS
    return [
        row(f"memory after {few} uploads, MB", found[0] / MB),
        row(f"after {many} / after {few}", found[1] / found[0], 1.2),
    ]


def sizes(_: int) -> list[dict[str, Any]]:
    """Bytes of the page, as they are and compressed."""
    files = {path.name: path.read_bytes() for path in sorted(Path(STATIC).iterdir())}
    loaded = [content for name, content in files.items() if name.startswith("explorer.")]
    return [
        row("the explorer, compressed, kB", sum(len(gzip.compress(one, 9)) for one in loaded) / KB, 60),
        row("files of the page, kB", sum(map(len, files.values())) / KB, 400),
    ]


@click.command()
@click.option("--parts", multiple=True, type=click.Choice(PARTS), help="Parts to run; by default all.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of each part; the medians count.")
@json_option
def page(parts: Sequence[str], rounds: int, path: Path | None) -> None:
    """Time the page's server and its explorer, with their memory and their bytes."""
    run = Run("page", rounds=rounds)
    tables: dict[str, tuple[str, Callable[[int], list[dict[str, Any]]]]] = {
        "start": ("Start", starts),
        "look": ("The pointer in Look", looks),
        "busy": ("While 4096x4096 is correlated with 31x31", busy),
        "uploads": ("Uploads of 16 million pixels", uploads),
        "bytes": ("Bytes", sizes),
    }
    for part in parts or PARTS:
        title, rows = tables[part]
        run.add(title, rows(rounds))
        run.write(path)
    run.close(path, complete=not parts)
