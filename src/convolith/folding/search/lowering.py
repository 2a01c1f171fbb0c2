"""Translation of a recorded graph's layers and functions to torch's operators: one table entry for each."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.fx import Node
from torch.nn import functional

from convolith.torch_private import is_overload

aten = torch.ops.aten


class Operator(NamedTuple):
    """An operator and its arguments: nodes, tensors, numbers."""

    target: Any
    args: tuple[Any, ...]


def operator_of(node: Node) -> Operator | None:
    """Return the operator that a node computes, or None if folding does not read it."""
    if node.op == "call_module":
        module: Any = called_module(node)
        lower = LAYERS.get(type(module))
        if lower is None or len(node.args) != 1 or node.kwargs or _is_kept(module):
            return None
        lowered = lower(module)
        return None if lowered is None else Operator(lowered.target, (node.args[0], *lowered.args))
    if node.op == "call_function" and is_overload(node.target):
        return None if node.kwargs else Operator(node.target, tuple(node.args))
    name = str(node.target) if node.op == "call_method" else FUNCTIONS.get(node.target)
    read = CALLS.get(name or "") if node.op in ("call_method", "call_function") else None
    if read is None:
        return None
    try:
        return read(_Arguments(node.args, node.kwargs))
    except _Unread:
        return None


def called_module(node: Node) -> nn.Module:
    """Return the module that a node calls."""
    owner = node.graph.owning_module
    return owner.get_submodule(str(node.target))  # type: ignore[union-attr]  # a recorded graph has an owner


def module_path(node: Node) -> str:
    """Return the name of the module that a node belongs to, empty for the model itself."""
    return str(node.target) if node.op == "call_module" else str(node.meta.get("module", ""))


def is_size(node: Node) -> bool:
    """Return whether a node reads the size of a tensor, not its values."""
    return node.op == "call_method" and node.target in ("size", "numel")


def is_split(node: Node) -> bool:
    """Return whether a node splits a tensor into parts, which other nodes select by index."""
    name = (
        node.target if node.op == "call_method" else FUNCTIONS.get(node.target) if node.op == "call_function" else None
    )
    return name in SPLITS


def _is_kept(module: nn.Module) -> bool:
    """Return whether a layer has hooks, whose effects are unknown."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _conv(module: Any) -> Operator:
    overload = getattr(getattr(aten, f"conv{module.weight.ndim - 2}d"), "default")  # noqa: B009 - as the others
    options = (module.stride, module.padding, module.dilation, module.groups, module.padding_mode)
    return Operator(overload, (module.weight, module.bias, *options))


def _transposed(module: Any) -> Operator:
    axes = module.weight.ndim - 2
    overload = getattr(getattr(aten, f"conv_transpose{axes}d"), "default" if axes == 1 else "input")
    options = (module.stride, module.padding, module.output_padding, module.groups, module.dilation)
    return Operator(overload, (module.weight, module.bias, *options))


def _norm(module: Any) -> Operator | None:
    if module.running_mean is None and isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return None
    parameters = (module.weight, module.bias, module.running_mean, module.running_var)
    training = module.running_mean is None
    return Operator(aten.batch_norm.default, (*parameters, training, 0.1, module.eps, False))


def _pooled(axes: int) -> Callable[[Any], Operator]:
    def read(module: Any) -> Operator:
        sizes = (module.kernel_size, module.stride, module.padding)
        others = (module.ceil_mode, module.count_include_pad, getattr(module, "divisor_override", None))
        return Operator(getattr(aten, f"avg_pool{axes}d").default, (*(_each(v, axes) for v in sizes), *others))

    return read


def _padded(mode: str) -> Callable[[Any], Operator]:
    def read(module: Any) -> Operator:
        value = getattr(module, "value", None) or None
        return Operator(aten.pad.default, (list(module.padding), mode, value))

    return read


def _enlarged(module: Any) -> Operator | None:
    if module.size is not None or not str(module.mode).startswith("nearest"):
        return None
    return Operator("enlarge", (module.scale_factor,))


def _leaky(module: Any) -> Operator | None:
    return Operator(aten.clone.default, ()) if module.negative_slope == 1 else None


