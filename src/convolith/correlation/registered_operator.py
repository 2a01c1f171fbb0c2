"""The registered operator: the single node that `torch.compile`, `torch.export` and dispatch modes see.

Eager calls bypass it, since going through torch's dispatcher costs more than a small layer.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from convolith.arrays import Operands, check_bias
from convolith.correlation.gradients import gradients, padded_before, run
from convolith.dtypes import is_float
from convolith.engines.padding import fold_padding
from convolith.geometry import NO_VALUE, resolve_padding
from convolith.planner import check_choice, plan_call
from convolith.planner.plan import format_of
from convolith.spec import ConvSpec
from convolith.torch_private import dispatch_modes, without_batch

ARGUMENTS = (
    "Tensor x, Tensor k, Tensor? bias, int[] stride, SymInt[] padding, int[] dilation, int groups, str padding_mode, "
    "str accuracy, str engine"
)
VALUE = "float padding_value"
"""Last argument, which calls of earlier versions lack."""
OPTIONS = 7
"""Number of options before it, and place of the wanted gradients among those of the backward pass."""


def is_watched() -> bool:
    """Return whether a dispatch mode sees operators, as fake tensors and counters do."""
    return dispatch_modes() > 0


def takes(operands: Operands, spec: ConvSpec) -> bool:
    """Return whether a call under a dispatch mode uses the operator: floats of one dtype on the CPU."""
    x, k, _ = operands
    return x.device.type == "cpu" and x.dtype is k.dtype and is_float(spec.dtype) and not spec.transposed


def takes_traced(x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None, options: dict[str, Any]) -> bool:
    """Return whether a compiled or exported call uses the operator, without reading any size."""
    return (
        x.device.type == "cpu"
        and k.device.type == "cpu"
        and x.dtype == k.dtype
        and (x.is_floating_point() or x.is_complex())
        and (bias is None or bias.dtype == x.dtype)
        and k.ndim >= 3
        and k.ndim - x.ndim in (0, 1)
        and not options.get("transposed", False)
    )


def call_traced(
    x: torch.Tensor,
    k: torch.Tensor,
    bias: torch.Tensor | None,
    accuracy: str,
    engine: str,
    *,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    padding_mode: str,
    padding_value: float = NO_VALUE,
    **_: Any,
) -> torch.Tensor:
    """Call the operator while a graph is traced that must serve every batch and size.

    Only `"same"` with a stride depends on a size here. The operator checks its arguments and plans when it runs; torch
    traces these lines, so they are kept to the simplest Python.
    """
    axes = k.ndim - 2
    strides, dilations = _each(stride, axes), _each(dilation, axes)
    amounts = _amounts(padding, x.shape[-axes:], k.shape[2:], strides, dilations)
    batch = x if x.ndim == k.ndim else x.unsqueeze(0)
    given = [strides, amounts, dilations, groups, padding_mode, accuracy, engine]
    if padding_mode == "constant":  # elsewhere torch would take the number for one that changes, and compile again
        given += [float(padding_value)]
    y: torch.Tensor = torch.ops.convolith.correlate.default(batch, k, bias, *given)
    return y if x.ndim == k.ndim else without_batch(y)


def _each(value: Any, axes: int) -> list[int]:
    """Return one number per axis."""
    return [value] * axes if isinstance(value, int) else list(value)


def _amounts(padding: Any, size: Any, kernel_size: Any, stride: list[int], dilation: list[int]) -> list[Any]:
    """Return the padding before and after each axis as a flat list."""
    if isinstance(padding, str):
        pairs = resolve_padding(padding, size, kernel_size, stride, dilation)
        return [amount for pair in pairs for amount in pair]
    amounts = []
    for entry in _each(padding, len(kernel_size)):
        amounts += [entry, entry] if isinstance(entry, int) else list(entry)
    return amounts


def call(operands: Operands, spec: ConvSpec, accuracy: str, engine: str) -> torch.Tensor:
    """Call the operator, with the options of a spec as plain numbers."""
    padding = [amount for pair in spec.padding for amount in pair]
    y: torch.Tensor = _correlate(
        *operands,
        list(spec.stride),
        padding,
        list(spec.dilation),
        spec.groups,
        spec.padding_mode,
        accuracy,
        engine,
        spec.padding_value,
    )
    return y


@torch.library.custom_op("convolith::correlate", mutates_args=(), schema=f"({ARGUMENTS}, {VALUE}={NO_VALUE}) -> Tensor")
def _correlate(x: Any, k: Any, bias: Any, *options: Any) -> Any:
    spec, accuracy, engine = _spec(x, k, bias, *options)
    y = run(plan_call(spec, k, accuracy=accuracy, engine=engine), x, k, bias)
    return y.contiguous(memory_format=format_of(x))  # the layout that the fake implementation promises


@_correlate.register_fake
def _(x: Any, k: Any, bias: Any, *options: Any) -> Any:
    spec, accuracy, engine = _spec(x, k, bias, *options)
    check_choice(accuracy, engine)
    check_bias(bias, spec.out_channels, spec.out_dtype)
    return torch.empty_like(x.new_empty(spec.output_shape), memory_format=format_of(x))


@torch.library.custom_op(
    "convolith::correlate_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {ARGUMENTS}, bool[] wanted, {VALUE}={NO_VALUE}) -> (Tensor, Tensor, Tensor)",
)
def _backward(grad: Any, x: Any, k: Any, bias: Any, *options: Any) -> Any:
    wanted = options[OPTIONS]
    spec, accuracy, _ = _spec(x, k, bias, *options[:OPTIONS], *options[OPTIONS + 1 :])
    computed = _gradients(grad, x, k, spec, accuracy, tuple(wanted))
    formats = (format_of(x), torch.contiguous_format, torch.contiguous_format)
    return tuple(
        grad.new_empty(0) if tensor is None else tensor.contiguous(memory_format=layout)
        for tensor, layout in zip(computed, formats, strict=True)
    )


@_backward.register_fake
def _(grad: Any, x: Any, k: Any, bias: Any, *options: Any) -> Any:  # noqa: ARG001 - as the operator itself
    shapes = (x.shape, k.shape, (k.shape[0],))
    of_x, *others = (grad.new_empty(s if want else (0,)) for s, want in zip(shapes, options[OPTIONS], strict=True))
    return (torch.empty_like(of_x, memory_format=format_of(x)) if options[OPTIONS][0] else of_x, *others)


def _gradients(
    grad: torch.Tensor, x: torch.Tensor, k: torch.Tensor, spec: ConvSpec, accuracy: str, wanted: tuple[bool, ...]
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Compute the gradients of x, the kernel and the bias, through the padding too, which is part of the operator."""
    operands, inner = padded_before(Operands(x, k, None), spec)
    by_x, by_k, by_bias = gradients(grad, operands.x, k, inner, accuracy, wanted)
    if by_x is not None and spec.pads_beyond_zeros:
        by_x = fold_padding(by_x, spec.padding, spec.size, spec.padding_mode)
    return by_x, by_k, by_bias


