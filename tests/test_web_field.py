"""The explorer's view of receptive fields: its numbers against torch and the library, keyboard, accessibility, addresses."""

import ast
import contextlib
import io
import json
import random
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, pad

import convolith as cl
from tests.web_browser import NEEDS_BROWSER, check_open_to_everyone, until, violations

pytestmark = NEEDS_BROWSER

PRESETS = ("vgg", "resnet", "alexnet", "unet", "dilated", "gridding")


def lengths(layers, size):
    """Return the sizes of the picture and of each output; the last is below one where a window does not fit."""
    found = [size]
    for _, kernel, stride, padding, dilation in layers:
        found.append((found[-1] + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
        if found[-1] < 1:
            break
    return found


def drawn_net(rng):
    """Draw a net that the page shows, the size of its picture, and an output pixel."""
    while True:
        layers = []
        for _ in range(rng.randint(1, 8)):
            kind, kernel = rng.choice(("conv", "conv", "pool")), rng.randint(1, rng.choice((3, 5)))
            dilation = rng.choice((1, 1, 2, 3))
            most = (dilation * (kernel - 1) + 1) // 2 if kind == "pool" else 5
            layers.append((kind, kernel, rng.choice((1, 1, 2, 3)), rng.randint(0, most), dilation))
        size = rng.randint(1, 80)
        last = lengths(layers, size)[-1]
        jump, reach = 1, 1
        for _, kernel, stride, padding, dilation in layers:
            reach += (dilation * (kernel - 1) + 2 * padding) * jump
            jump *= stride
        if last >= 1 and reach < 700:
            return layers, size, (rng.randrange(last), rng.randrange(last))


def fragment_of(layers, size, pixel):
    text = "_".join(f"{kind}{k}s{s}p{p}d{d}" for kind, k, s, p, d in layers)
    return f"#v=1&view=field&field={text}&field.size={size}&pin=y.{pixel[0]}.{pixel[1]}"


def traced(layers, size, pixel):
    """Return the paths from an output pixel to the picture and into every padding, as gradients of a net of ones."""
    maps, padded = [torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)], []
    for _, kernel, stride, padding, dilation in layers:
        padded.append(pad(maps[-1], [padding] * 4))
        ones = torch.ones(1, 1, kernel, kernel, dtype=torch.float64)
        maps.append(conv2d(padded[-1], ones, stride=stride, dilation=dilation))
    value = maps[-1][(0, 0, *pixel)]
    arriving = torch.autograd.grad(value, padded, retain_graph=True)
    staying = torch.autograd.grad(value, maps[:-1])
    further = np.cumprod([1, *(kernel**2 for _, kernel, *_ in layers)]).tolist()
    ended = [int((every.sum() - kept.sum()).item()) * n for every, kept, n in zip(arriving, staying, further)]
    return staying[0][0, 0].numpy(), ended


def reached(layers, position):
    """Return the positions that an output depends on, map by map from the picture on, as if no map had a border."""
    found = [{position}]
    for _, kernel, stride, padding, dilation in reversed(layers):
        found.insert(0, {at * stride - padding + tap * dilation for at in found[0] for tap in range(kernel)})
    return found


def outside(spans, size):
    """Count the pixels of a square that lie outside of a map, one by one."""
    rows, columns = (range(first, last + 1) for first, last in spans)
    inside = sum(0 <= at < size for at in rows) * sum(0 <= at < size for at in columns)
    return len(rows) * len(columns) - inside


def shown(page, fragment):
    page.evaluate("fragment => { location.hash = fragment }", fragment)
    page.wait_for_timeout(20)
    assert page.locator(".problems").count() == 0, page.locator(".problems").inner_text()
    return json.loads(page.locator("#output-text").text_content())


def run(code):
    """Run code that a reader copies, and return what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "copied", "exec"), {})  # noqa: S102 - the page's own code
    return ast.literal_eval(out.getvalue())


def field_texts(found):
    """Write the fields of all layers as the library does."""
    return ["{size}x{size} by {jump}x{jump}".format(**field) for field in found["fields"][1:]]


def check(found, layers, size, pixel):
    maps = found["maps"]
    assert found["sizes"] == lengths(layers, size)
    paths, ended = traced(layers, size, pixel)
    np.testing.assert_array_equal(np.outer(*found["paths"]), paths)
    assert [each["ended"] for each in maps] == [*ended, 0]
    assert maps[0]["read"] == np.count_nonzero(paths)
    total = np.prod([kernel**2 for _, kernel, *_ in layers], dtype=object)
    assert paths.sum() + sum(ended) == total
    for axis, name in enumerate(("rows", "columns")):
        spans = [[min(positions), max(positions)] for positions in reached(layers, pixel[axis])]
        assert [each[name] for each in maps] == spans
        assert found["fields"][-1]["size"] == spans[0][1] - spans[0][0] + 1
    for each, length in zip(maps, found["sizes"], strict=True):
        assert each["outside"] == outside((each["rows"], each["columns"]), length)


@pytest.mark.slow
def test_fields_and_paths_are_torchs(opened):
    page = opened("#v=1&view=field")
    rng = random.Random(5)
    for _ in range(60):
        net = drawn_net(rng)
        check(shown(page, fragment_of(*net)), *net)
        gaps = len(reached(net[0], 0)[0]) < shown(page, fragment_of(*net))["fields"][-1]["size"]
        assert page.locator(".facts").inner_text().count("steps over 0 of") == (not gaps)


def test_the_first_net_and_a_corner_have_the_right_numbers(opened):
    layers = [("conv", 3, 1, 1, 1)] * 2 + [("pool", 2, 2, 0, 1)]
    page = opened("#v=1&view=field")
    check(shown(page, "#v=1&view=field&pin=y.0.7"), layers * 2, 32, (0, 7))
    facts = page.locator("section[aria-label='The field']").inner_text()
    assert "Rows −6 to 9, columns 22 to 37" in facts
    assert "156 of 256 (60.9%) are padding" in facts  # 16² - 10²
    rows = page.locator("table tbody tr").all_inner_texts()
    assert [row.split("\t")[1:4] for row in rows[-2:]] == [["16 × 16", "14 × 14", "2"], ["8 × 8", "16 × 16", "4"]]


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_code_to_copy_prints_the_pages_numbers(opened, preset):
    page = opened("#v=1&view=field")
    page.get_by_label("Example", exact=True).select_option(preset)
    found = json.loads(page.locator("#output-text").text_content())
    fields, paths = run(page.locator(".code pre").text_content())
    assert fields == field_texts(found)
    np.testing.assert_array_equal(paths, np.outer(*found["paths"]))


@pytest.mark.slow
def test_fields_of_drawn_nets_are_the_librarys(opened):
    page = opened("#v=1&view=field")
    rng = random.Random(8)
    for _ in range(10):
        layers, size, pixel = drawn_net(rng)
        net = torch.nn.Sequential(*(torch.nn.Conv2d(1, 1, k, s, p, d) for _, k, s, p, d in layers))
        rows = cl.cost(net, input_shape=(1, 1, size, size), backward=False).rows
        found = shown(page, fragment_of(layers, size, pixel))
        assert field_texts(found) == [str(row.field) for row in rows if row.depth]


def pixel_of(page):
    return page.locator("section[aria-label='The field'] h2 .name").inner_text()


def test_pointing_at_the_output_and_the_picture(opened):
    page = opened("#v=1&view=field&field=conv3p1_conv3p1&field.size=8")
    box = page.locator(".map.output").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 5.5 / 8, box["y"] + box["height"] * 2.5 / 8)
    assert pixel_of(page) == "y[2, 5]"
    page.mouse.down()
    page.mouse.up()
    until(page, "location.hash.includes('pin=y.2.5')")
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    assert pixel_of(page) == "y[2, 5]"  # the pin stays
    box = page.locator(".map.picture").bounding_box()
    for row, column, words in (
        (2, 5, "x[2, 5]: 3 × 3 = 9 paths"),
        (0, 5, "x[0, 5]: 1 × 3 = 3 paths"),
        (5, 5, "x[5, 5]: no path"),
        (1, 8, "Padding at [1, 8]: no path"),
    ):
        page.mouse.move(box["x"] + box["width"] * (column + 2.5) / 12, box["y"] + box["height"] * (row + 2.5) / 12)
        assert words in page.locator(".looked-note").inner_text()
    page.get_by_role("button", name="Unpin").click()
    until(page, "!location.hash.includes('pin')")
    page.get_by_label("Size of x").fill("3")  # what was pointed at is not drawn any more: the field's centre is
    assert page.locator(".looked-note").inner_text().startswith("x[0, 0]")


def test_every_action_has_a_key(opened):
    page = opened("#v=1&view=field&field=conv3p1_conv3p1&field.size=8")
    press = page.keyboard.press
    page.get_by_role("application", name="Output").focus()
    for key, name in (
        ("Control+Home", "y[0, 0]"),
        ("ArrowRight", "y[0, 1]"),
        ("ArrowDown", "y[1, 1]"),
        ("End", "y[1, 7]"),
        ("Home", "y[1, 0]"),
        ("ArrowUp", "y[0, 0]"),
        ("ArrowUp", "y[0, 0]"),
        ("Control+End", "y[7, 7]"),
        ("ArrowLeft", "y[7, 6]"),
    ):
        press(key)
        assert pixel_of(page) == name
    press("Enter")
    until(page, "location.hash.includes('pin=y.7.6')")
    press("ArrowLeft")
    until(page, "location.hash.includes('pin=y.7.5')")
    press("Escape")
    until(page, "!location.hash.includes('pin')")
    page.get_by_role("application", name="Picture").focus()
    press("Control+Home")
    assert "Padding at [-2, -2]" in page.locator(".looked-note").inner_text()
    press("Control+End")
    press("ArrowUp")
    press("ArrowUp")
    assert "Padding at [7, 9]" in page.locator(".looked-note").inner_text()

    def control(name, *keys):
        page.get_by_label(name, exact=True).first.focus()
        for key in keys:
            press(key)
        page.wait_for_timeout(300)
        return page.evaluate("location.hash")

    page.get_by_role("radio", name="1: convolution").focus()
    press("ArrowDown")
    assert "field=conv3p1_conv4p1" in control("Kernel", "ArrowRight")
    assert "field=conv3p1_conv4s2p1" in control("Stride", "ArrowRight")
    assert "field=conv3p1_conv4s2p2" in control("Padding", "ArrowRight")
    assert "field=conv3p1_conv4s2p2d2" in control("Dilation", "ArrowRight")
    page.get_by_role("radio", name="convolution", exact=True).focus()
    press("ArrowRight")
    until(page, "location.hash.includes('field=conv3p1_pool4s2p2d2&')")
    page.get_by_role("button", name="Repeat layer 2").focus()
    press("Enter")
    until(page, "location.hash.includes('field=conv3p1_pool4s2p2d2_pool4s2p2d2&')")
    page.get_by_role("button", name="Remove it").focus()
    press("Enter")
    until(page, "location.hash.includes('field=conv3p1_pool4s2p2d2&')")
    assert "field.size=9" in control("Size of x", "ArrowRight")
    assert "alexnet" not in control("Example", "A")
    assert page.get_by_label("Example", exact=True).input_value() == "alexnet"
    page.get_by_role("button", name="Back to the first example").focus()
    press("Enter")
    until(page, "location.hash === '#v=1&view=field'")


HOSTILE = {
    "field=conv3_": "field is",
    "field=" + "_".join(["conv3"] * 9): "field is",
    "field=" + "conv3_" * 9000: "field is",
    "field=conv0": "field is",
    "field=conv12": "field is",
    "field=conv3s5": "field is",
    "field=conv3p19": "field is",
    "field=conv3d0": "field is",
    "field=conv3d1p1": "field is",
    "field=__proto__": "field is",
    "field=<img src=x onerror=alert(1)>": "field is",
    "field.size=0": "field.size is",
    "field.size=257": "field.size is",
    "field.size=1e1": "field.size is",
    "pin=y.8.0": "no such cell",
    "pin=y.0": "no such cell",
    "pin=x.0.0": "no such cell",
}
REFUSED = {
    "field=conv3_conv7d2&field.size=12": "The window of layer 2 spans 13 pixels, but the padded map that it reads has 10",
    "field=pool2s2p2": "Layer 1 is a pooling with padding 2: make it at most 1",
    "field=" + "_".join(["conv11p5"] * 8): "too many paths to be counted exactly",
    "field=" + "_".join(["conv3s3p18"] * 6): "at most 1024 are drawn",
}


@pytest.mark.slow
def test_hostile_addresses_and_nets_without_an_output_are_refused_in_words(opened):
    page = opened("#v=1&view=field")
    for fragment, words in HOSTILE.items():
        page.evaluate("fragment => { location.hash = fragment }", f"#v=1&view=field&{fragment}")
        page.wait_for_timeout(20)
        assert words in page.locator("[role=alert]").inner_text(), fragment
        assert page.locator(".map.output").count() == 1
    for fragment, words in REFUSED.items():
        page.evaluate("fragment => { location.hash = fragment }", f"#v=1&view=field&{fragment}")
        page.wait_for_timeout(20)
        assert words in page.locator(".main .refusal").inner_text(), fragment
        assert page.locator(".controls").count() == 1
    assert not violations(page)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_keeps_anyone_out(opened, width):
    page = opened("#v=1&view=field&pin=y.0.0", width=width)
    check_open_to_everyone(page)


def test_the_figure_is_saved_as_svg(opened):
    page = opened("#v=1&view=field")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as SVG").first.click()
    root = ET.fromstring(download.value.path().read_text())  # noqa: S314 - our own file
    images = [element.get("href") for element in root.iter("{http://www.w3.org/2000/svg}image")]
    assert len(images) == 3
    assert all(image.startswith("data:image/png;base64,") for image in images)
    fills = {element.get("fill") for element in root.iter() if element.get("fill")}
    assert not any("var(" in fill for fill in fills)
