"""Planned engines inside autograd: forward and backward pass are both planned, and second derivatives work.

Where torch's own operator is as fast, forward and backward together, the call is torch's operator, with torch's node in
autograd's graph. Kernels that require gradients are not cached between calls, since they change.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch

from convolith.arrays import Operands
from convolith.dtypes import COMPLEX, HALVES, is_float
from convolith.engines import aten
from convolith.engines.kernel_gradient import engine as lags
from convolith.engines.padding import pad
from convolith.planner import Plan, computed, plan, plan_call
from convolith.planner import gradients as planned
from convolith.planner.machine import check_result
from convolith.planner.plan import compute
from convolith.planner.prepared_kernels import Choose, PreparedKernel, once, prepared
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype
from convolith.torch_private import is_forked, is_view, on_own_thread

Compute = Callable[..., torch.Tensor]
"""Function of x, the kernel and the bias."""


class GradientContext(NamedTuple):
    """Plan and kernel-dependent choice of a node in the autograd graph."""

    plan: Plan
    choose: Choose | None


def run(
    chosen: Plan,
    x: torch.Tensor,
    k: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    by_kernel: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run the planned engine on plain tensors, or one that the kernel's values admit; into `out` if it is given."""
    return on_own_thread(_run, chosen, x, k, bias, by_kernel, out)


def _run(
    chosen: Plan,
    x: torch.Tensor,
    k: torch.Tensor,
    bias: torch.Tensor | None,
    by_kernel: bool,  # noqa: FBT001 - passed on by position
    out: torch.Tensor | None,
) -> torch.Tensor:
    check_result(chosen.spec)
    entry = _prepared(chosen, _bare(k), chooser(chosen) if by_kernel else None)
    return compute(entry.plan, entry.state, _bare(x), None if bias is None else _bare(bias), out)


def _prepared(chosen: Plan, kernel: torch.Tensor, choose: Choose | None) -> PreparedKernel:
    """Return a plan and its state for a kernel; one of this kernel alone is not cached, since no other call has it."""
    return once(chosen, kernel) if chosen.of_one_kernel else prepared(chosen, kernel, choose)


def chooser(chosen: Plan) -> Choose | None:
    """Return a function that plans for a kernel's values, or None if they cannot decide the engine."""
    return partial(_by_values, chosen.spec, accuracy=chosen.accuracy) if chosen.depends_on_values else None


def _by_values(spec: ConvSpec, kernel: torch.Tensor, *, accuracy: str) -> Plan:
    return plan(spec, kernel, accuracy=accuracy)


def _bare(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor without gradients or lazy conjugation."""
    return tensor.detach().resolve_conj().resolve_neg()


def differentiable(operands: Operands, spec: ConvSpec, accuracy: str, engine: str) -> torch.Tensor:
    """Compute the result inside autograd."""
    return recorded(operands, spec, accuracy, engine)[0]


def recorded(operands: Operands, spec: ConvSpec, accuracy: str, engine: str) -> tuple[torch.Tensor, Compute]:
    """Compute the result inside autograd, and return it with the function that computes it from padded operands."""
    plan_call(spec, operands.k, accuracy=accuracy, engine=engine)  # raises the same errors as without gradients
    operands, spec = padded_before(operands, spec)
    x, k, _ = operands
    last = not x.is_contiguous() and x.ndim in aten.LAST and x.is_contiguous(memory_format=aten.LAST[x.ndim])
    chosen = plan_call(spec, k, accuracy=accuracy, engine=engine)
    how = recording(chosen, (x.requires_grad, k.requires_grad), last=last)
    return how(*operands), how


def recording(chosen: Plan, wanted: tuple[bool, bool], *, last: bool) -> Compute:
    """Return the function that computes a layer inside autograd: our engines where faster, else torch's operator.

    Args:
        chosen: plan of a spec with padding mode "zeros".
        wanted: whether the input's and the kernel's gradient will be computed.
        last: whether the input is in channels_last.
    """
    spec = chosen.spec
    views = spec.axes == 1 or spec.out_dtype in COMPLEX  # as results of torch's operator and its gradients
    # The backward pass of torch's own operator hangs in a forked child.
    own = chosen.accuracy in ("default", "fast") and not views and not is_forked()
    straight = aten.torch_operator(spec) if own else None
    named = chosen.engine if chosen.by_name else None
    if named == aten.contiguous.name and straight is not None:
        return straight
    if named is None and straight is not None and not planned.pays(chosen, wanted, last=last):
        return straight
    return partial(_record, GradientContext(chosen, chooser(chosen) if named is None else None))


def _record(node: GradientContext, x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    y: torch.Tensor = _Correlate.apply(x, k, bias, node)  # type: ignore[no-untyped-call]  # torch's own is untyped
    return y


def padded_before(operands: Operands, spec: ConvSpec) -> tuple[Operands, ConvSpec]:
    """Convert operands to floats, and pad them in modes other than zeros, so that torch differentiates the padding."""
    x, k, bias = operands
    if not is_float(spec.dtype):  # the gradient of k needs x as a float
        x = x.to(torch_dtype(spec.out_dtype))
    if not is_float(spec.kernel_dtype):
        k = k.to(torch_dtype(spec.out_dtype))
    if spec.pads_beyond_zeros:
        x = pad(x, spec.padding, spec.padding_mode, spec.padding_value)
    names = ("stride", "dilation", "groups", "transposed", "output_padding")
    options: dict[str, Any] = {name: getattr(spec, name) for name in names}
    if not spec.pads_beyond_zeros:
        options["padding"] = spec.padding
    return Operands(x, k, bias), ConvSpec.of(x, k, bias, **options)


class _Correlate(torch.autograd.Function):
    """Autograd function with the planned engine forward, and `gradients` backward."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None, node: GradientContext
    ) -> torch.Tensor:
        ctx.save_for_backward(x, k)
        ctx.plan = node.plan
        kernel = _bare(k)
        changing = ctx.needs_input_grad[1]
        entry = once(node.plan, kernel) if changing else _prepared(node.plan, kernel, node.choose)
        y = compute(entry.plan, entry.state, _bare(x), None if bias is None else _bare(bias))
        return y.detach()  # not a view, as some engines return: views refuse in-place changes

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        x, k = ctx.saved_tensors
        return (*gradients(grad, x, k, ctx.plan.spec, ctx.plan.accuracy, ctx.needs_input_grad[:3]), None)


