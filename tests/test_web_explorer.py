"""The explorer in a browser: its numbers, keyboard, accessibility, hostile addresses, code to copy, files to save."""

import json
import random
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from convolith.web import explorer
from tests.web_browser import NEEDS_BROWSER, check_open_to_everyone, run, until, violations
from tests.web_values import axes_of, drawn_layer, values

pytestmark = NEEDS_BROWSER

PINS = {"look": "y.0.1.1", "backward": "dx.0.1.1", "fold": "e.0.0.1"}
"""The views, and a cell of each."""


def fragment_of(layer, *, view="look", **arrays):
    """Write the address of a layer as the page does; `arrays` are flat lists of values, or names of values."""
    axes = axes_of(layer)

    def joined(key):
        return "x".join(str(axis[key]) for axis in axes)

    entries = {
        "view": view,
        "axes": layer["axes"],
        "channels": f"{layer['inChannels']}x{layer['outChannels']}",
        "groups": layer["groups"],
        "size": joined("size"),
        "kernel": joined("kernel"),
        "stride": joined("stride"),
        "dilation": joined("dilation"),
        "outpad": joined("outputPadding"),
        "padding": "x".join(f"{axis['before']}x{axis['after']}" for axis in axes),
        "mode": layer["mode"],
        "transposed": int(layer["transposed"]),
        "flip": int(layer["flip"]),
    }
    for name, given in arrays.items():
        if given is not None:
            entries[name] = given if isinstance(given, str) else "_".join(map(repr, given))
    return "#v=1&" + "&".join(f"{key}={value}" for key, value in entries.items())


def shown(page, fragment):
    """Go to a fragment, and return the numbers that the page writes as text."""
    page.evaluate("fragment => { location.hash = fragment }", fragment)
    page.wait_for_timeout(20)
    assert page.locator(".problems").count() == 0, page.locator(".problems").inner_text()
    return json.loads(page.locator("#output-text").text_content())


def flat(value):
    return [float(n) for part in value for n in flat(part)] if isinstance(value, list) else [value]


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * max(1.0, np.abs(expected).max(initial=0)))


def test_the_first_state_is_the_chapters_example(opened):
    page = opened()
    assert page.locator('[data-panel^="y."] [role=gridcell]').all_text_contents() == ["56", "72", "104", "120"]
    assert "y[0,0,0] = 56" in page.locator(".sum h2").inner_text()
    page.locator('[data-panel="y.0"] [data-place="1,0"]').hover()
    assert "y[0,1,0] = 104" in page.locator(".sum h2").inner_text()
    assert "6 × 2" in page.locator(".sum").inner_text()
    assert "x[1,2,1] · k[0,1,1,1]" in page.locator(".sum").inner_text()


def test_numbers_keep_the_zeros_before_the_point(opened):
    page = opened("#v=1&axes=1&size=3&kernel=1&channels=1x1&x=140.2_-120.04_0.5&k=1")
    assert page.locator('[data-panel^="y."] [role=gridcell]').all_text_contents() == ["140", "−120", "0.5"]


@pytest.mark.slow
def test_fifty_drawn_layers_have_the_librarys_values(opened):
    page = opened()
    for number, given in enumerate(values(seed=7, count=50)["layers"]):
        arrays = {"x": given["x"], "k": given["k"], "b": given["b"], "dy": given["dy"]}
        assert_close(flat(shown(page, fragment_of(given["layer"], **arrays))), given["y"])
        if number >= 20:
            continue
        gradients = shown(page, fragment_of(given["layer"], view="backward", **arrays))
        assert_close(flat(gradients[0]), given["dx"])
        assert_close(flat(gradients[1]), given["dk"])


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("view", PINS)
@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_keeps_anyone_out(opened, view, width):
    fragment = f"#v=1&view={view}&padding=1x1x1x1&b=ones&channels=2x2&fold.size=4&fold.b1=ones&pin={PINS[view]}"
    page = opened(fragment, width=width)
    check_open_to_everyone(page)


