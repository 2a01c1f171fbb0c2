"""The peak memory of a training step: forward, loss, backward and the optimizer's step, on fake tensors.

Every storage is tracked from the operator that allocates it until its last reference disappears, which happens at the
same moment with fake tensors as in a real run. While a convolution runs, the memory of its kernel is added
(`workspace`). Two steps are run; the second one counts, since the optimizer then has its state.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from convolith.costing.tracing.fake_models import (
    as_inputs,
    check_lazy,
    check_sizes,
    model_copy,
    storage_bytes,
    storages_of,
    tensors_in,
    tensors_of,
)
from convolith.costing.tracing.module_tracker import ModuleTracker
from convolith.costing.workspace import engines, torch_kernels
from convolith.engines.buffers import plain
from convolith.errors import ConvolithError, check_option
from convolith.jit.threads import forget_scratch, scratch_bytes
from convolith.planner.prepared_kernels import forget
from convolith.torch_private import allocations, dispatch_mode, fake_mode, operator_name, storage_identity

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters),
}
"""Optimizers by name; the learning rate does not affect the memory."""


class Moment(NamedTuple):
    """Operator of a training step, and the most bytes that are held while it runs.

    Attributes:
        bytes: the largest number of bytes held while it runs.
        operator: name of torch's operator; empty at the beginning of the step.
        module: name of the module that called it.
        phase: "forward", "backward" or "optimizer".
    """

    bytes: int = 0
    operator: str = ""
    module: str = ""
    phase: str = ""


@dataclass(frozen=True)
class Peak:
    """Peak memory of a training step; the `peak` of a `ModelCost` for which an optimizer was given.

    Attributes:
        bytes: largest number of bytes held at once: model, input, gradients, optimizer state and all other tensors.
        optimizer: name of the optimizer.
        operator, module, phase: operator that ran at the peak, its module, and "forward", "backward" or "optimizer".
        measured: peak bytes of a real step, or None if none was run.
        moments: bytes held while each operator of the step runs, in order.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> peak = cl.cost(model, input_shape=(4, 3, 32, 32), optimizer="sgd").peak
        >>> peak.optimizer, peak.bytes > 4 * 8 * 30 * 30 * 4, peak.measured
        ('sgd', True, None)
    """

    bytes: int
    optimizer: str
    operator: str
    module: str
    phase: str
    measured: int | None = None
    moments: tuple[Moment, ...] = field(default=(), repr=False)

    def cells(self) -> dict[str, Any]:
        """Return the row of a table."""
        row: dict[str, Any] = {"optimizer": self.optimizer, "bytes": self.bytes}
        if self.measured is not None:
            row |= {"measured": self.measured, "predicted / measured": self.bytes / self.measured}
        return row | {"when": self.phase, "operator": self.operator, "module": self.module or "-"}


def largest_batch(peak: Callable[[int], int], memory: float) -> int:
    """Return the largest batch whose peak, which grows with it, is at most `memory`; 0 if even the smallest has more.

    The peak is almost linear in the batch: lines through two batches give the next one, until the bounds are adjacent.
    """
    try:
        low, held = 1, peak(1)
    except ConvolithError:  # a batch norm may need more than one value per channel
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
    """Predict the peak of a training step whose loss is the sum of all outputs.

    Args:
        model: model in the mode in which it is trained; it is not modified.
        arguments, keywords: arguments of its call.
        optimizer: one of OPTIMIZERS.
        verify: whether also to run a real step on a copy and measure its peak.

    Raises:
        ConvolithError: an unknown optimizer, a model without trainable parameters, an error that the model raises.
    """
    check_option("optimizer", optimizer, OPTIMIZERS)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConvolithError(
            "model has no parameter that requires a gradient, so that it has no training step; call "
            "model.requires_grad_(), or leave optimizer out"
        )
    check_lazy(model)
    fake = fake_mode()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(dispatch_mode(fake))
        copied, state = model_copy(model, fake)
        follower = _Follower(copied)
        given = as_inputs((arguments, keywords), fake, requires_grad=False)
        for tensor in (*state, *tensors_of(given)):
            follower.follow(tensor)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(follower.named())
        trained = OPTIMIZERS[optimizer]([p for p in copied.parameters() if p.requires_grad])
        with follower.watching():
            for _ in range(2):
                follower.restart()
                _step(copied, given, trained, follower)
        moments = tuple(follower.moments)
        del trained
    measured = _measured(model, arguments, keywords, optimizer) if verify else None
    most = max(moments, key=lambda moment: moment.bytes)  # the first of them
    return Peak(most.bytes, optimizer, most.operator, most.module, most.phase, measured, moments)


def _step(
    model: torch.nn.Module, given: Any, trained: torch.optim.Optimizer, follower: _Follower | None = None
) -> None:
    """Run a training step."""
    if follower is not None:
        follower.phase = "forward"
    outputs = [tensor for tensor in tensors_of(model(*given[0], **given[1])) if tensor.requires_grad]
    if not outputs:
        raise ConvolithError(
            "model gives nothing that depends on its parameters, so that it has no training step; leave optimizer out"
        )
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


class _Follower(ModuleTracker):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Dispatch mode that tracks the bytes of live storages, and the most of each operator."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        self.phase = "forward"
        self.moments: list[Moment] = []
        self._alive = 0
        self._known: dict[int, Any] = {}
        self._scratch = 0

    def restart(self) -> None:
        """Forget the operators, but not the bytes of live storages."""
        self.moments = [Moment(self._alive)]

    def follow(self, tensor: torch.Tensor, more: int = 0) -> None:
        """Count a tensor's storage, and `more` bytes, until its last reference disappears."""
        for storage in storages_of(tensor):
            self._hold(storage, more)

    def _hold(self, storage: torch.UntypedStorage, more: int) -> None:
        place, size = storage_identity(storage), storage.nbytes() + more
        if place in self._known and self._known[place]() is not None:
            return

        def gone(_: Any) -> None:
            self._alive -= size
            self._known.pop(place, None)

        self._known[place] = weakref.ref(storage, gone)
        self._alive += size

    def seen(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Track the results of an operator, and the memory that it held while it ran."""
        path, most, results = self.path(), 0, tensors_in(out)
        for phase in engines.operator_memory(func, args, kwargs, out):
            grown = max(phase.scratch - self._scratch, 0)
            self._scratch += grown
            self._alive += grown
            most = max(most, self._alive + phase.peak)
        check_sizes(results, "the peak of a step is not known from shapes alone")
        for tensor in results:
            self.follow(tensor, torch_kernels.hidden_result_bytes(func, args, out) if tensor is results[-1] else 0)
        operator = operator_name(func).removeprefix("aten::")
        self.moments.append(Moment(max(most, self._alive), operator, ".".join(path), self.phase))


def _measured(model: torch.nn.Module, arguments: Any, keywords: Any, optimizer: str) -> int:
    """Measure the peak of a real training step on a copy, from the allocator's events."""
    held_elsewhere = [p for p in model.parameters() if not p.is_cpu]
    if held_elsewhere:
        raise ConvolithError(
            f"model is on {held_elsewhere[0].device}, but verify measures a step on the CPU; leave it out"
        )
    with torch.inference_mode(mode=False), torch.random.fork_rng(devices=[]), torch.enable_grad(), plain():
        forget()  # kernels prepared for other models would fill the cache
        copied, _ = model_copy(model, None)
        given = as_inputs((arguments, keywords), None, requires_grad=False)
        for tensor in tensors_of(given):
            tensor.normal_() if tensor.is_floating_point() or tensor.is_complex() else tensor.zero_()
        trained = OPTIMIZERS[optimizer]([p for p in copied.parameters() if p.requires_grad])
        forget_scratch()  # which other layers have left
        _step(copied, given, trained)
        state = [value for one in trained.state.values() for value in one.values() if isinstance(value, torch.Tensor)]
        held = storage_bytes([*copied.parameters(), *copied.buffers(), *tensors_of(given), *state]) + scratch_bytes()
        forget()  # so that the profiler sees the prepared kernels being allocated again
        changes = allocations(lambda: _step(copied, given, trained))
    return held + torch_kernels.peak_of(changes)
