"""A model as a graph of torch's own operators, at every batch and image size that the model takes: `torch.export`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import Dim, export

from convolith.errors import ConvolithError


def capture(model: torch.nn.Module, example: torch.Tensor) -> torch.fx.GraphModule:
    """The graph of a model in evaluation; what it computes for the example is known to be the same.

    Every axis of the input but the channels may take other sizes. torch settles some sizes by itself where a model
    asks for them as numbers; it is then captured again the strict way, and refused if that settles them too.

    Raises:
        ConvolithError: a model that torch cannot capture, with torch's reason.
    """
    larger = torch.cat([example, example])
    sizes = {axis: Dim.AUTO for axis in range(example.ndim) if axis != 1}
    reasons = []
    for strict in (False, True):
        try:
            with _quiet(), torch.no_grad():
                found = export(model, (larger,), dynamic_shapes=(sizes,), strict=strict).module()
                for x in (example, larger):
                    if not _alike(found(x), model(x)):
                        raise ConvolithError("what was captured gives other outputs than the model")
        except Exception as problem:  # torch raises whatever the model's own code does, and more
            reasons.append(str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__)
        else:
            return found
    raise ConvolithError(
        f"model cannot be captured by torch.export: {reasons[0]}; fold its parts by themselves, or rewrite the line "
        "that depends on the data"
    )


def _alike(a: Any, b: Any) -> bool:
    """Whether two results are the same tensors."""
    first, second = outputs(a), outputs(b)
    return len(first) == len(second) and all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def outputs(result: Any) -> list[torch.Tensor]:
    """The tensors of a model's result, in order."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings about sizes that it settled: what is captured is tried at two."""
    log = logging.getLogger("torch")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
