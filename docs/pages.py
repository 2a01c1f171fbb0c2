"""The tree of the site's pages, and what turns the repository's Markdown and docstrings into them."""

from __future__ import annotations

import inspect
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes

import convolith

ROOT = Path(__file__).parents[1]

TREE: dict[str, tuple[str, ...]] = {
    "docs/index": (
        "docs/start",
        "Networks <docs/guide/engineers>",
        "Images and signals <docs/guide/imaging>",
        "Learn <docs/guide/learners>",
        "How do I ... <docs/howto/index>",
        "Gallery <tutorials/index>",
        "How it works <docs/how/index>",
        "Reference <docs/reference/index>",
    ),
    "docs/guide/engineers": ("docs/networks", "docs/folding", "docs/performance"),
    "docs/guide/imaging": ("docs/fitting", "docs/scale", "docs/accuracy"),
    "docs/guide/learners": ("docs/exercises", "docs/explorer", "tutorials/channels"),
    "docs/howto/index": ("docs/howto/*",),
    "docs/how/index": ("docs/engines", "docs/how/*", "docs/without-torch"),
    "tutorials/index": ("tutorials/*",),
    "docs/reference/index": (
        "docs/names",
        "docs/reference/*",
        "docs/command-line",
        "docs/page-api",
        "docs/support",
        "docs/glossary",
        "CHANGELOG",
        "SECURITY",
        "CONTRIBUTING",
    ),
}
"""Page: the pages below it, as toctrees name them. The pages themselves stay plain Markdown."""

GALLERY = "tutorials/index"
EXECUTED = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n\n"
OUTSIDE = re.compile(r"\[[^\]]+\]\((?:\.\./)+((?:src|bench|tests|web|CITATION)[^)]*)\)")
"""Links to files of the repository that are no pages: they are named."""
INLINE = re.compile(r"(``.+?``|`[^`]+`)")


def connect(app: Any) -> None:
    """Connect the steps below to a build."""
    _show_whole_signatures()
    app.connect("source-read", _prepare)
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=100)  # before napoleon reads its sections
    app.connect("missing-reference", _public_reference)
    app.connect("doctree-resolved", _add_thumbnails)
    app.connect("build-finished", _copy_explorer)


def _prepare(app: Any, page: str, source: list[str]) -> None:
    """Make a Markdown page one whose Python blocks are executed, with the pages below it."""
    if app.env.doc2path(page).suffix != ".md":
        return
    text = OUTSIDE.sub(r"`\1`", source[0])
    if "```python\n" in text:
        text = EXECUTED + text.replace("```python\n", "```{code-cell}\n")
    if page in TREE:
        text += (
            "\n\n```{toctree}\n:hidden:\n:glob:\n\n"
            + "".join(f"{_absolute(entry)}\n" for entry in TREE[page])
            + "```\n"
        )
    source[0] = text


def _absolute(entry: str) -> str:
    """Return an entry of a toctree that names its page from the root."""
    return entry.replace("<", "</") if "<" in entry else f"/{entry}"


@cache
def _public_names() -> frozenset[str]:
    return frozenset(convolith.__all__)


def _show_whole_signatures() -> None:
    """Let Sphinx show functions as they are called, with every option, instead of their overloads for type checkers."""
    from sphinx.pycode import ModuleAnalyzer

    analyze = ModuleAnalyzer.analyze

    def without_overloads(self: ModuleAnalyzer) -> None:
        analyze(self)
        self.overloads = {}

    ModuleAnalyzer.analyze = without_overloads  # type: ignore[method-assign]  # Sphinx has no setting for it


def _as_restructured_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001 - Sphinx's own arguments
    """Rewrite a docstring, plain text with code in backticks: public names become links, markup is escaped."""
    in_example = False
    for n, line in enumerate(lines):
        in_example = line.lstrip().startswith(">>>") or (in_example and bool(line.strip()))
        if not in_example:
            lines[n] = "".join(_converted(part) for part in INLINE.split(line))


def _converted(part: str) -> str:
    """Return code as a link if it is a public name, and text without the characters that markup would read."""
    if not part.startswith("`"):
        return re.sub(r"([*|])|(?<=\w)_(?=\W|$)", lambda found: "\\" + found.group(), part)
    code = part.strip("`")
    name, _, member = code.removeprefix("cl.").removesuffix("()").partition(".")
    if name not in _public_names():
        return f"``{code}``"
    in_module = inspect.ismodule(getattr(convolith, name)) and member
    return f":py:obj:`{code} <convolith.{name}{'.' + member if in_module else ''}>`"


def _public_reference(app: Any, env: Any, node: Any, text: Any) -> Any:
    """Resolve a type of a signature, which Sphinx names by the module that defines it, to its public name."""
    bare = node.get("reftarget", "").rsplit(".", 1)[-1]
    if node.get("refdomain") != "py" or bare not in _public_names() or node["reftarget"] == f"convolith.{bare}":
        return None
    python = env.get_domain("py")
    return python.resolve_any_xref(env, node["refdoc"], app.builder, f"convolith.{bare}", node, text)[0][1]


def _add_thumbnails(app: Any, tree: nodes.document, page: str) -> None:
    """Show the first picture of each page of the gallery in the gallery's lists."""
    if page != GALLERY:
        return
    for items in tree.findall(nodes.bullet_list):
        items["classes"].append("gallery")
        for item in items.findall(nodes.list_item):
            link = next(item.findall(nodes.reference))
            shared = app.env.get_doctree("tutorials/" + link["refuri"].removesuffix(".html"))
            shown = next(shared.findall(nodes.image), None)
            if shown is not None:
                picture = nodes.image(uri=shown["uri"], candidates={"*": shown["uri"]}, alt="")
                item.insert(0, nodes.reference("", "", picture, refuri=link["refuri"], internal=True))


def _copy_explorer(app: Any, error: Exception | None) -> None:
    """Put the explorer into the site, where its page shows it."""
    if error is None:
        from convolith.web import STATIC

        shutil.copytree(STATIC, Path(app.outdir) / "explorer", dirs_exist_ok=True)
