"""The steps that turn the repository's Markdown and docstrings into the site's pages."""

from __future__ import annotations

import inspect
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes

import convolith
from docs.site.execution import execute
from docs.site.markdown import with_blocks_and_tree
from docs.site.tree import GALLERY

INLINE = re.compile(r"(``.+?``|`[^`]+`)")


def connect(app: Any) -> None:
    """Connect the steps below to a build."""
    app.connect("env-before-read-docs", execute)
    app.connect("source-read", _prepare)
    app.connect("autodoc-process-signature", _forget_overloads)
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=100)  # before napoleon reads its sections
    app.connect("missing-reference", _public_reference)
    app.connect("doctree-resolved", _add_thumbnails)
    app.connect("build-finished", _copy_explorer)


def _prepare(app: Any, page: str, source: list[str]) -> None:
    """Make a Markdown page one that Sphinx reads with its blocks and its place in the tree."""
    if app.env.doc2path(page).suffix == ".md":
        source[0] = with_blocks_and_tree(source[0], page)


@cache
def _public_names() -> frozenset[str]:
    return frozenset(convolith.__all__)


def _forget_overloads(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, result: str) -> None:  # noqa: ARG001 - Sphinx's own arguments
    """Let Sphinx show a function as it is called, with every option, in place of its overloads for type checkers.

    Sphinx has no setting for it. This event comes before Sphinx looks for overloads in the analysis of the module.
    """
    from sphinx.errors import PycodeError
    from sphinx.pycode import ModuleAnalyzer

    try:
        analyzer = ModuleAnalyzer.for_module(obj.__module__)
        analyzer.analyze()
    except (AttributeError, PycodeError):  # a property, or a class without a source
        return
    analyzer.overloads.clear()


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
    in_module = name in _public_names() and inspect.ismodule(getattr(convolith, name))
    if name not in _public_names() or (in_module and not member):  # modules have pages, and no target
        return f"``{code}``"
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
