"""Inputs of other batches and sizes that a model takes: what a captured graph and a folded model are compared on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

Inputs = tuple[torch.Tensor, ...]


def outputs(model: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    """Return the tensors of a model's result, in order; the inputs stay as they are, whatever the model writes."""
    result = model(*(x.clone(memory_format=torch.preserve_format) for x in inputs))
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """While inside, the model may write on its buffers; they are what they were after it."""
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                if not torch.equal(buffer, before):  # one that is expanded cannot be written at all
                    buffer.copy_(before)


def result_of(model: nn.Module, inputs: Inputs) -> list[torch.Tensor] | None:
    """Return the model's outputs, or None where it does not take the inputs."""
    try:
        with torch.no_grad():
            return outputs(model, inputs)
    except Exception:  # noqa: BLE001 - whatever the model's own code raises
        return None


def example_at(inputs: Inputs, sizes: dict[int, int | float], batch: int = 0) -> Inputs:
    """Return random inputs of another size along some axes.

    Args:
        inputs: the example.
        sizes: by axis, a size, or a factor (a float) of the example's.
        batch: of the result; the example's where 0.
    """
    generator = torch.Generator().manual_seed(len(sizes) + batch)
    made = []
    for x in inputs:
        shape = [batch or x.shape[0], *x.shape[1:]]
        for axis, size in sizes.items():
            if axis < x.ndim:
                shape[axis] = max(int(x.shape[axis] * size), 1) if isinstance(size, float) else size
        made.append(torch.randn(shape, generator=generator).to(dtype=x.dtype, device=x.device))
    return tuple(made)


def small_base(model: nn.Module, inputs: Inputs) -> dict[int, int | float]:
    """Return the smallest sizes of the spatial axes, of some fractions of the example's, that a model takes."""
    axes = range(2, max(x.ndim for x in inputs))
    for factor in (0.125, 0.25, 0.5):
        sizes: dict[int, int | float] = dict.fromkeys(axes, factor)
        small = min((max(int(x.shape[a] * factor), 1) for x in inputs for a in axes if a < x.ndim), default=1)
        if small >= SMALLEST and result_of(model, example_at(inputs, sizes)) is not None:
            return sizes
    return {}


SMALLEST = 7
"""Pixels along an axis that a small input has at least, so that layers have an interior and borders."""


def variations(model: nn.Module, inputs: Inputs) -> Iterator[Inputs]:
    """Yield inputs of other batches and sizes, those that tell most first; the model may not take some.

    Along each axis, channels included: one more and one less (of other parity), half, twice, and one pixel; the other
    axes are as small as the model takes them, so that this costs little.
    """
    base = small_base(model, inputs)
    yield example_at(inputs, base, 2)
    axes = range(1, max(x.ndim for x in inputs))
    whole = {axis: max(x.shape[axis] for x in inputs if x.ndim > axis) for axis in axes}
    for axis in axes:
        around = base.get(axis, 1.0)
        near = max(int(whole[axis] * around), 1)
        for size in (near + 1, whole[axis] * 2, max(whole[axis] - 1, 1), near + 2, whole[axis] + 1):
            yield example_at(inputs, {**base, axis: size}, 2 if size % 2 else 1)
    for batch in (3, 5, 9, 17):
        yield example_at(inputs, base, batch)
    yield example_at(inputs, {axis: 1 for axis in axes if axis > 1}, 2)
    for axis in axes:
        yield example_at(inputs, {**base, axis: 1})
    yield example_at(inputs, {axis: 0.5 for axis in axes if axis > 1}, 3)
