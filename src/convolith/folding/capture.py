"""A model as a graph of torch's own operators, at every batch and image size that the model takes."""

from __future__ import annotations

import inspect
import io
import logging
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.export import Dim, export
from torch.fx import GraphModule

from convolith.errors import ConvolithError
from convolith.folding.sizes import Inputs, outputs, sizes_outside, usual_sizes
from convolith.folding.symbolic import symbolic


class Captured(NamedTuple):
    """A graph that shares the model's parameters.

    Attributes:
        module: the graph.
        kept: modules that stand in it as they are, with the reason.
        tried: inputs for which it gives the model's own outputs, bit for bit.
    """

    module: GraphModule
    kept: dict[str, str]
    tried: list[Inputs]


def capture(model: torch.nn.Module, inputs: Inputs, hooks: Collection[str]) -> Captured:
    """The graph of a model in evaluation; what it computes is known to be the same, bit for bit, at several sizes.

    Every axis of the inputs but the channels may take other sizes. `torch.export` comes first, the plain and then the
    strict way, since either may settle sizes by itself; then `torch.fx`, which keeps a module whose code depends on
    the data as it is. A module with hooks is kept too, so that they still run.

    Args:
        hooks: the names of the modules that have some.

    Raises:
        ConvolithError: a model that none of them captures, with the line that stands in the way.
    """
    hooked = {name: "it has hooks, which a rewrite would drop" for name in hooks if name}
    tried = usual_sizes(model, inputs)
    problems: list[Exception] = []
    for strict in () if hooked else (False, True):
        try:
            with _quiet(), torch.no_grad():
                found, holds = _exported(model, inputs, strict=strict)
                outside = [] if holds is None else sizes_outside(model, inputs, holds)
                check_alike(model, found, [*tried, *outside])
        except Exception as problem:  # noqa: BLE001 - torch raises whatever the model's own code does, and more
            problems.append(problem)
        else:
            return Captured(found, {}, [*tried, *outside])
    try:
        with _quiet(), torch.no_grad():
            found, kept = symbolic(model, hooked)
            check_alike(model, found, tried)
    except Exception as problem:  # noqa: BLE001 - as above
        problems.append(problem)
    else:
        return Captured(found, kept, tried)
    where = next(filter(None, map(line_of, problems)), None)
    raise ConvolithError(
        f"model cannot be captured: {_first_line(problems[0])}"
        + (f" (at {where})" if where else "")
        + "; fold its parts by themselves, or rewrite the line so that it asks for neither numbers nor sizes"
    )


def hooks_of(model: torch.nn.Module) -> list[str]:
    """The modules with hooks of the user's; torch's own weight norms are hooks as well, which may be dropped."""
    return [
        name
        for name, module in model.named_modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if not type(hook).__module__.startswith("torch.nn.utils")
    ]


def check_alike(model: torch.nn.Module, found: torch.nn.Module, tried: list[Inputs]) -> None:
    """Refuse a graph that gives anything else than the model."""
    for inputs in tried:
        first, second = outputs(model, inputs), outputs(found, inputs)
        if len(first) != len(second) or not all(_same(a, b) for a, b in zip(first, second, strict=True)):
            raise ConvolithError(
                f"what was captured gives other outputs than the model for inputs of {[tuple(x.shape) for x in inputs]}"
            )


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.isclose(a, b, rtol=0, atol=0, equal_nan=True).all())


def line_of(problem: BaseException) -> str | None:
    """The last line of code outside of torch and of this package that a problem came through."""
    own = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = [f for f in traceback.extract_tb(problem.__traceback__) if not f.filename.startswith((*own, "<"))]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else None


def _exported(model: torch.nn.Module, inputs: Inputs, *, strict: bool) -> tuple[GraphModule, Callable[..., Any] | None]:
    """The graph, and a function that raises for sizes at which it might be another one.

    Those are more than need be (sizes of one pixel are among them, always), so that the graph is tried there.
    """
    doubled = tuple(torch.cat([x, x]) for x in inputs)
    sizes = tuple({axis: Dim.AUTO for axis in range(x.ndim) if axis != 1} for x in inputs)
    shapes = (sizes,) if _takes_any(model) else sizes
    found = export(model, doubled, dynamic_shapes=shapes, strict=strict).module()
    if not isinstance(found, GraphModule):
        raise ConvolithError(f"torch.export gave a {type(found).__name__}")
    holds = None
    for node in list(found.graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("_guards"):
            holds = found.get_submodule(str(node.target))
            found.graph.erase_node(node)
        elif node.target is torch.ops.aten._assert_tensor_metadata.default:  # of dtypes, which copies change
            found.graph.erase_node(node)
    found.recompile()
    return found, holds


def _takes_any(model: torch.nn.Module) -> bool:
    """Whether `forward` is declared as *args, whose shapes torch.export wants in a tuple of their own."""
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    return bool(kinds) and kinds[0] is inspect.Parameter.VAR_POSITIONAL


def _first_line(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines()
    return lines[0] if lines else type(problem).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings about sizes that it settled and its listings of what failed: the reason is kept."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
