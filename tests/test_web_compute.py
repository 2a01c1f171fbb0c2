"""The view "Compute" in a browser, on a server: its numbers, keyboard, accessibility, cancelling, mistakes, code to copy."""

import ast
import contextlib
import io
import json
import re
import shlex

import numpy as np
import pytest
from click.testing import CliRunner

from convolith.cli import main
from tests import web_page
from tests.web_browser import NEEDS_BROWSER, check_open_to_everyone, violations
from tests.web_page import TOKEN, named, npy, png, served

pytestmark = NEEDS_BROWSER

SMALL = "view=compute&compute.picture=rings&compute.kernel=sobel"
"""A picture and a kernel that take a moment."""
LONG = "compute.kernel=disk&compute.arguments=radius%3A40&compute.accuracy=exact&compute.dtype=float64"
"""A kernel that takes seconds on a picture of 16 million pixels."""
PATIENCE = 60.0


def wait(page, condition, seconds=PATIENCE):
    """Wait for a condition in the page."""
    for _ in range(int(seconds / 0.05)):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition, page.locator("main").inner_text()[:2000])


def done(page, words="Done."):
    """Wait for the end of the computation."""
    wait(page, f"document.querySelector('.go [role=status]')?.textContent === '{words}'")


RECORD = """() => {
  const send = window.fetch;
  window.recorded = "";
  window.fetch = async (...given) => {
    const answer = await send(...given);
    if (/api.(compute|crossover)/.test(given[0])) answer.clone().text().then((text) => { window.recorded += text; });
    return answer;
  };
}"""
"""Keeps the streams of events that the page reads."""


def computed(opened_there, state):
    """Open a computation's view, and return the page and the computation's events."""
    page = opened_there(f"view=look&{state}")
    page.evaluate(RECORD)
    page.get_by_role("button", name="Compute").click()
    done(page)
    wait(page, "recorded.includes('done')", 5)
    return page, [json.loads(line) for line in page.evaluate("recorded").splitlines()]


def large(client):
    """Upload a picture of 16 million pixels, and return its identifier."""
    return web_page.sent(client, npy(np.zeros((4000, 4000), np.uint8)))


def shown(text):
    """Return a number as the page writes it, without its unit."""
    return float(re.match(r"[\d.e−-]+", text).group().replace("−", "-"))


def test_the_table_shows_the_servers_numbers(opened_there):
    page, found = computed(opened_there, "compute.kernel=gaussian")
    plan, engines = named(found, "plan")[0], {one["engine"]: one for one in named(found, "engine")}
    assert page.locator(".engines tbody tr").count() == sum(one["seconds"] is not None for one in plan["engines"])
    assert page.locator("li[data-engine]").count() == sum(one["seconds"] is None for one in plan["engines"])
    units = {"s": 1, "ms": 1e-3, "µs": 1e-6, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}

    def close(text, value):
        if value is None:
            assert text == "–"
        else:
            unit = text.split(" ")[1] if " " in text else None
            np.testing.assert_allclose(shown(text) * units.get(unit, 1), value, rtol=5e-2 if "e" in text else 6e-3)

    for row in plan["engines"]:
        if row["seconds"] is None:
            assert row["verdict"] in page.locator(f"li[data-engine={row['engine']}]").text_content()
            continue
        cells = page.locator(f"tr[data-engine={row['engine']}] td")
        texts = [cell.replace("fastest", "").strip() for cell in cells.all_text_contents()]
        assert texts[0] == row["verdict"]
        close(texts[1], row["seconds"])
        close(texts[4], row["bytes"])
        close(texts[5], row["workspace"])
        close(texts[7], row["bound"])
        measured = engines.get(row["engine"])
        close(texts[2], measured and measured["seconds"])
        close(texts[6], measured and measured["relative_error"])
    assert f"chose {plan['engine']}" in page.locator("[aria-label=Engines] h2").inner_text()
    assert page.locator(".pictures canvas").count() == 3


def test_the_secret_leaves_the_address_and_stays_in_the_tab(opened_there):
    page = opened_there(SMALL)
    assert TOKEN not in page.url
    assert page.url.endswith("#v=1&view=compute&compute.picture=rings&compute.kernel=sobel")
    done(page)
    page.reload()
    done(page)
    assert page.locator("nav button").all_text_contents().count("Compute") == 1


