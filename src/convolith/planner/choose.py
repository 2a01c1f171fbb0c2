"""The planner's choice: the fastest engine that the accuracy allows, by estimates or by measurements."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from convolith.dtypes import HALVES, is_float
from convolith.engines import BY_NAME, TABLE, Engine
from convolith.engines.base import NEEDS_KERNEL
from convolith.engines.reference import reference
from convolith.errors import ConvolithError, check_option, shown
from convolith.jit import thread_count
from convolith.planner import machine, measure, wisdom
from convolith.planner.plan import Candidate, Plan, computed, plain
from convolith.planner.store import generation
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype
from convolith.torch_private import on_own_thread

ACCURACIES = ("exact", "default", "fast", "double")
EFFORTS = ("estimate", "measure")
DEFAULT_BOUND = {"float32": 5e-6, "complex64": 5e-6, "float64": 1e-14, "complex128": 1e-14}
"""Error bound for `accuracy="default"`, relative to max|x| times the largest sum of |k|; torch's sum always passes."""
FAST_BOUND = 1e-4
"""Error bound for `accuracy="fast"`, relative to max|x| times the largest sum of |k|."""
BUDGET_SECONDS = 2.0
"""Default time limit for measuring one spec, without the engines' preparations."""


def plan(
    spec: ConvSpec,
    kernel: Any = None,
    *,
    effort: str = "estimate",
    accuracy: str = "default",
    engine: str = "auto",
    budget: float = BUDGET_SECONDS,
) -> Plan:
    """Choose the engine that computes a layer fastest.

    Args:
        spec: the geometry of the layer.
        kernel: the weights, for engines that depend on their values.
        effort: `"estimate"` times nothing: it uses a measurement of this spec if one is stored, and otherwise estimates
            every engine's time from its operations and the machine's limits. `"measure"` times the engines on random
            data, and stores the result for later processes if the times were steady.
        accuracy: largest error that an engine may have. Bounds are relative to max|x| times the largest sum of |k| over
            the outputs; torch's own sum is always accepted. `"exact"`: direct sums in the output dtype only.
            `"default"`: a bound of 5e-6 for float32 and half types, of 1e-14 for float64; integers are exact.
            `"fast"`: a bound of 1e-4. `"double"`: computed in float64, with the default bound, and rounded once at the
            end.
        engine: `"auto"`, or the name of one engine.
        budget: time limit of the measurement, in seconds.

    Returns:
        A `Plan`: call it with x and a kernel, `bind` it to a kernel, or print `explain()`.

    Raises:
        ConvolithError: an unknown effort, accuracy or engine, an engine that cannot compute this spec (with its
            reason), a kernel of another shape or dtype, on another device, or that requires gradients.

    Example:
        >>> import convolith as cl
        >>> spec = cl.ConvSpec(in_channels=64, out_channels=64, size=(56, 56), kernel_size=(7, 7), dtype="int8")
        >>> cl.plan(spec).engine
        'direct'
    """
    if not isinstance(spec, ConvSpec):
        raise ConvolithError(
            f"spec is a {type(spec).__name__}; expected ConvSpec.of(x, k) or ConvSpec.from_module(module, shape)"
        )
    check_choice(accuracy, engine)
    check_option("effort", effort, EFFORTS)
    if not isinstance(budget, int | float) or not budget > 0:
        raise ConvolithError(f"budget is {shown(budget)}; expected seconds above zero")
    if kernel is not None:
        weights = plain("kernel", kernel, spec.kernel_shape, spec.kernel_dtype)
        return on_own_thread(_choose, spec, accuracy, engine, weights, effort, budget)
    if effort == "measure":
        return on_own_thread(_choose, spec, accuracy, engine, None, effort, budget)
    return estimated(spec, accuracy, engine, thread_count(), generation())


def plan_call(spec: ConvSpec, kernel: torch.Tensor, *, accuracy: str, engine: str) -> Plan:
    """Plan a call: by the values of its kernel if the named engine depends on them, otherwise for every kernel."""
    weights = kernel.detach() if needs_kernel(spec, accuracy, engine) else None
    return plan(spec, weights, accuracy=accuracy, engine=engine)


def needs_kernel(spec: ConvSpec, accuracy: str, engine: str) -> bool:
    """Return whether a named engine can say from the kernel's values alone whether it computes a layer."""
    return engine in BY_NAME and BY_NAME[engine].refuse(computed(spec, accuracy)) == NEEDS_KERNEL


def check_choice(accuracy: str, engine: str) -> None:
    """Refuse unknown names of accuracies and engines."""
    check_option("accuracy", accuracy, ACCURACIES)
    if not isinstance(engine, str) or engine not in ("auto", *BY_NAME):
        raise ConvolithError(f"engine is {shown(engine)}; expected auto or one of {', '.join(BY_NAME)}")


