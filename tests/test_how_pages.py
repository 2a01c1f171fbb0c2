"""The pages of docs/how: each with its picture, a block that asserts, and its links; the pictures are small and repeat."""

import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from convolith.jit.target import widths
from docs import pictures

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "how").glob("*.md"))
NAMES = [page.stem for page in PAGES]
LARGEST_BYTES = 60_000


def test_each_page_has_a_picture():
    assert set(NAMES) == set(pictures.PICTURES)
    assert {path.stem for path in pictures.IMAGES.glob("how-*.svg")} == {f"how-{name}" for name in NAMES}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_is_short_and_shows_what_it_says(page):
    text = page.read_text()
    assert 50 <= len(text.splitlines()) <= 120
    (alt,) = re.findall(rf"!\[([^\]]+)\]\(\.\./images/how-{page.stem}\.svg\)", text)
    assert len(alt) > 60
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    assert any("assert" in block for block in blocks)
    assert any("print" in block for block in blocks)
    assert "(../performance.md" in text
    assert "(../accuracy.md" in text
    assert "$" not in text, "the site loads no MathJax"
    if page.stem != "index":
        assert "(../../src/convolith/" in text
        assert "## Sources" in text
        assert f"({page.name})" in (page.parent / "index.md").read_text()


def contents(picture):
    """The texts of a picture, in their order, and the number of its paths."""
    drawn = picture.read_text()
    return re.findall(r"<text\b[^>]*>(.*?)</text>", drawn, re.DOTALL), drawn.count("<path ")


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("name", ["planner", *(name for name in NAMES if name != "planner")])
def test_a_picture_is_small_and_the_one_that_its_program_draws(name, tmp_path):
    if name == "planner" and "avx2" not in widths():
        pytest.skip("its estimates are those of 256-bit vectors")
    drawn = []
    for folder in (tmp_path / "once", tmp_path / "again"):
        folder.mkdir()
        pictures.draw(folder, [name])
        drawn.append(folder / f"how-{name}.svg")
    kept = pictures.IMAGES / f"how-{name}.svg"
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
    assert contents(kept) == contents(drawn[0])
    for path in (kept, drawn[0]):
        assert path.stat().st_size < LARGEST_BYTES
        assert b"<image" not in path.read_bytes(), "a picture made of pixels"
        assert re.search(rb"<date>|matplotlib\.org", path.read_bytes()) is None