def test_without_a_secret_the_page_says_how_to_start_the_server(opened, page_server):
    page = opened("#v=1&view=compute")
    assert "convolith serve" in page.locator("main").inner_text()
    assert "Compute" not in page.locator("nav").inner_text()
    assert not violations(page)
    there = opened("#v=1&view=compute", address=f"http://127.0.0.1:{page_server.port}/")
    assert "convolith serve" in there.locator("main").inner_text()
    first = opened(f"#t={TOKEN}", address=f"http://127.0.0.1:{page_server.port}/")
    assert first.url.endswith("#v=1&view=compute")
    first.get_by_role("button", name="Look").click()
    assert "nothing is sent anywhere" in first.locator("footer").inner_text()


def test_a_wrong_secret_is_said_in_words_and_a_right_one_helps(opened_there):
    page = opened_there(SMALL, token="wrong" * 8, expected=["401"])
    wait(page, "document.querySelector('main [role=alert] .refusal')?.textContent.includes('open the address')")
    page.evaluate("fragment => { location.hash = fragment }", f"#t={TOKEN}&v=1&{SMALL}")
    done(page)
    assert TOKEN not in page.url


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_keeps_anyone_out(opened_there, width):
    page = opened_there(
        "view=compute&compute.picture=squares&compute.size=3x3&compute.values=0_1_0_1_-4_1_0_1_0",
        width=width,
    )
    done(page)
    page.get_by_role("button", name="Draw the chart").click()
    wait(page, "document.querySelectorAll('.chart tbody tr').length === 11")
    check_open_to_everyone(page)


def focused(page):
    return page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent")


@pytest.mark.slow
def test_every_action_has_a_key(opened_there):
    page = opened_there("view=compute&compute.picture=squares&compute.size=3x3&compute.values=0_1_0_1_-4_1_0_1_0")
    done(page)
    press = page.keyboard.press
    canvas = page.get_by_role("img", name="Result:")
    canvas.focus()
    for key in ("+", "+", "ArrowRight", "ArrowDown", "-"):
        press(key)
    assert "1.25 times enlarged" in page.locator(".zoom").inner_text()
    canvas.hover()
    page.mouse.wheel(0, -100)
    wait(page, "document.querySelector('.zoom').textContent.includes('1.56 times enlarged')", 5)
    press("0")
    assert "enlarged" not in page.locator(".zoom").inner_text()
    page.locator(".kernel-grid [tabindex='0']").focus()
    press("ArrowRight")
    press("ArrowDown")
    assert focused(page) == "row 1, column 1: −4"
    press("5")
    press("Enter")
    assert focused(page) == "row 1, column 1: 5"
    press("Home")
    press(" ")
    assert focused(page) == "row 1, column 0: 5"
    press("F2")
    page.keyboard.type("-0.5")
    press("Enter")
    assert focused(page) == "row 1, column 0: −0.5"
    wait(page, "location.hash.includes('compute.values=0_1_0_-0.5_5_1_0_1_0')")
    assert "settings have changed" in page.locator(".go").inner_text()
    for label, keys, expected in (
        ("Rows", ["ArrowRight", "ArrowRight"], "compute.size=5x3"),
        ("Picture", ["r"], "compute.picture=rings"),
        ("Padding", ["v"], "compute.padding=valid"),
        ("Stride", ["ArrowRight"], "compute.stride=2"),
        ("Flip the kernel (convolve)", [" "], "compute.flip=1"),
        ("Given", ["b"], "view=compute&compute.picture=rings&compute.padding"),
        ("Sigma", ["ArrowLeft"], "compute.arguments=sigma"),
    ):
        page.get_by_label(label, exact=True).focus()
        for key in keys:
            press(key)
        wait(page, f"location.hash.includes('{expected}')")
    page.get_by_role("button", name="Compute").last.focus()
    press("Enter")
    wait(
        page,
        "document.querySelector('.pictures')?.textContent.includes('128 × 128') || !!document.querySelector('.pictures + .note')",
    )
    done(page)
    assert "another size" in page.locator("main").inner_text()
    page.get_by_role("button", name="Draw the chart").focus()
    press("Enter")
    wait(page, "document.querySelectorAll('.chart tbody tr').length === 11")
    page.locator(".plot").focus()
    press("ArrowRight")
    press("End")
    wait(page, "document.querySelector('.chart [role=status]').textContent.endsWith('63')", 5)


