"""Optimised networks in files: the graph of the folded model, its weights, and the choices of engines.

`torch.export` records the graph. Where it holds more than operators and tensors, torch's own form of it is kept, which
`torch.export.load` unpickles in part; that is done for trusted files alone.
"""

from __future__ import annotations

import inspect
import io
import json
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import torch

from convolith.errors import ConvolithError, check_flag
from convolith.folding.capture import HOOKS
from convolith.network import graph_file
from convolith.network.module import Optimized, Sizes
from convolith.storage import replacing
from convolith.torch_private import fixed_size, safe_in_forks

FORMAT = 1
"""Version of the files."""
GRAPH, WEIGHTS, MODEL, CHOICES = "graph.json", "weights.pt", "model.pt2", "choices.json"


@safe_in_forks
def save(model: Optimized, path: str | Path | IO[bytes]) -> None:
    """Write an optimised model to a file, which is replaced only by a complete one, or to an open one.

    A model with code of its own is written for the size of the example alone.

    Raises:
        ConvolithError: if `torch.export` cannot take the model.
    """
    inputs = model.example()
    whole = model.with_hooks()
    sizes = _by_arguments(whole, [dict.fromkeys(range(x.ndim), torch.export.Dim.AUTO) for x in inputs])
    fixed = model.has_code()  # which torch.export records for one size alone
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(whole, inputs, dynamic_shapes=None if fixed else sizes)
            parts = _parts(program)
    except Exception as problem:
        first = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise ConvolithError(
            f"path is {str(path)!r}, but torch.export cannot take the model ({first}); pickle the optimised model"
        ) from problem
    choices = {"format": FORMAT, "accuracy": model.accuracy, "sizes": model.choices()}
    choices["plain"] = model.is_plain
    choices["example"] = [[list(x.shape), str(x.dtype).removeprefix("torch.")] for x in inputs]
    choices["only"] = [list(x.shape) for x in inputs] if fixed else _fixed_axes(program, model.sizes)
    with (
        replacing(Path(path)) if isinstance(path, str | Path) else nullcontext(path) as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        for name, content in parts.items():
            archive.writestr(name, content)
        archive.writestr(CHOICES, json.dumps(choices, indent=1))


def _fixed_axes(program: Any, sizes: Sizes) -> list[list[int | None]]:
    """Return the shapes of the inputs of an exported model, with None along the axes that may have other sizes.

    Args:
        program: the exported model.
        sizes: shapes of the only inputs that the model takes already.
    """
    wanted = program.graph_signature.user_inputs
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.name in wanted]
    found = [[fixed_size(n) for n in shape] for shape in shapes]
    pairs = zip(found, sizes or found, strict=True)
    return [[n if m is None else m for n, m in zip(new, old, strict=True)] for new, old in pairs]


def _by_arguments(model: torch.nn.Module, sizes: list[Any]) -> tuple[Any, ...]:
    """Return one description for each argument of a model; those that `*args` takes are one tuple."""
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(sizes)
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*sizes[:first], tuple(sizes[first:])) if len(sizes) > first else tuple(sizes)


def _parts(program: Any) -> dict[str, bytes]:
    """Return the parts of a file that hold an exported model."""
    content = io.BytesIO()
    try:
        graph, tensors = graph_file.written(_without_checks(program.module()))
    except graph_file.NotWritten:
        torch.export.save(program, content)
        return {MODEL: content.getvalue()}
    torch.save(tensors, content)
    return {GRAPH: json.dumps(graph).encode(), WEIGHTS: content.getvalue()}


def _without_checks(plain: Any) -> Any:
    """Return an exported module without its checks of sizes, which the model's own operators make too."""
    for name in ("train", "eval"):  # which refuse every call
        vars(plain).pop(name, None)
    for name in HOOKS:
        getattr(plain, name).clear()
    for node in list(plain.graph.nodes):
        if node.op == "call_module" and not node.users:
            plain.graph.erase_node(node)
    plain.recompile()
    return plain


def _model(parts: Mapping[str, bytes]) -> Any:
    """Return the module of the parts of a file."""
    if GRAPH in parts:
        tensors = torch.load(io.BytesIO(parts[WEIGHTS]), weights_only=True)
        return graph_file.read(json.loads(parts[GRAPH]), tensors)
    return _without_checks(torch.export.load(io.BytesIO(parts[MODEL])).module())


@safe_in_forks
def load(path: str | Path, *, trusted: bool = False) -> Optimized:
    """Return an optimised model from a file that `Optimization.save` wrote.

    Nothing of a file is run or unpickled unless you trust it. Models whose graph has more than operators and tensors
    (branches by `torch.cond`, for example) are written in torch's own format, which can hold code. Each layer has the
    engine that was chosen before it was saved, if this machine has it. Weights are prepared anew, at the first call of
    each input size.

    Args:
        path: name of the file.
        trusted: whether torch's own format is read too, by `torch.export.load`, which runs code in the file.

    Returns:
        A torch module, like the `model` of an `Optimization`, in evaluation mode.

    Raises:
        ConvolithError: if the file is missing, damaged, or of another version, or can hold code and is not trusted.

    Example:
        >>> import os, tempfile, torch
        >>> import convolith as cl
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
        >>> path = os.path.join(tempfile.mkdtemp(), "net.zip")
        >>> cl.optimize(model, torch.zeros(1, 3, 16, 16), measure=False).save(path)
        >>> cl.network.load(path)(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 8, 14, 14])
    """
    try:
        with zipfile.ZipFile(path) as archive:
            choices = json.loads(archive.read(CHOICES))
            parts = {name: archive.read(name) for name in (GRAPH, WEIGHTS, MODEL) if name in archive.namelist()}
            if MODEL not in parts and len(parts) < 2:
                raise KeyError(f"it has no {GRAPH if GRAPH not in parts else WEIGHTS}")
    except FileNotFoundError:
        raise ConvolithError(
            f"path is {str(path)!r}, which does not exist; pass the path of a file that `Optimization.save` wrote"
        ) from None
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as problem:
        raise ConvolithError(
            f"path is {str(path)!r}, which is damaged or no optimised model ({problem}); save the model again"
        ) from problem
    if not isinstance(choices, dict) or choices.get("format") != FORMAT:
        found = choices.get("format") if isinstance(choices, dict) else None
        raise ConvolithError(
            f"path is {str(path)!r}, a file of format {found}; this version reads format {FORMAT}: optimise the model "
            "again"
        )
    if GRAPH not in parts and not check_flag("trusted", trusted):
        raise ConvolithError(
            f"path is {str(path)!r}, whose model is in torch's own format, and torch.export.load runs code that such a "
            "file may hold; if you know who wrote it, pass trusted=True"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = _model(parts)
    except ConvolithError as problem:
        raise ConvolithError(f"path is {str(path)!r}, but {problem}; optimise the model again") from problem
    except Exception as problem:
        raise ConvolithError(
            f"path is {str(path)!r}, whose model torch {torch.__version__} cannot read; optimise the model again"
        ) from problem
    example = tuple((tuple(shape), getattr(torch, dtype)) for shape, dtype in choices.get("example", ()))
    model = Optimized(plain, str(choices["accuracy"]), None, example)
    model.choose(choices["sizes"])
    if choices.get("plain"):
        model.give_up()
    only = choices.get("only")
    model.sizes = None if only is None else tuple(map(tuple, only))
    return model
