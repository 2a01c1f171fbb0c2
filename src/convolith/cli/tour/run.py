"""`convolith tour`: the chapter "Multiple Input and Multiple Output Channels", run on a real photograph."""

from __future__ import annotations

import inspect
import sys
import textwrap
import warnings
from typing import Any

import click
import numpy as np

from convolith.cli.io.files import Output
from convolith.cli.tour.lessons import LESSONS, Lesson, Values
from convolith.errors import missing_extra
from convolith.report.html_page import Section, page
from convolith.report.plain import to_json
from convolith.report.table import Table, quantity

INTRODUCTION = """All Python code on this page was run to create it, on a photograph from scikit-image
(Eileen Collins, by NASA)."""

SETUP = """import numpy as np
from skimage import data

import convolith as cl
from convolith import d2l

photo = data.astronaut()
"""
"""Beginning of the lessons' code, which the first lesson shows."""


def run(*, html: str | None, as_json: bool) -> None:
    """Run the lessons and print them, or write them as a page too; the parameters are the options."""
    target = None if html is None else Output(html, (".html", ".htm"), "--html")
    photo = photograph()
    if target:
        from convolith.report import plots

        plots.check_available()
    sections, shown = [], {}
    for number, lesson in enumerate(LESSONS, start=1):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "gd has not converged")  # which is what a lesson shows
            values = lesson.run(photo)
        visible = {name: value for name, value in values.items() if not name.startswith("_")}
        shown[lesson.heading] = {name: as_plain(value) for name, value in visible.items()}
        if not as_json:
            show(f"{number}. {lesson.heading}", lesson, visible)
        if target:
            sections.append(section(f"{number}. {lesson.heading}", lesson, values, visible))
    if target:
        text = page("Convolith: a tour of convolution", INTRODUCTION, sections)
        target.write(lambda file: file.write(text.encode()))
        click.echo(f"written to {html}", err=True)
    elif not as_json:
        click.echo("\nThe same as a page with pictures: convolith tour --html tour.html", err=True)
    if as_json:
        click.echo(to_json(shown))


def photograph() -> np.ndarray:
    """Return the photograph, (512, 512, 3), uint8."""
    try:
        from skimage import data
    except ImportError:
        raise missing_extra("scikit-image", "image", "the tour's photograph") from None
    picture: np.ndarray = data.astronaut()
    return picture


def prose(lesson: Lesson) -> str:
    """Return a lesson's docstring with one line per paragraph."""
    paragraphs = inspect.cleandoc(lesson.run.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def code(lesson: Lesson) -> str:
    """Return the body of a lesson between its docstring and its return; a comment if the source is not installed."""
    try:
        source = inspect.getsource(lesson.run)
    except OSError:
        return "# the source of this lesson is not installed"
    body = source.split('"""', 2)[2].rpartition("\n    return {")[0]
    return (SETUP if lesson is LESSONS[0] else "") + textwrap.dedent(body).strip()


def as_plain(value: Any) -> Any:
    """Convert a value for JSON: numbers, strings and arrays are unchanged, all others become text."""
    return value if isinstance(value, int | float | str | tuple | np.ndarray | np.number) else str(value)


def written(value: Any) -> str:
    """Format a value as text for readers."""
    if isinstance(value, np.ndarray | tuple):
        return str(value.tolist() if isinstance(value, np.ndarray) else value)
    return quantity(value.item() if isinstance(value, np.number) else value)


def show(heading: str, lesson: Lesson, visible: Values) -> None:
    """Print one part: in colour on a terminal, as plain text in a pipe."""
    from rich.console import Console
    from rich.syntax import Syntax
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    console.print(Text(f"\n{heading}", style="bold"))
    console.print(Text(prose(lesson)), style=None)
    console.print()
    if console.is_terminal:
        console.print(Syntax(code(lesson), "python", word_wrap=True, background_color="default"))
    else:
        click.echo(code(lesson))
    console.print()
    width = max(map(len, visible))
    for name, value in visible.items():
        click.echo(f"  {name:{width}}  {written(value)}")


def section(heading: str, lesson: Lesson, values: Values, visible: Values) -> Section:
    """Return one section of the page."""
    rows = [{"name": name, "value": written(value)} for name, value in visible.items()]
    figures = (lesson.draw(values),) if lesson.draw else ()
    return Section(heading, prose(lesson), code(lesson), (Table("", rows),), figures)
