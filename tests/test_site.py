"""The documentation's site is whole: every public name and every page is in it; `python -m docs` in CI builds it."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from collections import Counter
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

import convolith as cl
from docs.site.docstrings import as_restructured_text
from docs.site.links import dead_links
from docs.site.markdown import below
from docs.site.tree import TREE

ROOT = Path(__file__).parents[1]
MODULES = ("big", "d2l", "kernels", "network", "nn", "widget")
REFERENCE = "".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
WITHOUT_EXAMPLES = {
    "docs/reference/index.md": "leads to other pages",
    "tutorials/index.md": "likewise",
    "README.md": "tests/test_shown_outputs.py runs its examples",
    "CHANGELOG.md": "what has changed",
    "CONTRIBUTING.md": "how to work on the repository",
    "SECURITY.md": "how to report",
}


def documented(kind=r"\w+", text=REFERENCE):
    return set(re.findall(rf"^\.\. auto{kind}:: convolith\.([\w.]+)$", text, re.MULTILINE))


def found(name):
    """Return what a name of the reference stands for."""
    home, _, last = f"convolith.{name}".rpartition(".")
    return getattr(getattr(cl, home.removeprefix("convolith."), None) or import_module(home), last)


def public_names():
    """Public names, and those of the public modules; `cl.network` repeats names of the package."""
    yield from (name for name in cl.__all__ if name not in MODULES)
    for module in MODULES:
        home = getattr(cl, module)
        yield from (f"{module}.{name}" for name in home.__all__ if module != "network" or name not in cl.__all__)


def described_data(owner):
    """Yield the data of a class that the page describes: in its docstring, below their definition, or as parameters."""
    yield from re.findall(r"^\s+`*(\w+)`*:", owner.__doc__ or "", re.MULTILINE)
    if "__init__" in vars(owner) or "__new__" in vars(owner):
        yield from inspect.signature(owner).parameters
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
    except OSError:  # a class that a function makes, as those of cl.nn
        return
    for node, following in pairwise(body):
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            yield from (target.id for target in ast.walk(node) if isinstance(target, ast.Name))


def undocumented(owner):
    """Yield the public members that a class defines and does not describe: Sphinx leaves them out without a word."""
    described = set(described_data(owner))
    for name in {*vars(owner), *vars(owner).get("__annotations__", ())}:
        value = getattr(owner, name, None)
        is_data = not callable(value) and not isinstance(vars(owner).get(name), property | cached_property)
        if not name.startswith("_") and not (name in described if is_data else value.__doc__):
            yield f"{owner.__name__}.{name}"


def test_every_public_name_is_in_the_reference():
    assert sorted(set(public_names()) - documented()) == []
    assert [name for name in sorted(documented()) if not found(name).__doc__] == []


WITH_MEMBERS = re.findall(r"^\.\. autoclass:: convolith\.([\w.]+)\n   :members:", REFERENCE, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(WITH_MEMBERS))
def test_every_member_of_a_documented_class_is_described(name):
    assert sorted(undocumented(found(name))) == []


def test_docstrings_are_read_as_they_are_meant():
    lines = [
        "Sum of `x*`, *not* `cl.fit`.",
        "",
        "Attributes:",
        "    a, b: of",
        "        each",
        "    c: one",
        "",
        ">>> a * b",
    ]
    assert as_restructured_text(lines, "class") == [
        "Sum of ``x*``, \\*not\\* :py:obj:`cl.fit <convolith.fit>`.",
        "",
        "Attributes:",
        *("    a: of", "        each", "    b: of", "        each", "    c: one"),
        "",
        ">>> a * b",
    ]
    assert as_restructured_text(["Kernel: the way back."], "property") == ["..", "", "Kernel: the way back."]
    assert as_restructured_text(["x, y: no attributes"], "function") == ["x, y: no attributes"]


def pages():
    """Yield the pages of the folders of the site, by the paths of their files without suffix."""
    for path in [*(ROOT / "docs").rglob("*.md"), *(ROOT / "tutorials").glob("*.*")]:
        if path.suffix in (".md", ".py"):
            yield path.relative_to(ROOT).with_suffix("").as_posix()


def test_every_page_is_in_the_tree():
    """The indexes lead to every page of their folders, since the tree takes them from there."""
    entries = [entry for page in TREE for entry in below(page, (ROOT / f"{page}.md").read_text())]
    found = [re.sub(r".*<(.+)>", r"\1", entry) for entry in entries]
    roots = {"docs/index", "CHANGELOG", "CONTRIBUTING", "SECURITY"}
    assert set(found) - roots == set(pages()) - roots
    assert roots - set(found) == {"docs/index"}
    assert {page for page, n in Counter(found).items() if n > 1} == {"tutorials/channels"}  # also below the guide


def test_every_page_has_an_example_that_runs():
    """A page of the reference has those of docstrings."""
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tutorials").glob("*.md")]:
        text, name = path.read_text(), path.relative_to(ROOT).as_posix()
        in_docstrings = any(">>>" in (found(entry).__doc__ or "") for entry in documented(text=text))
        assert ("```python\n" in text or in_docstrings) is (name not in WITHOUT_EXAMPLES or name == "README.md"), name


def test_dead_links_are_found(tmp_path):
    (tmp_path / "other.html").write_text('<p id="here">')
    (tmp_path / "there.png").touch()
    (tmp_path / "page.html").write_text(
        '<a href="other.html#here">1</a> <a href="https://example.org/x">2</a> <a href="mailto:a@b.c">3</a>'
        '<a href="missing.html">4</a> <a href="other.html#there">5</a> <script src="https://cdn.example/x.js"></script>'
        '<img srcset="there.png 1x,lost.png 2x, https://cdn.example/y.png 3x" src="data:image/png;base64,AA,BB">'
        '<p style="background: url(there.png), url(gone.png)"><style>@import "https://cdn.example/z.css";</style>'
    )
    (tmp_path / "site.css").write_text(
        "/* url(comment.png) */ @import 'none.css'; a { background: url( \"there.png\" ), url(data:image/svg+xml;x) }"
        "@font-face { src: url(https://cdn.example/font.woff2) }"
    )
    assert sorted(dead_links(tmp_path)) == [
        "page.html: gone.png is no file of the site",
        "page.html: loads https://cdn.example/x.js from elsewhere",
        "page.html: loads https://cdn.example/y.png from elsewhere",
        "page.html: loads https://cdn.example/z.css from elsewhere",
        "page.html: lost.png is no file of the site",
        "page.html: missing.html is no file of the site",
        "page.html: other.html#there has no such anchor",
        "site.css: loads https://cdn.example/font.woff2 from elsewhere",
        "site.css: none.css is no file of the site",
    ]


PAGES = {
    "shown": [
        "import os, sys\nimport numpy as np\nprint(os.listdir()); print('to stderr', file=sys.stderr)",
        "from matplotlib import pyplot\npyplot.plot([1, 2])\nnp.arange(3)",
        "from convolith.torch_private import is_forked\nis_forked()",
    ],
    "wrong": ["x = 1", "1 / 0", "print('not reached')"],
    "dead": ["import os; os._exit(3)"],
}
ENDLESS = {"endless": ["import time; time.sleep(60)"]}
RUN = """
import json, sys
from docs.site.execution import run_all
pages, endless = json.load(sys.stdin)
print(json.dumps([*run_all(pages, 2, 60), *run_all(endless, 1, 0.5)]))
"""


@pytest.mark.slow
def test_blocks_show_what_a_notebook_shows():
    """Each page starts anew, as in a process of its own; errors, endless pages and dead processes are named."""
    for name in ("IPython", "matplotlib", "skimage"):
        pytest.importorskip(name)
    ended = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", RUN],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        input=json.dumps([PAGES, ENDLESS]),
        capture_output=True,
        text=True,
        check=True,
    )
    results = dict(json.loads(ended.stdout))
    (first, (result, figure), (forked,)), _, error = results["shown"]
    assert error is None
    assert [(output["name"], output["text"]) for output in first] == [("stdout", "[]\n"), ("stderr", "to stderr\n")]
    assert result["data"]["text/plain"] == "array([0, 1, 2])"
    assert figure["data"]["image/png"].startswith("iVBOR")
    assert forked["data"]["text/plain"] == "False"
    assert results["wrong"][0] == [[]]
    assert "ZeroDivisionError" in results["wrong"][2]
    assert "it took over" in results["endless"][2]
    assert "Timeout" in ended.stderr
    assert "exit code 3" in results["dead"][2]
