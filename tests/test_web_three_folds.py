"""Three convolutions in the explorer's view of folds: numbers, sums written out, keyboard, accessibility, addresses."""

import ast
import contextlib
import io
import json

import numpy as np
import pytest

from tests.web_browser import NEEDS_BROWSER, check_open_to_everyone, until

pytestmark = NEEDS_BROWSER

ROWS = [
    "",
    "&fold.b1=count&fold.b2=ones&fold.b3=count&fold.channels=2x3x1x2&fold.k1=random.4&fold.k2=random.5&fold.k3=random.6",
    "&fold.relu=1&fold.k1=random.4&fold.stride1=2&fold.dilation2=2&fold.size=10&fold.padding2=2&fold.kernel3=2&fold.b2=ones",
    "&fold.mode=circular&fold.k3=random.1&fold.size=8&fold.stride2=2&fold.kernel3=1&fold.padding3=0",
    "&fold.padding1=0&fold.padding2=0&fold.padding3=0&fold.size=9&fold.k2=random.2",
]
BRANCHES = [
    "&fold=branches&fold.skip=1&fold.channels=3x1x1x3&fold.kernel2=1&fold.padding2=0&fold.b1=ones&fold.k3=random.7",
    "&fold=branches&fold.stride1=2&fold.stride2=2&fold.stride3=2&fold.kernel3=5&fold.padding3=4&fold.dilation3=2&fold.b3=count",
]


def flat(value):
    return [float(n) for part in value for n in flat(part)] if isinstance(value, list) else [value]


def shown(page, fragment):
    page.evaluate("fragment => { location.hash = fragment }", f"#v=1&view=fold&fold.blocks=3{fragment}")
    page.wait_for_timeout(20)
    assert page.locator(".problems").count() == 0, page.locator(".problems").inner_text()
    return [flat(numbers) for numbers in json.loads(page.locator("#output-text").text_content())]


