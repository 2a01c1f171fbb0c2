"""The most memory that a training step holds: forward, loss, backward and the optimizer's step, on fake tensors.

Every storage is followed from the operator that makes it to the moment when nobody refers to it any more, which under
fake tensors is the same moment as in a real run, and while a convolution runs its kernel's own memory is added
(`workspace`). Two steps are run; the second one counts, when the optimizer has its state.
"""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from convolith.costing import planned, workspace
from convolith.costing.fakes import (
    as_inputs,
    aside,
    check_lazy,
    check_sizes,
    stand_ins,
    storage_bytes,
    storages_of,
    tensors_in,
    tensors_of,
)
from convolith.costing.watching import Watcher
from convolith.engines.memory import plain
from convolith.errors import ConvolithError, check_option
from convolith.jit.threads import forget_scratch
from convolith.planner.kept import forget

NEWS = "KINETO_LOG_LEVEL"
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters),
}
"""By name; the rate has no part in it."""


@dataclass(frozen=True)
class Peak:
    """The most that a training step holds.

    Attributes:
        bytes: at once, of the model, its input, gradients, the optimizer's state and everything that is made.
        optimizer: by name.
        operator, module, phase: what ran then: "forward", "backward" or "optimizer".
        measured: bytes in a real step, or None where none was run.
    """

    bytes: int
    optimizer: str
    operator: str
    module: str
    phase: str
    measured: int | None = None

    def cells(self) -> dict[str, Any]:
        """For a table."""
        found: dict[str, Any] = {"optimizer": self.optimizer, "bytes": self.bytes}
        if self.measured is not None:
            found |= {"measured": self.measured, "predicted / measured": self.bytes / self.measured}
        return found | {"when": self.phase, "operator": self.operator, "module": self.module or "-"}


def largest_batch(peak: Callable[[int], int], memory: float) -> int:
    """The largest batch whose peak, which grows with it, is no more than `memory`; 0 if that of one is more.

    What grows is nearly a line: the line through two batches is followed, until the answer is between neighbours.
    """
    try:
        low, held = 1, peak(1)
    except ConvolithError:  # norms of a batch may want more than one number of each channel
        low, held = 2, peak(2)
    if held > memory:
        return 0
    high = low + 1
    beyond = peak(high)
    while beyond <= memory:
        slope = max((beyond - held) / (high - low), 1.0)
        low, held = high, beyond
        high = low + max(1, min(int((memory - held) / slope), 64 * low))
        beyond = peak(high)
    while high - low > 1:
        middle = low + min(max(int((high - low) * (memory - held) / max(beyond - held, 1)), 1), high - low - 1)
        between = peak(middle)
        low, held, high, beyond = (middle, between, high, beyond) if between <= memory else (low, held, middle, between)
    return low


def peak_of(
    model: torch.nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], optimizer: str, *, verify: bool
) -> Peak:
    """The peak of a step whose loss is the sum of all that the model gives.

    Args:
        model: in the mode in which it is trained; it is left as it was.
        arguments, keywords: of its call.
        optimizer: one of OPTIMIZERS.
        verify: run a step of a copy, and measure it too.

    Raises:
        ConvolithError: another optimizer, a model without parameters to train, and what the model refuses.
    """
    check_option("optimizer", optimizer, OPTIMIZERS)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConvolithError("model has no parameter that requires a gradient; there is no training step of it")
    check_lazy(model)
    fake, follower = FakeTensorMode(allow_non_fake_inputs=True), _Follower(model)
    with ExitStack() as stack:
        stack.enter_context(aside())
        stack.enter_context(fake)
        state = stack.enter_context(stand_ins(model, fake))
        given = as_inputs((arguments, keywords), fake, requires_grad=False)
        for tensor in (*state, *tensors_of(given)):
            follower.follow(tensor)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(follower.named())
        trained = OPTIMIZERS[optimizer]([p for p in model.parameters() if p.requires_grad])
        with follower:
            for _ in range(2):
                follower.restart()
                _step(model, given, trained, follower)
        found = follower.found
        del trained
    measured = _measured(model, arguments, keywords, optimizer) if verify else None
    return Peak(found.bytes, optimizer, found.operator, ".".join(found.path), found.phase, measured)


