"""The documentation's site is whole: every public name and every page is in it; `python -m docs` in CI builds it."""

import re
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import pytest

import convolith as cl
from docs.links import dead_links

ROOT = Path(__file__).parents[1]
MODULES = ("big", "d2l", "kernels", "network", "nn", "widget")
REFERENCE = "".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))


def documented():
    return set(re.findall(r"^\.\. auto\w+:: convolith\.([\w.]+)$", REFERENCE, re.MULTILINE))


def public_names():
    """Public names, and those of the public modules; `cl.network` repeats names of the package."""
    yield from (name for name in cl.__all__ if name not in MODULES)
    for module in MODULES:
        home = getattr(cl, module)
        yield from (f"{module}.{name}" for name in home.__all__ if module != "network" or name not in cl.__all__)


def test_every_public_name_is_in_the_reference():
    assert sorted(set(public_names()) - documented()) == []
    for name in documented():
        home, _, last = f"convolith.{name}".rpartition(".")
        assert getattr(getattr(cl, home.removeprefix("convolith."), None) or import_module(home), last).__doc__, name


def test_every_page_is_in_the_tree():
    pages = pytest.importorskip("docs.pages", reason="docutils, of the extra docs, is not installed")
    entries = [re.sub(r".*<(.+)>", r"\1", entry) for children in pages.TREE.values() for entry in children]
    found = [path for folder in ("docs", "tutorials") for path in (ROOT / folder).rglob("*.md")]
    found += list((ROOT / "tutorials").glob("*.py"))
    names = [str(path.relative_to(ROOT).with_suffix("")) for path in found]
    assert [name for name in names if name != "docs/index" and not any(fnmatch(name, entry) for entry in entries)] == []
    assert [entry for entry in entries if "*" not in entry and not list(ROOT.glob(f"{entry}.*"))] == []


LISTS = ("docs/reference/index.md",)
"""Pages that only lead to others."""


def test_every_page_has_an_example_that_runs():
    for path in (ROOT / "docs").rglob("*.md"):
        text = path.read_text()
        assert "```python\n" in text or ".. auto" in text or str(path.relative_to(ROOT)) in LISTS, path


def test_dead_links_are_found(tmp_path):
    (tmp_path / "other.html").write_text('<p id="here">')
    (tmp_path / "page.html").write_text(
        '<a href="other.html#here">1</a> <a href="https://example.org/x">2</a> <a href="mailto:a@b.c">3</a>'
        '<a href="missing.html">4</a> <a href="other.html#there">5</a> <script src="https://cdn.example/x.js"></script>'
    )
    assert dead_links(tmp_path) == [
        "page.html: loads https://cdn.example/x.js from elsewhere",
        "page.html: missing.html is no file of the site",
        "page.html: other.html#there has no such anchor",
    ]
