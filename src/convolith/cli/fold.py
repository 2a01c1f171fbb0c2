"""`convolith fold`: chains and branches of a model's convolutions folded into one each, verified, and saved."""

from __future__ import annotations

import io
import pickle
import sys
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from convolith.cli.factory import evaluation_model_and_inputs
from convolith.cli.options import emit, html_option, input_option, json_option
from convolith.errors import ConvolithError

if TYPE_CHECKING:
    from convolith.cli.io.files import Output

ENDINGS = (".pt", ".pth", ".pt2")


@click.command()
@click.argument("factory", metavar="PACKAGE.MODULE:FACTORY")
@input_option
@click.option(
    "-o", "--output", metavar="FILE", help="File for the folded model: .pt (a torch module) or .pt2 (torch.export)."
)
@click.option(
    "--measure", is_flag=True, help="Keep a rewrite only if it is also measured to be faster on this machine."
)
@click.option("--force", "--all", "force", is_flag=True, help="Make every rewrite, even where it does not save time.")
@html_option
@json_option
def command(
    *,
    factory: str,
    shapes: tuple[tuple[int, ...], ...],
    output: str | None,
    measure: bool,
    force: bool,
    html: str | None,
    as_json: bool,
) -> None:
    """Fold the convolutions of the model FACTORY: a function without arguments that returns a model, or a model.

    FACTORY is imported, also from the current folder, as in my_package.models:repvgg. The model is folded in evaluation
    mode, on random inputs of the given shapes; the folded model supports all batch and image sizes of the original.

    Example: convolith fold my_models:repvgg --input 1,3,224,224 -o folded.pt --html report.html
    """
    from convolith.cli.io.files import Output
    from convolith.folding import fold

    target = None if output is None else Output(output, ENDINGS)
    page = None if html is None else Output(html, (".html",), "--html")
    model, inputs = evaluation_model_and_inputs(factory, shapes, done="folded")
    if target:
        _warn_of_pickling(factory, target, model)
    with redirect_stdout(sys.stderr):  # the model's own code may print
        folded = fold(model, inputs, measure=measure, force=force)
    if target:
        _write(target, folded.model, inputs)
    report = folded.report
    if page:
        page.write(lambda file: file.write(_page(factory, shapes, model, report).encode()))
    emit(as_json=as_json, data=asdict(report) | {"written_to": output}, tables=report.tables())
    if not as_json and output:
        click.echo(f"\nwritten to {output}")


def _write(target: Output, model: Any, inputs: tuple[Any, ...]) -> None:
    import torch
    from torch.export import Dim

    if target.path.suffix.lower() == ".pt2":
        doubled = tuple(torch.cat([x, x]) for x in inputs)
        sizes = tuple(dict.fromkeys(range(x.ndim), Dim.AUTO) for x in doubled)
        try:
            program = torch.export.export(model, doubled, dynamic_shapes=sizes)
        except Exception as problem:  # torch and the model's own code may raise anything
            why = pickling_problem(model)
            remedy = f"write {target.path.stem}.pt"
            if why:
                remedy += f" after defining its classes and functions at the top level of a module ({why})"
            raise ConvolithError(
                f"--output is {target.path}, but torch.export cannot take the folded model "
                f"({(str(problem).strip() or type(problem).__name__).splitlines()[0]}); {remedy}"
            ) from problem
        target.write(lambda file: torch.export.save(program, file))
    elif unpicklable := pickling_problem(model):
        raise ConvolithError(
            f"--output is {target.path}, but code of the original model that folding keeps cannot be pickled "
            f"({unpicklable}); "
            f"write {target.path.stem}.pt2, or define its classes and functions at the top level of a module"
        )
    else:
        target.write(lambda file: torch.save(model, file))


def _warn_of_pickling(factory: str, target: Output, model: Any) -> None:
    """Warn before the work that it may be impossible to write the model as a .pt file."""
    problem = None if target.path.suffix.lower() == ".pt2" else pickling_problem(model)
    if problem:
        click.echo(
            f"warning: {factory} returns a model that cannot be pickled ({problem}); {target.path.name} can be written "
            f"only if folding keeps none of its code; {target.path.stem}.pt2 takes every model that torch.export does",
            err=True,
        )


def pickling_problem(model: Any) -> str | None:
    """Return the reason why a model cannot be pickled, or None if it can; its tensors are not written."""
    import torch

    class Dry(pickle.Pickler):
        def persistent_id(self, value: Any) -> str | None:
            return "a tensor" if isinstance(value, torch.Tensor) else None

    try:
        Dry(io.BytesIO()).dump(model)
    except Exception as problem:  # noqa: BLE001 - the model's own objects may raise anything
        return str(problem).strip().partition("\n")[0] or type(problem).__name__
    return None


def _page(factory: str, shapes: tuple[tuple[int, ...], ...], model: Any, report: Any) -> str:
    from convolith.report.html_page import Section, page
    from convolith.widget.sections import fold_section

    sized = " and ".join("x".join(map(str, wanted)) for wanted in shapes)
    saved = 1 - report.multiplications_after / report.multiplications_before if report.multiplications_before else 0
    introduction = (
        f"{factory} on {sized}: {len(report.rewrites)} rewrites, after which {report.convolutions_before} convolutions "
        f"are {report.convolutions_after}, with {100 * saved:.0f}% fewer multiplications. Each rewrite is exact at "
        "every batch and image size, borders included; the largest errors against the original, on given and random "
        "inputs of several sizes, are below."
    )
    proses = {
        "Folded": "Multiplications and bytes of convolutions, norms, scales, pooling and sums, which folding reads.",
        "Rewrites": "One row for each new convolution, with the operators that it replaces.",
        "Other operators": "Operators other than convolutions, which are unchanged.",
        "Left as it is": "Candidates that were not folded into one convolution, with the reason.",
    }
    sections = [
        Section(table.title, proses.get(table.title, ""), tables=(replace(table, title=""),))
        for table in report.tables()
    ]
    if report.rewrites:
        sections.insert(2, fold_section(model, report))
    return page(f"Convolith: {factory} folded", introduction, sections)
