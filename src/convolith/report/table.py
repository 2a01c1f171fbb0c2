"""A titled table of plain rows: with lines on a terminal, as aligned text in a pipe."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

NAME, VALUE = "", "value"
"""Columns of a table of properties."""
PLAIN_WIDTH = 500
"""Width of plain text in characters, large enough that no line is wrapped or cut."""


def quantity(value: Any) -> str:
    """Format a cell: integers with separators, floats with three digits, booleans as yes or no, None as -."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.3g}"
    return str(value)


@dataclass(frozen=True)
class Table:
    """Rows of named cells under a title.

    Columns are the union of the rows' names, in order of appearance, without those that are None in every row.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]

    @classmethod
    def of_properties(cls, title: str, values: Mapping[str, Any]) -> Table:
        """Return a table with a row for each property that is not None, and no header."""
        rows = [{NAME: name, VALUE: quantity(value)} for name, value in values.items() if value is not None]
        return cls(title, rows)

    @property
    def has_header(self) -> bool:
        """Whether the names of the columns are shown."""
        return self.columns != [NAME, VALUE]

    @property
    def columns(self) -> list[str]:
        """Names of all cells, in order of appearance."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in names if any(row.get(name) is not None for row in self.rows)]

    def is_numeric(self, name: str) -> bool:
        """Return whether a column contains only numbers."""
        return all(isinstance(row.get(name), int | float | None) for row in self.rows)

    def rich(self, *, lines: bool = True) -> RichTable:
        """Return the cells as a table for a rich console, without the title."""
        kind = box.SIMPLE_HEAD if lines and self.has_header else None
        table = RichTable(box=kind, pad_edge=False, show_header=self.has_header)
        for name in self.columns:
            words = [word for text in [name, *(quantity(row.get(name)) for row in self.rows)] for word in text.split()]
            justify: Literal["right", "left"] = "right" if self.is_numeric(name) else "left"
            table.add_column(Text(name), justify=justify, no_wrap=not lines, min_width=max(map(len, words), default=1))
        for row in self.rows:
            table.add_row(*(Text(quantity(row.get(name))) for name in self.columns))  # no markup: [x] is [x]
        return table

    def show(self, console: Console) -> None:
        """Print the table: with lines if the console is wide enough for every word, as plain text otherwise."""
        table = self.rich()
        spare = 2 * len(self.columns)  # rich does not count the space between columns
        least = console.measure(table, options=console.options.update(max_width=PLAIN_WIDTH)).minimum + spare
        if least > console.width:
            console.print(self.text(), soft_wrap=True, highlight=False, markup=False)
            return
        console.print(self.title, style="bold", highlight=False, markup=False)
        console.print(table)

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """Return the table as aligned plain text, as in a pipe."""
        buffer = io.StringIO()
        # Not as in a notebook, where it would be displayed instead of written.
        plain = Console(file=buffer, width=PLAIN_WIDTH, color_system=None, force_jupyter=False)
        plain.print(self.rich(lines=False))
        lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
        return "\n".join([self.title, *lines] if self.title else lines)
