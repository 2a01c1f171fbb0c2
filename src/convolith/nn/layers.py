"""Convolution modules: subclasses of torch's own, with equal arguments and state_dict, computed by Convolith."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from convolith.correlation import call_cache, correlate
from convolith.correlation.registered_operator import call_traced, is_watched, takes_traced
from convolith.correlation.transposed import correlate_transposed
from convolith.engines.aten import is_torch_operator
from convolith.errors import ConvolithError
from convolith.geometry import NO_VALUE
from convolith.jit import thread_count
from convolith.nn.frozen import Frozen
from convolith.planner.store import generation
from convolith.torch_private import output_padding_of


class _Computed(torch.nn.Module):
    """Common base of the modules: printing, freezing, and the conversion to torch's classes for its quantisers."""

    _frozen: Frozen | None = None
    accuracy: str = "default"

    def extra_repr(self) -> str:
        """Return the arguments and the library that computes the layer."""
        accuracy = "" if self.accuracy == "default" else f" with accuracy {self.accuracy!r}"
        frozen = "" if self._frozen is None else ", frozen"
        return f"{super().extra_repr()}, computed by convolith{accuracy}{frozen}"

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; `qconfig` turns the module into torch's class, since torch's quantisers know no other."""
        if name == "qconfig" and value is not None:
            to_torch(self)
        torch.nn.Module.__setattr__(self, name, value)  # not super(): `to_torch` may have changed the class


def to_torch(module: torch.nn.Module) -> None:
    """Change a module's class back to torch's own."""
    for name in ("_frozen", "_small", "accuracy"):
        module.__dict__.pop(name, None)
    swap(module, {ours: theirs for theirs, ours in SWAPPED.items()})


def swap(module: torch.nn.Module, classes: dict[type[torch.nn.Module], type[torch.nn.Module]]) -> bool:
    """Replace a module's class according to a table; for a parametrised module, the base of its class.

    Returns:
        Whether the table contains the class.
    """
    kind = type(module)
    if kind in classes:
        module.__class__ = classes[kind]
        return True
    plain = unparametrised(kind)
    if plain not in classes or plain is kind:
        return False
    content = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, (classes[plain],), content)
    return True


def unparametrised(kind: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """Return the class that `torch.nn.utils.parametrize` derived a class from, or the class itself.

    `parametrize` creates a class `Parametrized...` per module and restores its base when a parametrisation is removed.
    """
    is_derived = kind.__name__.startswith("Parametrized") and kind.__module__ == "torch.nn.utils.parametrize"
    return kind.__bases__[0] if is_derived and len(kind.__bases__) == 1 else kind


def _refuse_quantiser(x: Any) -> None:
    """Refuse tracing by torch's FX quantiser, which would not find the convolution."""
    tracer = getattr(x, "tracer", None) if isinstance(x, torch.fx.Proxy) else None
    if tracer is not None and any("quantiz" in kind.__module__ for kind in type(tracer).__mro__):
        raise ConvolithError(
            "model has layers of convolith.nn, which torch's quantisers do not know; call cl.nn.revert(model) before "
            "prepare_fx, and cl.nn.convert on models that stay in floating point"
        )


class _SmallCall(NamedTuple):
    """The last call if torch's own operator computed it, forward and backward; finding its plan would take as long.

    The operator reads the current weights, as torch's own layer does.
    """

    key: tuple[Any, ...]
    compute: Callable[..., torch.Tensor]

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return type(None), ()  # a copy of the layer starts without it


def _small_key(module: Any, x: torch.Tensor, weight: torch.Tensor) -> tuple[Any, ...]:
    """Return the values that determine whether torch's operator computes a layer."""
    wanted = torch.is_grad_enabled(), x.requires_grad, weight.requires_grad
    return x.shape, x.dtype, x.is_contiguous(), wanted, thread_count(), generation(), is_watched(), *_options(module)


def _options(module: Any) -> tuple[Any, ...]:
    geometry = module.stride, module.padding, module.dilation, module.groups, module.padding_mode
    return *geometry, NO_VALUE, "auto", module.accuracy