def test_a_layer_that_is_refused_says_why_and_keeps_nobody_out(opened):
    page = opened("#v=1&kernel=7x7")
    assert "The kernel spans 7 rows, but the padded input has 3" in page.locator(".main .refusal").inner_text()
    assert not violations(page)


def focused(page):
    return page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent")


@pytest.mark.slow
def test_every_action_has_a_key(opened):
    page = opened()
    press = page.keyboard.press
    press("Tab")
    assert focused(page) == "Skip to the figure"
    press("Enter")
    assert focused(page) == "x[0,0,0] = 0"
    press("ArrowDown")
    press("ArrowRight")
    assert focused(page) == "x[0,1,1] = 4"
    assert "4 products" in page.locator(".sum .about").inner_text()
    for key, label in (
        ("Home", "x[0,1,0] = 3"),
        ("End", "x[0,1,2] = 5"),
        ("Control+End", "x[0,2,2] = 8"),
        ("Control+Home", "x[0,0,0] = 0"),
        ("ArrowUp", "x[0,0,0] = 0"),
        ("ArrowLeft", "x[0,0,0] = 0"),
    ):
        press(key)
        assert focused(page) == label
    press("Enter")
    until(page, "location.hash.includes('pin=x.0.0.0')")
    press("ArrowRight")
    until(page, "location.hash.includes('pin=x.0.0.1')")
    press("Escape")
    until(page, "!location.hash.includes('pin')")
    press("Home")
    press("9")  # a digit begins a new value
    assert page.evaluate("document.activeElement.id") == "cell-value"
    press("Enter")
    assert focused(page) == "x[0,0,0] = 9"
    assert page.locator('[data-panel="x.0"] [data-place="0,0"]').text_content() == "9"
    press("F2")
    page.keyboard.type("-1.5")
    press("Enter")
    assert focused(page) == "x[0,0,0] = −1.5"
    press("F2")
    press("Escape")
    assert focused(page) == "x[0,0,0] = −1.5"
    for label in ("x[1,0,0] = 1", "k[0,0,0,0] = 0", "k[0,1,0,0] = 1", "y[0,0,0] = 56"):
        press("Tab")
        assert focused(page) == label
    for name in ("Previous output", "Play", "Next output"):
        press("Tab")
        assert focused(page) == name
    press("Enter")
    assert "y[0,0,1] = 72" in page.locator(".sum h2").inner_text()
    press("Tab")
    press("End")
    assert "y[0,1,1] = 120" in page.locator(".sum h2").inner_text()
    press("Shift+Tab")
    press("Shift+Tab")
    press(" ")
    until(page, "document.querySelector('.sum h2').textContent.includes('y[0,0,0]')")
    press("Enter")
    assert focused(page) == "Play"


@pytest.mark.slow
def test_controls_by_key(opened):
    page = opened()

    def control(name, *keys):
        page.get_by_label(name, exact=True).first.focus()
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_timeout(300)
        return page.evaluate("location.hash")

    assert "channels=3x1" in control("Input", "ArrowRight")
    assert "channels=3x3" in control("Output", "ArrowRight", "ArrowRight")
    assert "groups=3" in control("Groups", "End")
    assert "size=5x5" in control("Size of x", "ArrowRight", "ArrowRight")
    assert "kernel=3x3" in control("Kernel", "ArrowRight")
    assert "stride=2x2" in control("Stride", "ArrowRight")
    assert "dilation=2x2" in control("Dilation", "ArrowRight")
    assert "padding=2x2x2x2" in control("Padding", "ArrowRight", "ArrowRight")
    assert "mode=reflect" in control("Padding mode", "ArrowDown")
    assert "transposed=1" in control("Transposed", " ")
    assert "outpad=1x1" in control("Output padding", "ArrowRight")
    assert "transposed" not in control("Transposed", " ")
    assert "b=ones" in control("Bias b", " ")
    assert "x=random.1" in control("Input x", "r")
    page.get_by_role("button", name="Draw again").focus()
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('x=random.2')")
    page.get_by_role("button", name="full").focus()
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('padding=4x4x4x4')")
    control("Set rows, columns and sides apart", " ")
    assert "stride=2x1" in control("Stride, columns", "ArrowLeft")
    assert "padding=4x3x4x4" in control("Padding after, rows", "ArrowLeft")
    for label, key, expected in (
        ("2-d", "ArrowLeft", "axes=1"),
        ("as it is", "ArrowRight", "flip=1"),
        ("auto", "ArrowRight", "flip=1"),
    ):
        page.get_by_role("radio", name=label).focus()
        page.keyboard.press(key)
        until(page, f"location.hash.includes('{expected}')")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.get_by_role("button", name="Backward").focus()
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('view=backward')")
    page.go_back()
    until(page, "!location.hash.includes('view=backward')")
    page.get_by_role("button", name="Back to the chapter’s example").focus()
    page.keyboard.press("Enter")
    until(page, "location.hash === ''")


