"""The explorer's view "Cost" in a browser: its numbers, keyboard, accessibility, hostile addresses, code to copy."""

import ast
import contextlib
import io
import random
import xml.etree.ElementTree as ET

import pytest

import convolith as cl
from tests.web_browser import NEEDS_BROWSER, check_open_to_everyone, until, violations
from tests.web_values import COST_DTYPES, axes_of, cost_case

pytestmark = NEEDS_BROWSER


def fragment_of(case, dtype):
    """Write the address of a drawn layer as the page does."""
    layer, options = case["layer"], case["options"]
    axes = axes_of(layer)
    entries = {
        "view": "cost",
        "cost.axes": layer["axes"],
        "cost.channels": f"{layer['inChannels']}x{layer['outChannels']}",
        "cost.groups": layer["groups"],
        **{f"cost.{key}": "x".join(str(a[key]) for a in axes) for key in ("size", "kernel", "stride", "dilation")},
        "cost.padding": "x".join(f"{a['before']}x{a['after']}" for a in axes),
        "cost.mode": layer["mode"],
        "cost.batch": options["batch"],
        "cost.bias": int(options["biased"]),
        "cost.dtype": dtype,
        "cost.count": options["convention"],
        "cost.first": int(not options["inputGradient"]),
        "cost.change": case["change"],
        "cost.strip": "x".join(map(str, (*[1] * (2 - layer["axes"]), *case["strip"]))),
    }
    return "#v=1&" + "&".join(f"{key}={value}" for key, value in entries.items())


def show(page, fragment):
    page.evaluate("fragment => { location.hash = fragment }", fragment)
    page.wait_for_timeout(30)


def whole(text):
    return int(text.replace(",", "").replace("bytes", ""))


def terms(page, section):
    """Return the values of the terms of a section, in order."""
    return [whole(text) for text in page.locator(f"section[aria-label={section}] .value").all_text_contents()]


def changes(page):
    """Return the rows of the table of changes: name, before, after and factor as text."""
    rows = page.locator("section[aria-label='What if'] tbody tr").all()
    cells = [[cell.inner_text() for cell in row.locator("th, td").all()] for row in rows]
    return {name: (whole(before), whole(after), factor) for name, before, after, factor in cells}


def factor(text):
    return float(text.strip("≈ ×"))