LAYERS: dict[type, Callable[[Any], Operator | None]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _norm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _norm),
    **dict.fromkeys(
        (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
        lambda module: Operator(aten.dropout.default, (module.p, module.training)),
    ),
    nn.Linear: lambda module: Operator(aten.linear.default, (module.weight, module.bias)),
    nn.AvgPool1d: _pooled(1),
    nn.AvgPool2d: _pooled(2),
    nn.AvgPool3d: _pooled(3),
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d), _padded("constant")),
    **dict.fromkeys((nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), _padded("constant")),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d), _padded("reflect")),
    **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d), _padded("replicate")),
    **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d), _padded("circular")),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d), _enlarged),
    nn.LeakyReLU: _leaky,
}
"""Translations of torch's own layers to operators without the input tensor; a subclass may compute anything."""


class _Unread(Exception):  # noqa: N818 - an answer, not an error
    """A call with arguments that folding does not read."""


class _Arguments(NamedTuple):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def bound(self, names: str, **defaults: Any) -> tuple[Any, ...]:
        """Return the arguments in the order of their names, which are separated by spaces."""
        order = names.split()
        given = dict(zip(order, self.args, strict=False)) | self.kwargs
        if len(self.args) > len(order) or set(given) - set(order):
            raise _Unread
        values = defaults | given
        if any(name not in values for name in order):
            raise _Unread
        return tuple(values[name] for name in order)


Read = Callable[[_Arguments], Operator | None]


def _each(value: Any, axes: int) -> Any:
    """Return an integer setting repeated for each axis, a sequence as a list, and any other value unchanged."""
    return [value] * axes if isinstance(value, int) else (list(value) if isinstance(value, tuple | list) else value)


def _read_conv(axes: int) -> Read:
    def read(call: _Arguments) -> Operator:
        defaults = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        args = call.bound("input weight bias stride padding dilation groups", **defaults)
        return Operator(getattr(aten, f"conv{axes}d").default, args)

    return read


def _read_transposed(axes: int) -> Read:
    def read(call: _Arguments) -> Operator:
        defaults = {"bias": None, "stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
        args = call.bound("input weight bias stride padding output_padding groups dilation", **defaults)
        return Operator(getattr(getattr(aten, f"conv_transpose{axes}d"), "default" if axes == 1 else "input"), args)

    return read


def _read_norm(call: _Arguments) -> Operator:
    names = "input running_mean running_var weight bias training momentum eps"
    defaults = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}
    x, mean, variance, weight, bias, training, momentum, eps = call.bound(names, **defaults)
    return Operator(aten.batch_norm.default, (x, weight, bias, mean, variance, training, momentum, eps, False))


def _read_pool(axes: int) -> Read:
    def read(call: _Arguments) -> Operator:
        names = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"
        defaults: dict[str, Any] = {
            "stride": None,
            "padding": 0,
            "ceil_mode": False,
            "count_include_pad": True,
            "divisor_override": None,
        }
        x, size, stride, *others = call.bound(names, **defaults)
        settings = [_each(v, axes) for v in (size, size if stride is None else stride, others[0])]
        return Operator(getattr(aten, f"avg_pool{axes}d").default, (x, *settings, *others[1:]))

    return read


def _read_pad(call: _Arguments) -> Operator:
    x, amounts, mode, value = call.bound("input pad mode value", mode="constant", value=None)
    return Operator(aten.pad.default, (x, list(amounts), mode, value or None))


def _read_enlarged(call: _Arguments) -> Operator:
    names = "input size scale_factor mode align_corners recompute_scale_factor antialias"
    defaults: dict[str, Any] = {"size": None, "scale_factor": None, "mode": "nearest"}
    defaults |= {"align_corners": None, "recompute_scale_factor": None, "antialias": False}
    x, size, factor, mode, *_ = call.bound(names, **defaults)
    if not str(mode).startswith("nearest") or size is not None:
        raise _Unread
    return Operator("enlarge", (x, factor))


def _read_binary(target: Any) -> Read:
    def read(call: _Arguments) -> Operator:
        x, other, alpha, rounding = call.bound("input other alpha rounding_mode", alpha=1, rounding_mode=None)
        if alpha != 1 or rounding is not None:
            raise _Unread
        return Operator(target, (x, other))

    return read


def _read_dropout(call: _Arguments) -> Operator:
    if "train" in call.kwargs:
        raise _Unread
    x, p, training, _ = call.bound("input p training inplace", p=0.5, training=True, inplace=False)
    return Operator(aten.dropout.default, (x, p, training))


def _read_joined(call: _Arguments) -> Operator:
    tensors, dim = call.bound("tensors dim", dim=0)
    return Operator(aten.cat.default, (tensors, dim))


def _read_same(call: _Arguments) -> Operator:
    (x,) = call.bound("input")
    return Operator(aten.clone.default, (x,))


