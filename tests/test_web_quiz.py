"""The view "Quiz": the exercises with drawn numbers; answers are the library's, predictions are judged and counted."""

import re

import pytest

from tests.web_browser import NEEDS_BROWSER, run, until, violations

pytestmark = NEEDS_BROWSER

EXERCISES = range(1, 9)
OUT_OF_REACH = "9" * 12


def at(exercise, seed=1):
    return f"#v=1&view=quiz&quiz={exercise}&quiz.seed={seed}"


def go(page, fragment):
    page.evaluate("fragment => { location.hash = fragment }", fragment)
    page.wait_for_timeout(30)
    assert page.locator(".problems").count() == 0, page.locator(".problems").inner_text()


def reveal_all(page):
    """Reveal every answer, and return them as the page writes them."""
    while (buttons := page.get_by_role("button", name="Reveal", exact=True)).count():
        buttons.first.click()
    return page.locator(".answer").all_text_contents()


def plain(text):
    return text.replace(",", "").replace("−", "-")


def agree(shown, value):
    """Whether an answer as it is shown is a value of the library, up to the digits that are shown."""
    if isinstance(value, str):
        return shown == value
    digits = len(plain(shown).partition(".")[2])
    return abs(float(plain(shown)) - value) <= (0.5001 * 10**-digits if digits else 0)


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("exercise", EXERCISES)
def test_the_answers_are_the_librarys(opened, exercise):
    page = opened(at(exercise))
    for seed in range(1, 9):
        go(page, at(exercise, seed))
        shown, printed = reveal_all(page), run(page.locator(".code pre").text_content())
        assert len(shown) == len(printed) >= 2
        assert all(map(agree, shown, printed)), (exercise, seed, shown, printed)
        assert all(len(text) > 40 for text in page.locator(".verdict + p").all_text_contents())


def test_predictions_are_judged_and_counted(opened):
    page = opened(at(1))
    kernel = page.get_by_label("How many rows")
    right = plain(str(run(page.locator(".code pre").text_content())[0]))
    kernel.fill("many")
    kernel.press("Enter")
    assert "is no number" in page.locator(".question .refusal").inner_text()
    assert "No predictions yet" in page.locator(".controls").inner_text()
    kernel.fill(f"{2 * int(right)}/2")
    kernel.press("Enter")
    assert "Right: " in page.locator(".verdict").inner_text()
    assert "1 of 1 prediction right" in page.locator(".controls").inner_text()
    kernel.press("Enter")  # a second time counts nothing
    assert "1 of 1 prediction right" in page.locator(".controls").inner_text()
    page.get_by_role("button", name="Other numbers").click()
    until(page, "location.hash.includes('quiz.seed=2')")
    assert page.locator(".verdict").count() == 0
    page.get_by_label("How many rows").fill(OUT_OF_REACH)
    page.get_by_role("button", name="Reveal", exact=True).first.click()
    assert "Not quite: " in page.locator(".verdict").inner_text()
    page.get_by_role("button", name="Reveal", exact=True).first.click()
    assert "1 of 2 predictions right. 1 revealed without one." in page.locator(".controls").inner_text()
    go(page, at(1))  # predictions stay with their numbers
    assert page.get_by_label("How many rows").input_value() == f"{2 * int(right)}/2"
    page.get_by_role("button", name="Start again").click()
    assert page.locator(".verdict").count() == 0
    assert "No predictions yet" in page.locator(".controls").inner_text()
    assert page.evaluate("Object.keys(localStorage).filter(key => key !== 'convolith-theme').length") == 0


@pytest.mark.slow
def test_every_action_has_a_key(opened):
    page = opened(at(4))
    page.get_by_role("button", name="Exercise 1: Two kernels in a row").focus()
    page.keyboard.press("Enter")
    until(page, "!location.hash.includes('quiz=')")
    for _ in range(8):
        page.keyboard.press("Tab")  # past the other exercises and the matrix
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.placeholder") == "your prediction"
    page.keyboard.type("1")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator(".verdict").count() == 1
    page.keyboard.press("Tab")
    page.keyboard.press(" ")  # the first option
    page.keyboard.press("ArrowRight")
    assert page.locator("input:checked[value=no]").count() == 1
    page.keyboard.press("Enter")
    assert page.locator(".verdict").count() == 2
    page.keyboard.press("ArrowLeft")  # a revealed prediction stays
    assert page.locator("input:checked[value=no]").count() == 1
    link = "The two kernels in Fold"
    for _ in range(4):
        if page.evaluate("document.activeElement.textContent") != link:
            page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == link
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('view=fold')")
    page.go_back()
    until(page, "location.hash.includes('view=quiz')")
    assert page.locator(".verdict").count() == 2
    page.get_by_role("button", name="Other numbers").focus()
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('quiz.seed=2')")


@pytest.mark.slow
def test_links_lead_to_what_they_say(opened):
    page = opened(at(1))
    for exercise in EXERCISES:
        for seed in (exercise, 9 - exercise):
            go(page, at(exercise, seed))
            addresses = [link.get_attribute("href") for link in page.locator("main a").all()]
            assert addresses
            for number, address in enumerate(addresses):
                go(page, address)
                page.wait_for_selector("main .view:not(.quiz)")
                go(page, at(exercise, seed))
                page.locator("main a").nth(number).click()  # the address follows by itself
                page.wait_for_selector("main .view:not(.quiz)")
                until(page, f"location.hash === {address!r}")
                page.get_by_role("button", name="Quiz").click()
                until(
                    page, f"location.hash.includes('view=quiz') && !{exercise - 1} === !location.hash.includes('quiz=')"
                )


def test_the_counts_of_the_links_are_the_answers(opened):
    page = opened(at(2, 5))
    answers = reveal_all(page)
    for link, known in (("Every term in Cost", answers), ("This layer’s counts in Backward", answers[:2])):
        page.get_by_role("link", name=link).click()
        page.wait_for_selector("main .view:not(.quiz)")
        text = page.locator("main").inner_text()
        assert all(re.search(rf"(?<![\d,]){answer}(?![\d,])", text) for answer in known), link
        page.go_back()
        page.wait_for_selector("main .quiz")


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("exercise", [5, *(n for n in EXERCISES if n != 5)])
@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_keeps_anyone_out(opened, exercise, width):
    page = opened(at(exercise), width=width)
    page.get_by_placeholder("your prediction").first.fill("x")
    page.get_by_role("button", name="Reveal", exact=True).first.click()
    page.get_by_placeholder("your prediction").first.fill(OUT_OF_REACH)
    page.locator("summary").click()
    reveal_all(page)
    assert not violations(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


HOSTILE = {
    "&quiz=0": "quiz is",
    "&quiz=9": "quiz is",
    "&quiz=__proto__": "quiz is",
    "&quiz=1x2": "quiz is",
    "&quiz.seed=0": "quiz.seed is",
    "&quiz.seed=1000000": "quiz.seed is",
    "&quiz.seed=-1": "quiz.seed is",
    "&quiz.seed=1e3": "quiz.seed is",
    "&quiz.seed=": "quiz.seed is",
    "&quiz.other=1": "belongs to nothing",
    "&pin=y.0.0.0": "no such cell",
}


def test_hostile_addresses_are_refused_in_words(opened):
    page = opened()
    for fragment, words in HOSTILE.items():
        page.evaluate("fragment => { location.hash = fragment }", f"#v=1&view=quiz{fragment}")
        page.locator("[role=alert]").filter(has_text=words).wait_for()
        page.locator(".question").nth(1).wait_for()