def check_device(device: torch.device, accuracy: str, dtype: str) -> None:
    """Refuse accuracy "exact" for floats on another device than the CPU, where torch chooses how its sums are made."""
    if accuracy == "exact" and device.type not in ("cpu", "meta") and is_float(dtype):
        raise ConvolithError(
            f"accuracy is 'exact', but x is on {device}, where torch's own convolution may round its sums otherwise "
            "(TF32, Winograd, FFT); use accuracy='double' there, or pass x.cpu()"
        )


@lru_cache(maxsize=4096)
def estimated(spec: ConvSpec, accuracy: str, engine: str, *state: int) -> Plan:  # noqa: ARG001 - part of the key
    """Return the plan without a kernel, cached until the thread count or the stored measurements change."""
    return _choose(spec, accuracy, engine, None, "estimate", BUDGET_SECONDS)


def _choose(
    spec: ConvSpec, accuracy: str, engine: str, kernel: torch.Tensor | None, effort: str, budget: float
) -> Plan:
    inner = computed(spec, accuracy)
    if kernel is not None:  # in the dtype in which the engines compute
        kernel = kernel.to(torch_dtype(inner.kernel_dtype))
    candidates = [_weigh(row, inner, accuracy, kernel) for row in TABLE]
    fit = [c for c in candidates if c.reason is None and engine in ("auto", c.engine)]
    if not fit and engine == "auto":  # the reason of torch's operator, which has the fewest limits
        reason = next(c.reason for c in candidates if c.engine == "aten")
        raise ConvolithError(f"k cannot be applied to x of shape {spec.input_shape}: {reason}; pass less at a time")
    if not fit:
        reason = next(c.reason for c in candidates if c.engine == engine)
        raise ConvolithError(f"engine {engine!r} cannot compute this: {reason}; use engine='auto'")
    known = wisdom.recall(spec, accuracy) or {}
    by_values = [c for c in fit if BY_NAME[c.engine].refuse(inner) is not None]  # whose times hold for this kernel only
    if effort == "measure" and spec.batch and (by_values or not any(c.engine in known for c in fit)):
        known, steady = measure.times(inner, fit, kernel, budget)
        if engine == "auto" and steady:  # the time of one engine alone cannot rank the others
            of_any_kernel = {n: t for n, t in known.items() if BY_NAME[n].refuse(inner) is None}
            wisdom.remember(spec, accuracy, of_any_kernel)
    candidates = [_with_time(c, known) for c in candidates]
    fit = [c for c in candidates if c.reason is None and engine in ("auto", c.engine)]
    special = {c.engine for c in by_values}
    trusted = [c for c in fit if c.timed or c.engine in special] if any(c.timed for c in fit) else fit
    trusted = [c for c in trusted if c.engine != reference.name] or trusted  # the oracle is slow by design
    chosen = min(trusted, key=lambda c: c.seconds or 0.0)
    return Plan(spec, accuracy, chosen.engine, tuple(candidates), effort, by_name=engine != "auto")


def _with_time(candidate: Candidate, known: dict[str, float]) -> Candidate:
    """Return a candidate with its measured time, if one is known."""
    seconds_measured = known.get(candidate.engine)
    return candidate if seconds_measured is None else replace(candidate, seconds=seconds_measured, timed=True)


def _weigh(engine: Engine[Any], spec: ConvSpec, accuracy: str, kernel: torch.Tensor | None) -> Candidate:
    by_values = kernel is not None and engine.refuse(spec) is not None
    if kernel is not None:
        engine = engine.for_kernel(spec, kernel)
    reason = engine.refuse(spec, kernel)
    if reason is not None:
        return Candidate(engine.name, reason)
    bound, limit, work = engine.error_bound(spec, kernel), allowed_error(spec, accuracy), engine.work(spec)
    needed, memory = work.memory.forward.workspace + work.memory.forward.prepared, machine.memory_bytes()
    if accuracy == "exact" and not engine.sums_directly(spec):
        reason = 'not a direct sum, which accuracy "exact" asks for'
    elif engine.only_fast and accuracy != "fast":
        reason = 'less accurate than others, so that only accuracy "fast" allows it'
    elif bound > limit:
        reason = f"error bound {bound:.1e} is over {limit:.1e}"
    elif memory is not None and needed > memory:
        reason = f"its workspace of {needed / 1e9:.0f} GB is over this machine's {memory / 1e9:.0f} GB"
    limits = machine.limits()
    seconds, preparing = engine.seconds(spec, limits), engine.prepare_seconds(spec, limits)
    return Candidate(
        engine.name,
        reason,
        work,
        bound,
        engine.note(spec),
        seconds,
        prepare_seconds=preparing,
        by_values=by_values,
    )


def allowed_error(spec: ConvSpec, accuracy: str) -> float:
    """Return the largest error bound that an accuracy admits, which is never below the bound of torch's own sum."""
    if accuracy == "exact":
        return float("inf")
    usual = BY_NAME["aten"].error_bound(spec)
    if accuracy == "fast":
        return max(FAST_BOUND, usual)
    wide = "float32" if spec.out_dtype in HALVES else spec.out_dtype
    return max(DEFAULT_BOUND.get(wide, 0.0), usual)
