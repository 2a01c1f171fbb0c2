"""The widget that shows a figure in a notebook, by anywidget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from convolith.report.html_page import Section, page
from convolith.web import STATIC
from convolith.widget.frames import explorer_frame, explorer_page


class Figure(anywidget.AnyWidget):
    """A live figure in a notebook, in a frame of its own.

    Attributes:
        address: state of the figure, as in the explorer's address; it follows what the reader does, and can be set.
        title: description for screen readers.
        height: height in pixels.
    """

    _esm = STATIC / "widget.js"
    page = traitlets.Unicode(read_only=True).tag(sync=True)
    address = traitlets.Unicode().tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    height = traitlets.Int().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.set_trait("page", explorer_page().text)

    def to_html(self, path: str | Path | None = None) -> str:
        """Return the figure as it is now as a page that needs no notebook, and write it to `path` if that is given."""
        text = page(self.title, "", [Section("", frame=explorer_frame(self.address, self.title, self.height))])
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def __repr__(self) -> str:
        return f"Figure({self.title}; height={self.height})"
