"""The view "Fit" in a browser with a real server: numbers, streams, stop, keyboard, bad pictures, code to copy."""

import ast
import contextlib
import io
import json
import shlex
import warnings
from contextlib import suppress
from threading import Thread

import numpy as np
import pytest
from click.testing import CliRunner

import convolith as cl
from convolith.cli import main
from tests.web_browser import NEEDS_BROWSER, check_open_to_everyone, record_streams, streamed, until, violations
from tests.web_page import named, npy, png
from tests.web_page import until as wait_until

pytestmark = NEEDS_BROWSER
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 3))
SHARP = RNG.integers(0, 256, (40, 48)).astype(np.uint8)
BLURRED = cl.filter_image(SHARP.astype(float), KERNEL) + RNG.normal(size=SHARP.shape)
EXAMPLE = "view=fit&fit.picture=noise&fit.steps=40"
GIVEN = "view=fit&fit.source=pictures"
SIZED = f"{GIVEN}&fit.size=3x3"
LONG = "view=fit&fit.picture=noise&fit.method=adam&fit.steps=20000&fit.rate=1e-9"


@pytest.fixture
def fit(opened_there):
    def open_view(state=EXAMPLE, **options):
        return opened_there(state, **options)

    return open_view


def upload(page, before, after, names=("before.npy", "after.npy")):
    """Choose two files: arrays as .npy, or bytes."""
    for label, array, name in zip(("before", "after"), (before, after), names, strict=True):
        body = array if isinstance(array, bytes) else npy(array)
        file = {"name": name, "mimeType": "application/octet-stream", "buffer": body}
        page.get_by_label(f"A file for {label}").set_input_files(file)
        page.get_by_role("button", name=f"Save {label}.npy").or_(
            page.locator(".picture h3", has_text=label.capitalize())
        ).first.wait_for()


def start(page):
    button = page.get_by_role("button", name="Fit the kernel")
    for _ in range(600):  # the process that computes imports torch first
        if button.is_enabled():
            return button
        page.wait_for_timeout(100)
    raise AssertionError(page.locator("main").inner_text())


def ended(page, words="Done."):
    """Wait until the fit says how it ended."""
    for _ in range(20):
        with suppress(AssertionError):
            return until(page, f"document.querySelector('.run').textContent.includes({json.dumps(words)})")
    raise AssertionError(page.locator(".run").inner_text())


def fitted(page):
    """Fit, and return the events that came."""
    button = start(page)
    record_streams(page)
    button.click()
    ended(page)
    return streamed(page, "/api/fit")


def text_of(page):
    return json.loads(page.locator("#output-text").text_content())


def cells(page, grid):
    """Return the numbers that a kernel's grid says, as texts."""
    labels = page.locator(f'[data-panel="{grid}.0"] [role=gridcell]')
    return [label.get_attribute("aria-label").rpartition(" = ")[2] for label in labels.all()]


def as_numbers(texts):
    return [float(text.replace("−", "-")) for text in texts]


