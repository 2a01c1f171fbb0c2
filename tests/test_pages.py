"""The pages keep their own promises: one name for each guide, a glossary in order, Python blocks that run."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}


def test_links_to_a_guide_have_its_title():
    titles = {
        name: text.splitlines()[0].removeprefix("# ") for name, text in PAGES.items() if name.startswith("guide/")
    }
    linked = [
        (page, " ".join(words.split()), target)
        for page, text in PAGES.items()
        for words, target in re.findall(r"\[\**([^]`]+?)\**\]\([./]*(guide/\w+\.md)\)", text)
    ]
    assert {target for _, _, target in linked} == set(titles)
    assert [link for link in linked if link[1] != titles[link[2]]] == []


def test_the_glossary_is_in_alphabetical_order():
    words = re.findall(r"^- \*\*(.+?)\*\*", PAGES["glossary.md"], re.MULTILINE)
    assert len(words) > 50
    assert words == sorted(set(words), key=str.lower)


def test_python_blocks_are_blocks_that_run():
    """Sybil and the site run blocks that are marked as `python`; under another mark they would be text."""
    marks = {(page, mark) for page, text in PAGES.items() for mark in re.findall(r"^```(\S+)", text, re.MULTILINE)}
    assert [one for one in sorted(marks) if one[1] not in ("python", "sh", "text", "{eval-rst}")] == []
