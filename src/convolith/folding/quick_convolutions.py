"""Convolutions that are slow in torch, such as large or float64 ones, computed by this package's engines."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from convolith.correlation import correlate
from convolith.engines.reference import reference
from convolith.errors import ConvolithError
from convolith.planner import plan
from convolith.spec import ConvSpec

CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
LARGE = 2e7
"""Number of multiplications up to which torch's convolution takes no longer than planning one of our engines."""
MOST_GROUPS = 64
"""Number of groups times images up to which torch is as fast in float64, where it computes each group separately, as
the reference engine."""
SMALL = 49
"""Number of kernel taps up to which torch's convolutions are fast enough in dtypes other than float64."""
MUCH_LONGER = 4.0
"""Minimum ratio of torch's estimated time to our engine's for which ours is used, in dtypes other than float64."""


class QuickConvolutions(TorchFunctionMode):
    """Context in which convolutions that are slow in torch are computed by this package's engines.

    The choice of the engine depends on shapes only, so that repeated calls give identical bits.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a torch function, or compute its result by an engine."""
        kwargs = kwargs or {}
        if func in CONVOLUTIONS:
            return _convolved(func, *args, **kwargs)
        return func(*args, **kwargs)


def _convolved(
    func: Any,
    input: torch.Tensor,  # noqa: A002 - torch's own name
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    if not _is_plain(input, weight) or isinstance(padding, str):
        return func(input, weight, bias, groups=groups, **options)
    options = {name: _each(value, weight.ndim - 2) for name, value in options.items()}
    is_wide = input.dtype == torch.float64
    is_slow = is_wide or weight[0, 0].numel() > SMALL
    is_large = is_slow and weight[0].numel() * input.numel() // input.shape[1] * weight.shape[0] > LARGE
    has_many_groups = is_wide and groups * input.shape[0] > MOST_GROUPS
    try:
        if is_large and (engine := _engine(input, weight, groups, options)):
            return correlate(input, weight, bias, groups=groups, engine=engine, **options)
        if has_many_groups and not is_large:
            spec = ConvSpec.of(input, weight, groups=groups, **options)
            state, own = reference.prepare(spec, weight.detach()), None if bias is None else bias.detach()
            return reference.apply(state, input.detach(), own)
    except ConvolithError:  # torch raises its own error for invalid arguments
        pass
    return func(input, weight, bias, groups=groups, **options)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value) * (axes if len(value) == 1 else 1)


def _is_plain(x: torch.Tensor, weight: torch.Tensor) -> bool:
    both = x.is_cpu and weight.is_cpu and x.dtype == weight.dtype and x.is_floating_point()
    return both and x.ndim == weight.ndim and x.numel() > 0 and not torch.is_autocast_enabled("cpu")


def _engine(x: torch.Tensor, weight: torch.Tensor, groups: int, options: dict[str, Any]) -> str | None:
    """Return the engine that computes a call much faster than torch does, or None."""
    chosen = plan(ConvSpec.of(x, weight, groups=groups, **options))
    by_torch = next(c.seconds for c in chosen.candidates if c.engine == "aten")
    longer = 1.0 if x.dtype == torch.float64 else MUCH_LONGER
    if by_torch is None or chosen.seconds is None or by_torch < longer * chosen.seconds:
        return None
    return chosen.engine
