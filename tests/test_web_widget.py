"""Live figures in a browser: addresses that Python writes, two widgets on one page, and saved reports."""

import json
from base64 import b64encode

import numpy as np
import pytest
import torch

import convolith as cl
from convolith.cli.cost.html_page import cost_page
from convolith.cli.fold import _page
from convolith.report.html_page import Section, page
from convolith.web import STATIC
from convolith.widget.addresses import cost_address, fold_address, look_address
from convolith.widget.frames import explorer_frame, explorer_page
from tests.web_browser import NEEDS_BROWSER, until, violations

pytestmark = NEEDS_BROWSER

RNG = np.random.default_rng(1)


def shown(page, address):
    page.evaluate("fragment => { location.hash = fragment }", address)
    page.wait_for_timeout(30)
    assert page.locator(".problems").count() == 0, page.locator(".problems").inner_text()
    return page


LAYERS = {
    "at all bounds": (
        (1, 16, 16), (6, 1, 7, 7), {"stride": 4, "padding": 12, "dilation": 4, "padding_mode": "symmetric"}
    ),
    "one axis": ((6, 32), (6, 6, 7), {"padding": ((12, 3),), "dilation": 4, "padding_mode": "circular"}),
    "groups": ((6, 5, 7), (6, 1, 2, 3), {"groups": 6, "padding": "full"}),
    "uneven": ((2, 9, 8), (3, 2, 3, 2), {"stride": (2, 1), "padding": "same"}),
}  # fmt: skip


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("name", LAYERS)
def test_the_page_shows_the_layer_that_python_wrote(opened, name):
    x_shape, k_shape, options = LAYERS[name]
    x, k, bias = RNG.normal(size=x_shape), RNG.normal(size=k_shape), RNG.normal(size=k_shape[0])
    shown_page = shown(opened(), look_address(x, k, bias, **options))
    written = np.array(json.loads(shown_page.locator("#output-text").text_content()))
    np.testing.assert_allclose(written, cl.correlate(x, k, bias, **options), rtol=0, atol=1e-12)