@pytest.mark.slow
def test_folds_by_key(opened):
    page = opened("#v=1&view=fold")
    page.locator('[data-panel="w1.0,0"] [tabindex="0"]').focus()
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('fold.k1=5_0_1_')")
    page.keyboard.press("Tab")
    assert focused(page).startswith("k2[0,0,0,0]")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('pin=w.0.0.0.0')")
    assert "= 5" in page.locator(".sum h2").inner_text()
    for label, key, expected in (
        ("in a row", "ArrowRight", "fold=branches"),
        ("as branches", "ArrowLeft", "view=fold"),
    ):
        page.get_by_role("radio", name=label).focus()
        page.keyboard.press(key)
        until(page, f"location.hash.includes('{expected}')")
    for name, expected in (("ReLU between the two", "fold.relu=1"), ("Bias, second", "fold.b2=ones")):
        page.get_by_label(name).focus()
        page.keyboard.press(" ")
        until(page, f"location.hash.includes('{expected}')")


FOLDS = [
    "",
    "&fold.b1=count&fold.b2=ones&fold.channels=2x3x2&fold.mode=circular&fold.k1=random.4&fold.k2=random.5",
    "&fold.relu=1&fold.k1=random.4&fold.stride1=2&fold.dilation2=2&fold.size=9&fold.padding2=2",
    "&fold.mode=reflect&fold.kernel2=5&fold.padding2=2&fold.k2=random.1&fold.size=8&fold.stride2=2",
    "&fold=branches&fold.skip=1&fold.channels=3x1x3&fold.kernel2=1&fold.padding2=0&fold.b1=ones&fold.k1=random.7",
    "&fold=branches&fold.stride1=2&fold.stride2=2&fold.kernel1=5&fold.padding1=4&fold.dilation1=2&fold.b2=count",
]


@pytest.mark.slow
def test_the_code_of_folds_prints_the_pages_numbers(opened):
    page = opened()
    for fold in FOLDS:
        kernel, difference = shown(page, f"#v=1&view=fold{fold}")
        weight, error = run(page.locator(".code pre").text_content())
        assert_close(flat(kernel), flat(weight))
        assert_close(flat(difference), np.where(np.abs(flat(error)) < 1e-10, 0.0, flat(error)))
        cells = page.locator('[data-panel^="e."] [role=gridcell]')
        wrong = [place for place in range(cells.count()) if flat(difference)[place]]
        for place in wrong[:3]:  # the products written out add up to the difference
            cells.nth(place).hover()
            parts = [
                text.replace("= ", "").replace("−", "-") for text in page.locator(".sum .subtotal").all_text_contents()
            ]
            assert abs(sum(map(float, parts)) - flat(difference)[place]) < 1e-5 * (1 + abs(flat(difference)[place]))


