"""Reading of torch's operators as nodes of a network; what has no row here is an island, which torch computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

from convolith.engines.elementwise import is_single_only
from convolith.errors import ConvolithError
from convolith.network.nodes import Alias, Convolve, Island, Join, Map, Mean, Node, Operand, Pool, Shape
from convolith.network.trace import Op, Ref, Trace, Value, leaves_with_refs
from convolith.passes.pools import Window
from convolith.torch_private import is_alias, is_overload

Values = list[Value]
Reader = Callable[[Op, Values], Node | None]
FLOATS = (torch.float32, torch.float64)


def read(trace: Trace) -> list[Node]:
    """Return the nodes of a trace, in order."""
    nodes: list[Node] = []
    read = {n for op in trace.ops for n in op.inputs} | {ref.number for ref in leaves_with_refs(trace.result)}
    for op in trace.ops:
        reader = READERS.get(op.name)
        node = None
        if reader is not None and all(_fits(trace.values[n]) for n in op.inputs):
            node = reader(op, trace.values)
        if node is not None and set(op.outputs) & read - set(node.outputs):  # another result is read too
            node = None
        nodes.append(node or island(op))
    return nodes


def island(op: Op) -> Island:
    """Return an operator as an island."""
    view = is_overload(op.call) and is_alias(op.call)
    return Island(op.where, op.inputs, op.outputs, op, view)


def _fits(value: Value) -> bool:
    """Return whether generated code takes a tensor."""
    return value.constant is not None or (value.dtype in FLOATS and value.planes and prod(value.shape) > 0)


def _own(op: Op, at: int, values: Values) -> int | None:
    """Return the value of an argument that depends on an input, or None."""
    argument = op.args[at] if at < len(op.args) else None
    return argument.number if isinstance(argument, Ref) and values[argument.number].constant is None else None


def _constant(argument: Any, values: Values) -> torch.Tensor | None:
    """Return a constant argument, or None."""
    return values[argument.number].constant if isinstance(argument, Ref) else None


def _is_free(argument: Any, values: Values) -> bool:
    """Return whether an optional tensor is absent or a constant."""
    return argument is None or _constant(argument, values) is not None


def _result(op: Op) -> int:
    result = op.result[0] if isinstance(op.result, tuple | list) and not isinstance(op.result, Ref) else op.result
    return int(result.number)


# Convolutions and linear layers ------------------------------------------------------------------------------------


def _convolution(op: Op, values: Values) -> Node | None:
    x, weight, bias = _own(op, 0, values), _constant(op.args[1], values), op.args[2]
    stride, padding, dilation, transposed, output_padding, groups = op.args[3:9]
    if x is None or weight is None or not _is_free(bias, values) or len(values[x].shape) != weight.ndim:
        return None
    options = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
    if transposed:
        options |= {"transposed": True, "output_padding": tuple(output_padding)}
    node = Convolve(
        op.where,
        [x],
        [_result(op)],
        weight,
        _constant(bias, values),
        options,
        values[x].shape[2:],
        values[_result(op)].shape,
    )
    try:
        node.spec()
    except ConvolithError:  # a layer that only torch takes
        return None
    return node


def _linear(op: Op, values: Values, x: int | None, matrix: torch.Tensor | None, bias: Any) -> Node | None:
    """Return x (N, channels) times a matrix (channels, outputs) as a layer of one position."""
    if x is None or matrix is None or matrix.ndim != 2 or len(values[x].shape) != 2 or not _is_free(bias, values):
        return None
    added = _constant(bias, values)
    if added is not None and added.shape != (matrix.shape[1],):
        return None
    weight = matrix.t().unsqueeze(2)
    return Convolve(op.where, [x], [_result(op)], weight, added, {}, (1,), values[_result(op)].shape)


def _addmm(op: Op, values: Values) -> Node | None:
    if op.kwargs.get("beta", 1) != 1 or op.kwargs.get("alpha", 1) != 1:
        return None
    return _linear(op, values, _own(op, 1, values), _constant(op.args[2], values), op.args[0])


def _mm(op: Op, values: Values) -> Node | None:
    return _linear(op, values, _own(op, 0, values), _constant(op.args[1], values), None)


# Elementwise operators ---------------------------------------------------------------------------------------------


def elementwise(expression: Callable[..., Any], count: int = 1) -> Reader:
    """Return the reader of an operator whose first arguments are tensors or numbers.

    Args:
        expression: takes these arguments as expressions, then the other arguments; returns an expression or None.
        count: number of tensors.
    """

    def reader(op: Op, values: Values) -> Node | None:
        shape = values[_result(op)].shape
        operands: list[Operand] = []
        parts = []
        for argument in op.args[:count]:
            part = _part(argument, values, shape, operands)
            if part is None:
                return None
            parts.append(part)
        found = expression(*parts, *op.args[count:], **op.kwargs)
        if found is None or values[_result(op)].dtype not in FLOATS:
            return None
        if not any(operand.value is not None for operand in operands):
            return None
        return _map(op, values, found, operands, shape)

    return reader


def _map(op: Op, values: Values, expression: Any, operands: list[Operand], shape: Shape) -> Node | None:
    if is_single_only(expression) and values[_result(op)].dtype != torch.float32:
        return None
    if not any(operand.kind == "x" for operand in operands):
        return None
    inputs = [operand.value for operand in operands if operand.value is not None]
    if any(values[n].dtype != values[_result(op)].dtype for n in inputs):
        return None
    return Map(op.where, inputs, [_result(op)], expression, operands, shape)


def _part(argument: Any, values: Values, shape: Shape, operands: list[Operand]) -> Any:
    """Return an argument as an expression, and add its operand; or None if it is spread in another way."""
    if isinstance(argument, bool | int | float):
        return float(argument)
    if not isinstance(argument, Ref):
        return None
    value = values[argument.number]
    if value.constant is not None:
        if value.constant.numel() == 1 and len(value.shape) <= len(shape):
            return float(value.constant)
        ones = (1,) * (len(shape) - 2)
        if len(shape) < 2 or tuple(value.shape) not in ((shape[1], *ones), (1, shape[1], *ones)):
            return None
        if value.dtype not in FLOATS:
            return None
        return _added(operands, Operand("channel", constant=value.constant.reshape(-1)))
    if value.shape == shape:
        return _added(operands, Operand("x", argument.number))
    if len(shape) > 2 and value.shape == (*shape[:2], *[1] * (len(shape) - 2)):
        return _added(operands, Operand("plane", argument.number))
    return None


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
    own = _own(op, 0, values)
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


# Pooling -----------------------------------------------------------------------------------------------------------


def _pair(value: Any, default: tuple[int, int] | None = None) -> tuple[int, int]:
    if default is not None and (value is None or len(value) == 0):
        return default
    numbers = [int(n) for n in value]
    return (numbers[0], numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def _max_pool(op: Op, values: Values) -> Node | None:
    x = _own(op, 0, values)
    arguments = dict(zip(("kernel", "stride", "padding", "dilation"), op.args[1:5], strict=False))
    kernel = _pair(arguments["kernel"])
    window = Window(kernel, _pair(arguments.get("stride"), kernel), _pair(arguments.get("padding"), (0, 0)))
    if x is None or len(values[x].shape) != 4 or _pair(arguments.get("dilation"), (1, 1)) != (1, 1):
        return None
    rest = op.args[1:]
    call = lambda t: torch.ops.aten.max_pool2d_with_indices(t, *rest)[0]  # noqa: E731
    shape, out = values[x].shape, values[_result(op)].shape
    return Pool(op.where, [x], [_result(op)], "max", window, shape, out, None, call)


def _average_pool(op: Op, values: Values) -> Node | None:
    x = _own(op, 0, values)
    names = ("kernel", "stride", "padding", "ceil", "include", "divisor")
    given: dict[str, Any] = dict(zip(names, op.args[1:], strict=False))
    kernel = _pair(given["kernel"])
    window = Window(kernel, _pair(given.get("stride"), kernel), _pair(given.get("padding"), (0, 0)))
    if x is None or len(values[x].shape) != 4 or given.get("divisor") is not None:
        return None
    shape, out = values[x].shape, values[_result(op)].shape
    include, dtype = given.get("include", True), values[x].dtype
    scales = [_scales(window, shape, out, axis, dtype, include=include) for axis in range(2)]
    rest = op.args[1:]
    call = lambda t: torch.ops.aten.avg_pool2d(t, *rest)  # noqa: E731
    return Pool(op.where, [x], [_result(op)], "mean", window, shape, out, (scales[0], scales[1]), call)


def _scales(window: Window, shape: Shape, out: Shape, axis: int, dtype: torch.dtype, *, include: bool) -> torch.Tensor:
    """Return one over the number of positions of each window along an axis, with the padding or without."""
    size, pad = shape[2 + axis], window.padding[axis]
    starts = torch.arange(out[2 + axis], device="cpu") * window.stride[axis] - pad
    ends = (starts + window.kernel_size[axis]).clamp(max=size + pad)
    if not include:
        starts, ends = starts.clamp(min=0), ends.clamp(max=size)
    return 1 / (ends - starts).to(dtype)


def _adaptive_pool(op: Op, values: Values) -> Node | None:
    x = _own(op, 0, values)
    if x is None or len(values[x].shape) != 4:
        return None
    shape, out = values[x].shape, values[_result(op)].shape
    if out[2:] == (1, 1):
        return Mean(op.where, [x], [_result(op)], shape, out)
    sizes = [(n, m) for n, m in zip(shape[2:], out[2:], strict=True)]
    if any(n % m for n, m in sizes):
        return None
    step = (sizes[0][0] // sizes[0][1], sizes[1][0] // sizes[1][1])
    window = Window(step, step, (0, 0))
    scales = [_scales(window, shape, out, axis, values[x].dtype, include=True) for axis in range(2)]
    size = list(out[2:])
    call = lambda t: torch.ops.aten._adaptive_avg_pool2d(t, size)  # noqa: E731
    return Pool(op.where, [x], [_result(op)], "mean", window, shape, out, (scales[0], scales[1]), call)


def _mean(op: Op, values: Values) -> Node | None:
    """Read the mean over all spatial axes."""
    x = _own(op, 0, values)
    dims = op.args[1] if len(op.args) > 1 else None
    if x is None or op.kwargs.get("dtype") is not None or dims is None or len(values[x].shape) < 3:
        return None
    ndim = len(values[x].shape)
    if sorted(d % ndim for d in dims) != list(range(2, ndim)):
        return None
    return Mean(op.where, [x], [_result(op)], values[x].shape, values[_result(op)].shape)


# Moves -------------------------------------------------------------------------------------------------------------


def _alias(op: Op, values: Values) -> Node | None:
    x = _own(op, 0, values)
    if x is None or not values[_result(op)].planes or prod(values[x].shape) != prod(values[_result(op)].shape):
        return None
    return Alias(op.where, [x], [_result(op)])


def _copy(op: Op, values: Values) -> Node | None:
    """Read a copy as the memory that it copies: nothing writes in place."""
    x = _own(op, 0, values)
    if x is None or op.kwargs.get("memory_format") not in (None, torch.contiguous_format, torch.preserve_format):
        return None
    return _alias(op, values)


def _slice(op: Op, values: Values) -> Node | None:
    """Read a slice of channels, or one that takes everything."""
    x = _own(op, 0, values)
    given: list[Any] = [*op.args[1:], *[None] * (4 - len(op.args[1:]))]
    axis, start, step = given[0] or 0, given[1] or 0, 1 if given[3] is None else given[3]
    if x is None or step != 1:
        return None
    shape = values[x].shape
    if values[_result(op)].shape == shape:
        return Alias(op.where, [x], [_result(op)])
    if axis % len(shape) != 1:
        return None
    start = start + shape[1] if start < 0 else min(start, shape[1])
    return Alias(op.where, [x], [_result(op)], (start * prod(shape[2:]),), whole=False)


def _split(op: Op, values: Values) -> Node | None:
    """Read a split of the channels."""
    x, axis = _own(op, 0, values), op.args[2] if len(op.args) > 2 else op.kwargs.get("dim", 0)
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
    return Join(op.where, numbers, [_result(op)], shapes)


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
    **_names("max_pool2d_with_indices.default", reader=_max_pool),
    **_names("avg_pool2d.default", reader=_average_pool),
    **_names("_adaptive_avg_pool2d.default", reader=_adaptive_pool),
    **_names("mean.dim", reader=_mean),
    **_names(*VIEWS, reader=_alias),
    **_names("clone.default", reader=_copy),
    **_names("slice.Tensor", reader=_slice),
    **_names("split.Tensor", "split_with_sizes.default", reader=_split),
    **_names("cat.default", reader=_join),
}
"""Reader of each operator. An operator with several results is read where only the first is used."""