def test_a_newcomer_finds_the_kernel_with_one_click(fit):
    page = fit()
    found = fitted(page)
    closed, descent = named(found, "closed")[0], named(found, "descent")[0]
    losses = [loss for event in named(found, "losses") for loss in event["losses"]]
    assert len(losses) == 40
    assert "40 steps" in page.get_by_label("Loss by step").inner_text()
    assert text_of(page) == [descent["kernel"], descent["loss"]]
    known = cl.kernels.motion(length=5, angle=30)
    known = np.pad(known, [((7 - size) // 2,) * 2 for size in known.shape])
    np.testing.assert_allclose(closed["kernel"], known, atol=1e-3)
    np.testing.assert_allclose(as_numbers(cells(page, "u")), known.ravel(), rtol=0.006, atol=1e-12)
    for grid, event in (("c", closed["kernel"]), ("s", closed["stderr"]), ("d", descent["kernel"])):
        np.testing.assert_allclose(as_numbers(cells(page, grid)), np.ravel(event), rtol=0.05, atol=1e-12)
    rows = page.locator(".found")
    assert f"{closed['residual_rms']:.7g}" in rows.inner_text()
    assert f"{descent['residual_rms']:.7g}" in rows.inner_text()
    page.wait_for_selector("canvas[aria-label^=Residual]")
    table = page.locator(".chart details")
    table.locator("summary").click()
    assert table.locator("tbody tr").count() == 40
    assert "closed form" in table.locator("thead").inner_text()


def test_given_pictures_in_closed_form_with_a_size_from_the_data(fit):
    page = fit("view=fit&fit.source=pictures&fit.method=lstsq&fit.size=auto&fit.ridge=auto&fit.offset=1")
    upload(page, SHARP.astype(float), BLURRED)
    found = named(fitted(page), "closed")[0]
    assert np.shape(found["kernel"]) == (3, 3)
    assert text_of(page) == [found["kernel"], found["loss"]]
    assert page.locator(".selection-table tbody tr").count() == len(found["selection"]) > 1
    assert "held-out rms" in page.locator(".found").inner_text()
    assert page.locator(".chart").count() == 0
    assert "u.0" not in page.locator(".figure").inner_html()


STATES = [
    EXAMPLE,
    "view=fit&fit.picture=noise&fit.example=disk&fit.method=lstsq&fit.errors=jackknife",
    "view=fit&fit.picture=noise&fit.method=adam&fit.steps=30&fit.seed=3&fit.huber=0.5&fit.padding=same&fit.mode=reflect",
    "view=fit&fit.picture=noise&fit.method=lbfgs&fit.steps=10&fit.size=3x7&fit.ridge=2.5&fit.rate=0.5",
]


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("state", STATES)
def test_the_code_and_the_command_print_the_pages_numbers(fit, state, tmp_path, monkeypatch):
    page = fit(state)
    fitted(page)
    check_codes(page, tmp_path, monkeypatch)


def check_codes(page, folder, monkeypatch):
    """Run the code and the command in a folder; both print the kernel and the loss of the page."""
    monkeypatch.chdir(folder)
    kernel, loss = text_of(page)
    for name in ("before.npy", "after.npy"):
        if not (folder / name).exists():
            with page.expect_download() as download:
                page.get_by_role("button", name=f"Save {name}").click()
            download.value.save_as(folder / name)
    code, command = (page.locator(".code pre").nth(place).text_content() for place in (0, 1))
    out = io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "copied", "exec"), {})  # noqa: S102 - the page's own code
    printed = ast.literal_eval(out.getvalue())
    np.testing.assert_allclose(printed[0], kernel, rtol=1e-6, atol=1e-9)
    assert printed[1] == pytest.approx(loss, rel=1e-6)
    answer = CliRunner().invoke(main, shlex.split(command)[1:], catch_exceptions=False)
    data = json.loads(answer.stdout)
    np.testing.assert_allclose(np.reshape(data["kernel"], np.shape(kernel)), kernel, rtol=1e-6, atol=1e-9)
    assert data["loss"][-1] == pytest.approx(loss, rel=1e-6)


def holes(array):
    array = array.astype(np.float32)
    array[5, 7] = array[20, 11] = np.nan
    return array


COLOURS = RNG.integers(0, 256, (36, 30, 3)).astype(np.uint8)
BLENDED = np.rint(cl.filter_image(COLOURS.astype(float), np.full((3, 3), 1 / 9))).astype(np.uint8)
FILES = {
    "png": (png(COLOURS), png(BLENDED), ("my sharp one.png", "it's blurred.png"), "&fit.size=3x3"),
    "npy in colour": (COLOURS, BLENDED, ("before.npy", "after.npy"), "&fit.size=3x3"),
    "npy with NaN": (holes(SHARP), holes(BLURRED), ("before.npy", "after.npy"), "&fit.size=3x3&fit.nan=omit"),
    "size from the data": (SHARP, BLURRED, ("before.npy", "after.npy"), "&fit.size=auto&fit.ridge=auto&fit.offset=1"),
}


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("case", FILES)
def test_the_code_of_uploaded_files_reads_them_by_name(fit, case, tmp_path, monkeypatch):
    before, after, names, options = FILES[case]
    page = fit(f"{GIVEN}&fit.method=lstsq{options}")
    upload(page, before, after, names)
    fitted(page)
    if case == "png":
        for name, body in zip(names, (before, after), strict=True):
            (tmp_path / name).write_bytes(body)
    check_codes(page, tmp_path, monkeypatch)


def focused(page):
    return page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent")


def test_the_view_by_key(fit):
    page = fit("view=fit&fit.picture=noise&fit.steps=5&fit.size=3x3")
    start(page).focus()
    page.keyboard.press("Enter")
    ended(page)
    page.locator('[data-panel="c.0"] [tabindex="0"]').focus()
    page.keyboard.press("Control+Home")
    page.keyboard.press("ArrowDown")
    assert focused(page).startswith("closed form[1,0]")
    assert "Row 1, with the element in column 0" in page.locator(".profile").inner_text()
    assert "descent" in page.locator(".profile .values").inner_text()

    def control(name, *keys):
        page.get_by_label(name, exact=True).first.focus()
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_timeout(300)
        return page.evaluate("location.hash")

    assert "fit.size=4x3" in control("Rows", "ArrowRight")
    assert "fit.huber=1" in control("Huber’s loss, for outlying pixels", " ")
    assert "The settings or pictures have changed" in page.locator(".run").inner_text()
    assert "fit.offset=1" in control("Fit a constant offset too", " ")
    assert "fit.padding=same" in control("left out", "ArrowRight")
    assert "fit.mode=reflect" in control("Beyond the border", "ArrowDown")
    field = page.get_by_label("Steps")
    for text, words in (("0", "Expected a whole number"), ("1.5", "Expected a whole"), ("12", "")):
        field.fill(text)
        field.press("Tab")
        assert words in page.locator(".controls").inner_text()
    until(page, "location.hash.includes('fit.steps=12')")
    assert "fit.method=momentum" in control("Method", "ArrowDown")
    page.get_by_label("Method", exact=True).select_option("lstsq")
    until(page, "location.hash.includes('fit.method=lstsq') && !location.hash.includes('huber')")
    assert "fit.size=auto" in control("Choose it from the data", " ")
    assert "fit.errors=jackknife" in control("white noise", "ArrowRight")
    page.get_by_role("button", name="Back to the first example").focus()
    page.keyboard.press("Enter")
    until(page, "location.hash === '#v=1&view=fit'")


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_keeps_anyone_out(fit, width):
    page = fit(width=width)
    fitted(page)
    page.wait_for_selector("canvas[aria-label^=Residual]")
    check_open_to_everyone(page)
    page.get_by_role("radio", name="your pictures").check(force=True)
    page.get_by_label("Method", exact=True).select_option("lstsq")
    assert not violations(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_descent_is_stopped_and_keeps_what_it_has(fit, page_server):
    page = fit(LONG)
    start(page).click()
    page.wait_for_selector(".chart", timeout=20_000)
    page.wait_for_selector('[data-panel="d.0"]', timeout=20_000)
    page.get_by_role("button", name="Cancel").click()
    ended(page, "Cancelled.")
    assert "Stopped after" in page.locator(".run").inner_text()
    wait_until(lambda: page_server.get("/api/ping").json()["jobs"] == 0)
    assert page.locator('[data-panel="d.0"]').count() == 1
    assert page.get_by_role("button", name="Fit the kernel").is_enabled()


def test_a_closed_tab_ends_the_fit(fit, page_server):
    page = fit(LONG)
    start(page).click()
    page.wait_for_selector(".chart", timeout=20_000)
    assert page_server.get("/api/ping").json()["jobs"] == 1
    page.close()
    wait_until(lambda: page_server.get("/api/ping").json()["jobs"] == 0)


def test_a_fit_that_waits_says_for_how_many(fit, page_server):
    page = fit("view=fit&fit.picture=noise&fit.method=lstsq")
    button = start(page)
    request = {"before": "noise", "after": "noise", "method": "adam", "steps": 20_000, "learning_rate": 1e-9}
    first = []

    def read():
        with page_server.stream("POST", "/api/fit", json=request) as answer:
            for line in answer.iter_lines():
                first.append(json.loads(line))

    thread = Thread(target=read, daemon=True)
    thread.start()
    wait_until(lambda: first)
    button.click()
    ended(page, "1 computation is to end before it")
    page_server.post(f"/api/cancel/{first[0]['id']}")
    ended(page)
    thread.join(10)
    assert not thread.is_alive()


def test_data_that_cannot_identify_the_kernel_are_said_so(fit):
    page = fit(f"{SIZED}&fit.method=lstsq")
    stripes = np.tile(np.arange(40.0) % 2, (40, 1))
    upload(page, stripes, stripes)
    fitted(page)
    assert "cannot identify the kernel" in page.locator(".careful h2").inner_text()
    assert "determine only 2 of 9" in page.locator(".careful").inner_text()
    assert "say nothing about what the pictures leave open" in page.locator(".profile").inner_text()
    assert "nothing but the rounding" in page.get_by_label("The residual", exact=True).inner_text()


REFUSED = {
    "sizes": (SHARP, BLURRED[1:], "", "differ in size"),
    "colours": (SHARP, COLOURS, "", "differ in size"),
    "NaN": (holes(SHARP), BLURRED, "", "choose “left out”"),
    "a kernel larger than the picture": (SHARP[:6, :6], BLURRED[:6, :6], "&fit.size=31x31", "The kernel spans 31"),
    "a rate that diverges": (SHARP, BLURRED, "&fit.rate=1e9", "diverges"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_fitted_is_refused_in_words(fit, case):
    before, after, options, words = REFUSED[case]
    page = fit(f"{GIVEN}{options}")
    upload(page, before, after)
    start(page).click()
    page.wait_for_selector(".run .refusal:not(:empty)", timeout=20_000)
    assert words in page.locator("main").inner_text()
    assert page.get_by_role("button", name="Fit the kernel").is_enabled()


def test_files_that_are_no_pictures_are_refused_in_words(fit):
    page = fit(GIVEN, expected=("413", "415", "422"))
    field = page.get_by_label("A file for before")
    for body, words in ((b"GIF89a", "no PNG"), (png(COLOURS)[:60], "complete"), (npy(np.zeros((2, 2, 2, 2))), "shape")):
        field.set_input_files({"name": "a.bin", "mimeType": "application/octet-stream", "buffer": body})
        until(page, f"document.querySelector('.picture-choice').textContent.includes({json.dumps(words)})")


def test_pictures_that_are_gone_are_said_so(fit):
    page = fit(f"{GIVEN}&fit.before=longgone&fit.after=noise", expected=("404",))
    page.wait_for_selector("text=upload the picture again")
    page = fit("view=fit&fit.picture=longgone", expected=("404",))
    page.wait_for_selector(".job .refusal:not(:empty)")
    assert page.get_by_role("button", name="Fit the kernel").is_disabled()


HOSTILE = {
    "fit.size=0x3": "fit.size is",
    "fit.size=auto": "fit.size is",
    "fit.method=lstsq&fit.rate=1": "fit.rate is",
    "fit.method=lstsq&fit.huber=1": "fit.huber is",
    "fit.errors=jackknife": "fit.errors is",
    "fit.ridge=auto": "fit.ridge is",
    "fit.ridge=1e999": "fit.ridge is",
    "fit.rate=-1": "fit.rate is",
    "fit.steps=1e9": "fit.steps is",
    "fit.before=../../etc/passwd": "fit.before is",
    "fit.example=constructor": "fit.example is",
    "fit.kernel=3": "belongs to nothing",
}


def test_hostile_addresses_are_refused_in_words(fit):
    page = fit()
    for state, words in HOSTILE.items():
        page.evaluate("fragment => { location.hash = fragment }", f"#v=1&view=fit&{state}")
        page.wait_for_timeout(30)
        assert words in page.locator(".problems").inner_text(), state
        assert page.get_by_role("button", name="Fit the kernel").count() == 1
