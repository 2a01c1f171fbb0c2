"""The tour: every lesson's values, its printed Python, and the page with its pictures."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from convolith.cli.tour.lessons import LESSONS
from convolith.cli.tour.run import code, photograph
from tests.test_cli import run


@pytest.fixture(scope="module")
def lessons() -> dict:
    return json.loads(run("tour", "--json").output)


def test_the_values_of_the_chapter(lessons):
    assert lessons["Several input channels"]["Y"] == [[56, 72], [104, 120]]
    assert lessons["Several output channels"]["Y[2]"] == [[96, 128], [192, 224]]
    mixed = lessons["1x1: a matrix product"]
    assert 0 < mixed["slid - product"] < 1e-4
    assert mixed["engine that correlate chooses"] in ("pointwise", "direct")
    chain = lessons["Two kernels are one"]
    assert chain["in a row"] == chain["at once"] == [7, 7]
    assert chain["corr2d(K1, K2)"] == [11, 11]
    assert chain["difference"] < 1e-12
    assert chain["padded(x), difference"] < 1e-12 < chain["padded.conv alone, difference"]
    learned = lessons["A kernel is learned"]
    assert learned["random, last loss"] < 1e-6 * learned["random, first loss"]
    assert learned["photo, kernel off by (descent)"] > 0.1
    assert learned["photo, kernel off by (least squares)"] < 1e-9
    costs = lessons["What a layer costs"]
    assert (costs["channels x 2: products x"], costs["channels x 3: products x"]) == (4, 9)
    assert costs["forward multiplications"] == 115_605_504


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:gd has not converged")  # which a lesson shows
def test_what_is_printed_is_what_runs():
    """The shown Python, run by itself, makes the names that the values are taken from."""
    import convolith as cl
    from convolith import d2l

    for lesson in LESSONS:
        names = {"photo": photograph(), "np": np, "cl": cl, "d2l": d2l}
        exec(compile(code(lesson), lesson.heading, "exec"), names)  # noqa: S102 - the tour's own code
        assert len(names) > 4, lesson.heading


@pytest.mark.slow
def test_the_text_shows_every_lesson():
    shown = run("tour").output
    assert "convolith tour --html tour.html" in shown
    for number, lesson in enumerate(LESSONS, start=1):
        assert f"{number}. {lesson.heading}" in shown
        assert code(lesson) in shown


class Page(HTMLParser):
    """Collects what a page refers to, and checks that its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.sources, self.open, self.headings = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        self.headings += tag == "h2"
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.slow
def test_the_page_is_whole_and_fetches_nothing(tmp_path):
    run("tour", "--html", tmp_path / "tour.html")
    text = (tmp_path / "tour.html").read_text()
    page = Page()
    page.feed(text)
    assert not page.open
    assert page.headings == len(LESSONS)
    assert len(page.sources) == 4
    assert all(re.match(r"data:image/(png|svg\+xml);base64,", source) for source in page.sources)
    assert "&lt;" in text or "<script" not in text