def printed(code):
    """Run code that a reader copies, and return what its lines print."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "copied", "exec"), {})  # noqa: S102 - the page's own code
    return [ast.literal_eval(line) for line in out.getvalue().splitlines()]


def reads(page):
    text = page.locator("section[aria-label='Reads per output'] h2").inner_text()
    return float(text.split(" reads")[0].replace(",", ""))


def test_the_first_state_is_the_librarys_example(opened):
    page = opened("#v=1&view=cost")
    spec = cl.ConvSpec(in_channels=64, out_channels=64, size=(56, 56), kernel_size=3, padding=1)
    cost = cl.cost(spec)
    parts = (cost.forward, cost.backward.input_gradient, cost.backward.weight_gradient)
    assert terms(page, "Operations") == [n for part in parts for n in (part.multiplications, part.additions)]
    tiles = page.locator(".cost-tiles").inner_text()
    assert "1 × 64 × 56 × 56" in tiles
    assert all(f"{count:,}" in tiles for count in cost.counts().values())
    assert changes(page)["forward multiplications"] == (115_605_504, 462_422_016, "4 ×")
    assert "2 · 2 = 4 times the products and the weights" in page.locator("section[aria-label='What if']").inner_text()
    assert reads(page) == 4.5


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("seed", range(6))
def test_drawn_layers_and_the_code_to_copy(opened, seed):
    rng = random.Random(seed)
    page = opened("#v=1&view=cost")
    for _ in range(5):
        case = cost_case(rng)
        names = [name for name, size in COST_DTYPES.items() if size == case["options"]["itemsize"]]
        show(page, fragment_of(case, rng.choice(names)))
        assert page.locator(".problems").count() == 0, page.locator(".problems").inner_text()
        options = case["options"]
        passes = [True, options["inputGradient"], True, options["biased"]]
        pairs = [pair for pair, is_shown in zip(case["operations"], passes) if is_shown]
        assert terms(page, "Operations") == [int(n) for pair in pairs for n in pair]
        memory = [int(n) for n in case["memory"]]
        if not case["options"]["inputGradient"]:
            del memory[4]
        assert terms(page, "Memory") == memory
        shown = changes(page)
        assert {name: before for name, (before, _, _) in shown.items()} == {
            k: int(n) for k, n in case["before"].items()
        }
        assert {name: after for name, (_, after, _) in shown.items()} == {k: int(n) for k, n in case["after"].items()}
        as_dict, factors, per_output = printed(page.locator(".code pre").text_content())
        assert as_dict["forward"]["multiplications"] == shown["forward multiplications"][0]
        assert as_dict["forward"]["additions"] == shown["forward additions"][0]
        assert as_dict["backward"]["multiplications"] == shown["backward multiplications"][0]
        assert as_dict["backward"]["additions"] == shown["backward additions"][0]
        for name in ("forward", "backward"):
            total = as_dict["memory"][name].pop("bytes")
            assert total == shown[f"{name} memory, bytes"][0]
        given = [n for name in ("forward", "backward") for n in as_dict["memory"][name].values()]
        assert [n for n in given if n] == terms(page, "Memory")
        for name, expected in factors.items():
            assert factor(shown[name][2]) == pytest.approx(expected, rel=1e-3)
        assert reads(page) == pytest.approx(per_output, rel=1e-3)


REASONS = {
    "&cost.change=channels3": ("9 ×", "3 · 3 = 9 times"),
    "&cost.channels=32x32&cost.groups=32": ("2 ×", "depthwise and stays so"),
    "&cost.groups=8&cost.change=channels3": ("9 ×", "3 · 3 = 9 times"),
    "&cost.change=padding2": ("≈ 1.073 ×", "from 56 × 56 to 58 × 58, which is ≈ 1.073 × the outputs"),
    "&cost.change=padding2&cost.count=effective": ("≈ 1.024 ×", "not only zeros of the padding, become ≈ 1.024 ×"),
    "&cost.change=padding2&cost.padding=0x0x0x0": ("1 ×", "no padding to double: nothing changes"),
    "&cost.change=padding2&cost.stride=4x4&cost.size=57x57": ("1 ×", "The output stays 15 × 15"),
    "&cost.change=size2": ("4 ×", "exactly as much as the input"),
    "&cost.change=size2&cost.padding=0x0x0x0": ("≈ 4.15 ×", "from 54 × 54 to 110 × 110, ≈ 4.15 × the outputs"),
    "&cost.change=size2&cost.axes=1&cost.size=9&cost.kernel=3&cost.padding=1x1": ("2 ×", "twice as long;"),
    "&cost.change=stride2": ("0.25 ×", "56 × 56 becomes 28 × 28"),
    "&cost.change=stride2&cost.size=3x3&cost.padding=0x0x0x0": ("1 ×", "a single output along each axis"),
}


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize("fragment", REASONS)
def test_reasons_are_those_of_the_layer(opened, fragment):
    page = opened(f"#v=1&view=cost{fragment}")
    text = page.locator("section[aria-label='What if'] [role=status]").inner_text()
    expected, words = REASONS[fragment]
    assert text.startswith(f"{expected} the multiplications"), text
    assert words in text, text
    before, after, written = changes(page)["forward multiplications"]
    assert written == expected
    assert factor(written) == pytest.approx(after / before, rel=1e-3)


EVERYTHING = (
    "&cost.bias=1&cost.groups=4&cost.mode=reflect&cost.count=effective&cost.batch=1024&cost.strip=3x5"
    "&cost.size=4096x4000&cost.kernel=63x62&cost.channels=2048x2048&cost.padding=9x8x7x6&cost.dtype=float64"
)


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("fragment", ["", EVERYTHING])
@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_keeps_anyone_out(opened, fragment, width):
    page = opened(f"#v=1&view=cost{fragment}", width=width)
    check_open_to_everyone(page)


def test_a_layer_that_is_refused_says_why(opened):
    page = opened("#v=1&view=cost&cost.kernel=63x63&cost.size=9x9")
    assert "The kernel spans 63 rows, but the padded input has 11" in page.locator(".main .refusal").inner_text()
    assert not violations(page)


@pytest.mark.slow
def test_every_action_has_a_key(opened):
    page = opened("#v=1&view=cost")

    def control(name, *keys):
        page.get_by_label(name, exact=True).first.focus()
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_timeout(300)
        return page.evaluate("location.hash")

    assert "cost.channels=72x64" in control("Input", "ArrowRight")
    assert "cost.channels=72x72" in control("Output", "ArrowRight")
    assert "cost.groups=72" in control("Groups", "End")
    assert "depthwise" in page.locator("aside").inner_text()
    assert "cost.size=60x60" in control("Size of x", "ArrowRight")
    assert "cost.kernel=5x5" in control("Kernel", "ArrowRight", "ArrowRight")
    assert "cost.stride=2x2" in control("Stride", "ArrowRight")
    assert "cost.dilation=2x2" in control("Dilation", "ArrowRight")
    assert "cost.padding=2x2x2x2" in control("Padding", "ArrowRight")
    assert "cost.mode=reflect" in control("Padding mode", "ArrowDown")
    assert "cost.batch=2" in control("Batch", "ArrowRight")
    assert "cost.dtype=bfloat16" in control("Dtype", "ArrowDown")
    assert "cost.bias=1" in control("Bias", " ")
    assert "cost.first=1" in control("First layer: its input needs no gradient", " ")
    assert "cost.strip=1x5" in control("Outputs side by side", "ArrowRight")
    assert "cost.strip=2x5" in control("Rows of outputs", "ArrowRight")
    field = page.get_by_label("Size of x, exact number")
    field.fill("2,047")
    field.press("Enter")
    until(page, "location.hash.includes('cost.size=2047x2047')")
    for wrong in ("0", "4097", "1.5", "-3", "", "1e3", "x"):
        field.fill(wrong)
        field.press("Enter")
        assert not field.evaluate("field => field.checkValidity()"), wrong
        assert "from 1 to 4096" in field.evaluate("field => field.validationMessage")
    field.press("Escape")
    assert field.input_value() == "2047"
    assert field.evaluate("field => field.checkValidity()")
    until(page, "location.hash.includes('cost.size=2047x2047')")
    page.get_by_role("radio", name="left out (effective)").focus()
    page.get_by_role("radio", name="counted (dense)").press("ArrowRight")
    until(page, "location.hash.includes('cost.count=effective')")
    page.get_by_role("button", name="Double the stride").press("Enter")
    until(page, "location.hash.includes('cost.change=stride2')")
    page.get_by_role("button", name="Apply to the layer").press("Enter")
    until(page, "location.hash.includes('cost.stride=4x4')")
    page.get_by_role("button", name="same").press("Enter")
    until(page, "location.hash.includes('cost.padding=3x3x3x3')")
    page.get_by_role("radio", name="1-d").focus()
    page.get_by_role("radio", name="2-d").press("ArrowLeft")
    until(page, "location.hash.includes('cost.axes=1')")
    page.get_by_role("button", name="Back to the first example").press("Enter")
    until(page, "location.hash === '#v=1&view=cost'")


def test_a_change_beyond_the_sliders_is_counted_but_not_set(opened):
    page = opened("#v=1&view=cost&cost.channels=2048x1024")
    assert page.get_by_role("button", name="Apply to the layer").is_disabled()
    spec = cl.ConvSpec(in_channels=4096, out_channels=2048, size=(56, 56), kernel_size=3, padding=1)
    assert changes(page)["forward additions"][1] == cl.cost(spec).forward.additions


HOSTILE = {
    "&cost.channels=4096x1": "cost.channels is",
    "&cost.channels=0x1": "cost.channels is",
    "&cost.groups=7": "cost.groups is",
    "&cost.size=5000x5000": "cost.size is",
    "&cost.size=56": "cost.size is",
    "&cost.size=1e3x3": "cost.size is",
    "&cost.axes=3": "cost.axes is",
    "&cost.kernel=64x64": "cost.kernel is",
    "&cost.stride=0x0": "cost.stride is",
    "&cost.dilation=65x1": "cost.dilation is",
    "&cost.padding=-1x0x0x0": "cost.padding is",
    "&cost.padding=1025x0x0x0": "cost.padding is",
    "&cost.outpad=1x1": "belongs to nothing",
    "&cost.mode=__proto__": "cost.mode is",
    "&cost.batch=99999999999999999999": "cost.batch is",
    "&cost.bias=yes": "cost.bias is",
    "&cost.dtype=toString": "cost.dtype is",
    "&cost.count=all": "cost.count is",
    "&cost.change=constructor": "cost.change is",
    "&cost.strip=25x1": "cost.strip is",
    "&cost.strip=<img src=x onerror=alert(1)>": "cost.strip is",
    "&pin=y.0.0.0": "no such cell",
}


@pytest.mark.slow
def test_hostile_addresses_are_refused_in_words(opened):
    page = opened("#v=1&view=cost")
    for fragment, words in HOSTILE.items():
        show(page, f"#v=1&view=cost{fragment}")
        assert words in page.locator("[role=alert]").inner_text(), fragment
        assert page.locator(".cost-term").count() >= 12, fragment


def test_strips_read_less_and_are_saved_as_svg(opened):
    page = opened("#v=1&view=cost&cost.dilation=3x3&cost.padding=3x3x3x3&cost.strip=1x3")
    card = page.locator("section[aria-label='Reads per output']")
    assert reads(page) == 9  # outputs next to each other share nothing until the strip is wider than the dilation
    assert "no fewer" in card.inner_text()
    page.locator("svg.strip-chart rect").nth(3).click()
    assert reads(page) == 3 * 10 / 4  # the fourth output reads two of the three columns of the first again
    show(page, "#v=1&view=cost&cost.stride=4x4&cost.strip=24x24")
    assert "14 × 14 outputs" in card.inner_text()  # as many as the layer has
    assert reads(page) == 9
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as SVG").click()
    root = ET.fromstring(download.value.path().read_text())  # noqa: S314 - our own file
    fills = {element.get("fill") for element in root.iter() if element.get("fill")}
    assert len(fills) > 3
    assert not any("var(" in fill for fill in fills)
