"""The page in a browser, as fixtures of all tests: `opened` opens it under the strictest policy that it works under.

Any console error, violation of the content security policy or request to another origin fails the test.
"""

import importlib.util
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
    """Open the page at a fragment, with a window's width and colours; nothing may go wrong until the test ends."""
    wrong, contexts = [], []

    def open_page(fragment="", *, width=1280, scheme="light", address=None):
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            accept_downloads=True,
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        context.add_init_script(VIOLATIONS)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        allowed = (origin, "data:", "blob:") if address is None else (address.rsplit("/", 1)[0], "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(allowed) or wrong.append(request.url))
        page.goto((address or f"{origin}/index.html") + fragment)
        page.wait_for_selector("main h2")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def until(page, condition):
    """Wait for a condition; the policy forbids Playwright's own way, which evaluates text in the page."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(30)
    raise AssertionError(condition)


def violations(page):
    """Return the violations of WCAG 2.2 A and AA that axe finds, as text; empty if there are none."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"runOnly": WCAG})
    return found.generate_report() if found.violations_count else ""
