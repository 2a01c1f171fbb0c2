"""Copies of a layer's weights at the time of freezing, prepared once per input shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from convolith.correlation.registered_operator import is_watched
from convolith.errors import ConvolithError
from convolith.planner import BoundPlan, plan
from convolith.spec import ConvSpec
from convolith.torch_private import needs_torch_operators, version_of, without_batch

MOST_SHAPES = 8
"""Largest number of input shapes for which a layer stays prepared; the least recently used is dropped."""


class Witness(NamedTuple):
    """The state of a module's tensor at the time of freezing."""

    owner: dict[str, torch.Tensor | None]
    key: str
    path: str
    tensor: torch.Tensor
    version: int
    address: int

    def changed(self) -> bool:
        """Return whether the tensor was replaced, moved, or written to in a way that torch counts."""
        now = self.owner.get(self.key)
        if now is not self.tensor:
            return True
        return version_of(now) != self.version or now.data_ptr() != self.address


class Frozen:
    """The private copies of a layer's weight and bias, and its plans with prepared kernels.

    A copy or a pickle of it is None: copies of a frozen module are not frozen.
    """

    def __init__(self, name: str, module: Any) -> None:
        self.name = name
        self.witnesses = tuple(_witnesses(name, module))
        with torch.no_grad():
            self.weight = module.weight.detach().clone(memory_format=torch.contiguous_format)
            self.bias = None if module.bias is None else module.bias.detach().clone()
        self.trained = any(parameter.requires_grad for parameter in module.parameters())
        self.bounds: OrderedDict[Any, BoundPlan] = OrderedDict()

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return type(None), ()

    def check(self) -> None:
        """Refuse weights that were changed after freezing.

        Raises:
            ConvolithError: a parameter or buffer of the layer was changed.
        """
        for witness in self.witnesses:
            if witness.changed():
                raise ConvolithError(
                    f"{witness.path} of layer {self.name!r} was changed after cl.nn.freeze(model); call "
                    "cl.nn.freeze(model) again to compute with the new values, or cl.nn.unfreeze(model) to train"
                )

    def __call__(self, module: Any, x: torch.Tensor) -> torch.Tensor | None:
        """Return the layer's output, or None where its parameters are needed: gradients, other devices, tracing."""
        self.check()
        if type(x) is not torch.Tensor or not x.is_cpu or x.dtype is not self.weight.dtype or not self.weight.is_cpu:
            return None
        if torch.is_grad_enabled() and (x.requires_grad or self.trained):
            return None
        if is_watched() or needs_torch_operators():
            return None
        bound = self._bound(module, x)
        batched = x.ndim == self.weight.ndim
        y: torch.Tensor = bound(x.detach() if batched else x.detach()[None])
        return y if batched else without_batch(y)

    def _bound(self, module: Any, x: torch.Tensor) -> BoundPlan:
        """Return the plan for an input shape, with the kernel prepared."""
        key = (x.shape, torch.get_num_threads(), module.accuracy)
        bound = self.bounds.get(key)
        if bound is None:
            spec = ConvSpec.of(
                *(x, self.weight, self.bias),
                stride=module.stride,
                padding=module.padding,
                dilation=module.dilation,
                groups=module.groups,
                padding_mode=module.padding_mode,
                transposed=module.transposed,
                output_padding=module.output_padding,
            )
            bound = self.bounds[key] = plan(spec, self.weight, accuracy=module.accuracy).bind(
                self.weight, self.bias, copy=False
            )
            while len(self.bounds) > MOST_SHAPES:
                self.bounds.popitem(last=False)
        return bound


def _witnesses(name: str, module: torch.nn.Module) -> list[Witness]:
    """Record every parameter and buffer of a layer, those of its parametrisations included."""
    witnesses = []
    for place, part in module.named_modules():
        for owner in (part._parameters, part._buffers):
            for key, tensor in owner.items():
                if tensor is None:
                    continue
                if tensor.is_inference():
                    raise ConvolithError(
                        f"{key} of layer {name!r} is an inference tensor, whose changes torch does not count; make the "
                        "model outside of torch.inference_mode()"
                    )
                witnesses.append(
                    Witness(owner, key, f"{place}.{key}".lstrip("."), tensor, version_of(tensor), tensor.data_ptr())
                )
    return witnesses
