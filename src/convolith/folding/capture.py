"""A model as a graph of torch's own operators, at every batch and image size that the model takes."""

from __future__ import annotations

import inspect
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.export import Dim, export
from torch.fx import GraphModule

from convolith.errors import ConvolithError
from convolith.folding.symbolic import symbolic

Inputs = tuple[torch.Tensor, ...]


class Captured(NamedTuple):
    """A graph that shares the model's parameters, and the modules that stand in it as they are, with the reason."""

    module: GraphModule
    kept: dict[str, str]


def capture(model: torch.nn.Module, inputs: Inputs) -> Captured:
    """The graph of a model in evaluation; what it computes is known to be the same, bit for bit, at several sizes.

    Every axis of the inputs but the channels may take other sizes. `torch.export` comes first, the plain and then the
    strict way, since either may settle sizes by itself; then `torch.fx`, which keeps a module whose code depends on
    the data as it is. A module with hooks is kept too, so that they still run.

    Raises:
        ConvolithError: a model that none of them captures, with the line that stands in the way.
    """
    hooked = {name: "it has hooks, which a rewrite would drop" for name in hooks_of(model) if name}
    tried = inputs_of_other_sizes(model, inputs)
    problems: list[Exception] = []
    for strict in () if hooked else (False, True):
        try:
            with _quiet(), torch.no_grad():
                found = _exported(model, tried[1], strict=strict)
                check_alike(model, found, tried)
        except Exception as problem:  # noqa: BLE001 - torch raises whatever the model's own code does, and more
            problems.append(problem)
        else:
            return Captured(found, {})
    try:
        with _quiet(), torch.no_grad():
            found, kept = symbolic(model, hooked)
            check_alike(model, found, tried)
    except Exception as problem:  # noqa: BLE001 - as above
        problems.append(problem)
    else:
        return Captured(found, kept)
    where = next(filter(None, map(line_of, problems)), None)
    raise ConvolithError(
        f"model cannot be captured: {_first_line(problems[0])}"
        + (f" (at {where})" if where else "")
        + "; fold its parts by themselves, or rewrite the line so that it does not depend on the data"
    )


def hooks_of(model: torch.nn.Module) -> list[str]:
    """The modules with hooks of the user's; torch's own weight norms are hooks as well, which may be dropped."""
    return [
        name
        for name, module in model.named_modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if not type(hook).__module__.startswith("torch.nn.utils")
    ]


def inputs_of_other_sizes(model: torch.nn.Module, inputs: Inputs) -> list[Inputs]:
    """The inputs, the same with twice the batch, and with images of another size where the model takes them."""
    doubled = tuple(torch.cat([x, x]) for x in inputs)
    found = [inputs, doubled]
    for wanted in (_wider(inputs, 0.5), _wider(inputs, 2.0)):
        try:
            with torch.no_grad():
                model(*wanted)
        except Exception:  # noqa: BLE001, S112 - whatever the model's code raises: it does not take this size
            continue
        return [*found, wanted]
    return found


def _wider(inputs: Inputs, factor: float) -> Inputs:
    """The first rows of the inputs, or the inputs with more rows."""
    changed = []
    for x in inputs:
        if x.ndim < 3:
            changed.append(x)
        elif factor < 1:
            changed.append(x[:, :, : max(x.shape[2] // 2, 1)])
        else:
            changed.append(torch.cat([x, x], 2))
    return tuple(changed)


def check_alike(model: torch.nn.Module, found: torch.nn.Module, tried: list[Inputs]) -> None:
    """Refuse a graph that gives anything else than the model."""
    for inputs in tried:
        first, second = outputs(model(*inputs)), outputs(found(*inputs))
        if len(first) != len(second) or not all(_same(a, b) for a, b in zip(first, second, strict=True)):
            raise ConvolithError(
                f"what was captured gives other outputs than the model for inputs of {[tuple(x.shape) for x in inputs]}"
            )


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.isclose(a, b, rtol=0, atol=0, equal_nan=True).all())


def outputs(result: Any) -> list[torch.Tensor]:
    """The tensors of a model's result, in order."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def line_of(problem: BaseException) -> str | None:
    """The last line of code outside of torch and of this package that a problem came through."""
    own = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = [f for f in traceback.extract_tb(problem.__traceback__) if not f.filename.startswith((*own, "<"))]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else None


def _exported(model: torch.nn.Module, inputs: Inputs, *, strict: bool) -> GraphModule:
    sizes = tuple({axis: Dim.AUTO for axis in range(x.ndim) if axis != 1} for x in inputs)
    found = export(model, inputs, dynamic_shapes=(sizes,) if _takes_any(model) else sizes, strict=strict).module()
    if not isinstance(found, GraphModule):
        raise ConvolithError(f"torch.export gave a {type(found).__name__}")
    for node in list(found.graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("_guards"):  # they hold sizes to the example's
            found.graph.erase_node(node)
    found.recompile()
    return found


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
