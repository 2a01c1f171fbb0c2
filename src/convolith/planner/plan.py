"""Plans: the engine chosen for a spec, with the time or refusal of every engine, ready to run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from convolith.arrays import as_target, as_tensor, check_bias, check_same_kind, is_numpy, like
from convolith.dtypes import dtype_name
from convolith.engines import BY_NAME, aten
from convolith.engines.base import NEEDS_KERNEL, Changed
from convolith.errors import ConvolithError
from convolith.planner import prepared_kernels
from convolith.report.html_page import fragment
from convolith.report.plots import bar_figure
from convolith.report.table import Table
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype
from convolith.torch_private import on_own_thread, safe_in_forks
from convolith.work import Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDER = {"float16": "float64", "bfloat16": "float64", "float32": "float64", "complex64": "complex128"}
NEARLY = 0.9
"""Fraction of the estimate for torch's operator below which another engine is chosen for a kernel used only once."""


@dataclass(frozen=True)
class Candidate:
    """One engine as the planner sees it: its estimates, or the reason of its refusal.

    Attributes:
        engine: name of the engine.
        reason: reason of the refusal, or None for an engine that can be chosen.
        work: operations and bytes of a call; None for an engine that cannot compute the layer.
        error_bound: upper bound on the error, relative to max|x| times the largest sum of |k| of an output channel.
        note: method of the engine for this layer in a few words, such as the size of its tiles.
        seconds: time of a call: measured if `timed`, else estimated.
        timed: whether `seconds` was measured on this machine.
        prepare_seconds: estimated time to prepare a kernel that was not seen before.
        by_values: whether the engine is possible for this kernel only, because of its values.
    """

    engine: str
    reason: str | None
    work: Work | None = None
    error_bound: float | None = None
    note: str = ""
    seconds: float | None = None
    timed: bool = False
    prepare_seconds: float | None = None
    by_values: bool = False


