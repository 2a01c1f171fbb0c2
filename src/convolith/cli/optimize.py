"""`convolith optimize`: a model as one program of generated code, verified, timed and saved."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from typing import Any

import click

from convolith.cli.factory import evaluation_model_and_inputs
from convolith.cli.options import accuracy_option, budget_option, emit, html_option, input_option, json_option
from convolith.errors import ConvolithError

ENDINGS = (".zip",)


@click.command()
@click.argument("factory", metavar="PACKAGE.MODULE:FACTORY")
@input_option
@click.option("-o", "--output", metavar="FILE", help="File for the optimised model, a .zip; cl.network.load reads it.")
@accuracy_option
@click.option("--threads", type=click.IntRange(min=1), help="Number of threads.  [default: torch's]")
@budget_option("Time limit for measuring.")
@click.option("--estimate", is_flag=True, help="Choose engines by estimates, without measuring.")
@html_option
@json_option
def command(
    *,
    factory: str,
    shapes: tuple[tuple[int, ...], ...],
    output: str | None,
    accuracy: str,
    threads: int | None,
    budget_seconds: float,
    estimate: bool,
    html: str | None,
    as_json: bool,
) -> None:
    """Make the model FACTORY fast on this CPU: a function without arguments that returns a model, or a model.

    FACTORY is imported, also from the current folder, as in my_package.models:resnet. The model is folded, and what is
    left runs as one program of generated code; each layer's engine is chosen by its time inside the network, and each
    step is compared with torch in float64.

    Example: convolith optimize my_models:resnet --input 1,3,224,224 -o resnet.zip --html report.html
    """
    from convolith.cli.io.files import Output
    from convolith.network import optimize

    target = None if output is None else Output(output, ENDINGS)
    page = None if html is None else Output(html, (".html",), "--html")
    model, inputs = evaluation_model_and_inputs(factory, shapes, done="optimised")
    options: dict[str, Any] = {"accuracy": accuracy, "budget_seconds": budget_seconds, "threads": threads}
    with redirect_stdout(sys.stderr):  # the model's own code may print
        found = optimize(model, inputs, **options, measure=not estimate)
    report = found.report
    if target:
        if report.reason is not None:
            raise ConvolithError(
                f"--output is {output}, but there is nothing to save: {report.headline}; leave --output out"
            )
        target.write(found.save)
    if page:
        page.write(lambda file: file.write(_page(factory, shapes, report).encode()))
    data = {name: value for name, value in asdict(report).items() if name != "fold"}
    emit(as_json=as_json, data=data | {"written_to": output}, tables=report.tables())
    if not as_json and output:
        click.echo(f"\nwritten to {output}")


MOST_BARS = 60
"""Largest number of steps that are drawn: the slowest ones."""


def _times(report: Any) -> tuple[Any, ...]:
    """Return a picture of the times of the steps, in order, coloured by engine; none if they were not measured."""
    from convolith.report.html_page import Figure
    from convolith.report.plots import bars

    measured = [step for step in report.steps if step.seconds is not None]
    least = sorted((step.seconds for step in measured), reverse=True)[:MOST_BARS][-1:]
    shown = [step for step in measured if step.seconds >= least[0]][:MOST_BARS]
    if not shown:
        return ()
    engines = list(dict.fromkeys(step.engine for step in shown))
    lengths = {name: [1e6 * step.seconds * (step.engine == name) for step in shown] for name in engines}
    source = bars([f"{step.where} ({step.kind})" for step in shown], lengths, x="microseconds")
    return (Figure(source, "Horizontal bars: the time of each step, from the first on"),)


def _page(factory: str, shapes: tuple[tuple[int, ...], ...], report: Any) -> str:
    from convolith.report.html_page import Section, page

    sized = " and ".join("x".join(map(str, wanted)) for wanted in shapes)
    introduction = (
        f"{factory} on {sized}: {report.headline}. Each step was compared with torch's operator in float64; its error "
        "is relative to its largest result. Times are those of the steps inside the network."
    )
    proses = {
        "Steps": "One row for each step, in order; then: what is computed where its sums are stored.",
        "Computed by torch": "Operators without generated code, which torch computes between two programs.",
        "Called as a whole": "Modules whose own code reads values or changes the module, or which have hooks.",
    }
    sections = [
        Section(table.title, proses.get(table.title, ""), tables=(replace(table, title=""),))
        for table in report.tables()
    ]
    figures = _times(report)
    if figures:
        prose = "Time of each step inside the network, in order, by the engine that computes it."
        sections.insert(1, Section("Where the time is", prose, figures=figures))
    return page(f"Convolith: {factory} optimised", introduction, sections)