def run(code):
    """Run code that a reader copies, and return what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "copied", "exec"), {})  # noqa: S102 - the page's own code
    return ast.literal_eval(out.getvalue())


@pytest.mark.slow
def test_the_code_of_three_prints_the_pages_numbers(opened):
    page = opened("#v=1&view=fold")
    for fragment in ROWS + BRANCHES:
        kernel, difference = shown(page, fragment)
        weight, error = map(flat, run(page.locator(".code pre").text_content()))
        scale = 1e-12 * max(1.0, np.abs(weight).max(), np.abs(error).max())
        np.testing.assert_allclose(kernel, weight, rtol=0, atol=scale)
        np.testing.assert_allclose(difference, np.where(np.abs(error) < 1e-10, 0, error), rtol=0, atol=1e3 * scale)
        relu = "ReLU" in page.locator("section[aria-label='What folding does'] h2").inner_text()
        exact = page.locator("section[aria-label='What folding does'] h2").inner_text() == "Exact everywhere"
        assert relu == ("relu" in fragment)
        assert not (exact and np.any(difference))


def numbers(texts):
    return [float(text.replace("= ", "").replace("−", "-").strip("()")) for text in texts]


@pytest.mark.slow
def test_every_sum_of_three_adds_up(opened):
    page = opened("#v=1&view=fold")
    sums = set()
    for fragment in ROWS + BRANCHES[:1]:
        shown(page, fragment)
        for grid in ("v", "w", "bv", "b", "h", "h2", "e", "y", "z"):
            cells = page.locator(f'[data-panel^="{grid}."] [role=gridcell]')
            for place in range(0, cells.count(), max(1, cells.count() // 4)):
                cells.nth(place).dispatch_event("pointerover")
                panel = page.locator(".sum")
                parts = numbers(panel.locator(".subtotal").all_text_contents())
                if not parts:
                    continue
                sums.add(grid)
                added = panel.locator(".total .note")
                if added.count():
                    parts.append(
                        numbers([panel.locator(".total > span").last.inner_text().split(" = ")[0].split(" + ")[-1]])[0]
                    )
                (value,) = numbers(panel.locator("h2 strong").all_text_contents())
                assert abs(sum(parts) - value) < 1e-5 * (1 + sum(map(abs, parts))), (fragment, grid, place)
    assert sums == {"v", "w", "bv", "b", "h", "h2", "e", "y", "z"}


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("fragment", [ROWS[1], ROWS[2], BRANCHES[0]])
def test_every_cell_of_three_is_explained(opened, fragment):
    page = opened(f"#v=1&view=fold&fold.blocks=3{fragment}")
    kinds = page.evaluate(
        "[...new Set([...document.querySelectorAll('[data-panel]')].map((e) => e.dataset.panel.split('.')[0]))]"
    )
    assert {"w1", "w2", "w3", "w", "y", "z", "e"} <= set(kinds)
    for kind in kinds:
        cells = page.locator(f'[data-panel^="{kind}."] [role=gridcell]')
        cells.nth(cells.count() // 2).dispatch_event("pointerover")
        assert "undefined" not in page.locator(".sum").inner_text()
        assert "NaN" not in page.locator(".sum").inner_text()
        assert page.locator(".sum .about").inner_text()


def test_the_third_comes_and_goes_by_key(opened):
    page = opened("#v=1&view=fold&fold.channels=2x3x1")
    page.get_by_role("radio", name="two", exact=True).focus()
    page.keyboard.press("ArrowRight")
    until(page, "location.hash.includes('fold.blocks=3&fold.channels=2x3x3x1')")
    for name, keys, expected in (
        ("Kernel, third", ["ArrowRight"], "fold.kernel3=4"),
        ("Bias, third", [" "], "fold.b3=ones"),
        ("Hidden 2", ["ArrowLeft"], "fold.channels=2x3x2x1"),
        ("ReLUs between them", [" "], "fold.relu=1"),
    ):
        page.get_by_label(name, exact=True).focus()
        for key in keys:
            page.keyboard.press(key)
        until(page, f"location.hash.includes('{expected}')")
    page.locator('[data-panel="w3.0,0"] [tabindex="0"]').focus()
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('fold.k3=5_')")
    page.get_by_role("radio", name="three", exact=True).focus()
    page.keyboard.press("ArrowLeft")
    until(page, "location.hash === '#v=1&view=fold&fold.channels=2x3x1&fold.relu=1'")


@pytest.mark.slow
@pytest.mark.parametrize("width", [375, 1280])
def test_three_keep_nobody_out(opened, width):
    page = opened("#v=1&view=fold&fold.blocks=3&fold.b1=ones&fold.size=4&pin=v.0.0.1.1", width=width)
    check_open_to_everyone(page)


def test_hostile_addresses_of_three_are_refused_in_words(opened):
    page = opened("#v=1&view=fold")
    for fragment, words in {
        "fold.blocks=4": "fold.blocks is",
        "fold.blocks=1": "fold.blocks is",
        "fold.kernel3=3": "belongs to nothing",
        "fold.blocks=3&fold.channels=1x1x1": "fold.channels is",
        "fold.channels=1x1x1x1": "fold.channels is",
        "fold.blocks=3&fold.kernel3=9": "fold.kernel3 is",
        "pin=v.0.0.0.0": "no such cell",
    }.items():
        page.evaluate("fragment => { location.hash = fragment }", f"#v=1&view=fold&{fragment}")
        page.wait_for_timeout(20)
        assert words in page.locator("[role=alert]").inner_text(), fragment
        assert page.locator("main [role=gridcell]").count() > 50
    sizes = "".join(f"&fold.kernel{n}=5&fold.dilation{n}={d}&fold.padding{n}=6" for n, d in ((1, 3), (2, 2), (3, 3)))
    large = f"#v=1&view=fold&fold.blocks=3&fold.size=10&fold.channels=3x1x1x3{sizes}"
    page.evaluate("fragment => { location.hash = fragment }", large)
    until(page, "document.querySelector('.main .refusal') !== null")
    assert (
        "The folded kernel would have 9801 elements; at most 6000 are drawn"
        in page.locator(".main .refusal").inner_text()
    )
