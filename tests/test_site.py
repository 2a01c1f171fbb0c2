"""The documentation's site is whole: every public name and every page is in it; `python -m docs` in CI builds it."""

import ast
import builtins
import inspect
import re
from doctest import DocTestParser
from fnmatch import fnmatch
from functools import cached_property
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


def found_at(name):
    home, _, last = f"convolith.{name}".rpartition(".")
    return getattr(getattr(cl, home.removeprefix("convolith."), None) or import_module(home), last)


def test_every_public_name_is_in_the_reference():
    assert sorted(set(public_names()) - documented()) == []
    for name in documented():
        assert found_at(name).__doc__, name


CLASSES = re.findall(r"^\.\. autoclass:: convolith\.([\w.]+)\n((?:   :.*\n)*)", REFERENCE + "\n", re.MULTILINE)


def shown_members():
    """Functions and properties of classes that the reference shows."""
    for name, options in CLASSES:
        kind, chosen = found_at(name), re.findall(r"members: *(\w.*)", options)
        names = {member for line in chosen for member in line.split(", ")}
        if ":members:\n" in options:
            names |= {member for member in vars(kind) if not member.startswith("_")}
        for member in sorted(names):
            raw = inspect.getattr_static(kind, member)
            if callable(raw) or isinstance(raw, property | cached_property | classmethod | staticmethod):
                is_read = isinstance(raw, property | cached_property)
                yield f"{name}.{member}", raw if is_read else getattr(kind, member)


def described(text):
    """Names of the arguments and attributes that a docstring describes."""
    sections = re.findall(r"^(?:Args|Attributes):\n((?: .*\n|\n)*)", f"{text}\n", re.MULTILINE)
    entries = re.findall(r"^    (\w[\w, ]*):", "".join(sections), re.MULTILINE)
    return {name for entry in entries for name in entry.split(", ")}


def parameters(found):
    """Names of the parameters of a callable, without that of the instance."""
    if not callable(found) or (inspect.isclass(found) and issubclass(found, Exception)):
        return []
    return [name for name in inspect.signature(found).parameters if name not in ("self", "cls")]


def unknown_names(text):
    """Names that the example of a docstring uses and does not make, so that it cannot be pasted."""
    used, made = set(), set(dir(builtins))
    for node in ast.walk(ast.parse("".join(example.source for example in DocTestParser().get_examples(text)))):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
    return used - made


def test_every_docstring_of_the_reference_is_whole():
    """It describes every parameter; functions say what they return, with an example that can be pasted."""
    problems = []
    for name, found in [*((name, found_at(name)) for name in sorted(documented())), *shown_members()]:
        text = inspect.getdoc(found) or ""
        problems += [f"{name} has no docstring"] * (not text)
        problems += [f"{name} does not describe {one}" for one in parameters(found) if one not in described(text)]
        problems += [f"the example of {name} does not make {one}" for one in sorted(unknown_names(text))]
        if inspect.isfunction(found) and name in documented() and name != "clear_caches":
            sections = ("Returns", "Raises", "Example")
            problems += [f"{name} lacks {section}" for section in sections if f"\n{section}:\n" not in text]
    assert problems == []


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
