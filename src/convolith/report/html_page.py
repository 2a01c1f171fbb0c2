"""A self-contained HTML page with prose, code, tables and figures, and without external resources."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape

from convolith.report.table import Table, quantity

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #f3f5f7; --line: #d5dae0; --mark: #0b63b5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --paper: #14171a; --soft: #1f2429; --line: #39414a; --mark: #6cb6ff; }
}
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.55 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
pre { background: var(--soft); padding: .8rem 1rem; overflow-x: auto; border-radius: 6px; font-size: .875rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem .25rem 0; text-align: left; white-space: pre-wrap;
  vertical-align: top; }
td.number { text-align: right; white-space: pre; }
th.number { text-align: right; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption { font-size: .9rem; }
iframe { display: block; width: min(80rem, 96vw); margin: 1rem calc(50% - min(40rem, 48vw));
  border: 1px solid var(--line); border-radius: 10px; }
"""


NOTEBOOK_STYLE = """
.convolith table { border-collapse: collapse; margin: .5rem 0 1rem; font-variant-numeric: tabular-nums; }
.convolith caption { caption-side: top; text-align: left; font-weight: 600; padding: 0 0 .3rem; color: inherit;
  white-space: nowrap; }
.convolith th, .convolith td { border-bottom: 1px solid rgba(128, 128, 128, .35); padding: .2rem 1.2rem .2rem 0;
  text-align: left; vertical-align: top; white-space: pre-wrap; }
.convolith td.number { text-align: right; white-space: pre; }
.convolith th.number { text-align: right; }
.convolith .table { overflow-x: auto; }
"""
"""Style of tables in a notebook, in its own colours, light or dark."""


@dataclass(frozen=True)
class Figure:
    """An image as a data URI, its description for screen readers, and its caption."""

    source: str
    description: str
    caption: str = ""


@dataclass(frozen=True)
class Inline:
    """A page as one text, with the script and the style sheet that it contains."""

    text: str
    script: str
    style: str


@dataclass(frozen=True)
class Frame:
    """A live page inside the page: its text, the frame's name, a title for screen readers, the height in pixels."""

    page: Inline
    name: str
    title: str
    height: int


@dataclass(frozen=True)
class Section:
    """One part of a page: a heading, paragraphs, code, tables, figures and a live frame, in this order."""

    heading: str
    prose: str = ""
    code: str = ""
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    frame: Frame | None = None


def page(title: str, introduction: str, sections: list[Section]) -> str:
    """Return the whole page as HTML text; its policy allows no script but those of the frames, and no request."""
    body = "\n".join(_section(section) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(sections)}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{_paragraphs(introduction)}\n{body}\n"
        "</body>\n</html>\n"
    )


def _policy(sections: Sequence[Section]) -> str:
    frames = [section.frame.page for section in sections if section.frame]
    scripts = _hashes(frame.script for frame in frames) or "'none'"
    styles = _hashes([STYLE, *(frame.style for frame in frames)])
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )


def _hashes(texts: Iterable[str]) -> str:
    digests = dict.fromkeys(b64encode(sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def fragment(tables: Sequence[Table], figures: Sequence[Figure] = ()) -> str:
    """Return tables and figures as HTML without a page around them, as notebooks show them."""
    return f'<div class="convolith"><style>{NOTEBOOK_STYLE}</style>\n{_drawn(tables, figures)}\n</div>'


def _drawn(tables: Sequence[Table], figures: Sequence[Figure]) -> str:
    """Return tables and figures as HTML."""
    drawn = [
        f'<figure><img src="{figure.source}" alt="{escape(figure.description)}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
        for figure in figures
    ]
    return "\n".join([*map(_table, tables), *drawn])


def _section(section: Section) -> str:
    heading = f"<h2>{escape(section.heading)}</h2>" if section.heading else ""
    parts = [f"<section>\n{heading}", _paragraphs(section.prose)]
    if section.code:
        parts.append(f'<pre tabindex="0"><code>{escape(section.code)}</code></pre>')
    parts.append(_drawn(section.tables, section.figures))
    if section.frame:
        parts.append(_frame(section.frame))
    return "\n".join([*parts, "</section>"])


def _frame(frame: Frame) -> str:
    """Return a frame whose page has an origin of its own, so that it cannot reach the page around it."""
    return (
        f'<iframe title="{escape(frame.title)}" name="{escape(frame.name)}" height="{frame.height}" '
        f'sandbox="allow-scripts allow-downloads" srcdoc="{_quoted(frame.page.text)}"></iframe>'
    )


def _quoted(text: str) -> str:
    """Escape a long text for an attribute in quotation marks, with as few characters as that takes."""
    return text.replace("&", "&amp;").replace('"', "&quot;")


def _paragraphs(text: str) -> str:
    return "\n".join(f"<p>{escape(paragraph.strip())}</p>" for paragraph in text.split("\n\n") if paragraph.strip())


def _table(table: Table) -> str:
    classes = [' class="number"' if table.is_numeric(name) else "" for name in table.columns]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(classes, table.columns, strict=True))
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td{kind}>{escape(quantity(row.get(name)))}</td>"
            for kind, name in zip(classes, table.columns, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    names = f"<tr>{head}</tr>" if table.has_header else ""
    label = escape(table.title or "Table")
    return (
        f'<div class="table" role="group" tabindex="0" aria-label="{label}">'  # scrolled by keys
        f"<table>{caption}{names}{rows}</table></div>"
    )
