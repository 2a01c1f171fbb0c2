"""The page in a browser, as fixtures of all tests: `opened` opens it under the strictest policy that it works under.

Any console error, violation of the content security policy or request to another origin fails the test.
"""

import ast
import contextlib
import importlib.util
import io
import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from convolith.web import STATIC

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
NEEDS_BROWSER = pytest.mark.skipif(
    CHROMIUM is None or bool(MISSING), reason=f"not installed: {', '.join(MISSING) or 'chromium'}"
)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
VIOLATIONS = "addEventListener('securitypolicyviolation', (e) => console.error('policy', e.violatedDirective))"


class Handler(SimpleHTTPRequestHandler):
    """The page's files under the strictest policy that it promises to work under."""

    def end_headers(self):
        self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def origin():
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(STATIC)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        found = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, origin):
    """Open the page at a fragment, with a window's width; nothing may go wrong until the test ends.

    `address` is that of another page, such as a server's; `expected` are parts of the errors that a test provokes.
    """
    wrong, contexts = [], []

    def open_page(fragment="", *, width=1280, address=None, expected=()):
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="light",
            accept_downloads=True,
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        context.add_init_script(VIOLATIONS)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: is_wrong(message, expected) and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        allowed = (origin, "data:", "blob:") if address is None else (address.rsplit("/", 1)[0], "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(allowed) or wrong.append(request.url))
        page.goto((address or f"{origin}/index.html") + fragment)
        page.wait_for_selector("main h2")
        page.get_by_text("Loading …").wait_for(state="detached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture(scope="module")
def page_server():
    """Return a client of a page's server, on which `opened_there` opens the page."""
    from tests.web_page import served

    with served() as client:
        yield client


@pytest.fixture
def opened_there(opened, page_server):
    """Open the page at its server, with the secret in the address; the state is what follows `#v=1&`."""
    from tests.web_page import TOKEN

    def open_page(state="view=compute", *, token=TOKEN, **options):
        return opened(f"#t={token}&v=1&{state}", address=f"http://127.0.0.1:{page_server.port}/", **options)

    return open_page


def is_wrong(message, expected):
    """Return whether a message of the console is an error or a warning that a test does not provoke."""
    return message.type in ("error", "warning") and not any(part in message.text for part in expected)


def until(page, condition):
    """Wait for a condition; the policy forbids Playwright's own way, which evaluates text in the page."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(30)
    raise AssertionError(condition)


STREAMS = """() => {
  const asked = window.fetch
  window.streams = []
  window.fetch = async (...given) => {
    const answer = await asked(...given)
    if ((answer.headers.get("content-type") ?? "").includes("ndjson")) {
      answer.clone().text().then((text) => window.streams.push([given[0], text]), () => undefined)
    }
    return answer
  }
}"""
"""Keeps the events of every computation that the page starts from now on."""


def record_streams(page):
    """Keep the events of computations; Playwright itself cannot read answers that the page reads as they come."""
    page.evaluate(STREAMS)


def streamed(page, path):
    """Return the events of the last computation at a path that has ended."""
    for _ in range(100):
        found = [text for address, text in page.evaluate("window.streams") if address == path]
        if found:
            return [json.loads(line) for line in found[-1].splitlines()]
        page.wait_for_timeout(30)
    raise AssertionError(f"no computation at {path} has ended")


def violations(page):
    """Return the violations of WCAG 2.2 A and AA that axe finds in light and in dark colours, as text; empty if none."""
    from axe_playwright_python.sync_playwright import Axe

    axe, found = Axe(), []
    for scheme, rules in (("light", WCAG), ("dark", {"type": "rule", "values": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme)  # on which no other rule depends
        for frame in page.frames:  # colours change gradually
            frame.evaluate(
                "() => Promise.allSettled(document.getAnimations().map((one) => one.finished)).then(() => null)"
            )
        result = axe.run(page, options={"runOnly": rules, "resultTypes": ["violations"]})
        if result.violations_count:
            found.append(f"{scheme}: {result.generate_report()}")
    page.emulate_media(color_scheme="light")
    return "\n".join(found)


def run(code):
    """Run code that a reader copies, and return what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "copied", "exec"), {})  # noqa: S102 - the page's own code
    return ast.literal_eval(out.getvalue())


def check_open_to_everyone(page):
    """Check a view with all its parts opened: no violation that axe finds, and nothing wider than the window."""
    for summary in page.locator("summary").all():
        summary.click()
    assert not violations(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
