"""Links of a built site that lead nowhere within it, and files that a browser would fetch from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "audio": ("src",),
    "video": ("src", "poster"),
    "track": ("src",),
    "link": ("href",),
}
"""Elements, and their attributes whose addresses a browser fetches by itself."""
IN_STYLES = re.compile(r"""url\(\s*(?:"([^"]*)"|'([^']*)'|([^"')\s]+))\s*\)|@import\s+(?:"([^"]*)"|'([^']*)')""")
"""Addresses in a style sheet."""
IN_SRCSET = re.compile(r"([^\s,]\S*[^\s,])(?:\s+[^,]*)?(?:,|$)")
"""Addresses in a `srcset`, each of which may be followed by a width or a density."""
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


class _Page(HTMLParser):
    """Reader of the addresses and the anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self._in_style = tag == "style"
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.loaded += _in_styles(given.get("style", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") in ("canonical", "search"):
            return
        for name in LOADED.get(tag, ()):
            if value := given.get(name):
                self.loaded += IN_SRCSET.findall(value) if name == "srcset" else [value]

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.loaded += _in_styles(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = self._in_style and tag != "style"


def _in_styles(text: str) -> Iterator[str]:
    for found in IN_STYLES.finditer(COMMENT.sub("", text)):
        yield next(group for group in found.groups() if group is not None)


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
        place = path.relative_to(site)
        if place.parts[0] != "_static":
            page = _read(path)
            found += [*_from_afar(place, page.loaded), *_without_target(site, place, (*page.links, *page.loaded))]
    for path in sorted(site.glob("**/*.css")):
        place, addresses = path.relative_to(site), list(_in_styles(path.read_text(encoding="utf-8")))
        found += [*_from_afar(place, addresses), *_without_target(site, place, addresses)]
    return found


def _from_afar(place: Path, addresses: list[str]) -> Iterator[str]:
    yield from (f"{place}: loads {address} from elsewhere" for address in addresses if urlsplit(address).netloc)


def _without_target(site: Path, place: Path, addresses: tuple[str, ...] | list[str]) -> Iterator[str]:
    for address in addresses:
        parts, path = urlsplit(address), site / place
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            yield f"{place}: {address} is no file of the site"
        elif parts.fragment and place.parts[0] != "_modules" and not _has(target, unquote(parts.fragment)):
            yield f"{place}: {address} has no such anchor"
