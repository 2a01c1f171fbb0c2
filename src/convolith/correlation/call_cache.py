"""Cache of checked calls: a call that was seen before has valid shapes, dtypes and options, and a known plan.

Reading, checking and planning take a hundred microseconds, which is longer than a small layer takes to compute. Only
plain tensors on the CPU use this fast path; all other calls take the full path, and so do calls not seen before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from operator import is_
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import strided
from torch.overrides import has_torch_function

from convolith.arrays import Operands, as_tensor
from convolith.correlation.gradients import chooser
from convolith.dtypes import COMPLEX, is_float
from convolith.engines import BY_NAME, aten
from convolith.jit import thread_count
from convolith.planner import Plan
from convolith.planner.plan import compute
from convolith.planner.prepared_kernels import Choose, prepared
from convolith.planner.store import generation
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype
from convolith.torch_private import dispatch_modes, is_view, needs_torch_operators, on_own_thread, without_batch

MOST_CALLS = 4096
OPTIONS = 5
"""Index of a call's options in its key."""
PLAIN = (torch.Tensor, torch.nn.Parameter)


class Call(NamedTuple):
    """Checked options and computation of a call that was seen before."""

    options: tuple[Any, ...]
    """Options as given, found to be valid."""

    plan: Any
    """Plan of the call, or None inside autograd."""
    batched: bool
    choose: Choose | None
    """Function that plans for a kernel's values, if they may decide the engine."""
    straight: Callable[..., torch.Tensor] | None
    """Torch's own operator, if it is the engine and needs no preparation; or the function for calls inside autograd."""


_calls: dict[Any, Any] = {}


def as_plain(x: Any, k: Any, bias: Any) -> Operands:
    """Return NumPy arrays as tensors of the same memory; operands that are something else unchanged."""
    if type(x) is not np.ndarray or type(k) is not np.ndarray or not (bias is None or type(bias) is np.ndarray):
        return Operands(x, k, bias)
    return Operands(as_tensor("x", x), as_tensor("k", k), None if bias is None else as_tensor("bias", bias))


def spreads(call: Call, x: torch.Tensor) -> bool:
    """Return whether x has NaN and the engine of a cached call would spread it beyond its windows."""
    if call.plan is None or not x.is_floating_point():
        return False
    local = BY_NAME[call.plan.engine].keeps_nonfinite_local(call.plan.spec)
    return not local and bool(x.sum().isnan())  # one pass; infinities of both signs give NaN too


def key_of(x: Any, k: Any, bias: Any, options: tuple[Any, ...]) -> Any:
    """Return the key of a call, or None if the call needs the full path."""
    if type(x) not in PLAIN or type(k) not in PLAIN or not (x.is_cpu and k.is_cpu) or x.is_neg() or k.is_neg():
        return None
    if dispatch_modes() or needs_torch_operators():
        return None
    if x.layout is not strided or k.layout is not strided or x.is_nested or k.is_nested:
        return None
    if bias is not None and type(bias) not in PLAIN:
        return None
    recorded = None
    if torch.is_grad_enabled():
        x_needs_grad, k_needs_grad = x.requires_grad, k.requires_grad
        if x_needs_grad or k_needs_grad or (bias is not None and bias.requires_grad):
            recorded = (x_needs_grad, k_needs_grad, x.is_contiguous())
    if bias is None:
        return (x.shape, x.dtype, k.shape, k.dtype, recorded, options, thread_count(), generation())
    if type(bias) not in PLAIN or not bias.is_cpu or bias.is_neg() or bias.layout is not strided:
        return None
    added = (bias.shape, bias.dtype)
    return (x.shape, x.dtype, k.shape, k.dtype, recorded, options, thread_count(), generation(), added)


def forget() -> None:
    """Drop all cached calls."""
    _calls.clear()


def find(key: Any, calls: Mapping[Any, Any] = _calls) -> Any:
    """Return the cached call of a key, or None; types of options must agree too: 2.0 equals 2, but is refused."""
    if key is None:
        return None
    try:
        call = calls.get(key)
    except TypeError:  # an option that cannot be hashed: a list, an array
        return None
    if call is None or all(map(is_, call.options, key[OPTIONS])) or _types(call.options) == _types(key[OPTIONS]):
        return call
    return None


def _types(option: Any) -> Any:
    """Return the type of an option, and of every entry of one that is a tuple."""
    return [_types(entry) for entry in option] if type(option) is tuple else type(option)


def seen(x: Any, k: Any, bias: Any, options: tuple[Any, ...]) -> Call | None:
    """Return the cached call for these arguments, or None if it was not seen before."""
    return None if has_torch_function((x, k, bias)) else find(key_of(x, k, bias, options))


def remember(
    key: Any, x: torch.Tensor, bias: torch.Tensor | None, spec: ConvSpec, how: Plan | Callable[..., torch.Tensor]
) -> None:
    """Cache the outcome of the full path, if the fast path can repeat the call.

    Args:
        key, x, bias: the call.
        spec: its layer.
        how: the plan, or the function for calls inside autograd, whose operands must need no conversion or padding.
    """
    batched = x.ndim == spec.axes + 2
    if not isinstance(how, Plan):
        if not spec.pads_beyond_zeros and is_float(spec.dtype) and is_float(spec.kernel_dtype):
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
    keep(key, call)


def _has_tensors(option: Any) -> bool:
    """Return whether an option is a tensor, or holds one."""
    return any(map(_has_tensors, option)) if type(option) is tuple else isinstance(option, torch.Tensor)


def keep(key: Any, call: Any) -> None:
    """Cache how a call is computed, under its key."""
    if _has_tensors(key[OPTIONS]):  # which are looked up by their identity, not by their values
        return
    if len(_calls) >= MOST_CALLS:
        _calls.clear()
    with suppress(TypeError):  # an option that cannot be hashed
        _calls[key] = call


def run(call: Call, x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute a cached call."""
    if not call.batched:
        x = x[None]
    # without a plan, autograd records the call
    y = _computed(call, x, k, bias) if call.plan is None else on_own_thread(_computed, call, x, k, bias)
    return y if call.batched else without_batch(y)


def _computed(call: Call, x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if call.straight is not None:
        y = call.straight(x, k, bias)
        return y.data if is_view(y) and not y.requires_grad else y  # torch's result on one axis is a view
    entry = prepared(call.plan, k.detach(), call.choose)
    return compute(entry.plan, entry.state, x.detach(), None if bias is None else bias.detach())
