"""The explorer: a static page that shows convolutions cell by cell, in any browser and without a server."""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).parent / "static"
"""Folder of the page's files; `index.html` in it opens from disk, and any web server can offer the folder."""


def explorer() -> Path:
    """Return the path of the explorer's page, to be opened in a browser.

    Example:
        >>> explorer().name
        'index.html'
    """
    return STATIC / "index.html"