class _Correlating(_Computed):
    """Base of the plain convolution modules."""

    _small: _SmallCall | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of (N, in_channels, *size) or (in_channels, *size).

        Args:
            input: the image or images.
        """
        module: Any = self
        if not torch.compiler.is_compiling():
            y = None if self._frozen is None else self._frozen(self, input)
            if y is not None:
                return y
            weight, bias, small = module.weight, module.bias, self._small
            if small is not None and type(input) is torch.Tensor and small.key == _small_key(self, input, weight):
                return small.compute(input, weight, bias)
            return self._conv_forward(input, weight, bias)
        return self._conv_forward(input, module.weight, module.bias)

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute the convolution; this overrides torch's method, with its arguments and result."""
        module: Any = self
        is_compiling = torch.compiler.is_compiling()
        if not is_compiling:
            call = call_cache.seen(input, weight, bias, _options(self))
            if call is not None:
                if call.plan is None and call.batched and call.straight and is_torch_operator(call.straight):
                    self.__dict__["_small"] = _SmallCall(_small_key(self, input, weight), call.straight)
                return call_cache.run(call, input, weight, bias)
        options: dict[str, Any] = {
            "stride": module.stride,
            "padding": module.padding,
            "dilation": module.dilation,
            "groups": module.groups,
            "padding_mode": module.padding_mode,
        }
        if is_compiling:
            if not torch.is_autocast_enabled("cpu") and takes_traced(input, weight, bias, options):
                return call_traced(input, weight, bias, self.accuracy, "auto", **options)
        elif type(input) is not torch.Tensor:
            _refuse_quantiser(input)
        y: torch.Tensor = correlate(input, weight, bias, accuracy=self.accuracy, **options)
        return y


class _Transposing(_Computed):
    """Base of the transposed convolution modules."""

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Return the transposed convolution of (N, in_channels, *size) or (in_channels, *size).

        Args:
            input: the image or images.
            output_size: spatial size of the result, which determines `output_padding`; None for the module's own.
        """
        module: Any = self
        watched = torch.compiler.is_compiling() or type(input) is not torch.Tensor
        if watched or module.padding_mode != "zeros":
            _refuse_quantiser(input)
            if self.accuracy != "double" or module.padding_mode != "zeros":
                result: torch.Tensor = super().forward(input, output_size)
                return result
        elif self._frozen is not None and output_size is None:
            y = self._frozen(self, input)
            if y is not None:
                return y
        return correlate_transposed(
            input,
            module.weight,
            module.bias,
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            groups=module.groups,
            output_padding=output_padding_of(module, input, output_size),
            accuracy=self.accuracy,
        )


class Conv1d(_Correlating, torch.nn.Conv1d):
    """`torch.nn.Conv1d` with the same arguments and state_dict, computed by Convolith.

    (N, in_channels, length) gives (N, out_channels, ...); N may be missing. `correlate` computes it.

    Args:
        in_channels, out_channels, kernel_size: as for `torch.nn.Conv1d`.
        stride, padding, dilation, groups, bias, padding_mode: as for `torch.nn.Conv1d`.
        device, dtype: of the parameters, as for `torch.nn.Conv1d`.

    Attributes:
        accuracy: as for `plan`; `convert(model, accuracy=...)` sets it.

    Raises:
        ConvolithError: when called: another number of axes or channels, a kernel that does not fit, two float dtypes.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> cl.nn.Conv1d(2, 4, 3)(torch.zeros(1, 2, 16)).shape
        torch.Size([1, 4, 14])
    """


class Conv2d(_Correlating, torch.nn.Conv2d):
    """`torch.nn.Conv2d` with the same arguments and state_dict, computed by Convolith.

    (N, in_channels, height, width) gives (N, out_channels, ...); N may be missing. `correlate` computes it.

    Args:
        in_channels, out_channels, kernel_size: as for `torch.nn.Conv2d`.
        stride, padding, dilation, groups, bias, padding_mode: as for `torch.nn.Conv2d`.
        device, dtype: of the parameters, as for `torch.nn.Conv2d`.

    Attributes:
        accuracy: as for `plan`; `convert(model, accuracy=...)` sets it.

    Raises:
        ConvolithError: when called: another number of axes or channels, a kernel that does not fit, two float dtypes.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> theirs = torch.nn.Conv2d(3, 8, 5, padding="same")
        >>> ours = cl.nn.Conv2d(3, 8, 5, padding="same")
        >>> ours.load_state_dict(theirs.state_dict())
        <All keys matched successfully>
        >>> x = torch.rand(1, 3, 16, 16)
        >>> torch.allclose(ours(x), theirs(x), atol=1e-5)
        True
    """


class Conv3d(_Correlating, torch.nn.Conv3d):
    """`torch.nn.Conv3d` with the same arguments and state_dict, computed by Convolith.

    (N, in_channels, depth, height, width) gives (N, out_channels, ...); N may be missing. `correlate` computes it.

    Args:
        in_channels, out_channels, kernel_size: as for `torch.nn.Conv3d`.
        stride, padding, dilation, groups, bias, padding_mode: as for `torch.nn.Conv3d`.
        device, dtype: of the parameters, as for `torch.nn.Conv3d`.

    Attributes:
        accuracy: as for `plan`; `convert(model, accuracy=...)` sets it.

    Raises:
        ConvolithError: when called: another number of axes or channels, a kernel that does not fit, two float dtypes.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> cl.nn.Conv3d(1, 2, 3)(torch.zeros(1, 1, 5, 5, 5)).shape
        torch.Size([1, 2, 3, 3, 3])
    """


class ConvTranspose1d(_Transposing, torch.nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` with the same arguments and state_dict, computed by Convolith.

    (N, in_channels, length) gives (N, out_channels, ...); N may be missing. With `output_size=`
    in the call, the result has that size.

    Args:
        in_channels, out_channels, kernel_size: as for `torch.nn.ConvTranspose1d`.
        stride, padding, output_padding, groups, bias, dilation, padding_mode: as for `torch.nn.ConvTranspose1d`.
        device, dtype: of the parameters, as for `torch.nn.ConvTranspose1d`.

    Attributes:
        accuracy: as for `plan`; `convert(model, accuracy=...)` sets it.

    Raises:
        ConvolithError: when called: another number of axes or channels, a result that is cropped to nothing.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> cl.nn.ConvTranspose1d(2, 4, 3, stride=2)(torch.zeros(1, 2, 16)).shape
        torch.Size([1, 4, 33])
    """


