"""The explorer as one text, and frames that show it inside other pages."""

from __future__ import annotations

from functools import cache

from convolith.report.html_page import Frame, Inline
from convolith.web import STATIC


@cache
def explorer_page() -> Inline:
    """Return the explorer as one HTML text, with its scripts and its style sheet inside."""
    scripts = [(STATIC / name).read_text(encoding="utf-8") for name in ("explorer.js", "more.js")]
    # in strings, where they would end the element
    script = "\n".join(scripts).replace("</script", r"<\/script").replace("<!--", r"<\!--")
    style = (STATIC / "explorer.css").read_text(encoding="utf-8")
    text = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>Convolith explorer</title>\n'
        f'<style>{style}</style>\n</head>\n<body>\n<div id="page"></div>\n<script>{script}</script>\n</body>\n</html>\n'
    )
    return Inline(text, script, style)


def explorer_frame(address: str, title: str, height: int) -> Frame:
    """Return a frame that begins with the state of an address.

    Args:
        address: a fragment, such as `#v=1&view=look`.
        title: description for screen readers.
        height: height in pixels.
    """
    return Frame(explorer_page(), address, title, height)
