"""Readers of torch's operators as nodes of a network, one row each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

from convolith.engines.elementwise import is_single_only
from convolith.engines.phases import layout, phase_kernels, phases
from convolith.errors import ConvolithError
from convolith.network.graph.nodes import Alias, Convolve, Copy, Join, Map, Mean, Node, Norm, Operand, Pool, Shape
from convolith.network.graph.trace import Op, Ref, Value
from convolith.passes.copies import Axis
from convolith.passes.pools import Window
from convolith.spec import ConvSpec

Values = list[Value]
Reader = Callable[[Op, Values], "Node | list[Node] | None"]
FLOATS = (torch.float32, torch.float64)


def new_value(values: Values, shape: Shape, dtype: torch.dtype) -> int:
    """Add a value that torch does not have, and return its number."""
    values.append(Value(shape, dtype, planes=True))
    return len(values) - 1


def fits(value: Value) -> bool:
    """Return whether generated code takes a tensor."""
    return value.constant is not None or (value.dtype in FLOATS and value.planes and prod(value.shape) > 0)


def own_argument(op: Op, at: int, values: Values) -> int | None:
    """Return the value of an argument that depends on an input, or None."""
    argument = op.args[at] if at < len(op.args) else None
    return argument.number if isinstance(argument, Ref) and values[argument.number].constant is None else None


def _constant(argument: Any, values: Values) -> torch.Tensor | None:
    """Return a constant argument, or None."""
    return values[argument.number].constant if isinstance(argument, Ref) else None


def _is_free(argument: Any, values: Values) -> bool:
    """Return whether an optional tensor is absent or a constant."""
    return argument is None or _constant(argument, values) is not None


def own_result(op: Op) -> int:
    """Return the value of an operator's result, the first if there are several."""
    result = op.result[0] if isinstance(op.result, tuple | list) and not isinstance(op.result, Ref) else op.result
    return int(result.number)


# Convolutions and linear layers ------------------------------------------------------------------------------------


def _convolution(op: Op, values: Values) -> Node | list[Node] | None:
    x, weight, bias = own_argument(op, 0, values), _constant(op.args[1], values), op.args[2]
    stride, padding, dilation, transposed, output_padding, groups = op.args[3:9]
    if x is None or weight is None or not _is_free(bias, values) or len(values[x].shape) != weight.ndim:
        return None
    options = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
    if transposed:
        options |= {"transposed": True, "output_padding": tuple(output_padding)}
    node = Convolve(
        op.where,
        [x],
        [own_result(op)],
        weight,
        _constant(bias, values),
        options,
        values[x].shape[2:],
        values[own_result(op)].shape,
    )
    try:
        spec = node.spec()
    except ConvolithError:  # a layer that only torch takes
        return None
    return _phases(node, spec, values) if spec.transposed else node