def _read_leaky(call: _Arguments) -> Operator:
    x, slope, _ = call.bound("input negative_slope inplace", negative_slope=0.01, inplace=False)
    if slope != 1:
        raise _Unread
    return Operator(aten.clone.default, (x,))


def _read_item(call: _Arguments) -> Operator:
    """Read a slice along one axis, or one part of a tensor that was split along its channels."""
    x, index = call.args
    if isinstance(x, Node) and isinstance(index, int):
        return _read_part(x, index)
    parts = index if isinstance(index, tuple) else (index,)
    if Ellipsis in parts or not all(isinstance(part, slice) for part in parts):
        raise _Unread
    cut = [(axis, part) for axis, part in enumerate(parts) if (part.start, part.stop, part.step) != (None,) * 3]
    if len(cut) != 1:
        raise _Unread
    axis, part = cut[0]
    return Operator(aten.slice.Tensor, (x, axis, part.start, part.stop, 1 if part.step is None else part.step))


def _read_part(split: Node, index: int) -> Operator:
    name = str(split.target) if split.op == "call_method" else FUNCTIONS.get(split.target)
    call = _Arguments(split.args, split.kwargs)
    source = split.args[0] if split.args else None
    shape = source.meta.get("example_shape") if isinstance(source, Node) else None
    if name not in ("chunk", "split") or shape is None:
        raise _Unread
    own = "chunks" if name == "chunk" else "split_size_or_sections"
    if "split_size" in call.kwargs:
        call = call._replace(kwargs={own if k == "split_size" else k: v for k, v in call.kwargs.items()})
    x, sizes, dim = call.bound(f"input {own} dim", dim=0)
    if not isinstance(dim, int) or dim % len(shape) != 1:
        raise _Unread
    channels = shape[1]
    if isinstance(sizes, int):
        step = -(-channels // sizes) if name == "chunk" else sizes
        bounds = [*range(0, channels, step), channels]
    elif isinstance(sizes, list | tuple) and all(isinstance(n, int) for n in sizes):
        bounds = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    else:
        raise _Unread
    place = index % (len(bounds) - 1)
    return Operator(aten.slice.Tensor, (x, 1, bounds[place], bounds[place + 1], 1))


def _read_narrow(call: _Arguments) -> Operator:
    x, dim, start, length = call.bound("input dim start length")
    if not all(isinstance(v, int) for v in (dim, start, length)) or min(dim, start) < 0:
        raise _Unread
    return Operator(aten.slice.Tensor, (x, dim, start, start + length, 1))


def _read_linear(call: _Arguments) -> Operator:
    return Operator(aten.linear.default, call.bound("input weight bias", bias=None))


def _read_negated(call: _Arguments) -> Operator:
    return Operator(aten.neg.default, call.bound("input"))


CALLS: dict[str, Read] = {
    **{f"conv{n}d": _read_conv(n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _read_transposed(n) for n in (1, 2, 3)},
    "functional batch_norm": _read_norm,
    "linear": _read_linear,
    **{f"avg_pool{n}d": _read_pool(n) for n in (1, 2, 3)},
    "pad": _read_pad,
    "constant_pad_nd": lambda call: _read_pad(_Arguments((*call.args[:2], "constant", *call.args[2:]), call.kwargs)),
    "interpolate": _read_enlarged,
    **dict.fromkeys(("add",), _read_binary(aten.add.Tensor)),
    **dict.fromkeys(("sub", "subtract"), _read_binary(aten.sub.Tensor)),
    **dict.fromkeys(("mul", "multiply"), _read_binary(aten.mul.Tensor)),
    **dict.fromkeys(("div", "divide", "true_divide", "truediv"), _read_binary(aten.div.Tensor)),
    **dict.fromkeys(("neg", "negative"), _read_negated),
    **dict.fromkeys(("cat", "concat", "concatenate"), _read_joined),
    **dict.fromkeys(
        ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"),
        _read_dropout,
    ),
    **dict.fromkeys(("contiguous", "clone", "detach"), _read_same),
    "leaky_relu": _read_leaky,
    "getitem": _read_item,
    "narrow": _read_narrow,
}
"""Readers of calls by the name of the function or method."""
SPLITS = ("chunk", "split")


def _functions() -> dict[Any, str]:
    names = {
        getattr(home, name): name
        for name in (*CALLS, *SPLITS)
        for home in (torch, functional, operator)
        if hasattr(home, name)
    }
    return names | {functional.batch_norm: "functional batch_norm"}


FUNCTIONS = _functions()
"""Names of the functions that folding reads."""