def _step(
    model: torch.nn.Module, given: Any, trained: torch.optim.Optimizer, follower: _Follower | None = None
) -> None:
    """A training step."""
    if follower is not None:
        follower.phase = "forward"
    outputs = [tensor for tensor in tensors_of(model(*given[0], **given[1])) if tensor.requires_grad]
    if not outputs:
        raise ConvolithError("model gives nothing that depends on its parameters; there is no training step of it")
    loss = outputs[0].sum()
    for tensor in outputs[1:]:
        loss = loss + tensor.sum()
    del outputs
    if follower is None:
        torch.autograd.backward([loss])
    else:
        follower.phase = "backward"
        with follower.backwards():
            torch.autograd.backward([loss])
        follower.phase = "optimizer"
    del loss
    trained.step()
    trained.zero_grad()


@dataclass
class _Most:
    bytes: int = 0
    operator: str = ""
    path: tuple[str, ...] = ()
    phase: str = ""


class _Follower(Watcher):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Knows how much is alive, and when it was most."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        self.phase = "forward"
        self.found = _Most()
        self._alive = 0
        self._known: dict[int, Any] = {}
        self._kept: dict[Any, int] = {}

    def restart(self) -> None:
        """Forget the most, not what is alive."""
        self.found = _Most(self._alive)

    def follow(self, tensor: torch.Tensor, more: int = 0) -> None:
        """Count its storage, and so many bytes more, until nobody refers to it."""
        for storage in storages_of(tensor):
            self._hold(storage, more)

    def _hold(self, storage: torch.UntypedStorage, more: int) -> None:
        place, size = storage._cdata, storage.nbytes() + more
        if place in self._known and self._known[place]() is not None:
            return

        def gone(_: Any) -> None:
            self._alive -= size
            self._known.pop(place, None)

        self._known[place] = weakref.ref(storage, gone)
        self._alive += size

    def seen(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:  # noqa: ARG002 - the watcher's own
        """Follow what came out."""
        path, holding = self.path(), planned.of_operator(func, args, out)
        if holding is not None:
            self._alive += planned.grown(self._kept, holding.kept)
        before, made = self._alive, tensors_in(out)
        check_sizes(made, "the peak of a step is not known from shapes alone")
        for tensor in made:
            self.follow(tensor, workspace.kept_by(func, args) if tensor is made[-1] else 0)
        most = self._alive if holding is None else max(self._alive, before + holding.running)
        if most > self.found.bytes:
            self.found = _Most(most, func._schema.name.removeprefix("aten::"), path, self.phase)


@contextmanager
def quiet_profiler() -> Iterator[None]:
    """While inside, torch's profiler does not tell that it starts and stops, if it reads its level of news now."""
    before = os.environ.get(NEWS)
    os.environ.setdefault(NEWS, "99")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(NEWS, None)


def _copy_of(model: torch.nn.Module) -> torch.nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as problem:  # a model's attributes raise what they like
        raise ConvolithError(
            f"model cannot be copied ({problem}), and verify runs a step of a copy; leave verify out"
        ) from problem


def _measured(model: torch.nn.Module, arguments: Any, keywords: Any, optimizer: str) -> int:
    """The peak of a real step of a copy, from the allocator's events."""
    from torch.profiler import ProfilerActivity, profile

    held_elsewhere = [p for p in model.parameters() if not p.is_cpu]
    if held_elsewhere:
        raise ConvolithError(
            f"model is on {held_elsewhere[0].device}, but verify measures a step on the CPU; leave it out"
        )
    with torch.inference_mode(mode=False), torch.random.fork_rng(devices=[]), torch.enable_grad(), plain():
        forget()  # kernels that other models keep would be in the way
        trained_model = _copy_of(model)
        given = as_inputs((arguments, keywords), None, requires_grad=False)
        for tensor in tensors_of(given):
            tensor.normal_() if tensor.is_floating_point() or tensor.is_complex() else tensor.zero_()
        trained = OPTIMIZERS[optimizer]([p for p in trained_model.parameters() if p.requires_grad])
        _step(trained_model, given, trained)
        state = [value for one in trained.state.values() for value in one.values() if isinstance(value, torch.Tensor)]
        held = storage_bytes([*trained_model.parameters(), *trained_model.buffers(), *tensors_of(given), *state])
        forget_scratch()  # so that the profiler sees what is kept come back
        forget()
        with quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
            _step(trained_model, given, trained)
    events = [event for event in told.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return held + workspace.most(changes)
