"""Everything that depends on torch's private names: one guarded function for each, with what happens without it."""

from __future__ import annotations

from typing import Any

import torch


def dispatch_modes() -> int:
    """Return how many dispatch modes (fake tensors, counters) are active; 0 where torch does not say."""
    count = getattr(torch._C, "_len_torch_dispatch_stack", None)
    return 0 if count is None else int(count())


def is_traced_or_transformed() -> bool:
    """Return whether `torch.jit.trace`, a functorch transform or forward-mode differentiation is active."""
    return (
        torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def version_of(tensor: torch.Tensor) -> int:
    """Return how many times a tensor was written to; 0 for tensors of inference mode, which do not count."""
    return 0 if tensor.is_inference() else tensor._version


def is_view(tensor: torch.Tensor) -> bool:
    """Return whether autograd regards a tensor as a view, which restricts writing to it in place."""
    return bool(tensor._is_view())


def without_batch(y: torch.Tensor) -> torch.Tensor:
    """Return the one element of a batch, in the same memory, as a tensor that autograd does not regard as a view."""
    operator = getattr(torch.ops.aten, "_unsafe_view", None)
    return y[0].clone() if operator is None else operator(y, y.shape[1:])


def output_padding_of(module: torch.nn.Module, x: torch.Tensor, output_size: list[int] | None) -> tuple[int, ...]:
    """Return a transposed convolution's output padding, which follows from `output_size` where that is given."""
    layer: Any = module
    if output_size is None:
        return tuple(layer.output_padding)
    axes = len(layer.kernel_size)
    return tuple(
        layer._output_padding(x, output_size, layer.stride, layer.padding, layer.kernel_size, axes, layer.dilation)
    )