def gradients(
    grad: torch.Tensor, x: torch.Tensor, k: torch.Tensor, spec: ConvSpec, accuracy: str, wanted: tuple[bool, ...]
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Compute the gradients of x, the kernel and the bias (None where not wanted), in their own dtypes.

    Each gradient is planned separately if an engine is faster than torch's own backward pass and the gradients need
    not be differentiated again.
    """
    if torch.is_grad_enabled():
        return _gradients(grad, x, k, spec, accuracy, wanted)
    return on_own_thread(_gradients, grad, x, k, spec, accuracy, wanted)


def _gradients(
    grad: torch.Tensor, x: torch.Tensor, k: torch.Tensor, spec: ConvSpec, accuracy: str, wanted: tuple[bool, ...]
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    wants_x, wants_k, wants_bias = wanted
    by_x = by_k = by_bias = None
    layout = torch.contiguous_format
    if not torch.is_grad_enabled() and grad.numel():
        chosen = planned.chosen_gradients(spec, accuracy, (wants_x, wants_k))
        layout = chosen.layout
        by_x = _planned_by_x(grad, k, chosen.by_x) if chosen.by_x is not None else None
        by_k = _planned_by_k(grad, x, chosen.by_k) if chosen.by_k is not None else None
    remaining = (wants_x and by_x is None, wants_k and by_k is None)
    if any(remaining):
        rest = _by_torch(grad, x, k, spec, _wide(spec, accuracy), (*remaining, wants_bias), layout)
        by_x, by_k = (done if done is not None else other for done, other in zip((by_x, by_k), rest[:2], strict=True))
        by_bias = rest[2]
    elif wants_bias:
        by_bias = grad.to(_wide(spec, accuracy)).sum((0, *range(2, grad.ndim)))
    return _owned(by_x, x.dtype), _owned(by_k, k.dtype), _owned(by_bias, grad.dtype)


def _owned(gradient: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Return a gradient in its operand's dtype, not as a view: hooks and optimisers may change it in place."""
    if gradient is None:
        return None
    gradient = gradient.to(dtype)
    if not is_view(gradient):
        return gradient
    return gradient.clone() if torch.is_grad_enabled() else gradient.data


def _by_torch(
    grad: torch.Tensor,
    x: torch.Tensor,
    k: torch.Tensor,
    spec: ConvSpec,
    wide: torch.dtype,
    wanted: tuple[bool, bool, bool],
    layout: torch.memory_format,
) -> tuple[torch.Tensor | None, ...]:
    """Run torch's own backward pass in the given memory format; the results have the format of the operands."""
    contiguous = x.is_contiguous()
    grad, x, k = (tensor.to(wide) for tensor in (grad, x, k))
    if layout is torch.contiguous_format:
        return aten.gradients(grad, x, k, spec, wanted)
    grad, x, k = (tensor.contiguous(memory_format=layout) for tensor in (grad, x, k))
    by_x, by_k, by_bias = aten.gradients(grad, x, k, spec, wanted)
    by_x = by_x.contiguous() if by_x is not None and contiguous else by_x
    return by_x, None if by_k is None else by_k.contiguous(), by_bias


@cache
def _wide(spec: ConvSpec, accuracy: str) -> torch.dtype:
    """Return the dtype in which gradients are computed."""
    if accuracy == "double":
        return torch_dtype(computed(spec, "double").out_dtype)
    return torch.float32 if spec.out_dtype in HALVES else torch_dtype(spec.out_dtype)


def _planned_by_x(grad: torch.Tensor, k: torch.Tensor, chosen: Plan) -> torch.Tensor:
    """Compute the gradient of x by an engine."""
    return compute(chosen, chosen.prepared(_bare(k), adjoint=True), _bare(grad), None)


def _planned_by_k(grad: torch.Tensor, x: torch.Tensor, chosen: planned.KernelGradient) -> torch.Tensor:
    """Compute the kernel's gradient by dedicated code, or by an engine with the output's gradient as kernel."""
    grad, x = _bare(grad), _bare(x)
    if chosen.swapped is None:
        return lags.compute(chosen.spec, x, grad)
    state = chosen.swapped.prepared(grad.transpose(0, 1).contiguous())
    return compute(chosen.swapped, state, x.transpose(0, 1), None).transpose(0, 1)
