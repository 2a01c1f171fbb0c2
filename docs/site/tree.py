"""The tree of the site's pages."""

from __future__ import annotations

GALLERY = "tutorials/index"

TREE: dict[str, tuple[str, ...]] = {
    "docs/index": (
        "docs/start",
        "Networks <docs/guide/engineers>",
        "Images and signals <docs/guide/imaging>",
        "Learn <docs/guide/learners>",
        "How do I ... <docs/howto/index>",
        f"Gallery <{GALLERY}>",
        "How it works <docs/how/index>",
        "Reference <docs/reference/index>",
    ),
    "docs/guide/engineers": ("docs/networks", "docs/folding", "docs/performance"),
    "docs/guide/imaging": ("docs/fitting", "docs/scale", "docs/accuracy"),
    "docs/guide/learners": ("docs/exercises", "docs/explorer", "tutorials/channels"),
    "docs/howto/index": ("docs/howto/*",),
    "docs/how/index": ("docs/engines", "docs/how/*", "docs/without-torch"),
    GALLERY: ("tutorials/*",),
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
"""Page: the pages below it, as toctrees name them; `*` are those of its folder that its text leads to, in that order.

The pages themselves stay plain Markdown.
"""