def test_a_computation_is_cancelled_within_half_a_second(opened_there, page_server):
    page = opened_there(f"view=compute&compute.picture={large(page_server)}&{LONG}")
    wait(page, "document.querySelector('.go [role=status]')?.textContent.startsWith('Computing')")
    start = page.evaluate("performance.now()")
    page.get_by_role("button", name="Cancel").dblclick()
    done(page, "Cancelled.")
    assert page.evaluate("performance.now()") - start < 1500, "some 100 ms on a quiet machine"
    web_page.until(lambda: page_server.get("/api/ping").json()["jobs"] == 0)
    page.get_by_label("Picture", exact=True).select_option("rings")
    page.get_by_role("button", name="Compute").last.click()  # the slot is free again
    wait(page, "/Computing|Waits|Sent|Done/.test(document.querySelector('.go [role=status]').textContent)")


def test_a_tab_that_is_closed_frees_the_slot_and_others_wait(opened_there, page_server):
    request = f"view=compute&compute.picture={large(page_server)}&{LONG}"
    first, second = opened_there(request), None
    wait(first, "document.querySelector('.go [role=status]')?.textContent.startsWith('Computing')")
    second = opened_there(SMALL)
    wait(second, "document.querySelector('.go [role=status]')?.textContent.startsWith('Waits: 1 computation is')")
    first.close()
    done(second)


def test_a_server_that_ends_is_said_in_words(opened, capfd):
    lost = [
        "500",
        "ERR_INCOMPLETE_CHUNKED_ENCODING",
        "ERR_CONNECTION_REFUSED",
        "ERR_CONNECTION_RESET",
        "ERR_EMPTY_RESPONSE",
    ]
    with served() as client:
        picture = large(client)
        address = f"http://127.0.0.1:{client.port}/"
        page = opened(f"#t={TOKEN}&v=1&view=compute&compute.picture={picture}&{LONG}", address=address, expected=lost)
        wait(page, "document.querySelector('.go [role=status]')?.textContent.startsWith('Computing')")
        wait(page, "document.querySelector('.picture .range') !== null")  # its request has ended
    wait(page, "/ended/.test(document.querySelector('.go [role=alert]').textContent)")
    assert "Traceback" not in capfd.readouterr().err
    page.get_by_role("button", name="Compute").last.click()
    wait(page, "document.querySelector('.go [role=alert]').textContent.includes('does not answer')")