def test_the_page_shows_a_transposed_layer_that_python_wrote(opened):
    conv = cl.Conv(RNG.normal(size=(2, 3, 3, 2)), stride=4, transposed=True, output_padding=3)
    x = RNG.normal(size=(2, 4, 3))
    written = json.loads(shown(opened(), look_address(x, conv)).locator("#output-text").text_content())
    np.testing.assert_allclose(np.array(written), conv(x), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_the_page_shows_the_folds_and_costs_that_python_wrote(opened):
    page = opened()
    first = cl.Conv(RNG.normal(size=(3, 1, 5, 5)), RNG.normal(size=3), stride=3, padding=6, dilation=3, groups=3)
    second = cl.Conv(RNG.normal(size=(3, 3, 2, 2)), padding=1)
    x = RNG.normal(size=(3, 10, 10))
    kernel, _ = json.loads(shown(page, fold_address(first, second, x=x)).locator("#output-text").text_content())
    np.testing.assert_allclose(
        np.array(kernel), cl.compose(first, second).conv.weight * np.ones((3, 3, 1, 1)), atol=1e-12
    )
    shown(page, fold_address(np.ones((2, 2, 3, 3)), np.ones((2, 2, 3, 3)), arrangement="branches", skip=True))
    options = {"padding": 1024, "stride": 16, "dilation": 64, "padding_mode": "reflect", "bias": True}
    spec = cl.ConvSpec(
        batch=1024, in_channels=2048, out_channels=2048, size=(4096, 4096), kernel_size=63, dtype="float16", **options
    )
    shown(page, cost_address(spec, convention="effective", input_gradient=False))
    small = cl.ConvSpec(in_channels=3, out_channels=5, size=(9, 8), kernel_size=(3, 2), padding=((1, 0), (2, 1)))
    multiplications = f"{cl.cost(small).forward.multiplications:,}"
    assert multiplications in shown(page, cost_address(small)).locator("main").inner_text()


HOST = """
([code, pages]) => import("data:text/javascript;base64," + code).then((module) => {
  window.models = pages.map(([page, address]) => {
    const traits = {page, address, title: "A figure", height: 600}, calls = [], el = document.createElement("div");
    const model = {
      get: (name) => traits[name], set: (name, value) => { traits[name] = value; }, save_changes: () => { traits.saved = true; },
      on: (event, call) => calls.push(call), off: (event, call) => calls.splice(calls.indexOf(call), 1),
    };
    document.body.append(el);
    return {traits, calls, change: (address) => { traits.address = address; calls.forEach((call) => call()); },
            end: module.default.render({model, el})};
  });
})
"""


def test_two_widgets_on_one_page_share_nothing(browser):
    wrong = []
    context = browser.new_context(viewport={"width": 1000, "height": 1300})
    host = context.new_page()
    host.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
    host.on("pageerror", lambda error: wrong.append(str(error)))
    host.on("request", lambda request: request.url.startswith("data:") or wrong.append(request.url))
    text = explorer_page().text
    addresses = [look_address(np.ones((1, 3, 3)), np.full((1, 1, 2, 2), n)) for n in (1, 5)]
    code = b64encode((STATIC / "widget.js").read_bytes()).decode()
    host.evaluate(HOST, [code, [[text, address] for address in addresses]])
    frames = [host.frame_locator("iframe").nth(n) for n in range(2)]
    outputs = [frame.locator('[data-panel^="y."] [role=gridcell]') for frame in frames]
    for output, value in zip(outputs, ("4", "20"), strict=True):
        output.filter(has_text=value).last.wait_for()
        assert set(output.all_text_contents()) == {value}
    frames[0].get_by_label("Stride").first.press("ArrowRight")  # in the figure: Python's address follows
    until(host, "models[0].traits.saved === true && models[0].traits.address.includes('stride=2x2')")
    assert host.evaluate("models[1].traits.saved") is None
    assert outputs[1].count() == 4
    host.evaluate("models[1].change('#v=1&view=fold')")  # from Python: the figure follows
    frames[1].locator('[data-panel^="w1"]').first.wait_for()
    frames[1].get_by_role("button", name="Quiz").click()
    frames[1].get_by_role("link", name="The two kernels in Fold").click()  # a link inside a frame without an address
    frames[1].locator('[data-panel^="w1"]').first.wait_for()
    assert outputs[0].count() == 1
    until(host, "models[1].traits.address.includes('view=fold')")
    host.evaluate("models[1].change('#v=7')")
    assert "version 7" in frames[1].locator("[role=alert] li").first.inner_text()
    host.evaluate("models.forEach((model) => model.end())")
    assert host.locator("iframe").count() == 0
    assert host.evaluate("models.map((model) => model.calls.length)") == [0, 0]
    context.close()
    assert not wrong


NO_WIDTH_YET = """<head><script>
const width = Object.getOwnPropertyDescriptor(window, "innerWidth").get;
let reads = 0;
Object.defineProperty(window, "innerWidth", { get: () => (++reads > 3 ? width.call(window) : 0) });
</script>"""
"""A window that has no width while it is first measured, as a frame of a busy browser: no event says that it has one."""


def test_a_frame_without_a_width_at_first_is_drawn_at_its_own(browser):
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    host = context.new_page()
    text = explorer_page().text.replace("<head>", NO_WIDTH_YET)
    code = b64encode((STATIC / "widget.js").read_bytes()).decode()
    address = look_address(np.ones((1, 3, 3)), np.ones((1, 1, 2, 2)))
    host.evaluate(HOST, [code, [[text, address]]])
    cells = host.frame_locator("iframe").locator('[data-panel^="y."] [role=gridcell]')
    cells.filter(has_text="4").last.wait_for(timeout=5000)  # cells that are too small have no numbers
    context.close()


def net():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.Conv2d(16, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 4, 1),
    ).eval()


def fold_report():
    model = net()
    report = cl.fold(model, torch.randn(1, 3, 12, 12), force=True).report
    return _page("models:net", ((1, 3, 12, 12),), model, report)


def cost_report():
    return cost_page(cl.cost(net(), input_shape=(1, 3, 12, 12)), "models:net", ())


def saved_figure():
    frame = explorer_frame(look_address(np.ones((1, 3, 3)), np.ones((1, 1, 2, 2))), "A layer, cell by cell", 600)
    return page("A convolution layer", "", [Section("", frame=frame)])


REPORTS = {
    "fold": (fold_report, "k[0,0,2,2] ="),
    "cost": (cost_report, "forward multiplications"),
    "figure": (saved_figure, "y[0,0,0] = 4"),
}


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("name", ["figure", "fold", "cost"])
def test_a_saved_page_is_live_and_sends_nothing(browser, tmp_path, name):
    make, words = REPORTS[name]
    file = tmp_path / "report.html"
    file.write_text(make())
    assert file.stat().st_size < 400_000
    wrong = []
    for width in (1280, 375):
        context = browser.new_context(viewport={"width": width, "height": 900})
        shown_page = context.new_page()
        shown_page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
        shown_page.on("pageerror", lambda error: wrong.append(str(error)))
        shown_page.on("request", lambda request: request.url == file.as_uri() or wrong.append(request.url))
        shown_page.goto(file.as_uri())
        inside = shown_page.frame_locator("iframe")
        inside.locator("main h2").first.wait_for()
        assert words in inside.locator("main").inner_text()
        assert inside.locator("[role=alert] li").count() == 0
        shown_page.locator("iframe").scroll_into_view_if_needed()
        assert not violations(shown_page)
        assert shown_page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        context.close()
    assert not wrong