def _phases(node: Convolve, spec: ConvSpec, values: Values) -> list[Node] | Node:
    """Return a transposed layer as a layer whose channels are its phases, and the copy that interleaves them.

    A layer that also crops its result in the middle of a stride stays as it is; an engine computes it as a whole.
    """
    if phases.refuse(spec) is not None:
        return node
    inner, starts = layout(spec)
    whole = all(
        start % s == 0 and n % s == 0 for start, n, s in zip(starts, spec.output_size, spec.stride, strict=True)
    )
    if not whole or any(before != after for before, after in inner.padding):
        return node
    count = prod(spec.stride)
    made = new_value(values, inner.output_shape, values[node.outputs[0]].dtype)
    bias = None if node.bias is None else node.bias.repeat_interleave(count)
    padding = tuple(before for before, _ in inner.padding)
    options = {"padding": padding, "dilation": inner.dilation, "groups": inner.groups}
    weight = phase_kernels(spec, node.weight.detach())
    layer = Convolve(node.where, node.inputs, [made], weight, bias, options, node.size, inner.output_shape)
    sizes, size = inner.output_size, spec.output_size
    plane, out_plane = prod(sizes), prod(size)
    axes, offset = [Axis(spec.out_channels, count * plane, out_plane)], 0
    for axis, (s, n, start) in enumerate(zip(spec.stride, size, starts, strict=True)):
        row, out_row = prod(sizes[axis + 1 :]), prod(size[axis + 1 :])
        axes += [Axis(n // s, row, s * out_row), Axis(s, prod(spec.stride[axis + 1 :]) * plane, out_row)]
        offset += start // s * row
    return [layer, Copy(node.where, [made], node.outputs, tuple(axes), offset, spec.output_shape)]


def _linear(op: Op, values: Values, x: int | None, matrix: torch.Tensor | None, bias: Any) -> Node | None:
    """Return x (N, channels) times a matrix (channels, outputs) as a layer of one position."""
    if x is None or matrix is None or matrix.ndim != 2 or len(values[x].shape) != 2 or not _is_free(bias, values):
        return None
    added = _constant(bias, values)
    if added is not None and added.shape != (matrix.shape[1],):
        return None
    weight = matrix.t().unsqueeze(2)
    return Convolve(op.where, [x], [own_result(op)], weight, added, {}, (1,), values[own_result(op)].shape)


def _addmm(op: Op, values: Values) -> Node | None:
    if op.kwargs.get("beta", 1) != 1 or op.kwargs.get("alpha", 1) != 1:
        return None
    return _linear(op, values, own_argument(op, 1, values), _constant(op.args[2], values), op.args[0])


def _mm(op: Op, values: Values) -> Node | None:
    return _linear(op, values, own_argument(op, 0, values), _constant(op.args[1], values), None)


# Elementwise operators ---------------------------------------------------------------------------------------------


class Elementwise:
    """Reader of an operator whose first arguments are tensors or numbers.

    Args:
        expression: takes these arguments as expressions, then the other arguments; returns an expression or None.
        count: number of tensors.
    """

    def __init__(self, expression: Callable[..., Any], count: int = 1) -> None:
        self.expression, self.count = expression, count

    def __call__(self, op: Op, values: Values, planes: dict[int, Shape] | None = None) -> Node | None:
        """Return a map, or None; `planes` has the shapes of the planes of values with channels last."""
        result = values[own_result(op)]
        shape = result.shape
        if planes is not None:
            shapes = {planes[n] for n in op.inputs if n in planes}
            if len(shapes) != 1:
                return None
            (shape,) = shapes
        operands: list[Operand] = []
        parts = []
        for argument in op.args[: self.count]:
            part = _part(argument, values, shape, operands, planes)
            if part is None:
                return None
            parts.append(part)
        found = self.expression(*parts, *op.args[self.count :], **op.kwargs)
        if found is None or result.dtype not in FLOATS or prod(shape) != prod(result.shape):
            return None
        return _map(op, values, found, operands, shape)


elementwise = Elementwise


def _map(op: Op, values: Values, expression: Any, operands: list[Operand], shape: Shape) -> Node | None:
    dtype = values[own_result(op)].dtype
    if is_single_only(expression) and dtype != torch.float32:
        return None
    if not any(operand.kind == "x" for operand in operands):
        return None
    inputs = [operand.value for operand in operands if operand.value is not None]
    if any(values[n].dtype != dtype for n in inputs):
        return None
    return Map(op.where, inputs, [own_result(op)], expression, operands, shape)


def _part(argument: Any, values: Values, shape: Shape, operands: list[Operand], planes: dict[int, Shape] | None) -> Any:
    """Return an argument as an expression, and add its operand; or None if it is spread in another way."""
    if isinstance(argument, bool | int | float):
        return float(argument)
    if not isinstance(argument, Ref):
        return None
    value = values[argument.number]
    if value.constant is not None:
        return _constant_part(value, shape, operands, last=planes is not None)
    if planes is not None:
        return _added(operands, Operand("x", argument.number)) if planes.get(argument.number) == shape else None
    if value.shape == shape:
        return _added(operands, Operand("x", argument.number))
    if len(shape) > 2 and value.shape == (*shape[:2], *[1] * (len(shape) - 2)):
        return _added(operands, Operand("plane", argument.number))
    return None


def _constant_part(value: Value, shape: Shape, operands: list[Operand], *, last: bool) -> Any:
    """Return a constant as an expression: a number, or one number per channel, which may be the last axis."""
    constant = value.constant
    if constant is None or value.dtype not in FLOATS:
        return None
    if constant.numel() == 1 and len(value.shape) <= len(shape):
        return float(constant)
    if len(shape) < 2:
        return None
    ones = (1,) * (len(shape) - 2)
    per_channel = [(shape[1], *ones), (1, shape[1], *ones)]
    if last:
        per_channel = [(*(1,) * n, shape[1]) for n in range(len(shape))]
    if value.shape not in per_channel:
        return None
    return _added(operands, Operand("channel", constant=constant.reshape(-1)))


def _added(operands: list[Operand], operand: Operand) -> tuple[str, int]:
    """Add an operand and return its leaf; a value that is there already is not added again."""
    same = [o for o in operands if o.kind == operand.kind]
    for number, other in enumerate(same):
        if operand.value is not None and other.value == operand.value:
            return operand.kind, number
    operands.append(operand)
    return operand.kind, len(same)


def _scaled(name: str) -> Callable[..., Any]:
    """Return the expression of a sum or a difference, whose second operand may have a factor."""

    def expression(a: Any, b: Any, alpha: float = 1) -> Any:
        return (name, a, b if alpha == 1 else ("multiply", b, float(alpha)))

    return expression


def _clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    if isinstance(low, Ref) or isinstance(high, Ref):
        return None
    x = x if low is None else ("at_least", x, float(low))
    return x if high is None else ("at_most", x, float(high))


def _gelu(x: Any, approximate: str = "none") -> Any:
    return ("gelu_tanh" if approximate == "tanh" else "gelu", x)


def _elu(x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    if input_scale != 1:
        return None
    made = ("elu", x, float(alpha))
    return made if scale == 1 else ("multiply", made, float(scale))


def _hard_sigmoid(x: Any) -> Any:
    return ("multiply", ("at_most", ("at_least", ("add", x, 3.0), 0.0), 6.0), 1 / 6)


def _norm(op: Op, values: Values) -> Node | None:
    """Read a batch norm with running statistics as a scale and a shift per channel."""
    weight, bias, mean, variance, *rest = op.args[1:]
    own = own_argument(op, 0, values)
    training = rest[0] if op.name == "aten.native_batch_norm.default" else False
    parts = [_constant(part, values) for part in (mean, variance)]
    if own is None or training or any(p is None for p in parts) or len(values[own].shape) < 2:
        return None
    if not (_is_free(weight, values) and _is_free(bias, values)):
        return None
    given_mean, given_variance = (p.double() for p in parts if p is not None)
    scale = (given_variance + rest[-1]).rsqrt()
    if weight is not None:
        scale = scale * values[weight.number].constant.double()
    shift = -given_mean * scale
    if bias is not None:
        shift = shift + values[bias.number].constant.double()
    dtype = values[own].dtype
    operands = [
        Operand("x", own),
        Operand("channel", constant=scale.to(dtype)),
        Operand("channel", constant=shift.to(dtype)),
    ]
    expression = ("add", ("multiply", ("x", 0), ("channel", 0)), ("channel", 1))
    return _map(op, values, expression, operands, values[own].shape)


def _group_norm(op: Op, values: Values) -> Node | None:
    x, channels, groups, epsilon = own_argument(op, 0, values), op.args[4], op.args[6], op.args[7]
    if x is None or not (_is_free(op.args[1], values) and _is_free(op.args[2], values)):
        return None
    weight, bias = parameters(op.args[1], op.args[2], channels, values, values[x].dtype)
    return Norm(op.where, [x], [own_result(op)], groups, weight, bias, epsilon, values[x].shape)


def parameters(
    weight: Any, bias: Any, channels: int, values: Values, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight and the bias of a norm, or ones and zeros where they are absent."""
    given = [None if part is None else values[part.number].constant for part in (weight, bias)]
    ones, zeros = (make(channels, dtype=dtype, device="cpu") for make in (torch.ones, torch.zeros))
    found = [new if own is None else own.detach().contiguous() for own, new in zip(given, (ones, zeros), strict=True)]
    return found[0], found[1]


def _layer_norm(op: Op, values: Values) -> Node | None:
    """Read the norm of vectors, (N, channels)."""
    x = own_argument(op, 0, values)
    if x is None or len(values[x].shape) != 2 or list(op.args[1]) != [values[x].shape[1]]:
        return None
    if not (_is_free(op.args[2], values) and _is_free(op.args[3], values)):
        return None
    weight, bias = parameters(op.args[2], op.args[3], values[x].shape[1], values, values[x].dtype)
    return Norm(op.where, [x], [own_result(op)], 0, weight, bias, op.args[4], (*values[x].shape, 1))


# Pooling -----------------------------------------------------------------------------------------------------------


def _numbers(value: Any, axes: int, default: Sequence[int] = ()) -> tuple[int, ...]:
    """Return one number per axis; one number holds for all, and the default for none."""
    numbers = [int(n) for n in (value if isinstance(value, list | tuple) else [] if value is None else [value])]
    numbers = numbers or list(default)
    return tuple(numbers * axes if len(numbers) == 1 else numbers)


class Pooling:
    """Reader of a pooling operator on a number of axes.

    Args:
        axes: number of spatial axes.
        operation: "max" or "mean".
    """

    def __init__(self, axes: int, operation: str) -> None:
        self.axes, self.operation = axes, operation

    def __call__(self, op: Op, values: Values) -> Node | None:
        """Return a pool, or None."""
        x, axes = own_argument(op, 0, values), self.axes
        if x is None or len(values[x].shape) != axes + 2:
            return None
        last = ("dilation", "ceil") if self.operation == "max" else ("ceil", "include", "divisor")
        given: dict[str, Any] = dict(zip(("kernel", "stride", "padding", *last), op.args[1:], strict=False))
        kernel = _numbers(given["kernel"], axes)
        stride, padding = _numbers(given.get("stride"), axes, kernel), _numbers(given.get("padding"), axes, [0])
        if set(_numbers(given.get("dilation"), axes, [1])) != {1} or given.get("divisor") is not None:
            return None
        window = Window(kernel, stride, padding)
        include = given.get("include", True)
        return _pool(op, values, x, self.operation, window, include=include)


def _pool(op: Op, values: Values, x: int, operation: str, window: Window, *, include: bool) -> Pool:
    shape, out, dtype = values[x].shape, values[own_result(op)].shape, values[x].dtype
    scales = None
    if operation == "mean":
        scales = tuple(_scales(window, shape, out, axis, dtype, include=include) for axis in range(len(shape) - 2))
    call, rest = op.call, op.args[1:]

    def reference(tensor: torch.Tensor) -> torch.Tensor:
        found = call(tensor, *rest)
        first: torch.Tensor = found[0] if isinstance(found, tuple) else found
        return first

    return Pool(op.where, [x], [own_result(op)], operation, window, shape, out, scales, reference)


def _scales(window: Window, shape: Shape, out: Shape, axis: int, dtype: torch.dtype, *, include: bool) -> torch.Tensor:
    """Return one over the number of positions of each window along an axis, with the padding or without."""
    size, pad = shape[2 + axis], window.padding[axis]
    starts = torch.arange(out[2 + axis], device="cpu") * window.stride[axis] - pad
    ends = (starts + window.kernel_size[axis]).clamp(max=size + pad)
    if not include:
        starts, ends = starts.clamp(min=0), ends.clamp(max=size)
    return 1 / (ends - starts).to(dtype)


def _adaptive_pool(op: Op, values: Values) -> Node | None:
    x = own_argument(op, 0, values)
    if x is None:
        return None
    shape, out = values[x].shape, values[own_result(op)].shape
    if set(out[2:]) == {1}:
        return Mean(op.where, [x], [own_result(op)], shape, out)
    if any(n % m for n, m in zip(shape[2:], out[2:], strict=True)):
        return None
    step = tuple(n // m for n, m in zip(shape[2:], out[2:], strict=True))
    return _pool(op, values, x, "mean", Window(step, step, (0,) * len(step)), include=True)


def _mean(op: Op, values: Values) -> Node | None:
    """Read the mean over all spatial axes."""
    x = own_argument(op, 0, values)
    dims = op.args[1] if len(op.args) > 1 else None
    if x is None or op.kwargs.get("dtype") is not None or dims is None or len(values[x].shape) < 3:
        return None
    ndim = len(values[x].shape)
    if sorted(d % ndim for d in dims) != list(range(2, ndim)):
        return None
    return Mean(op.where, [x], [own_result(op)], values[x].shape, values[own_result(op)].shape)


# Moves -------------------------------------------------------------------------------------------------------------


def _alias(op: Op, values: Values) -> Node | None:
    x = own_argument(op, 0, values)
    if x is None or not values[own_result(op)].planes or prod(values[x].shape) != prod(values[own_result(op)].shape):
        return None
    return Alias(op.where, [x], [own_result(op)])


def _copy(op: Op, values: Values) -> Node | None:
    """Read a copy as the memory that it copies: nothing writes in place."""
    x = own_argument(op, 0, values)
    if x is None or op.kwargs.get("memory_format") not in (None, torch.contiguous_format, torch.preserve_format):
        return None
    return _alias(op, values)


def _slice(op: Op, values: Values) -> Node | None:
    """Read a slice of channels, or one that takes everything."""
    x = own_argument(op, 0, values)
    given: list[Any] = [*op.args[1:], *[None] * (4 - len(op.args[1:]))]
    axis, start, step = given[0] or 0, given[1] or 0, 1 if given[3] is None else given[3]
    if x is None or step != 1:
        return None
    shape = values[x].shape
    if values[own_result(op)].shape == shape:
        return Alias(op.where, [x], [own_result(op)])
    if axis % len(shape) != 1:
        return None
    start = start + shape[1] if start < 0 else min(start, shape[1])
    return Alias(op.where, [x], [own_result(op)], (start * prod(shape[2:]),), whole=False)


def _split(op: Op, values: Values) -> Node | None:
    """Read a split of the channels."""
    x, axis = own_argument(op, 0, values), op.args[2] if len(op.args) > 2 else op.kwargs.get("dim", 0)
    if x is None or axis % len(values[x].shape) != 1:
        return None
    offsets, done = [], 0
    for number in op.outputs:
        offsets.append(done)
        done += prod(values[number].shape[1:])
    return Alias(op.where, [x], op.outputs, tuple(offsets), whole=False)


def _join(op: Op, values: Values) -> Node | None:
    parts, axis = op.args[0], op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)
    numbers = [part.number for part in parts if isinstance(part, Ref)]
    if len(numbers) != len(parts) or any(values[n].constant is not None for n in numbers):
        return None
    shapes = tuple(values[n].shape for n in numbers)
    if len(shapes[0]) < 2 or axis % len(shapes[0]) != 1 or len({len(s) for s in shapes}) > 1:
        return None
    return Join(op.where, numbers, [own_result(op)], shapes)


def _pixel_shuffle(op: Op, values: Values) -> Node | None:
    x, r = own_argument(op, 0, values), op.args[1]
    if x is None or len(values[x].shape) != 4:
        return None
    channels, height, width = values[x].shape[1:]
    plane, wide = height * width, width * r
    axes = (
        Axis(channels // (r * r), r * r * plane, r * r * plane),
        Axis(height, width, r * wide),
        Axis(r, r * plane, wide),
        Axis(width, 1, r),
        Axis(r, plane, 1),
    )
    return Copy(op.where, [x], [own_result(op)], axes, 0, values[own_result(op)].shape)


def _channel_shuffle(op: Op, values: Values) -> Node | None:
    x, groups = own_argument(op, 0, values), op.args[1]
    if x is None:
        return None
    plane, each = prod(values[x].shape[2:]), values[x].shape[1] // groups
    axes = (Axis(each, plane, groups * plane), Axis(groups, each * plane, plane), Axis(plane, 1, 1))
    return Copy(op.where, [x], [own_result(op)], axes, 0, values[own_result(op)].shape)


def _pixel_unshuffle(op: Op, values: Values) -> Node | None:
    x, r = own_argument(op, 0, values), op.args[1]
    if x is None or len(values[x].shape) != 4:
        return None
    channels, height, width = values[x].shape[1:]
    plane = height * width // (r * r)
    axes = (
        Axis(channels, height * width, r * r * plane),
        Axis(height // r, r * width, width // r),
        Axis(r, width, r * plane),
        Axis(width // r, r, 1),
        Axis(r, 1, plane),
    )
    return Copy(op.where, [x], [own_result(op)], axes, 0, values[own_result(op)].shape)


def _nearest(op: Op, values: Values) -> Node | None:
    """Read the enlargement of images by whole numbers, each element repeated."""
    x = own_argument(op, 0, values)
    if x is None:
        return None
    shape, out = values[x].shape, values[own_result(op)].shape
    if any(m % n for n, m in zip(shape[2:], out[2:], strict=True)):
        return None
    scales = [s for s in op.args[2:] if isinstance(s, float)]
    scales += [s for given in op.args[2:] if isinstance(given, list | tuple) for s in given]
    if any(s != int(s) for s in scales):
        return None
    axes = [Axis(shape[1], prod(shape[2:]), prod(out[2:]))]
    for axis in range(2, len(shape)):
        factor, row, out_row = out[axis] // shape[axis], prod(shape[axis + 1 :]), prod(out[axis + 1 :])
        axes += [Axis(shape[axis], row, factor * out_row), Axis(factor, 0, out_row)]
    return Copy(op.where, [x], [own_result(op)], tuple(axes), 0, out)


def _names(*names: str, reader: Reader) -> dict[str, Reader]:
    return dict.fromkeys((f"aten.{name}" for name in names), reader)


VIEWS: Sequence[str] = (
    *("view.default", "_unsafe_view.default", "reshape.default", "unsqueeze.default", "squeeze.default", "squeeze.dim"),
    *(
        "squeeze.dims",
        "alias.default",
        "detach.default",
        "flatten.using_ints",
        "expand.default",
        "_reshape_alias.default",
    ),
)
READERS: dict[str, Reader] = {
    **_names("convolution.default", reader=_convolution),
    **_names("addmm.default", reader=_addmm),
    **_names("mm.default", reader=_mm),
    **_names("relu.default", reader=elementwise(lambda x: ("at_least", x, 0.0))),
    **_names("hardtanh.default", reader=elementwise(lambda x, low=-1, high=1: _clamp(x, low, high))),
    **_names("clamp.default", reader=elementwise(_clamp)),
    **_names("clamp_min.default", reader=elementwise(lambda x, low: _clamp(x, low))),
    **_names("clamp_max.default", reader=elementwise(lambda x, high: _clamp(x, None, high))),
    **_names("leaky_relu.default", reader=elementwise(lambda x, slope=0.01: ("leaky", x, float(slope)))),
    **_names("_prelu_kernel.default", reader=elementwise(lambda x, slope: ("leaky", x, slope), 2)),
    **_names("silu.default", reader=elementwise(lambda x: ("silu", x))),
    **_names("sigmoid.default", reader=elementwise(lambda x: ("sigmoid", x))),
    **_names("tanh.default", reader=elementwise(lambda x: ("tanh", x))),
    **_names("exp.default", reader=elementwise(lambda x: ("exponential", x))),
    **_names("gelu.default", reader=elementwise(_gelu)),
    **_names("mish.default", reader=elementwise(lambda x: ("mish", x))),
    **_names("elu.default", reader=elementwise(_elu)),
    **_names("hardsigmoid.default", reader=elementwise(_hard_sigmoid)),
    **_names("hardswish.default", reader=elementwise(lambda x: ("multiply", x, _hard_sigmoid(x)))),
    **_names("neg.default", reader=elementwise(lambda x: ("negate", x))),
    **_names("add.Tensor", reader=elementwise(_scaled("add"), 2)),
    **_names("sub.Tensor", reader=elementwise(_scaled("subtract"), 2)),
    **_names("rsub.Scalar", reader=elementwise(lambda a, b, alpha=1: _scaled("subtract")(b, a, alpha), 2)),
    **_names("mul.Tensor", reader=elementwise(lambda a, b: ("multiply", a, b), 2)),
    **_names("div.Tensor", reader=elementwise(lambda a, b: ("divide", a, b), 2)),
    **_names("native_batch_norm.default", "_native_batch_norm_legit_no_training.default", reader=_norm),
    **_names("native_group_norm.default", reader=_group_norm),
    **_names("native_layer_norm.default", reader=_layer_norm),
    **_names("channel_shuffle.default", reader=_channel_shuffle),
    **_names("pixel_shuffle.default", reader=_pixel_shuffle),
    **_names("pixel_unshuffle.default", reader=_pixel_unshuffle),
    **_names("upsample_nearest1d.default", "upsample_nearest2d.default", "upsample_nearest3d.default", reader=_nearest),
    **_names("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec", reader=_nearest),
    **_names("max_pool2d_with_indices.default", reader=Pooling(2, "max")),
    **_names("max_pool3d_with_indices.default", reader=Pooling(3, "max")),
    **_names("avg_pool2d.default", reader=Pooling(2, "mean")),
    **_names("avg_pool3d.default", reader=Pooling(3, "mean")),
    **_names("_adaptive_avg_pool2d.default", "_adaptive_avg_pool3d.default", reader=_adaptive_pool),
    **_names("mean.dim", reader=_mean),
    **_names(*VIEWS, reader=_alias),
    **_names("clone.default", reader=_copy),
    **_names("slice.Tensor", reader=_slice),
    **_names("split.Tensor", "split_with_sizes.default", reader=_split),
    **_names("cat.default", reader=_join),
}
"""Reader of each operator. An operator with several results is read where only the first is used."""