def _spec(x: Any, k: Any, bias: Any, *options: Any) -> tuple[ConvSpec, str, str]:
    stride, padding, dilation, groups, padding_mode, accuracy, engine, *value = options
    pairs = tuple(zip(padding[::2], padding[1::2], strict=True))
    spec = ConvSpec.of(
        *(x, k, bias),
        stride=tuple(stride),
        padding=pairs,
        dilation=tuple(dilation),
        groups=groups,
        padding_mode=padding_mode,
        padding_value=value[0] if value else NO_VALUE,
    )
    return spec, accuracy, engine


def _setup(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001 - torch's own signature
    x, k, bias, *options = inputs
    ctx.save_for_backward(x, k, bias)
    ctx.options = options


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, k, bias = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:3])
    computed = _backward(grad, x, k, bias, *ctx.options[:OPTIONS], wanted, *ctx.options[OPTIONS:])
    results = [tensor if want else None for tensor, want in zip(computed, wanted, strict=True)]
    return (*results, *[None] * len(ctx.options))


def _setup_again(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001 - torch's own signature
    grad, x, k, bias, *options = inputs
    ctx.save_for_backward(grad, x, k, bias)
    ctx.options = options


def _differentiate_again(ctx: Any, *slopes: torch.Tensor) -> tuple[Any, ...]:
    """Differentiate the backward pass, computed by torch's own, which is differentiable."""
    wanted, geometry = ctx.options[OPTIONS], [*ctx.options[:OPTIONS], *ctx.options[OPTIONS + 1 :]]
    spec, accuracy, _ = _spec(*ctx.saved_tensors[1:], *geometry)
    grad, x, k = operands = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors[:3]]
    with torch.enable_grad():
        computed = _gradients(grad, x, k, spec, accuracy, tuple(wanted))
    pairs = [(one, slope) for one, slope in zip(computed, slopes, strict=True) if one is not None and one.requires_grad]
    outs, seeds = zip(*pairs, strict=True)
    results = torch.autograd.grad(outs, operands, seeds, allow_unused=True)
    return (*results, None, *[None] * len(ctx.options))


def _batched(info: Any, in_dims: Any, x: Any, k: Any, bias: Any, *options: Any) -> Any:
    """Compute under vmap, with one call for each element."""
    results = []
    for i in range(info.batch_size):
        element = [
            t if dim is None or t is None else t.select(dim, i)
            for t, dim in zip((x, k, bias), in_dims[:3], strict=True)
        ]
        results.append(_correlate(*element, *options))
    return torch.stack(results), 0


torch.library.register_autograd("convolith::correlate", _differentiate, setup_context=_setup)
torch.library.register_autograd("convolith::correlate_backward", _differentiate_again, setup_context=_setup_again)
torch.library.register_vmap("convolith::correlate", _batched)


@register_flop_formula(torch.ops.convolith.correlate)
def _flops(x_shape: Any, k_shape: Any, *_: Any, out_shape: Any, **__: Any) -> int:  # noqa: ARG001 - torch's own
    """Count operations for torch's FlopCounterMode, which counts two per product."""
    return int(2 * prod((*out_shape, *k_shape[1:])))


@register_flop_formula(torch.ops.convolith.correlate_backward)
def _backward_flops(grad_shape: Any, x_shape: Any, k_shape: Any, *options: Any, **_: Any) -> int:  # noqa: ARG001 - torch's own
    """Count the forward pass's operations once for each wanted gradient, of x and of the kernel."""
    return int(2 * prod((*grad_shape, *k_shape[1:], sum(options[OPTIONS + 1][:2]))))