@dataclass(frozen=True)
class Plan:
    """Engine chosen for a spec, with the time or refusal of every engine; immutable, thread-safe and picklable.

    `plan` returns it.

    Attributes:
        spec: geometry of the layer.
        accuracy: as given to `plan`.
        engine: name of the chosen engine.
        candidates: every engine, with its estimates or the reason of its refusal.
        effort: as given to `plan`: `"estimate"` or `"measure"`.
        by_name: whether the caller named the engine.
        new_kernels: whether the kernel changes with each call, so that its preparation counts.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> spec = cl.ConvSpec(in_channels=1, out_channels=1, size=(8, 8), kernel_size=3, dtype="float64")
        >>> cl.plan(spec)(np.ones((1, 1, 8, 8)), np.ones((1, 1, 3, 3))).shape
        (1, 1, 6, 6)
    """

    spec: ConvSpec
    accuracy: str
    engine: str
    candidates: tuple[Candidate, ...]
    effort: str = "estimate"
    by_name: bool = False
    new_kernels: bool = False

    def __repr__(self) -> str:
        shapes = f"{self.spec.input_shape} * {self.spec.kernel_shape} -> {self.spec.output_shape}"
        time = "" if self.seconds is None else f", {1e3 * self.seconds:.3g} ms by {self.effort}"
        return f"Plan({shapes}, engine={self.engine!r}, accuracy={self.accuracy!r}, dtype={self.spec.dtype}{time})"

    @property
    def seconds(self) -> float | None:
        """Time of a call in seconds, as estimated or measured."""
        chosen = next(c for c in self.candidates if c.engine == self.engine)
        if chosen.seconds is None or not self.new_kernels:
            return chosen.seconds
        return chosen.seconds + (chosen.prepare_seconds or 0.0)

    @cached_property
    def for_new_kernels(self) -> Plan:
        """Plan for kernels that are used only once, as in training; its engine may differ."""
        if self.by_name or self.new_kernels:
            return replace(self, new_kernels=True)
        fit = [c for c in self.candidates if c.reason is None and not c.by_values]
        fit = [c for c in fit if c.timed] or fit
        chosen = min(fit, key=_seconds_of_new)
        return replace(self, engine=chosen.engine, new_kernels=True)

    @cached_property
    def depends_on_values(self) -> bool:
        """Whether some engine is possible only for certain values of the kernel."""
        return any(candidate.reason == NEEDS_KERNEL for candidate in self.candidates)

    @cached_property
    def of_one_kernel(self) -> bool:
        """Whether the engine computes the kernel of the plan, because of its values, and maybe no other."""
        return next(c for c in self.candidates if c.engine == self.engine).by_values

    @cached_property
    def prepares(self) -> bool:
        """Whether the engine computes something from a kernel that is worth caching."""
        chosen = next(c for c in self.candidates if c.engine == self.engine)
        return bool(chosen.prepare_seconds)

    def table(self) -> Table:
        """Return every engine, the best first, as rows of a report."""
        late = float("inf")
        order = sorted(
            self.candidates, key=lambda c: (c.engine != self.engine, c.reason is not None, c.seconds or late)
        )
        shape = " x ".join(map(str, self.spec.input_shape)) + " -> " + " x ".join(map(str, self.spec.output_shape))
        dtypes = " with ".join(dict.fromkeys((self.spec.dtype, self.spec.kernel_dtype)))
        if dtypes != self.spec.out_dtype:
            dtypes += f" -> {self.spec.out_dtype}"
        return Table(f"{shape}, {dtypes}, accuracy {self.accuracy}", [self._row(candidate) for candidate in order])

    def _row(self, candidate: Candidate) -> dict[str, Any]:
        """Return the row of one engine: its verdict, method, time and work."""
        verdict = "chosen" if candidate.engine == self.engine else candidate.reason or self._behind(candidate)
        row: dict[str, Any] = {"engine": candidate.engine, "verdict": verdict, "how": candidate.note}
        if candidate.seconds is not None:
            row |= {"milliseconds": 1e3 * candidate.seconds, "time": "measured" if candidate.timed else "estimated"}
        if candidate.work is not None:
            forward = candidate.work.forward
            row |= {
                "multiplications": forward.multiplications,
                "additions": forward.additions,
                "bytes moved": forward.bytes,
                "workspace bytes": candidate.work.memory.forward.workspace,
                "error bound": candidate.error_bound,
            }
        return row

    def _behind(self, candidate: Candidate) -> str:
        """Return why an engine that can compute the spec was not chosen."""
        chosen = next(c for c in self.candidates if c.engine == self.engine)
        if candidate.seconds is None or chosen.seconds is None or candidate.seconds < chosen.seconds:
            return "not requested"
        return f"{candidate.seconds / chosen.seconds:.3g} times as long"

    def explain(self) -> str:
        """Return the table as text: each engine's time, counted work and error bound, and why it was chosen or not."""
        return self.table().text()

    def _repr_html_(self) -> str:
        """Return the table as HTML for notebooks."""
        return fragment([self.table()])

    def plot(self) -> Figure:
        """Return a matplotlib figure of the time of every engine that can compute the layer, the fastest on top.

        Raises:
            ConvolithError: matplotlib is not installed.
        """
        timed = sorted((c.seconds, c.engine) for c in self.candidates if c.reason is None and c.seconds is not None)
        kind = "measured" if any(c.timed for c in self.candidates) else "estimated"
        return bar_figure(
            [name for _, name in timed], {kind: [1e3 * seconds for seconds, _ in timed]}, x="milliseconds"
        )

    @overload
    def __call__(self, x: torch.Tensor, k: Any, bias: Any = None, out: Any = None) -> torch.Tensor: ...
    @overload
    def __call__(self, x: np.ndarray, k: Any, bias: Any = None, out: Any = None) -> np.ndarray: ...

    @safe_in_forks
    def __call__(self, x: Any, k: Any, bias: Any = None, out: Any = None) -> Any:
        """Correlate `x` with `k`; no gradients (use `correlate` for those).

        Args:
            x: input of the shape and dtype of the spec, batch included, on the CPU.
            k: kernel of the shape and dtype of the spec, in the same array type as x.
            bias: (out_channels,), in the dtype of the result, or None.
            out: array for the result, of its shape and dtype; its memory must not overlap that of x, k or bias.

        Returns:
            (N, out_channels, *output_size), in the array type of x; `out` if it is given.

        Raises:
            ConvolithError: another shape, dtype, array type or device than the spec's, a tensor that requires
                gradients, an `out` that shares memory with an input.
        """
        kernel = plain("k", k, self.spec.kernel_shape, self.spec.kernel_dtype)
        state = prepared_kernels.prepared(self, kernel, fixed=True).state
        return self._bound(k, kernel, self._checked(k, bias), state)(x, out)

    @safe_in_forks
    def bind(self, k: Any, bias: Any = None, *, copy: bool = True) -> BoundPlan:
        """Prepare a kernel once, for many calls with x.

        Args:
            k: kernel of the shape and dtype of the spec, on the CPU.
            bias: (out_channels,), in the dtype of the result, or None.
            copy: whether the kernel and the bias are copied; with False they must not change afterwards.

        Returns:
            A `BoundPlan`, to be called with x.

        Raises:
            ConvolithError: another shape, dtype or device than the spec's, a tensor that requires gradients.

        Example:
            >>> import numpy as np
            >>> import convolith as cl
            >>> x, k = np.ones((1, 1, 8, 8)), np.ones((1, 1, 3, 3))
            >>> bound = cl.plan(cl.ConvSpec.of(x, k)).bind(k)
            >>> float(bound(x)[0, 0, 0, 0])
            9.0
        """
        kernel, checked = plain("k", k, self.spec.kernel_shape, self.spec.kernel_dtype), self._checked(k, bias)
        if copy:
            kernel, checked = kernel.clone(), None if checked is None else checked.clone()
        return self._bound(k, kernel, checked, self.prepared(kernel))

    def _checked(self, k: Any, bias: Any) -> torch.Tensor | None:
        """Return the bias as a tensor, after checking its shape and dtype."""
        if bias is None:
            return None
        check_same_kind(k=k, bias=bias)
        return check_bias(plain("bias", bias), self.spec.out_channels, self.spec.out_dtype)

    def _bound(self, k: Any, kernel: torch.Tensor, bias: torch.Tensor | None, state: Any) -> BoundPlan:
        dtype = torch_dtype(self.spec.dtype)
        return BoundPlan(self, state, kernel, bias, is_numpy(k), self.spec.input_shape, dtype)

    def prepared(self, kernel: torch.Tensor, *, adjoint: bool = False) -> Any:
        """Return the engine's state for a kernel, or None for an empty batch.

        Args:
            kernel: weights of the shape of the spec.
            adjoint: whether the weights are those of the layer whose adjoint the spec is.
        """
        inner = computed(self.spec, self.accuracy)
        if not inner.batch:
            return None
        return on_own_thread(self._prepare, inner, kernel, adjoint)

    def _prepare(self, inner: ConvSpec, kernel: torch.Tensor, adjoint: bool) -> Any:  # noqa: FBT001 - called by position
        return BY_NAME[self.engine].prepare(inner, kernel.to(torch_dtype(inner.kernel_dtype)), adjoint=adjoint)


