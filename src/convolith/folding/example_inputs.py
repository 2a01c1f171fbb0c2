"""Inputs of other batches and sizes that a model takes: what a captured graph and a folded model are compared on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from math import ceil, prod
from time import perf_counter
from typing import NamedTuple

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

Inputs = tuple[torch.Tensor, ...]


def outputs(model: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    """Return the tensors of a model's result, in order; the inputs stay as they are, whatever the model writes."""
    result = model(*(x.clone(memory_format=torch.preserve_format) for x in inputs))
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]


class Reference(NamedTuple):
    """A model's outputs for an input, and the seconds that the call took."""

    outputs: list[torch.Tensor]
    seconds: float


def reference_of(model: nn.Module, inputs: Inputs) -> Reference:
    """Call a model."""
    start = perf_counter()
    with torch.no_grad():
        found = [x.clone() for x in outputs(model, inputs)]  # it may give a buffer that it writes on again
    return Reference(found, perf_counter() - start)


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


def example_at(inputs: Inputs, sizes: dict[int, int], batch: int = 0) -> Inputs:
    """Return random inputs of other sizes along some axes, and of another batch if it is given."""
    generator = torch.Generator().manual_seed(len(sizes) + batch)
    made = []
    for x in inputs:
        shape = [sizes.get(axis, n) for axis, n in enumerate(x.shape)]
        shape[0] = batch or x.shape[0]
        made.append(torch.randn(shape, generator=generator).to(dtype=x.dtype, device=x.device))
    return tuple(made)


class Base(NamedTuple):
    """Small sizes of the spatial axes that a model takes, and by axis the step between sizes that it takes."""

    sizes: dict[int, int]
    steps: dict[int, int]


def small_base(model: nn.Module, inputs: Inputs) -> Base:
    """Return small sizes that a model takes, some fraction of the example's; the whole at worst.

    Odd sizes are tried first: a model that takes these takes any (steps of 1); others often take multiples only.
    """
    whole = {axis: n for axis, n in _largest_sizes(inputs).items() if axis > 1}
    for factor in (0.125, 0.25, 0.5):
        parts = [{a: max(ceil(n * factor / step) * step, SMALLEST) for a, n in whole.items()} for step in (1, MULTIPLE)]
        for odd in (True, False):
            for part in parts:
                sizes = {axis: min(n, part[axis] // 2 * 2 + 1 if odd else part[axis]) for axis, n in whole.items()}
                if sizes != whole and result_of(model, example_at(inputs, sizes)) is not None:
                    return Base(sizes, dict.fromkeys(whole, 1) if odd else sizes)
    return Base(whole, dict.fromkeys(whole, 1))


def _largest_sizes(inputs: Inputs) -> dict[int, int]:
    """Return by axis, from that of the channels on, the largest size of the inputs."""
    return {axis: max(x.shape[axis] for x in inputs if x.ndim > axis) for axis in range(1, max(x.ndim for x in inputs))}


SMALLEST = 7
"""Pixels along an axis that a small input has at least, so that layers have an interior and borders."""
MULTIPLE = 32
"""Many networks take images only whose sizes are multiples of this."""


def variations(model: nn.Module, inputs: Inputs) -> Iterator[Inputs]:
    """Yield inputs of other batches and sizes, each once, those that tell most first; the model may not take some.

    Along each axis, channels included: one more and one less (of other parity), half, twice, and one pixel. The other
    axes are as small as the model takes them, and of odd and even sizes in turn, so that few inputs that cost little
    tell much; then each axis by itself, for a model that takes other sizes along one axis only. A model that takes no
    odd sizes is given multiples of small ones.
    """
    known = {tuple(x.shape for x in inputs)}
    for others in _variations(small_base(model, inputs), inputs):
        shapes = tuple(x.shape for x in others)
        if shapes not in known:
            known.add(shapes)
            yield others


def _variations(small: Base, inputs: Inputs) -> Iterator[Inputs]:
    base, steps = small
    yield example_at(inputs, base, 2)
    whole = _largest_sizes(inputs)
    axes = [*whole]
    if all(base[axis] == whole[axis] for axis in axes[1:]):  # likely a model of one size: little time for others
        for axis in axes:
            yield example_at(inputs, {axis: whole[axis] + 1}, 1)
    near = {**whole, **base}
    twice = {axis: 2 * n for axis, n in whole.items()}
    steps = {axis: steps.get(axis, 1) for axis in axes}
    more = {axis: n + steps[axis] for axis, n in whole.items()}
    less = {axis: max(n - steps[axis], 1) for axis, n in whole.items()}

    def at(sizes: dict[int, int]) -> Inputs:
        """Return inputs of these sizes: two images if a size is odd and both are half the example at most, or one."""
        pixels = [prod({**near, **sizes}.values()), prod(whole.values())]
        is_odd = any(n // steps[axis] % 2 for axis, n in sizes.items())
        return example_at(inputs, sizes, 2 if 4 * pixels[0] <= pixels[1] and is_odd else 1)

    if len(axes) > 2:
        for above, far in ((1, twice), (2, less), (0, more)):
            for axis in axes[1:]:
                yield at({**{a: near[a] + above * (steps[a] == 1) for a in axes[1:]}, axis: far[axis]})
    yield example_at(inputs, base, 3)
    for far in (twice, more, less):
        for axis in axes:
            yield at({**base, axis: far[axis]})
    for above in (1, 2):
        for axis in axes:
            yield at({**base, axis: near[axis] + above * steps[axis]})
    yield example_at(inputs, base, 5)
    yield example_at(inputs, {axis: 1 for axis in axes if axis > 1}, 2)
    for axis in axes:
        yield example_at(inputs, {**base, axis: 1})
    yield example_at(inputs, {axis: max(n // 2, 1) for axis, n in whole.items() if axis > 1}, 1)


MOST_TRIED = 12
"""Inputs of other sizes that a model of several graphs is given, to find some that it takes."""


def taken(model: nn.Module, inputs: Inputs) -> list[Inputs]:
    """Return some inputs of other batches and sizes that a model takes."""
    return [others for others in islice(variations(model, inputs), MOST_TRIED) if result_of(model, others) is not None]