DROP = """(bytes) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([Uint8Array.from(bytes)], "dropped.npy"));
  document.querySelector(".upload").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


def test_pictures_are_uploaded_or_refused_with_a_reason(opened_there):
    page = opened_there(SMALL, expected=["415", "422"])
    done(page)
    field = page.get_by_label("Your own picture")
    field.set_input_files({"name": "notes.txt.png", "mimeType": "image/png", "buffer": b"no picture"})
    wait(page, "document.querySelector('.upload [role=alert]').textContent.includes('no PNG, JPEG or .npy')")
    field.set_input_files({"name": "cut.png", "mimeType": "image/png", "buffer": png(np.zeros((9, 9), np.uint8))[:40]})
    wait(page, "document.querySelector('.upload [role=alert]').textContent.includes('is it complete')")
    field.set_input_files(
        {"name": "holiday.png", "mimeType": "image/png", "buffer": png(np.full((40, 30), 7, np.uint8))}
    )
    wait(page, "document.querySelector('.pictures').textContent.includes('40 × 30')")
    assert page.locator(".upload [role=alert]").first.inner_text() == ""
    wait(page, "/compute.picture=p-/.test(location.hash)")
    assert "this server’s memory only" in page.locator("main").inner_text()
    page.get_by_role("button", name="Compute").last.click()
    done(page)
    page.locator(".pictures canvas").nth(1).hover()
    wait(page, "/Row \\d+, column \\d+: 0/.test(document.querySelectorAll('.under')[1].textContent)")
    page.evaluate(DROP, list(npy(np.zeros((3, 5), np.uint8))))
    wait(page, "document.querySelector('.pictures').textContent.includes('3 × 5')")
    page.get_by_label("Given", exact=True).select_option("uploaded")
    kernel = page.get_by_label("File of the kernel")
    kernel.set_input_files({"name": "k.npy", "mimeType": "", "buffer": npy(np.array([[0.0, 2.0]]))})
    wait(page, "document.querySelector('.kernel-facts')?.textContent.includes('1 × 2, sum 2, rank 1')")


HOSTILE = {
    "compute.picture=..%2F..%2Fetc": "compute.picture is",
    "compute.kernel=<img>": "compute.kernel is",
    "compute.arguments=sigma": "compute.arguments is",
    "compute.arguments=sigma:1e999": "compute.arguments is",
    "compute.size=99x99": "compute.size is",
    "compute.values=1_2": "compute.values is",
    "compute.values=1_2_3_4_5_6_7_8_NaN": "compute.values is",
    "compute.stride=0": "compute.stride is",
    "compute.dtype=object": "compute.dtype is",
    "compute.flip=2": "compute.flip is",
}


def test_hostile_addresses_are_refused_in_words(opened_there):
    page = opened_there(SMALL, expected=["404", "422"])
    done(page)
    for entry, words in HOSTILE.items():
        page.evaluate("fragment => { location.hash = fragment }", f"#v=1&view=compute&{entry}")
        page.wait_for_timeout(20)
        assert words in page.locator(".problems").inner_text(), entry
    for entry, words in {
        "compute.picture=p-gone": "picture",
        "compute.kernel=constructor": "kernel.preset",
        "compute.arguments=__proto__:1": "kernel.arguments",
        "compute.arguments=sigma:999": "kernel.arguments.sigma is 999",
    }.items():
        page.evaluate("fragment => { location.hash = fragment }", f"#v=1&view=compute&{entry}")
        wait(page, f"document.querySelector('main .card .refusal[role=alert]')?.textContent.includes('{words}')", 10)


CASES = [
    "compute.picture=rings&compute.kernel=gaussian&compute.arguments=sigma:1.5",
    "compute.picture=squares&compute.size=2x3&compute.values=1_2_3_-4_5_0.5&compute.flip=1&compute.padding=valid&compute.stride=2",
    "compute.picture=noise&compute.kernel=sobel&compute.arguments=axis:1&compute.mode=reflect&compute.dilation=3&compute.padding=full",
    "compute.picture=astronaut&compute.kernel=motion&compute.arguments=length:5~angle:30&compute.dtype=float64&compute.accuracy=exact",
    "compute.picture=rings&compute.size=1x3&compute.values=-1_0_1&compute.dtype=int32&compute.mode=circular",
]


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("case", CASES)
def test_the_code_and_the_command_to_copy_give_the_pages_result(opened_there, page_server, case, tmp_path, monkeypatch):
    page, found = computed(opened_there, case)
    wait(page, "document.querySelectorAll('.code').length === 2")
    result = named(found, "result")[-1]["result"]
    expected = np.load(io.BytesIO(page_server.get(f"/api/picture/{result['id']}", params={"as": "npy"}).content))
    monkeypatch.chdir(tmp_path)
    for button in page.get_by_role("button", name=re.compile("Save the (picture|kernel)")).all():
        with page.expect_download() as download:
            button.click()
        download.value.save_as(tmp_path / download.value.suggested_filename)
    python, command = page.locator(".code pre").all_text_contents()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(python, "copied", "exec"), {})  # noqa: S102 - the page's own code
    shape, least, largest = ast.literal_eval(out.getvalue())
    assert shape == list(expected.shape)
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose([least, largest], [expected.min(), expected.max()], atol=tolerance)
    words = shlex.split(command)
    assert words[:2] == ["convolith", "correlate"]
    ran = CliRunner().invoke(main, words[1:])
    assert ran.exit_code == 0, ran.output
    np.testing.assert_allclose(np.load("result.npy"), expected, rtol=0, atol=tolerance)
