"""The pages of docs/how: each with its picture, a block that asserts, and its links; the pictures are small and repeat."""

import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from docs import pictures

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "how").glob("*.md"))
NAMES = [page.stem for page in PAGES]
LARGEST_BYTES = 60_000


def test_there_are_few_pages_with_a_picture_each():
    assert len(PAGES) <= 14
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


@pytest.mark.slow
def test_the_pictures_are_small_and_drawn_anew_are_equal(tmp_path):
    once, again = (tmp_path / name for name in ("once", "again"))
    for folder in (once, again):
        folder.mkdir()
        pictures.draw(folder)
    for path in sorted(once.iterdir()):
        drawn = path.read_bytes()
        assert drawn == (again / path.name).read_bytes()
        for found in (drawn, (pictures.IMAGES / path.name).read_bytes()):
            assert len(found) < LARGEST_BYTES, path.name
            assert b"<image" not in found, "a picture made of pixels"
            assert re.search(rb"<date>|matplotlib\.org", found) is None
