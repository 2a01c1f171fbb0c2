"""Import of models by name, `package.module:factory`, also from the current folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import click

from convolith.errors import ConvolithError


def evaluation_model_and_inputs(text: str, shapes: Sequence[Sequence[int]], done: str) -> tuple[Any, tuple[Any, ...]]:
    """Return the model of that name in evaluation mode, and random inputs of the given shapes in its dtype.

    What the model's own code prints goes to stderr, and so does a note, with the word for what is `done` to the model,
    if it comes in training mode.

    Raises:
        ConvolithError: for sizes below one, models that cannot be created, and inputs that do not fit into memory.
    """
    for wanted in shapes:
        if min(wanted) < 1:
            raise ConvolithError(f"--input is {','.join(map(str, wanted))}; expected positive numbers")
    with redirect_stdout(sys.stderr):  # the model's own code may print
        model = model_of(text)
    if any(module.training for module in model.modules()):
        click.echo(f"{text} returns a model in training mode; it is {done} in evaluation mode", err=True)
        model.eval()
    return model, _random_inputs(model, shapes)


def _random_inputs(model: Any, shapes: Sequence[Sequence[int]]) -> tuple[Any, ...]:
    import torch

    from convolith.planner.machine import check_memory

    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    check_memory("the inputs, here and in float64 for the proof, take", sum(map(prod, shapes)) * (dtype.itemsize + 8))
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(tuple(wanted), generator=generator).to(dtype) for wanted in shapes)


def model_of(text: str) -> Any:
    """Return the model that a factory creates, or the model of that name."""
    import torch

    where, _, name = text.partition(":")
    if not where or not name:
        raise ConvolithError(f"FACTORY is {text!r}; expected package.module:factory, such as my_models:repvgg")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        factory: Any = import_module(where)
        for step in name.split("."):
            factory = getattr(factory, step)
    except (Exception, SystemExit) as problem:  # the module's code may raise anything, or exit
        raise ConvolithError(
            f"FACTORY is {text}, which cannot be imported from here ({type(problem).__name__}: {problem}); expected "
            "package.module:factory, such as my_models:repvgg"
        ) from problem
    finally:
        sys.path.remove(folder)
    if isinstance(factory, torch.nn.Module) or not callable(factory):
        model = factory
    else:
        try:
            model = factory()
        except (Exception, SystemExit) as problem:  # the factory's code may, too
            raise ConvolithError(
                f"FACTORY is {text}, whose call raised {type(problem).__name__}: {problem}; expected a function "
                "without arguments that returns a model"
            ) from problem
    if not isinstance(model, torch.nn.Module):
        raise ConvolithError(f"FACTORY is {text}, which gives {type(model).__name__}; expected a torch.nn.Module")
    return model
