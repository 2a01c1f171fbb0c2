"""Transposed convolution of tensors, called by the transposed modules and planned like `correlate`."""

from __future__ import annotations

from typing import Any

import torch

from convolith.arrays import Operands, check_bias
from convolith.correlation import call_cache, registered_operator
from convolith.correlation.gradients import differentiable, run
from convolith.dtypes import COMPLEX, dtype_name, is_float
from convolith.engines.aten import TRANSPOSED
from convolith.planner import check_device, plan
from convolith.spec import ConvSpec
from convolith.torch_private import AUTOCAST_DEVICES, needs_torch_operators, safe_in_forks, without_batch

HALVED = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes that autocast replaces by its own."""


def correlate_transposed(
    x: torch.Tensor,
    k: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    output_padding: tuple[int, ...],
    accuracy: str = "default",
) -> torch.Tensor:
    """Compute the adjoint of a correlation.

    `y[o, q] = bias[o] + sum over c, p, t with p s + t d - padding = q of k[c, o, t] x[c, p]`

    Args:
        x: (N, in_channels, *size) or (in_channels, *size).
        k: (in_channels, out_channels/groups, *kernel_size).
        accuracy: as in `plan`.

    Returns:
        (N, out_channels, *output_size), or without N if x has none; gradients are recorded. Torch's own operator is
        used in compiling, exporting, tracing, transforms, dispatch modes and autocast, and for tensors that are not
        plain, not on the CPU or not of one real float dtype.
    """
    axes = k.ndim - 2
    if torch.compiler.is_compiling() or not _is_ours(x, k, bias):
        return _by_torch(accuracy, x, k, bias, stride, padding, output_padding, groups, dilation)
    key = call_cache.key_of(x, k, bias, ("transposed", stride, padding, dilation, groups, output_padding, accuracy))
    call = call_cache.find(key)
    if call is not None:
        return call_cache.run(call, x, k, bias)
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    spec = ConvSpec.of(x, k, bias, transposed=True, output_padding=output_padding, **options)
    operands = Operands(x if x.ndim == axes + 2 else x[None], k, check_bias(bias, spec.out_channels, spec.out_dtype))
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands):
        y = differentiable(operands, spec, accuracy, "auto")
    else:
        chosen = plan(spec, accuracy=accuracy)
        if key is not None:
            call_cache.remember(key, x, bias, spec, chosen)
        y = run(chosen, *operands)
    return y if x.ndim == axes + 2 else without_batch(y)


@safe_in_forks
def _by_torch(
    accuracy: str, x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None, *options: Any
) -> torch.Tensor:
    """Compute by torch's own operator, in float64 or complex128 with accuracy "double"."""
    if not torch.compiler.is_compiling():
        check_device(x.device, accuracy, dtype_name(x.dtype))
    operator = TRANSPOSED[k.ndim - 2]
    if accuracy != "double":
        return operator(x, k, bias, *options)
    narrow, device = x.dtype, x.device.type
    if device in AUTOCAST_DEVICES and torch.is_autocast_enabled(device) and narrow in HALVED:
        narrow = torch.get_autocast_dtype(device)
    wide = torch.promote_types(k.dtype, torch.float64)
    y = operator(x.to(wide), k.to(wide), None if bias is None else bias.to(wide), *options)
    return y.to(narrow)


def _is_ours(x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Return whether nothing requires torch's own operator, and the dtypes are one real float dtype."""
    given = [t for t in (x, k, bias) if t is not None]
    if not all(type(t) in call_cache.PLAIN and t.is_cpu and t.dtype is x.dtype for t in given):
        return False
    name = dtype_name(x.dtype)
    return (
        is_float(name) and name not in COMPLEX and not registered_operator.is_watched() and not needs_torch_operators()
    )
