"""A page of Markdown, as Sphinx and MyST-NB read it."""

from __future__ import annotations

import re

from docs.site.tree import TREE

EXECUTED = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n\n"
OUTSIDE = re.compile(r"\[[^\]]+\]\((?:\.\./)+((?:src|bench|tests|web|CITATION)[^)]*)\)")
"""Links to files of the repository that are no pages: they are named."""


def with_blocks_and_tree(text: str, page: str) -> str:
    """Return a Markdown page as one whose Python blocks are executed, with the pages below it."""
    text = OUTSIDE.sub(r"`\1`", text)
    if "```python\n" in text:
        text = EXECUTED + text.replace("```python\n", "```{code-cell}\n")
    if page in TREE:
        entries = "".join(f"{_absolute(entry)}\n" for entry in TREE[page])
        text += f"\n\n```{{toctree}}\n:hidden:\n:glob:\n\n{entries}```\n"
    return text


def _absolute(entry: str) -> str:
    """Return an entry of a toctree that names its page from the root."""
    return entry.replace("<", "</") if "<" in entry else f"/{entry}"
