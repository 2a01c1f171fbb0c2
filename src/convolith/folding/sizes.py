"""Inputs of other batches and sizes that a model takes: where a captured graph may be another one, and is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

Inputs = tuple[torch.Tensor, ...]
MOST = 8
"""Inputs that are tried at most where the graph holds only under conditions that they do not meet."""


def outputs(model: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    """The tensors of a model's result, in order; the inputs stay as they are, whatever the model writes on them."""
    result = model(*(x.clone(memory_format=torch.preserve_format) for x in inputs))
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Whatever the model writes on its own buffers while it is called is taken back."""
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                if not torch.equal(buffer, before):  # one that is expanded cannot be written at all
                    buffer.copy_(before)


def usual_sizes(model: nn.Module, inputs: Inputs) -> list[Inputs]:
    """The inputs, and those of twice the batch and of fewer rows and columns that the model takes (or of more)."""
    found = [inputs]
    batch, rows, columns = [(2, 1, 1)], [(1, 0.5, 1), (1, 2, 1)], [(1, 1, 0.5), (1, 1, 2)]
    for alternatives in (batch, rows, columns):
        changed = (_scaled(inputs, factors) for factors in alternatives)
        found += list(islice((other for other in changed if takes(model, other)), 1))
    return found


def sizes_outside(model: nn.Module, inputs: Inputs, holds: Callable[..., Any]) -> list[Inputs]:
    """Inputs that the model takes and that do not meet the conditions under which it was captured.

    Args:
        holds: called with tensors without values; raises AssertionError where the conditions are not met.
    """
    found = []
    for changed in _variations(inputs):
        try:
            holds(*(x.to("meta") for x in changed))
        except AssertionError:
            if takes(model, changed):
                found.append(changed)
        if len(found) == MOST:
            break
    return found


def takes(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a model computes anything for such inputs."""
    try:
        with torch.no_grad():
            outputs(model, inputs)
    except Exception:  # noqa: BLE001 - whatever the model's own code raises
        return False
    return True


def _variations(inputs: Inputs) -> Iterator[Inputs]:
    """Other batches, other sizes of each axis and of all."""
    for batch in (3, 5, 9, 17):
        yield _scaled(inputs, (batch, 1, 1))
    for change in (-1, 1, 2):
        for axes in ((1, 0), (0, 1), (1, 1)):
            yield tuple(
                _resized(x, [n + change * moves for n, moves in zip(x.shape[2:], axes, strict=False)]) for x in inputs
            )
    for factors in ((1, 0.25, 1), (1, 1, 0.25), (1, 0.25, 0.25), (1, 2, 1), (1, 1, 2)):
        yield _scaled(inputs, factors)


def _scaled(inputs: Inputs, factors: tuple[float, ...]) -> Inputs:
    """More of a batch, and the sizes of the first two spatial axes times a factor."""
    batch, *sizes = factors
    found = []
    for x in inputs:
        wanted = [max(int(n * f), 1) for n, f in zip(x.shape[2:], sizes, strict=False)]
        found.append(torch.cat([_resized(x, wanted)] * int(batch)))
    return tuple(found)


def _resized(x: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """The pixels repeated or cut along the first spatial axes."""
    for axis, size in enumerate(sizes, 2):
        size = max(size, 1)
        repeats = -(-size // x.shape[axis])
        x = torch.cat([x] * repeats, axis).narrow(axis, 0, size)
    return x
