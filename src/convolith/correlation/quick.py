"""The quick way of a call that was seen before: shapes, dtypes and options are known to be right, the plan is found.

Reading, checking and planning take a hundred microseconds, which is longer than a small layer takes to compute. Only
plain tensors on the CPU come this way; everything else takes the long one, and so does whatever was not seen yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from convolith.engines import aten
from convolith.engines.protocol import torch_dtype
from convolith.jit import thread_count, with_living_threads
from convolith.planner import Plan
from convolith.planner.kept import prepared
from convolith.planner.plan import compute
from convolith.planner.stored import generation
from convolith.spec import ConvSpec
from convolith.torch_private import without_batch

MOST_CALLS = 4096
PLAIN = (torch.Tensor, torch.nn.Parameter)


class Call(NamedTuple):
    """What is known of a call that was seen before."""

    plan: Plan
    batched: bool
    by_kernel: bool
    """Whether the kernel's values may decide about the engine."""
    straight: Callable[..., torch.Tensor] | None
    """Torch's own operator, where it is the engine and needs nothing prepared."""


_calls: dict[Any, Call] = {}


def key_of(x: Any, k: Any, bias: Any, options: tuple[Any, ...]) -> Any:
    """What a call is known by, or None where something about it needs a closer look."""
    if type(x) not in PLAIN or type(k) not in PLAIN or not (x.is_cpu and k.is_cpu) or x.is_neg() or k.is_neg():
        return None
    recorded = x.requires_grad or k.requires_grad
    added = None
    if bias is not None:
        if type(bias) not in PLAIN or not bias.is_cpu or bias.is_neg():
            return None
        recorded = recorded or bias.requires_grad
        added = (bias.shape, bias.dtype)
    if recorded and torch.is_grad_enabled():
        return None
    return (x.shape, x.dtype, k.shape, k.dtype, added, options, thread_count(), generation())


def find(key: Any) -> Call | None:
    """The call of a key, if it was seen."""
    try:
        return _calls.get(key)
    except TypeError:  # an option that cannot be hashed: a list, an array
        return None


def remember(
    key: Any, x: torch.Tensor, bias: torch.Tensor | None, spec: ConvSpec, plan: Plan, *, by_kernel: bool
) -> None:
    """Keep what the long way found out, if the quick way can do without it."""
    if x.is_complex() or not spec.batch or (bias is not None and bias.dtype is not torch_dtype(spec.out_dtype)):
        return
    if len(_calls) >= MOST_CALLS:
        _calls.clear()
    torchs = plan.engine == aten.contiguous.name and plan.accuracy != "double"
    straight = aten.straight_operator(spec) if torchs else None
    try:
        _calls[key] = Call(plan, x.ndim == spec.axes + 2, by_kernel, straight)
    except TypeError:
        return


def run(call: Call, x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute a call that was found."""
    return with_living_threads(_run, call, x, k, bias)


def _run(call: Call, x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if not call.batched:
        x = x[None]
    if call.straight is not None:
        y = call.straight(x, k, bias)
    else:
        kept = prepared(call.plan, k.detach(), by_kernel=call.by_kernel)
        y = compute(kept.plan, kept.state, x.detach(), None if bias is None else bias.detach())
    return y if call.batched else without_batch(y)
