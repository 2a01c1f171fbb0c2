"""Models that a command is given by name: `package.module:factory`, imported, from the current folder too."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from convolith.errors import ConvolithError


def model_of(text: str) -> Any:
    """What a factory gives."""
    import torch

    where, _, name = text.partition(":")
    if not where or not name:
        raise ConvolithError(f"FACTORY is {text!r}; expected package.module:factory, such as my_models:repvgg")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found: Any = import_module(where)
        for step in name.split("."):
            found = getattr(found, step)
    except (Exception, SystemExit) as problem:  # the module's own code may raise anything, or end the process
        raise ConvolithError(
            f"FACTORY is {text}, which cannot be imported from here ({type(problem).__name__}: {problem}); expected "
            "package.module:factory, such as my_models:repvgg"
        ) from problem
    finally:
        sys.path.remove(folder)
    if isinstance(found, torch.nn.Module) or not callable(found):
        model = found
    else:
        try:
            model = found()
        except (Exception, SystemExit) as problem:  # as above
            raise ConvolithError(
                f"FACTORY is {text}, whose call raised {type(problem).__name__}: {problem}; expected a function that "
                "gives a model without arguments"
            ) from problem
    if not isinstance(model, torch.nn.Module):
        raise ConvolithError(f"FACTORY is {text}, which gives {type(model).__name__}; expected a torch.nn.Module")
    return model
