"""A plan: every engine weighed by its counted work, one of them chosen, and the reasons kept."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from convolith.arrays import as_target, as_tensor, check_bias, check_same_kind, is_numpy, like
from convolith.dtypes import HALVES, dtype_name
from convolith.engines import BY_NAME, TABLE, Engine
from convolith.engines.protocol import torch_dtype
from convolith.errors import ConvolithError
from convolith.planner.machine import memory_bytes
from convolith.report.table import Table
from convolith.spec import ConvSpec
from convolith.work import Work

ACCURACIES = ("exact", "default", "fast", "double")
DEFAULT_BOUND = {"float32": 5e-6, "complex64": 5e-6, "float64": 1e-14, "complex128": 1e-14}
"""What `accuracy="default"` admits, relative to max|x| times the largest sum of |k|; torch's own sum always passes."""
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
FAST_BOUND = 1e-4
"""What `accuracy="fast"` admits."""
OPERATIONS_PER_BYTE = 8
"""How many operations a CPU core does while it moves one byte: about 100 GFLOP/s over 12 GB/s."""
WIDER = {"float16": "float64", "bfloat16": "float64", "float32": "float64", "complex64": "complex128"}


@dataclass(frozen=True)
class Candidate:
    """One engine as the planner sees it: what it would do, or why it may not."""

    engine: str
    reason: str | None
    work: Work | None = None
    error_bound: float | None = None
    note: str = ""

    @property
    def score(self) -> int:
        """Counted work as operations: multiplications, additions, and the bytes moved at a CPU's usual balance."""
        forward = (self.work or Work()).forward
        return forward.multiplications + forward.additions + OPERATIONS_PER_BYTE * forward.bytes