class ConvTranspose2d(_Transposing, torch.nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` with the same arguments and state_dict, computed by Convolith.

    (N, in_channels, height, width) gives (N, out_channels, ...); N may be missing. With `output_size=`
    in the call, the result has that size.

    Args:
        in_channels, out_channels, kernel_size: as for `torch.nn.ConvTranspose2d`.
        stride, padding, output_padding, groups, bias, dilation, padding_mode: as for `torch.nn.ConvTranspose2d`.
        device, dtype: of the parameters, as for `torch.nn.ConvTranspose2d`.

    Attributes:
        accuracy: as for `plan`; `convert(model, accuracy=...)` sets it.

    Raises:
        ConvolithError: when called: another number of axes or channels, a result that is cropped to nothing.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> up = cl.nn.ConvTranspose2d(2, 4, 4, stride=2, padding=1)
        >>> up(torch.zeros(1, 2, 16, 16)).shape
        torch.Size([1, 4, 32, 32])
        >>> up(torch.zeros(1, 2, 16, 16), output_size=(33, 33)).shape
        torch.Size([1, 4, 33, 33])
    """


class ConvTranspose3d(_Transposing, torch.nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` with the same arguments and state_dict, computed by Convolith.

    (N, in_channels, depth, height, width) gives (N, out_channels, ...); N may be missing. With `output_size=`
    in the call, the result has that size.

    Args:
        in_channels, out_channels, kernel_size: as for `torch.nn.ConvTranspose3d`.
        stride, padding, output_padding, groups, bias, dilation, padding_mode: as for `torch.nn.ConvTranspose3d`.
        device, dtype: of the parameters, as for `torch.nn.ConvTranspose3d`.

    Attributes:
        accuracy: as for `plan`; `convert(model, accuracy=...)` sets it.

    Raises:
        ConvolithError: when called: another number of axes or channels, a result that is cropped to nothing.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> cl.nn.ConvTranspose3d(2, 1, 2, stride=2)(torch.zeros(1, 2, 3, 3, 3)).shape
        torch.Size([1, 1, 6, 6, 6])
    """


class LazyConv1d(_Computed, torch.nn.LazyConv1d):  # type: ignore[misc]  # torch's mixin and ours differ in types only
    """`torch.nn.LazyConv1d`, which becomes a `Conv1d` of Convolith with its first input.

    That input gives the number of input channels; until then, the module has no weights.

    Args:
        out_channels, kernel_size: as for `torch.nn.LazyConv1d`.
        stride, padding, dilation, groups, bias, padding_mode: as for `torch.nn.LazyConv1d`.
        device, dtype: of the parameters, as for `torch.nn.LazyConv1d`.

    Raises:
        ConvolithError: when called, as for `Conv1d`.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> layer = cl.nn.LazyConv1d(4, 3)
        >>> y = layer(torch.zeros(1, 3, 8))
        >>> type(layer).__name__, layer.in_channels
        ('Conv1d', 3)
    """

    cls_to_become = Conv1d


class LazyConv2d(_Computed, torch.nn.LazyConv2d):  # type: ignore[misc]  # two bases with one attribute
    """`torch.nn.LazyConv2d`, which becomes a `Conv2d` of Convolith with its first input.

    That input gives the number of input channels; until then, the module has no weights.

    Args:
        out_channels, kernel_size: as for `torch.nn.LazyConv2d`.
        stride, padding, dilation, groups, bias, padding_mode: as for `torch.nn.LazyConv2d`.
        device, dtype: of the parameters, as for `torch.nn.LazyConv2d`.

    Raises:
        ConvolithError: when called, as for `Conv2d`.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> layer = cl.nn.LazyConv2d(4, 3)
        >>> y = layer(torch.zeros(1, 3, 8, 8))
        >>> type(layer).__name__, layer.in_channels
        ('Conv2d', 3)
    """

    cls_to_become = Conv2d


class LazyConv3d(_Computed, torch.nn.LazyConv3d):  # type: ignore[misc]  # two bases with one attribute
    """`torch.nn.LazyConv3d`, which becomes a `Conv3d` of Convolith with its first input.

    That input gives the number of input channels; until then, the module has no weights.

    Args:
        out_channels, kernel_size: as for `torch.nn.LazyConv3d`.
        stride, padding, dilation, groups, bias, padding_mode: as for `torch.nn.LazyConv3d`.
        device, dtype: of the parameters, as for `torch.nn.LazyConv3d`.

    Raises:
        ConvolithError: when called, as for `Conv3d`.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> layer = cl.nn.LazyConv3d(4, 3)
        >>> y = layer(torch.zeros(1, 3, 8, 8, 8))
        >>> type(layer).__name__, layer.in_channels
        ('Conv3d', 3)
    """

    cls_to_become = Conv3d


class LazyConvTranspose1d(_Computed, torch.nn.LazyConvTranspose1d):  # type: ignore[misc]  # two bases with one attribute
    """`torch.nn.LazyConvTranspose1d`, which becomes a `ConvTranspose1d` of Convolith with its first input.

    That input gives the number of input channels; until then, the module has no weights.

    Args:
        out_channels, kernel_size: as for `torch.nn.LazyConvTranspose1d`.
        stride, padding, output_padding, groups, bias, dilation, padding_mode: as for
            `torch.nn.LazyConvTranspose1d`.
        device, dtype: of the parameters, as for `torch.nn.LazyConvTranspose1d`.

    Raises:
        ConvolithError: when called, as for `ConvTranspose1d`.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> layer = cl.nn.LazyConvTranspose1d(4, 3)
        >>> y = layer(torch.zeros(1, 3, 8))
        >>> type(layer).__name__, layer.in_channels
        ('ConvTranspose1d', 3)
    """

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_Computed, torch.nn.LazyConvTranspose2d):  # type: ignore[misc]  # two bases with one attribute
    """`torch.nn.LazyConvTranspose2d`, which becomes a `ConvTranspose2d` of Convolith with its first input.

    That input gives the number of input channels; until then, the module has no weights.

    Args:
        out_channels, kernel_size: as for `torch.nn.LazyConvTranspose2d`.
        stride, padding, output_padding, groups, bias, dilation, padding_mode: as for
            `torch.nn.LazyConvTranspose2d`.
        device, dtype: of the parameters, as for `torch.nn.LazyConvTranspose2d`.

    Raises:
        ConvolithError: when called, as for `ConvTranspose2d`.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> layer = cl.nn.LazyConvTranspose2d(4, 3)
        >>> y = layer(torch.zeros(1, 3, 8, 8))
        >>> type(layer).__name__, layer.in_channels
        ('ConvTranspose2d', 3)
    """

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_Computed, torch.nn.LazyConvTranspose3d):  # type: ignore[misc]  # two bases with one attribute
    """`torch.nn.LazyConvTranspose3d`, which becomes a `ConvTranspose3d` of Convolith with its first input.

    That input gives the number of input channels; until then, the module has no weights.

    Args:
        out_channels, kernel_size: as for `torch.nn.LazyConvTranspose3d`.
        stride, padding, output_padding, groups, bias, dilation, padding_mode: as for
            `torch.nn.LazyConvTranspose3d`.
        device, dtype: of the parameters, as for `torch.nn.LazyConvTranspose3d`.

    Raises:
        ConvolithError: when called, as for `ConvTranspose3d`.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> layer = cl.nn.LazyConvTranspose3d(4, 3)
        >>> y = layer(torch.zeros(1, 3, 8, 8, 8))
        >>> type(layer).__name__, layer.in_channels
        ('ConvTranspose3d', 3)
    """

    cls_to_become = ConvTranspose3d


SWAPPED: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Conv1d: Conv1d,
    torch.nn.Conv2d: Conv2d,
    torch.nn.Conv3d: Conv3d,
    torch.nn.ConvTranspose1d: ConvTranspose1d,
    torch.nn.ConvTranspose2d: ConvTranspose2d,
    torch.nn.ConvTranspose3d: ConvTranspose3d,
    torch.nn.LazyConv1d: LazyConv1d,
    torch.nn.LazyConv2d: LazyConv2d,
    torch.nn.LazyConv3d: LazyConv3d,
    torch.nn.LazyConvTranspose1d: LazyConvTranspose1d,
    torch.nn.LazyConvTranspose2d: LazyConvTranspose2d,
    torch.nn.LazyConvTranspose3d: LazyConvTranspose3d,
}
"""Torch's classes and their replacements."""
