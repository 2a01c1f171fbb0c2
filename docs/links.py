"""Links of a built site that lead nowhere within it, and elements that would fetch a file from elsewhere."""

from __future__ import annotations

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
"""Elements whose addresses a browser fetches by itself."""


class _Page(HTMLParser):
    """Reader of the addresses and the anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        address = given.get("href") if tag == "a" else given.get(LOADED.get(tag, ""))
        if not address or (tag == "link" and given.get("rel") in ("canonical", "search")):
            return
        (self.links if tag == "a" else self.loaded).append(address)


@cache
def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _has(path: Path, anchor: str) -> bool:
    """Return whether a page has an anchor; the explorer's fragments are states of its own."""
    return path.suffix != ".html" or anchor.startswith("v=") or anchor in _read(path).anchors


def dead_links(site: Path) -> list[str]:
    """Return a line for each link of a site's pages without a target in it, and for each file that is loaded from afar.

    Links to other sites are not followed. Listings of source code (`_modules`) lead to the right pages, but not always
    to the right places there, since Sphinx names objects by where they are defined; `_static` has templates.
    """
    found = []
    for path in sorted(site.glob("**/*.html")):
        page, place = _read(path), path.relative_to(site)
        if place.parts[0] == "_static":
            continue
        found += [f"{place}: loads {address} from elsewhere" for address in page.loaded if urlsplit(address).netloc]
        for address in (*page.links, *page.loaded):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                found.append(f"{place}: {address} is no file of the site")
            elif parts.fragment and place.parts[0] != "_modules" and not _has(target, unquote(parts.fragment)):
                found.append(f"{place}: {address} has no such anchor")
    return found
