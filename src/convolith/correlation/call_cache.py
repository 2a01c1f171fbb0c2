"""The quick way of a call that was seen before: shapes, dtypes and options are known to be right, the plan is found.

Reading, checking and planning take a hundred microseconds, which is longer than a small layer takes to compute. Only
plain tensors on the CPU come this way; everything else takes the long one, and so does whatever was not seen yet.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import strided
from torch.overrides import has_torch_function

from convolith.correlation.gradients import chooser
from convolith.dtypes import COMPLEX, is_float
from convolith.engines import aten
from convolith.jit import thread_count, with_living_threads
from convolith.planner import Plan
from convolith.planner.plan import compute
from convolith.planner.prepared_kernels import Choose, prepared
from convolith.planner.store import generation
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype
from convolith.torch_private import dispatch_modes, is_view, needs_torch_operators, without_batch

MOST_CALLS = 4096
OPTIONS = 5
"""The place of a call's options in its key."""
PLAIN = (torch.Tensor, torch.nn.Parameter)


class Call(NamedTuple):
    """What is known of a call that was seen before."""

    options: tuple[Any, ...]
    """As they were given and found to be right."""

    plan: Any
    """The plan, or None inside autograd."""
    batched: bool
    choose: Choose | None
    """The plan for a kernel's values, where they may decide about the engine."""
    straight: Callable[..., torch.Tensor] | None
    """Torch's own operator, where it is the engine and needs nothing prepared; or what computes inside autograd."""


_calls: dict[Any, Call] = {}


def key_of(x: Any, k: Any, bias: Any, options: tuple[Any, ...]) -> Any:
    """What a call is known by, or None where something about it needs a closer look."""
    if type(x) not in PLAIN or type(k) not in PLAIN or not (x.is_cpu and k.is_cpu) or x.is_neg() or k.is_neg():
        return None
    if dispatch_modes() or needs_torch_operators():
        return None
    if x.layout is not strided or k.layout is not strided or x.is_nested or k.is_nested:
        return None
    recorded = None
    if torch.is_grad_enabled():
        given, changing = x.requires_grad, k.requires_grad
        if given or changing or (bias is not None and bias.requires_grad):
            recorded = (given, changing, x.is_contiguous())
    if bias is None:
        return (x.shape, x.dtype, k.shape, k.dtype, recorded, options, thread_count(), generation())
    if type(bias) not in PLAIN or not bias.is_cpu or bias.is_neg() or bias.layout is not strided:
        return None
    added = (bias.shape, bias.dtype)
    return (x.shape, x.dtype, k.shape, k.dtype, recorded, options, thread_count(), generation(), added)


def forget() -> None:
    """Forget all calls."""
    _calls.clear()


def find(key: Any) -> Call | None:
    """The call of a key (or None), if it was seen, with options of the same types: 2.0 equals 2, but is refused."""
    if key is None:
        return None
    try:
        call = _calls.get(key)
    except TypeError:  # an option that cannot be hashed: a list, an array
        return None
    if call is None or all(map(is_, call.options, key[OPTIONS])) or _types(call.options) == _types(key[OPTIONS]):
        return call
    return None


def _types(option: Any) -> Any:
    """Return the type of an option, and of every entry of one that is a tuple."""
    return [_types(entry) for entry in option] if type(option) is tuple else type(option)


def seen(x: Any, k: Any, bias: Any, options: tuple[Any, ...]) -> Call | None:
    """Return what is known of a call, or None where it was not seen before."""
    return None if has_torch_function((x, k, bias)) else find(key_of(x, k, bias, options))


def remember(
    key: Any, x: torch.Tensor, bias: torch.Tensor | None, spec: ConvSpec, how: Plan | Callable[..., torch.Tensor]
) -> None:
    """Keep what the long way found out, if the quick way can do without it.

    Args:
        key, x, bias: the call.
        spec: its layer.
        how: the plan, or what computes inside autograd, if its operands need no conversion and no padding before.
    """
    batched = x.ndim == spec.axes + 2
    if not isinstance(how, Plan):
        if spec.padding_mode == "zeros" and is_float(spec.dtype) and is_float(spec.kernel_dtype):
            _remember(key, bias, spec, Call(key[OPTIONS], None, batched, None, how))
        return
    torchs = how.engine == aten.contiguous.name and how.accuracy != "double"
    straight = aten.torch_operator(spec) if torchs else None
    _remember(key, bias, spec, Call(key[OPTIONS], how, batched, None if how.by_name else chooser(how), straight))


def _remember(key: Any, bias: torch.Tensor | None, spec: ConvSpec, call: Call) -> None:
    if (
        spec.out_dtype in COMPLEX
        or not spec.batch
        or (bias is not None and bias.dtype is not torch_dtype(spec.out_dtype))
    ):
        return
    if len(_calls) >= MOST_CALLS:
        _calls.clear()
    with suppress(TypeError):  # an option that cannot be hashed
        _calls[key] = call


def run(call: Call, x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute a call that was found."""
    if not call.batched:
        x = x[None]
    # autograd, of which there is no plan, records on the thread that asks for it
    y = _computed(call, x, k, bias) if call.plan is None else with_living_threads(_computed, call, x, k, bias)
    return y if call.batched else without_batch(y)


def _computed(call: Call, x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if call.straight is not None:
        y = call.straight(x, k, bias)
        return y.data if is_view(y) and not y.requires_grad else y  # torch's own on one axis is a view
    kept = prepared(call.plan, k.detach(), call.choose)
    return compute(kept.plan, kept.state, x.detach(), None if bias is None else bias.detach())
