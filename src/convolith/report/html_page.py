"""A self-contained HTML page with prose, code, tables and figures, and without external resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
class Section:
    """One part of a page: a heading, paragraphs, code, tables and figures, in this order."""

    heading: str
    prose: str = ""
    code: str = ""
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()


def page(title: str, introduction: str, sections: list[Section]) -> str:
    """Return the whole page as HTML text."""
    body = "\n".join(_section(section) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{_paragraphs(introduction)}\n{body}\n"
        "</body>\n</html>\n"
    )


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
    parts = [f"<section>\n<h2>{escape(section.heading)}</h2>", _paragraphs(section.prose)]
    if section.code:
        parts.append(f"<pre><code>{escape(section.code)}</code></pre>")
    return "\n".join([*parts, _drawn(section.tables, section.figures), "</section>"])


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
    return f'<div class="table"><table>{caption}{names}{rows}</table></div>'