@pytest.mark.slow
def test_the_code_to_copy_prints_the_pages_numbers(opened):
    page = opened()
    rng = random.Random(3)
    for number in range(16):
        layer = drawn_layer(rng)
        arrays = {
            "x": f"random.{number}",
            "k": "edges" if number % 3 == 0 else f"random.{number + 50}",
            "b": "count" if number % 2 else None,
            "dy": "random.9",
        }
        for view in ("look", "backward"):
            numbers = shown(page, fragment_of(layer, view=view, **arrays))
            assert_close(flat(run(page.locator(".code pre").text_content())), flat(numbers))
    page.locator(".code summary").click()
    page.get_by_role("button", name="Copy").click()
    page.wait_for_selector("text=Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator(".code pre").text_content()


HOSTILE = {
    "#v=2&size=3x3": "version 2",
    "#size=3x3": "without a version",
    "#v=1&size=1e9x3": "size is",
    "#v=1&size=99999999999999999999x1": "size is",
    "#v=1&size=3": "size is",
    "#v=1&stride=0x0": "stride is",
    "#v=1&channels=7x7": "channels is",
    "#v=1&groups=5": "groups is",
    "#v=1&mode=__proto__": "mode is",
    "#v=1&view=constructor": "view is",
    "#v=1&x=1_2": "x is",
    "#v=1&x=1_2_3_4_5_6_7_8_9_10_11_12_13_14_15_16_17_1e999": "x is",
    "#v=1&x=NaN": "x is",
    "#v=1&x=random.-1": "x is",
    "#v=1&pin=y.9.9.9": "no such cell",
    "#v=1&pin=y.0": "no such cell",
    "#v=1&pin=<img src=x onerror=alert(1)>": "pin is",
    "#v=1&transposed=1&mode=reflect": "mode is",
    "#v=1&fold=loop": "fold is",
    "#v=1&fold.channels=1x2": "fold.channels is",
    "#v=1&fold.kernel1=99": "fold.kernel1 is",
    "#v=1&view=fold&pin=e.7.7.7": "no such cell",
    "#v=1&toString=1": "belongs to nothing",
    "#v=1&size=3x3&size=4x4": "stands twice",
    "#v=1&x=%E0%A4%A": "cannot be decoded",
    "#" + "a" * 100_000: "100000 characters",
}


@pytest.mark.slow
def test_hostile_addresses_are_refused_in_words(opened):
    page = opened()
    for fragment, words in HOSTILE.items():
        page.evaluate("fragment => { location.hash = fragment }", fragment)
        page.wait_for_timeout(20)
        assert words in page.locator("[role=alert]").inner_text(), fragment
        assert page.locator("main [role=gridcell]").count() >= 4, fragment
    page.get_by_role("button", name="Understood").click()
    assert page.locator(".problems").count() == 0


def test_values_typed_in_are_read_or_refused(opened):
    page = opened()
    page.locator("summary", has_text="Kernel k as text").click()
    field = page.get_by_label("Kernel k as nested lists")
    for text, words in (
        ("[[1, 2]", "no nested lists"),
        ("[1, 2]", "takes 8"),
        ('[["a"]]', "must be a number"),
        ("[1e999]", "must be a number"),
        ("[" * 50_000, "no nested lists"),
        ("{}", "must be a number"),
    ):
        field.fill(text)
        field.blur()
        assert words in page.locator("#said-k").inner_text(), text[:20]
    field.fill("[[[[1, 0], [0, 0]], [[0, 0], [0, -2]]]]")
    field.blur()
    assert page.locator('[data-panel^="y."] [role=gridcell]').all_text_contents() == ["−10", "−11", "−13", "−14"]


def test_a_figure_is_saved_as_svg(opened):
    page = opened("#v=1&view=look&x=random.1&b=ones")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as SVG").first.click()
    root = ET.fromstring(download.value.path().read_text())  # noqa: S314 - our own file
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "Input x" in texts
    assert set(page.locator('[data-panel^="y."] [role=gridcell]').all_text_contents()) <= set(texts)
    fills = {element.get("fill") for element in root.iter() if element.get("fill")}
    assert not any("var(" in fill for fill in fills)
    assert len(fills) > 3


def test_the_page_opens_from_a_file(opened):
    page = opened(address=explorer().as_uri())
    assert page.locator('[data-panel^="y."] [role=gridcell]').all_text_contents() == ["56", "72", "104", "120"]
