"""The planned engines inside autograd: forward and backward are planned alike, and second derivatives work."""

from __future__ import annotations

from typing import Any

import torch

from convolith.arrays import Operands, flip
from convolith.dtypes import HALVES, is_float
from convolith.engines import aten
from convolith.engines.padding import pad
from convolith.engines.protocol import torch_dtype
from convolith.planner import Plan, computed, plan
from convolith.planner.kept import prepared
from convolith.planner.plan import compute
from convolith.spec import ConvSpec

TRANSFORMED_TOO = 2.0
"""By how much longer an engine takes whose kernel does not come again, and is transformed as its input is."""


def run(
    chosen: Plan, x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None, *, by_kernel: bool = False
) -> torch.Tensor:
    """The planned engine on plain tensors, or one that the kernel's values admit."""
    kept = prepared(chosen, _bare(k), by_kernel=by_kernel)
    return compute(kept.plan, kept.state, _bare(x), None if bias is None else _bare(bias))


def _bare(tensor: torch.Tensor) -> torch.Tensor:
    """Without gradients or lazy conjugation."""
    return tensor.detach().resolve_conj().resolve_neg()


def differentiable(operands: Operands, spec: ConvSpec, accuracy: str, engine: str) -> torch.Tensor:
    """The planned engine inside autograd.

    Modes other than zeros are padded outside, where torch differentiates them.
    """
    x, k, bias = operands
    plan(spec, accuracy=accuracy, engine=engine)  # refuses what would be refused without gradients
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
    spec = ConvSpec.of(x, k, bias, **options)
    chosen = plan(spec, accuracy=accuracy, engine=engine)
    y: torch.Tensor = _Correlate.apply(x, k, bias, chosen)  # type: ignore[no-untyped-call]  # torch's own is untyped
    return y


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
    wants_x, wants_k, wants_bias = wanted
    by_x = by_k = by_bias = None
    if wants_bias:
        by_bias = grad.to(_wide(spec, accuracy)).sum((0, *range(2, grad.ndim))).to(grad.dtype)
    if not torch.is_grad_enabled() and grad.numel() and accuracy != "double":
        by_x = _planned_by_x(grad, k, spec, accuracy) if wants_x else None
        by_k = _planned_by_k(grad, x, spec) if wants_k and accuracy != "exact" else None
    left = (wants_x and by_x is None, wants_k and by_k is None)
    if any(left):
        wide = _wide(spec, accuracy)
        rest = aten.gradients(grad.to(wide), x.to(wide), k.to(wide), spec, left)
        by_x, by_k = (done if done is not None else other for done, other in zip((by_x, by_k), rest, strict=True))
    return None if by_x is None else by_x.to(x.dtype), None if by_k is None else by_k.to(k.dtype), by_bias


def _wide(spec: ConvSpec, accuracy: str) -> torch.dtype:
    """The dtype in which gradients are computed."""
    if accuracy == "double":
        return torch_dtype(computed(spec, "double").out_dtype)
    return torch.float32 if spec.out_dtype in HALVES else torch_dtype(spec.out_dtype)


def _planned_by_x(grad: torch.Tensor, k: torch.Tensor, spec: ConvSpec, accuracy: str) -> torch.Tensor | None:
    """`sum over o, t of k[o, c, t] grad[o, q - t + padding]`: a correlation with the flipped kernel, channels swapped.

    None where windows are strided or transposed, or more is cropped than the kernel reaches.
    """
    around = tuple((e - 1 - a, e - 1 - b) for e, (a, b) in zip(spec.extent, spec.padding, strict=True))
    if max(spec.stride) > 1 or spec.transposed or min(min(pair) for pair in around) < 0 or k.is_complex():
        return None
    adjoint = ConvSpec(
        batch=spec.batch,
        in_channels=spec.out_channels,
        out_channels=spec.in_channels,
        size=spec.output_size,
        kernel_size=spec.kernel_size,
        padding=around,
        dilation=spec.dilation,
        groups=spec.groups,
        dtype=spec.out_dtype,
    )
    swapped = k.detach().reshape(spec.groups, -1, *k.shape[1:]).transpose(1, 2).flatten(0, 1)
    return _once(plan(adjoint, accuracy=accuracy), grad, flip(swapped, range(2, k.ndim)))


def _planned_by_k(grad: torch.Tensor, x: torch.Tensor, spec: ConvSpec) -> torch.Tensor | None:
    """`sum over n, p of x[c, p + t - padding] grad[o, p]`: x correlated with the gradient, images as channels.

    Such a kernel is as large as an image. Only transforms are faster with it than torch's own backward pass; None where
    they are not.
    """
    if max(*spec.stride, *spec.dilation) > 1 or spec.transposed or spec.groups > 1 or grad.is_complex():
        return None
    swapped = ConvSpec(
        batch=spec.in_channels,
        in_channels=spec.batch,
        out_channels=spec.out_channels,
        size=spec.size,
        kernel_size=spec.output_size,
        padding=spec.padding,
        dtype=spec.out_dtype,
    )
    seconds = {c.engine: c.seconds for c in plan(swapped).candidates if c.reason is None}
    usual = next(c.seconds for c in plan(spec).candidates if c.engine == aten.contiguous.name)
    transform = seconds.get("fft")
    if transform is None or usual is None or TRANSFORMED_TOO * transform > usual:
        return None
    return _once(plan(swapped, engine="fft"), x.transpose(0, 1), grad.transpose(0, 1)).transpose(0, 1)


def _once(chosen: Plan, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Computed with a kernel that does not come again, of which nothing is kept."""
    return compute(chosen, chosen.prepared(_bare(kernel).contiguous()), _bare(x), None)
