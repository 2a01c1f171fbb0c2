"""A page of Markdown, as Sphinx and MyST-NB read it."""

from __future__ import annotations

import re

from docs.site.tree import TREE

EXECUTED = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n\n"
OUTSIDE = re.compile(r"\[[^\]]+\]\((?:\.\./)+((?:src|bench|tests|web|CITATION)[^)]*)\)")
"""Links to files of the repository that are no pages: they are named."""
SIBLING = re.compile(r"\]\(([\w-]+)\.(?:md|py)(?:#[^)]*)?\)")
"""Links to pages in the same folder."""


def with_blocks_and_tree(text: str, page: str) -> str:
    """Return a Markdown page as one whose Python blocks are executed, with the pages below it."""
    text = OUTSIDE.sub(r"`\1`", text)
    if "```python\n" in text:
        text = EXECUTED + text.replace("```python\n", "```{code-cell}\n")
    if page in TREE:
        entries = "\n".join(_absolute(entry) for entry in below(page, text))
        text += f"\n\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n"
    return text


def below(page: str, text: str) -> list[str]:
    """Return the pages below one, as toctrees name them; those of its folder in the order of its text."""
    folder, names = page.rpartition("/")[0], []
    for entry in TREE[page]:
        names += [f"{folder}/{name}" for name in SIBLING.findall(text)] if entry == f"{folder}/*" else [entry]
    return list(dict.fromkeys(names))


def _absolute(entry: str) -> str:
    """Return an entry of a toctree that names its page from the root."""
    return entry.replace("<", "</") if "<" in entry else f"/{entry}"
