"""The view "Network" in a browser with a real server: numbers, tree, folds, memory, cancel, and models that raise."""

import ast
import contextlib
import io
import json
import shlex
import time
from contextlib import suppress

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from convolith.cli import main
from tests.web_browser import NEEDS_BROWSER, check_open_to_everyone, record_streams, streamed, until, violations
from tests.web_page import TOKEN, named, served
from tests.web_page import until as wait_until

pytestmark = NEEDS_BROWSER
SMALL = "net.inputs=1x3x16x16"
DONE = "document.querySelector('.run [role=status]')?.textContent === 'Done.'"


class Block(nn.Module):
    """Two convolutions in a row, two branches that are added, two that do not pay as one, and a norm after a ReLU."""

    def __init__(self):
        super().__init__()
        self.row = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))
        self.branches = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)])
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    def forward(self, x):
        y = torch.relu(self.row(x))
        y = self.deep(torch.relu(self.branches[0](y) + self.branches[1](y)))
        return self.head(self.norm(torch.relu(y)))


def block():
    torch.manual_seed(0)
    return Block()


class Raises(nn.Module):
    """A model whose forward pass raises."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        raise ValueError("the cat sat on the mat")


def raises():
    return Raises()


def stubborn():
    while True:
        with suppress(BaseException):
            time.sleep(1000)


@pytest.fixture(scope="module")
def server():
    with served(block, "tests.test_web_network:block") as client:
        yield client


@pytest.fixture
def network(opened, server):
    """Open the view at a state; `to` is another server."""

    def open_view(state=SMALL, to=None, **options):
        address = f"http://127.0.0.1:{(to or server).port}/"
        return opened(f"#t={TOKEN}&v=1&view=network&{state}", address=address, **options)

    return open_view


def examined(page):
    """Examine the model, and return the events that came."""
    record_streams(page)
    page.get_by_role("button", name="Examine").click()
    until_done(page)
    return streamed(page, "/api/network")


def until_done(page):
    for _ in range(20):
        with suppress(AssertionError):
            return until(page, DONE)
    raise AssertionError(page.locator(".run").inner_text())


def run(code):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "copied", "exec"), {})  # noqa: S102 - the page's own code
    return ast.literal_eval(out.getvalue())


def test_the_numbers_are_those_of_the_events(network):
    page = network(f"{SMALL}&net.depth=9&net.memory=1000000")
    found = examined(page)
    cost, peak, fold = (named(found, name)[0] for name in ("cost", "peak", "fold"))
    rows = page.locator("[data-row]")
    assert rows.count() == len(cost["modules"])
    for place, module in enumerate(cost["modules"]):
        row = rows.nth(place)
        for name in ("multiplications", "additions"):
            assert row.locator(f"td.{name}").get_attribute("title") == f"{module['forward'][name]:,}"
        assert row.locator("td.parameters").get_attribute("title") == f"{module['parameters']:,}"
        assert row.get_attribute("aria-level") == str(module["depth"] + 1)
    moments = peak["moments"]
    held = [size for size, name in zip(moments["bytes"], moments["module"]) if name.startswith("row")]
    inside = rows.filter(has_text="row Sequential").locator("td.memory")
    assert inside.get_attribute("title") == f"{max(held):,}"
    assert page.locator("[data-peak]").get_attribute("data-peak") == str(peak["bytes"])
    assert peak["operator"] in page.locator("[data-peak]").inner_text()
    assert page.locator("[data-largest]").get_attribute("data-largest") == str(named(found, "batch")[0]["largest"])
    assert page.locator(".rewrites tbody tr").count() == len(fold["rewrites"]) > 0
    assert page.locator(".skipped tbody tr").count() == len(fold["skipped"]) > 0
    for skipped in fold["skipped"]:
        assert skipped["reason"] in page.locator(".skipped").inner_text()
    page.get_by_role("radio", name="backward").check(force=True)
    last = cost["modules"][-1]
    title = rows.nth(len(cost["modules"]) - 1).locator("td.multiplications").get_attribute("title")
    assert title == f"{last['backward']['multiplications']:,}"


def test_the_code_and_the_commands_print_the_pages_numbers(network):
    page = network(f"{SMALL}&net.train=1&net.optimizer=adam&net.memory=2000000")
    found = examined(page)
    numbers = json.loads(page.locator("#output-text").text_content())
    codes = page.locator(".code pre")
    assert run(codes.nth(0).text_content()) == numbers
    cost, fold = codes.nth(1).text_content().splitlines()
    counted = json.loads(CliRunner().invoke(main, shlex.split(cost)[1:], catch_exceptions=False).stdout)
    folded = json.loads(CliRunner().invoke(main, shlex.split(fold)[1:], catch_exceptions=False).stdout)
    assert [
        counted["forward"]["multiplications"],
        counted["forward"]["additions"],
        counted["parameters"],
        counted["peak"]["bytes"],
        counted["largest_batch"],
        folded["multiplications_before"],
        folded["multiplications_after"],
    ] == numbers
    assert counted["training"]
    assert named(found, "cost")[0]["training"]


def test_less_is_examined_where_less_is_wanted(network):
    page = network(f"{SMALL}&net.optimizer=none&net.fold=0")
    assert [event["event"] for event in examined(page)] == ["job", "started", "model", "cost", "done"]
    assert page.locator("[data-peak], .folds, [data-largest]").count() == 0
    assert "bytes moved" in page.locator(".tree thead").inner_text()
    assert run(page.locator(".code pre").nth(0).text_content()) == json.loads(
        page.locator("#output-text").text_content()
    )
    page.get_by_label("Find what folds").check()
    assert "The settings have changed" in page.locator(".run").inner_text()


def focused(page):
    return page.evaluate("document.activeElement.querySelector('.name')?.textContent")


def test_the_tree_by_key(network):
    page = network()
    page.get_by_role("button", name="Examine").focus()
    page.keyboard.press("Enter")
    until_done(page)
    page.locator('[data-row][tabindex="0"]').focus()
    assert focused(page) == "Block"
    for key, name in (
        ("ArrowDown", "row"),
        ("ArrowRight", "row"),
        ("ArrowRight", "0"),
        ("ArrowDown", "1"),
        ("ArrowLeft", "row"),
        ("ArrowLeft", "row"),
        ("ArrowDown", "branches"),
        ("Enter", "branches"),
        ("ArrowDown", "0"),
        ("Home", "Block"),
        ("End", "head"),
        ("ArrowLeft", "Block"),
        (" ", "Block"),
        ("ArrowDown", "Block"),
    ):
        page.keyboard.press(key)
        assert focused(page) == name, key
    assert page.locator("[data-row]").count() == 1
    assert page.locator('[data-row="0"]').get_attribute("aria-expanded") == "false"
    assert page.locator(".row-detail").get_attribute("data-module") == ""
    until(page, "location.hash.includes('net.toggled')")
    slider = page.get_by_label("Open to depth")
    slider.focus()
    page.keyboard.press("End")
    assert page.locator("[data-row]").count() == 16
    chart = page.get_by_label("Memory held while each operator of a training step runs: arrow keys", exact=False)
    chart.focus()
    page.keyboard.press("Home")
    assert "before the first operator" in page.locator(".chart .legend [role=status]").inner_text()
    page.keyboard.press("ArrowRight")
    assert "forward pass" in page.locator(".chart .legend [role=status]").inner_text()
    page.keyboard.press("End")
    assert "optimizer’s step" in page.locator(".chart .legend [role=status]").inner_text()


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_keeps_anyone_out(network, width):
    page = network(f"{SMALL}&net.depth=3", width=width)
    assert not violations(page)
    examined(page)
    check_open_to_everyone(page)


def test_without_a_model_the_page_says_how_to_name_one(opened_there):
    page = opened_there("view=network", width=375)
    page.wait_for_selector("text=convolith serve my_models:small", timeout=20_000)
    assert page.get_by_role("button", name="Examine").count() == 0
    assert not violations(page)


def test_shapes_and_memory_are_read_or_refused(network):
    page = network()
    field = page.get_by_label("Shape of each input")
    for text, words in (
        ("1 x 3 x 0 x 16", "is no shape"),
        ("one", "is no shape"),
        ("1 x 1 x 1 x 1 x 1 x 1", "6 axes"),
        ("1048576 x 1048576", "numbers together"),
        ("1\n" * 8 + "1", "at most 8"),
    ):
        field.fill(text)
        field.blur()
        assert words in page.locator(".controls").inner_text(), text
    field.fill("2, 3, 20, 20")
    field.blur()
    until(page, "location.hash.includes('net.inputs=2x3x20x20')")
    memory = page.get_by_label("Memory, GB")
    memory.fill("-1")
    memory.blur()
    assert "Expected a number" in page.locator(".controls").inner_text()
    memory.fill("0.5")
    memory.blur()
    until(page, "location.hash.includes('net.memory=500000000')")
    found = examined(page)
    assert page.locator("[data-largest]").get_attribute("data-largest") == str(named(found, "batch")[0]["largest"])


def test_inputs_that_do_not_fit_are_refused_in_words(network):
    page = network("net.inputs=1x4x16x16")
    page.get_by_role("button", name="Examine").click()
    page.wait_for_selector(".run .refusal:not(:empty)")
    assert "channels" in page.locator(".run .refusal").inner_text()


def test_a_model_that_raises_says_why(network):
    with served(raises, "tests.test_web_network:raises") as client:
        page = network(to=client)
        page.get_by_role("button", name="Examine").click()
        page.wait_for_selector(".run .refusal:not(:empty)", timeout=60_000)
        assert "the cat sat on the mat" in page.locator(".run .refusal").inner_text()
        assert page.get_by_role("button", name="Examine").is_enabled()


def test_cancel_and_a_closed_tab_free_the_slot(network):
    with served(stubborn, "tests.test_web_network:stubborn") as client:
        page = network(to=client)
        button = page.get_by_role("button", name="Examine")
        button.click()
        page.wait_for_selector("text=Computing")
        page.get_by_role("button", name="Cancel").click()
        page.wait_for_selector("text=Cancelled.")
        wait_until(lambda: client.get("/api/ping").json()["jobs"] == 0)
        button.click()
        page.wait_for_selector("text=Computing")
        page.close()
        wait_until(lambda: client.get("/api/ping").json()["jobs"] == 0)


HOSTILE = {
    "net.inputs=0x3": "net.inputs is",
    "net.inputs=99999999999x1": "net.inputs is",
    "net.optimizer=constructor": "net.optimizer is",
    "net.memory=-1": "net.memory is",
    "net.memory=1e99": "net.memory is",
    "net.optimizer=none&net.memory=5": "net.memory is",
    "net.depth=99": "net.depth is",
    "net.toggled=a.b": "net.toggled is",
    "net.pass=sideways": "net.pass is",
    "net.model=evil:model": "belongs to nothing",
}


def test_hostile_addresses_are_refused_in_words(network):
    page = network()
    for state, words in HOSTILE.items():
        page.evaluate("fragment => { location.hash = fragment }", f"#v=1&view=network&{state}")
        page.wait_for_timeout(30)
        assert words in page.locator(".problems").inner_text(), state
        assert page.get_by_role("button", name="Examine").count() == 1
