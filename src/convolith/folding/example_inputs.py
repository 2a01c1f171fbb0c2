"""Inputs of other batch and image sizes that a model accepts, to compare captured graphs and folded models on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from math import ceil, prod
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import nn

from convolith.torch_private import TorchDispatchMode, leaves_of

Inputs = tuple[torch.Tensor, ...]


_draws: ContextVar[bool] = ContextVar("draws", default=False)
"""Whether the model that is folded draws random numbers; only then is torch's random state set, which threads share."""


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Mode that notes whether an operator draws random numbers."""

    seen: bool = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator, and note its tag."""
        self.seen = self.seen or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def draws_random_numbers(model: nn.Module, inputs: Inputs) -> bool:
    """Return whether a model draws random numbers for some inputs."""
    mode = _Draws()  # type: ignore[no-untyped-call]  # as above
    with unchanged(model), torch.no_grad(), mode:
        outputs(model, inputs)
    return mode.seen


@contextmanager
def equal_draws(state: torch.Tensor) -> Iterator[None]:
    """Return a context in which each call of a model draws the numbers that follow a random state, as before it."""
    token = _draws.set(True)
    torch.set_rng_state(state)
    try:
        yield
    finally:
        torch.set_rng_state(state)
        _draws.reset(token)


def compares_draws() -> bool:
    """Return whether the model that is folded draws random numbers."""
    return _draws.get()


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Return a context after which a model that draws random numbers draws those again that were drawn in it."""
    before = torch.get_rng_state() if _draws.get() else None
    try:
        yield
    finally:
        if before is not None:
            torch.set_rng_state(before)


def outputs(model: Callable[..., Any], inputs: Inputs) -> list[torch.Tensor]:
    """Return the tensors of a model's result, in order; the model gets copies, and may write to them in place.

    A model that draws random numbers draws equal ones in every call, so that outputs can be compared.
    """
    with same_random_numbers():
        result = model(*(x.clone(memory_format=torch.preserve_format) for x in inputs))
    return [leaf for leaf in leaves_of(result) if isinstance(leaf, torch.Tensor)]


class Reference(NamedTuple):
    """A model's outputs for an input, and the seconds that the call took."""

    outputs: list[torch.Tensor]
    seconds: float


def reference_of(model: nn.Module, inputs: Inputs) -> Reference:
    """Call a model; return its outputs and the duration of the call."""
    start = perf_counter()
    with torch.no_grad():
        result = [x.clone() for x in outputs(model, inputs)]  # an output may be a buffer that the next call overwrites
    return Reference(result, perf_counter() - start)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Return a context in which the model may write to its buffers, set attributes, and change dicts and lists in them.

    Afterwards all of these are as before; hooks are in such dicts.
    """
    saved = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    held = {id(v): v for _, earlier in attributes for v in earlier.values() if isinstance(v, dict | list)}
    contents = [(value, value.copy()) for value in held.values()]
    try:
        yield
    finally:
        for now, earlier in attributes:
            if len(now) != len(earlier) or any(now.get(name) is not value for name, value in earlier.items()):
                now.clear()
                now.update(earlier)
        for value, before in contents:
            _restore(value, before)
        with torch.no_grad():
            for buffer, kept in saved:
                if not torch.equal(buffer, kept):  # expanded buffers cannot be written to
                    buffer.copy_(kept)


def _restore(value: dict[Any, Any] | list[Any], before: dict[Any, Any] | list[Any]) -> None:
    """Give a dict or a list its earlier contents, if it has others."""
    if isinstance(value, dict) and isinstance(before, dict):
        if len(value) != len(before) or any(value.get(name, value) is not one for name, one in before.items()):
            value.clear()
            value.update(before)
    elif isinstance(value, list) and ([*map(id, value)] != [*map(id, before)]):
        value[:] = list(before)


def result_of(model: nn.Module, inputs: Inputs) -> list[torch.Tensor] | None:
    """Return the model's outputs, or None if it rejects the inputs."""
    try:
        with torch.no_grad():
            return outputs(model, inputs)
    except Exception:  # noqa: BLE001 - whatever the model's own code raises
        return None


def example_at(inputs: Inputs, sizes: dict[int, int], batch: int = 0) -> Inputs:
    """Return random inputs of the given sizes along some axes, and of another batch size if `batch` is not 0."""
    generator = torch.Generator().manual_seed(len(sizes) + batch)
    tensors = []
    for x in inputs:
        shape = [sizes.get(axis, n) for axis, n in enumerate(x.shape)]
        shape[0] = batch or x.shape[0]
        tensors.append(torch.randn(shape, generator=generator, device="cpu").to(dtype=x.dtype, device=x.device))
    return tuple(tensors)


class Base(NamedTuple):
    """Small sizes that a model accepts, and the step between accepted sizes, both by spatial axis."""

    sizes: dict[int, int]
    steps: dict[int, int]


def small_base(model: nn.Module, inputs: Inputs) -> Base:
    """Return small sizes that a model accepts: a fraction of the example's, or the example's if it rejects the others.

    Odd sizes are tried first: a model that accepts them accepts any size (step 1); others often need multiples.
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
    """Return the largest size of the inputs along each axis but the batch axis."""
    return {axis: max(x.shape[axis] for x in inputs if x.ndim > axis) for axis in range(1, max(x.ndim for x in inputs))}


SMALLEST = 7
"""Minimum size of a small input along an axis, in pixels, so that layers have an interior and borders."""
MULTIPLE = 32
"""Number of pixels of which many networks require image sizes to be a multiple."""


def variations(model: nn.Module, inputs: Inputs) -> Iterator[Inputs]:
    """Yield inputs of other batch and image sizes, each once, the most informative first; the model may reject some.

    Along each axis, channels included, the size is increased and decreased by one (other parity), halved, doubled, and
    set to one pixel. The other axes have small accepted sizes, odd and even in turn, so that few cheap inputs cover
    much. Then axes are changed one at a time, for a model that accepts other sizes along one axis only. A model that
    rejects odd sizes gets multiples of its small sizes.
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
    if all(base[axis] == whole[axis] for axis in axes[1:]):  # probably a model of one fixed size
        for axis in axes:
            yield example_at(inputs, {axis: whole[axis] + 1}, 1)
    near = {**whole, **base}
    twice = {axis: 2 * n for axis, n in whole.items()}
    steps = {axis: steps.get(axis, 1) for axis in axes}
    more = {axis: n + steps[axis] for axis, n in whole.items()}
    less = {axis: max(n - steps[axis], 1) for axis, n in whole.items()}

    def at(sizes: dict[int, int]) -> Inputs:
        """Return inputs: two images if a size is odd and both have at most half the example's pixels, else one."""
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
"""Maximum number of inputs of other sizes that are tried on a model that is not one graph."""


def taken(model: nn.Module, inputs: Inputs) -> list[Inputs]:
    """Return some inputs of other batch and image sizes that a model accepts."""
    return [others for others in islice(variations(model, inputs), MOST_TRIED) if result_of(model, others) is not None]
