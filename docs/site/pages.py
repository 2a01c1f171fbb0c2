"""The steps that turn the repository's Markdown and docstrings into the site's pages."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer

from docs.site.docstrings import as_restructured_text, public_names
from docs.site.execution import execute
from docs.site.markdown import with_blocks_and_tree
from docs.site.tree import GALLERY


def connect(app: Any) -> None:
    """Connect the steps below to a build."""
    app.connect("env-before-read-docs", execute)
    app.connect("source-read", _prepare)
    app.connect("autodoc-process-signature", _as_called)
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=100)  # before napoleon reads its sections
    app.connect("missing-reference", _public_reference)
    app.connect("doctree-resolved", _add_thumbnails)
    app.connect("build-finished", _copy_explorer)


def _prepare(app: Any, page: str, source: list[str]) -> None:
    """Make a Markdown page one that Sphinx reads with its blocks and its place in the tree."""
    if app.env.doc2path(page).suffix == ".md":
        source[0] = with_blocks_and_tree(source[0], page)


def _as_called(
    app: Any,  # noqa: ARG001 - Sphinx's own arguments
    what: str,  # noqa: ARG001
    name: str,  # noqa: ARG001
    obj: Any,
    options: Any,  # noqa: ARG001
    signature: str | None,
    result: str | None,
) -> tuple[str, str | None] | None:
    """Show a function as it is called, with every option, in place of its overloads for type checkers.

    Sphinx has no setting for it. This event comes before Sphinx looks for overloads in the analysis of the module. A
    default that a dataclass makes anew becomes one that Sphinx can read.
    """
    with contextlib.suppress(AttributeError, PycodeError):  # a property, or a class without a source
        analyzer = ModuleAnalyzer.for_module(obj.__module__)
        analyzer.analyze()
        analyzer.overloads.clear()
    if signature is None or "<factory>" not in signature:
        return None
    return signature.replace("<factory>", "..."), result


def _as_restructured_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001 - Sphinx's own arguments
    """Rewrite a docstring, which is plain text, in place."""
    lines[:] = as_restructured_text(lines, what)


def _public_reference(app: Any, env: Any, node: Any, text: Any) -> Any:
    """Resolve a type of a signature, which Sphinx names by the module that defines it, to its public name."""
    bare = node.get("reftarget", "").rsplit(".", 1)[-1]
    if node.get("refdomain") != "py" or bare not in public_names() or node["reftarget"] == f"convolith.{bare}":
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
