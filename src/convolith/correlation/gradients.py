"""The planned engines inside autograd: forward and backward are planned alike, and second derivatives work."""

from __future__ import annotations

from typing import Any

import torch

from convolith.arrays import Operands, flip
from convolith.dtypes import HALVES, is_float
from convolith.engines import aten
from convolith.engines.padding import pad
from convolith.engines.protocol import torch_dtype
from convolith.jit import with_living_threads
from convolith.planner import Plan, computed, plan
from convolith.planner import gradients as planned
from convolith.planner.kept import prepared
from convolith.planner.plan import compute
from convolith.spec import ConvSpec
from convolith.torch_private import is_view


def run(
    chosen: Plan, x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None, *, by_kernel: bool = False
) -> torch.Tensor:
    """The planned engine on plain tensors, or one that the kernel's values admit."""
    return with_living_threads(_run, chosen, x, k, bias, by_kernel)


def _run(
    chosen: Plan,
    x: torch.Tensor,
    k: torch.Tensor,
    bias: torch.Tensor | None,
    by_kernel: bool,  # noqa: FBT001
) -> torch.Tensor:
    kept = prepared(chosen, _bare(k), by_kernel=by_kernel)
    return compute(kept.plan, kept.state, _bare(x), None if bias is None else _bare(bias))


def _bare(tensor: torch.Tensor) -> torch.Tensor:
    """Without gradients or lazy conjugation."""
    return tensor.detach().resolve_conj().resolve_neg()


def differentiable(operands: Operands, spec: ConvSpec, accuracy: str, engine: str) -> torch.Tensor:
    """The planned engine inside autograd."""
    plan(spec, accuracy=accuracy, engine=engine)  # refuses what would be refused without gradients
    operands, spec = padded_before(operands, spec)
    chosen = plan(spec, accuracy=accuracy, engine=engine)
    y: torch.Tensor = _Correlate.apply(*operands, chosen)  # type: ignore[no-untyped-call]  # torch's own is untyped
    return y


def padded_before(operands: Operands, spec: ConvSpec) -> tuple[Operands, ConvSpec]:
    """What is differentiated: floats, padded outside in modes other than zeros, where torch differentiates them."""
    x, k, bias = operands
    if not is_float(spec.dtype):  # the gradient of k needs x as a float
        x = x.to(torch_dtype(spec.out_dtype))
    if not is_float(spec.kernel_dtype):
        k = k.to(torch_dtype(spec.out_dtype))
    if spec.padding_mode != "zeros":
        x = pad(x, spec.padding, spec.padding_mode)
    names = ("stride", "dilation", "groups", "transposed", "output_padding")
    options: dict[str, Any] = {name: getattr(spec, name) for name in names}
    if spec.padding_mode == "zeros":
        options["padding"] = spec.padding
    return Operands(x, k, bias), ConvSpec.of(x, k, bias, **options)


class _Correlate(torch.autograd.Function):
    """The planned engine forward, and the gradients by `gradients` backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None, chosen: Plan) -> torch.Tensor:
        ctx.save_for_backward(x, k)
        ctx.spec, ctx.accuracy = chosen.spec, chosen.accuracy
        return run(chosen, x, k, bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        x, k = ctx.saved_tensors
        return (*gradients(grad, x, k, ctx.spec, ctx.accuracy, ctx.needs_input_grad[:3]), None)


def gradients(
    grad: torch.Tensor, x: torch.Tensor, k: torch.Tensor, spec: ConvSpec, accuracy: str, wanted: tuple[bool, ...]
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """The gradients of x, the kernel and the bias (None where not wanted), in their own dtypes.

    Each is planned by itself where it is a correlation that an engine does faster than torch's own backward pass, and
    nothing has to be differentiated again.
    """
    if torch.is_grad_enabled():
        return _gradients(grad, x, k, spec, accuracy, wanted)
    return with_living_threads(_gradients, grad, x, k, spec, accuracy, wanted)


def _gradients(
    grad: torch.Tensor, x: torch.Tensor, k: torch.Tensor, spec: ConvSpec, accuracy: str, wanted: tuple[bool, ...]
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    wants_x, wants_k, wants_bias = wanted
    by_x = by_k = by_bias = None
    if wants_bias:
        by_bias = grad.to(_wide(spec, accuracy)).sum((0, *range(2, grad.ndim))).to(grad.dtype)
    if not torch.is_grad_enabled() and grad.numel():
        by_x = _planned_by_x(grad, k, spec, accuracy) if wants_x else None
        by_k = _planned_by_k(grad, x, spec, accuracy) if wants_k else None
    left = (wants_x and by_x is None, wants_k and by_k is None)
    if any(left):
        wide = _wide(spec, accuracy)
        rest = aten.gradients(grad.to(wide), x.to(wide), k.to(wide), spec, left)
        by_x, by_k = (done if done is not None else other for done, other in zip((by_x, by_k), rest, strict=True))
    return _owned(by_x, x.dtype), _owned(by_k, k.dtype), by_bias


def _owned(gradient: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A gradient in its operand's dtype, which is no view: hooks and optimisers may change it in place."""
    if gradient is None:
        return None
    gradient = gradient.to(dtype)
    if not is_view(gradient):
        return gradient
    return gradient.clone() if torch.is_grad_enabled() else gradient.data


def _wide(spec: ConvSpec, accuracy: str) -> torch.dtype:
    """The dtype in which gradients are computed."""
    if accuracy == "double":
        return torch_dtype(computed(spec, "double").out_dtype)
    return torch.float32 if spec.out_dtype in HALVES else torch_dtype(spec.out_dtype)


def _planned_by_x(grad: torch.Tensor, k: torch.Tensor, spec: ConvSpec, accuracy: str) -> torch.Tensor | None:
    """The gradient of x, where an engine computes it."""
    chosen = planned.input_gradient(spec, accuracy)
    if chosen is None:
        return None
    swapped = k.detach().reshape(spec.groups, -1, *k.shape[1:]).transpose(1, 2).flatten(0, 1)
    return _once(chosen, grad, flip(swapped, range(2, k.ndim)))


def _planned_by_k(grad: torch.Tensor, x: torch.Tensor, spec: ConvSpec, accuracy: str) -> torch.Tensor | None:
    """The gradient of the kernel, where an engine computes it."""
    chosen = planned.kernel_gradient(spec, accuracy)
    if chosen is None:
        return None
    return _once(chosen, x.transpose(0, 1), grad.transpose(0, 1)).transpose(0, 1)


def _once(chosen: Plan, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Computed with a kernel that does not come again, of which nothing is kept."""
    return compute(chosen, chosen.prepared(_bare(kernel).contiguous()), _bare(x), None)