@dataclass(frozen=True, eq=False, repr=False)
class BoundPlan:
    """Plan with its kernel prepared, to be called with x; `Plan.bind` returns it.

    Attributes:
        plan: the plan.
        state: prepared form of the kernel, of the engine's own type.
        kernel, bias: kernel and bias as tensors; the bias is None without one.
        numpy: whether the kernel was a NumPy array, so that x must be one.
        shape, dtype: shape and dtype that x must have.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> spec = cl.ConvSpec(in_channels=1, out_channels=1, size=(1, 4), kernel_size=(1, 2), dtype="float64")
        >>> difference = cl.plan(spec).bind(np.array([[[[-1.0, 1.0]]]]))
        >>> difference(np.array([[[[1.0, 4.0, 9.0, 16.0]]]]))
        array([[[[3., 5., 7.]]]])
    """

    plan: Plan
    state: Any
    kernel: torch.Tensor
    bias: torch.Tensor | None
    numpy: bool
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __repr__(self) -> str:
        return f"Bound{self.plan!r}"

    def resized(self, chosen: Plan) -> BoundPlan | None:
        """Return this prepared kernel with a plan of the layer for another size or batch.

        Args:
            chosen: the other plan.

        Returns:
            A `BoundPlan`, or None if the engine's prepared kernel depends on the size.
        """
        inner = computed(chosen.spec, chosen.accuracy)
        if chosen.engine != self.plan.engine or self.state is None or not inner.batch:
            return None
        state = BY_NAME[chosen.engine].resized(self.state, inner)
        return None if state is None else replace(self, plan=chosen, state=state, shape=chosen.spec.input_shape)

    @overload
    def __call__(self, x: torch.Tensor, out: Any = None) -> torch.Tensor: ...
    @overload
    def __call__(self, x: np.ndarray, out: Any = None) -> np.ndarray: ...

    def __call__(self, x: Any, out: Any = None) -> Any:
        """Correlate `x` with the prepared kernel.

        Args:
            x: input of the attributes `shape` and `dtype`, in the array type of the kernel.
            out: array for the result, of its shape and dtype, whose memory overlaps no input's; by default a new one.

        Returns:
            (N, out_channels, *output_size), in the array type of x; `out` if it is given.

        Raises:
            ConvolithError: another shape, dtype, array type or device, a tensor that requires gradients.
        """
        if (  # the usual case, recognised in a microsecond: x needs no further checks
            out is None
            and type(x) is torch.Tensor
            and x.dtype is self.dtype
            and x.layout is torch.strided
            and not x.is_nested
            and x.shape == self.shape
            and x.is_cpu
            and not (self.numpy or x.requires_grad or x.is_neg() or x.is_conj())
        ):
            return compute(self.plan, self.state, x, self.bias)
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