@dataclass(frozen=True)
class Plan:
    """An engine chosen for a spec, with every other's reason; immutable, thread-safe, and it can be pickled.

    Example:
        >>> import numpy as np
        >>> spec = ConvSpec(in_channels=1, out_channels=1, size=(8, 8), kernel_size=3, dtype="float64")
        >>> plan(spec)(np.ones((1, 1, 8, 8)), np.ones((1, 1, 3, 3))).shape
        (1, 1, 6, 6)
    """

    spec: ConvSpec
    accuracy: str
    engine: str
    candidates: tuple[Candidate, ...]

    def table(self) -> Table:
        """Every engine, the best first, as rows for a report."""
        rows = []
        for candidate in sorted(self.candidates, key=lambda c: (c.engine != self.engine, c.reason is not None)):
            verdict = "chosen" if candidate.engine == self.engine else candidate.reason or self._behind(candidate)
            row: dict[str, Any] = {"engine": candidate.engine, "verdict": verdict, "how": candidate.note}
            if candidate.work is not None:
                forward = candidate.work.forward
                row |= {
                    "multiplications": forward.multiplications,
                    "additions": forward.additions,
                    "bytes moved": forward.bytes,
                    "workspace bytes": candidate.work.memory.forward.workspace,
                    "error bound": candidate.error_bound,
                }
            rows.append(row)
        shape = " x ".join(map(str, self.spec.input_shape)) + " -> " + " x ".join(map(str, self.spec.output_shape))
        dtypes = " with ".join(dict.fromkeys((self.spec.dtype, self.spec.kernel_dtype)))
        if dtypes != self.spec.out_dtype:
            dtypes += f" -> {self.spec.out_dtype}"
        return Table(f"{shape}, {dtypes}, accuracy {self.accuracy}", rows)

    def _behind(self, candidate: Candidate) -> str:
        """Why an engine that could do it was not chosen."""
        chosen = next(c for c in self.candidates if c.engine == self.engine)
        if candidate.score < chosen.score:
            return "not asked for"
        return "more work" if candidate.score > chosen.score else "as much work, and later in the table"

    def explain(self) -> str:
        """The table as text: each engine's counted work and error bound, and why it was chosen or not."""
        return self.table().text()

    def __call__(self, x: Any, k: Any, bias: Any = None, out: Any = None) -> Any:
        """Correlate `x` with `k`; no gradients (use `correlate` for those).

        Args:
            x: as the spec says, batch included.
            out: where to put the result; its memory must not overlap that of x, k or bias.
        """
        return self.bind(k, bias, copy=False)(x, out)

    def bind(self, k: Any, bias: Any = None, *, copy: bool = True) -> Bound:
        """The plan with its kernel prepared once, from its own copy (`copy=False`: from k, which must not change)."""
        kernel = plain("k", k, self.spec.kernel_shape, self.spec.kernel_dtype)
        checked = None
        if bias is not None:
            check_same_kind(k=k, bias=bias)
            checked = check_bias(plain("bias", bias), self.spec.out_channels, self.spec.out_dtype)
        if copy:
            kernel, checked = kernel.clone(), None if checked is None else checked.clone()
        return Bound(self, self._prepared(kernel), kernel, checked, is_numpy(k))

    def run(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The same on tensors that were checked before (the functional face's way in)."""
        return compute(self, self._prepared(kernel), x, bias)

    def _prepared(self, kernel: torch.Tensor) -> Any:
        inner = computed(self.spec, self.accuracy)
        if not inner.batch:
            return None
        return BY_NAME[self.engine].prepare(inner, kernel.to(torch_dtype(inner.kernel_dtype)))


@dataclass(frozen=True, eq=False, repr=False)
class Bound:
    """A plan with its kernel prepared: call it with x."""

    plan: Plan
    state: Any
    kernel: torch.Tensor
    bias: torch.Tensor | None
    numpy: bool

    def __call__(self, x: Any, out: Any = None) -> Any:
        """Correlate `x`, into `out` where it is given."""
        spec = self.plan.spec
        check_same_kind(k=self.kernel.numpy() if self.numpy else self.kernel, x=x, out=out)
        tensor = plain("x", x, spec.input_shape, spec.dtype)
        target = None
        if out is not None:
            plain("out", out, spec.output_shape, spec.out_dtype)
            target = as_target("out", out)
            check_apart(target, x=tensor, k=self.kernel, bias=self.bias)
        y = compute(self.plan, self.state, tensor, self.bias, target)
        return like(y, x) if out is None else out


def plan(spec: ConvSpec, kernel: Any = None, *, accuracy: str = "default", engine: str = "auto") -> Plan:
    """Choose an engine for a spec by counted work; nothing is timed.

    Args:
        spec: the geometry of the layer.
        kernel: its weights, for engines whose use depends on them.
        accuracy: `"exact"` (direct sums in the output dtype), `"default"`, `"fast"` (1e-4), or `"double"`
            (computed in float64, rounded once at the end).
        engine: `"auto"`, or the name of one engine.

    Raises:
        ConvolithError: an unknown accuracy or engine, or an engine that cannot compute this spec (with its reason).

    Example:
        >>> spec = ConvSpec(in_channels=64, out_channels=64, size=(56, 56), kernel_size=(1, 1))
        >>> plan(spec).engine
        'pointwise'
    """
    if not isinstance(spec, ConvSpec):
        raise ConvolithError(
            f"spec is a {type(spec).__name__}; expected ConvSpec.of(x, k) or ConvSpec.from_module(module, shape)"
        )
    check_choice(accuracy, engine)
    if kernel is None:
        return _planned(spec, accuracy, engine)
    return _choose(spec, accuracy, engine, plain("kernel", kernel, spec.kernel_shape, spec.kernel_dtype))


def check_choice(accuracy: str, engine: str) -> None:
    """Refuse names that do not exist."""
    if accuracy not in ACCURACIES:
        raise ConvolithError(f"accuracy is {accuracy!r}; expected one of {', '.join(ACCURACIES)}")
    if engine != "auto" and engine not in tuple(BY_NAME):
        raise ConvolithError(f"engine is {engine!r}; expected auto or one of {', '.join(BY_NAME)}")


def _choose(spec: ConvSpec, accuracy: str, engine: str, kernel: torch.Tensor | None) -> Plan:
    inner = computed(spec, accuracy)
    candidates = tuple(_weigh(row, inner, accuracy, kernel) for row in TABLE)
    fit = [c for c in candidates if c.reason is None and engine in ("auto", c.engine)]
    if not fit:
        reason = next(c.reason for c in candidates if c.engine == engine)
        raise ConvolithError(f"engine {engine!r} cannot compute this: {reason}; use engine='auto'")
    return Plan(spec, accuracy, min(fit, key=lambda c: c.score).engine, candidates)


@lru_cache(maxsize=4096)
def _planned(spec: ConvSpec, accuracy: str, engine: str) -> Plan:
    """Plans that depend on the spec alone, remembered."""
    return _choose(spec, accuracy, engine, None)


def _weigh(engine: Engine, spec: ConvSpec, accuracy: str, kernel: torch.Tensor | None) -> Candidate:
    reason = engine.refuse(spec, kernel)
    if reason is not None:
        return Candidate(engine.name, reason)
    bound, limit, work = engine.error_bound(spec, kernel), allowed_error(spec, accuracy), engine.work(spec)
    workspace, memory = work.memory.forward.workspace, memory_bytes()
    if accuracy == "exact" and not engine.sums_directly(spec):
        reason = 'not a direct sum, which accuracy "exact" asks for'
    elif bound > limit:
        reason = f"error bound {bound:.1e} is over {limit:.1e}"
    elif memory is not None and workspace > memory:
        reason = f"its workspace of {workspace / 1e9:.0f} GB is over this machine's {memory / 1e9:.0f} GB"
    return Candidate(engine.name, reason, work, bound, engine.note(spec))


def allowed_error(spec: ConvSpec, accuracy: str) -> float:
    """The largest error bound that an accuracy class admits; torch's own sum is always good enough for the default."""
    if accuracy == "exact":
        return float("inf")
    usual = BY_NAME["aten"].error_bound(spec)
    if accuracy == "fast":
        return max(FAST_BOUND, usual)
    wide = "float32" if spec.out_dtype in HALVES else spec.out_dtype
    return max(DEFAULT_BOUND.get(wide, 0.0), usual)


def computed(spec: ConvSpec, accuracy: str) -> ConvSpec:
    """The spec that the engines see: the same, or its widened form for `accuracy="double"`."""
    if accuracy != "double":
        return spec
    widened = {name: WIDER.get(getattr(spec, name), getattr(spec, name)) for name in ("dtype", "kernel_dtype")}
    return replace(spec, **widened)


def compute(
    chosen: Plan, state: Any, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Apply a plan's prepared engine, widened if its accuracy asks for it; the result is in the promised dtype."""
    spec, inner, engine = chosen.spec, computed(chosen.spec, chosen.accuracy), BY_NAME[chosen.engine]
    promised = torch_dtype(spec.out_dtype)
    if spec.batch == 0:
        return torch.empty(spec.output_shape, dtype=promised) if out is None else out
    # An engine's torch operators must not be narrowed by an autocast around them: their bounds are the plan's.
    with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
        if inner == spec:
            y = engine.apply(state, x, bias, out)
            last = CHANNELS_LAST.get(spec.axes)  # one channel is both formats at once, and counts as contiguous
            if out is None and last is not None and not x.is_contiguous() and x.is_contiguous(memory_format=last):
                y = y.contiguous(memory_format=last)
            return y
        wide_bias = None if bias is None else bias.to(torch_dtype(inner.out_dtype))
        y = engine.apply(state, x.to(torch_dtype(inner.dtype)), wide_bias).to(promised)
    return y if out is None else out.copy_(y)


def plain(argument: str, array: Any, shape: tuple[int, ...] | None = None, dtype: str | None = None) -> torch.Tensor:
    """An array as a tensor without gradients or lazy conjugation, of the shape and dtype that a plan was made for."""
    tensor = as_tensor(argument, array)
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ConvolithError(
            f"{argument} requires gradients, which a plan does not record; call correlate, or pass {argument}.detach()"
        )
    if shape is not None and tuple(tensor.shape) != shape:
        raise ConvolithError(f"{argument} has shape {tuple(tensor.shape)}; the plan expects {shape}")
    if dtype is not None and dtype_name(tensor.dtype) != dtype:
        raise ConvolithError(f"{argument} has dtype {dtype_name(tensor.dtype)}; the plan expects {dtype}")
    return tensor.detach().resolve_conj().resolve_neg()


def check_apart(out: torch.Tensor, **inputs: torch.Tensor | None) -> None:
    """Refuse an output whose memory overlaps an input's."""
    for argument, tensor in inputs.items():
        if tensor is not None and _overlap(out, tensor):
            raise ConvolithError(f"out shares memory with {argument}; pass an array of its own")


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    starts = [t.data_ptr() for t in (a, b)]
    spans = [
        sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) * t.itemsize + t.itemsize for t in (a, b)
    ]
    if not a.numel() or not b.numel():
        return False
    return starts[0] < starts[1] + spans[1] and starts[1] < starts[0] + spans[0]
