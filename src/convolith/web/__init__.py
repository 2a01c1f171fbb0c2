"""The page: the explorer, static files for any browser, and the server of `convolith serve`, which computes for it."""

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