def _seconds_of_new(candidate: Candidate) -> float:
    """Return the time of a call with a new kernel, reduced for torch's operator, which estimates must clearly beat."""
    seconds = (candidate.seconds or 0.0) + (candidate.prepare_seconds or 0.0)
    return seconds * (NEARLY if candidate.engine == aten.contiguous.name and not candidate.timed else 1.0)


def computed(spec: ConvSpec, accuracy: str) -> ConvSpec:
    """Return the spec that the engines see: with wider dtypes for `accuracy="double"`, otherwise unchanged."""
    if accuracy != "double":
        return spec
    widened = {name: WIDER.get(getattr(spec, name), getattr(spec, name)) for name in ("dtype", "kernel_dtype")}
    return replace(spec, **widened)


def compute(
    chosen: Plan, state: Any, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Apply a plan's prepared engine, in wider dtypes for `accuracy="double"`; the result has the spec's dtype."""
    return on_own_thread(_compute, chosen, state, x, bias, out)


def _compute(
    chosen: Plan, state: Any, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None
) -> torch.Tensor:
    spec, engine = chosen.spec, BY_NAME[chosen.engine]
    if spec.batch == 0:
        return torch.empty(spec.output_shape, dtype=torch_dtype(spec.out_dtype), device="cpu") if out is None else out
    if torch.is_autocast_enabled(
        "cpu"
    ):  # autocast must not narrow the dtypes of an engine: the plan promises its error bound
        with torch.autocast("cpu", enabled=False):
            return _compute(chosen, state, x, bias, out)
    if chosen.accuracy != "double":
        y = engine.apply(state, x, bias, out)
        if out is not None:
            return y
        y = y.data  # same memory, but not a view of an engine's buffer: autograd refuses to change views in place
        return y if x.is_contiguous() else y.contiguous(memory_format=format_of(x))
    inner = computed(spec, "double")
    wide_bias = None if bias is None else bias.to(torch_dtype(inner.out_dtype))
    y = engine.apply(state, x.to(torch_dtype(inner.dtype)), wide_bias).to(torch_dtype(spec.out_dtype))
    return y.data if out is None else out.copy_(y)


def compute_rounded(chosen: Plan, state: Any, x: torch.Tensor, out: torch.Tensor) -> Changed | None:
    """Apply a plan's prepared engine, which rounds its sums to the integers of `out`; None if it does not."""
    if chosen.accuracy == "double" or chosen.spec.batch == 0:
        return None
    return on_own_thread(BY_NAME[chosen.engine].apply_rounded, state, x, out)


def format_of(x: torch.Tensor) -> torch.memory_format:
    """Return the memory format of the result: that of x (a single channel has both formats; contiguous is taken)."""
    last = aten.CHANNELS_LAST.get(x.ndim - 2)
    if last is not None and not x.is_contiguous() and x.is_contiguous(memory_format=last):
        return last
    return torch.contiguous_format


@safe_in_forks
def plain(argument: str, array: Any, shape: tuple[int, ...] | None = None, dtype: str | None = None) -> torch.Tensor:
    """Return an array as a tensor without gradients or lazy conjugation, after checking its device, shape and dtype."""
    tensor = as_tensor(argument, array)
    if not tensor.is_cpu:
        raise ConvolithError(
            f"{argument} is on {tensor.device}, and a plan computes on the CPU; pass {argument}.cpu(), or call "
            "correlate, which leaves other devices to torch's own convolution"
        )
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ConvolithError(
            f"{argument} requires gradients, which a plan does not record; call correlate, or pass {argument}.detach()"
        )
    if shape is not None and tuple(tensor.shape) != shape:
        raise ConvolithError(
            f"{argument} has shape {tuple(tensor.shape)}; the plan expects {shape}; make another plan for this shape"
        )
    if dtype is not None and dtype_name(tensor.dtype) != dtype:
        raise ConvolithError(
            f"{argument} has dtype {dtype_name(tensor.dtype)}; the plan expects {dtype}; convert {argument}, or make "
            "another plan for this dtype"
        )
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
