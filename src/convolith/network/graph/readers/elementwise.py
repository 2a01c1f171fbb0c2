"""Readers of activations, sums and products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import torch

from convolith.engines.elementwise import is_single_only
from convolith.layer_steps.copies import Axis
from convolith.network.graph.nodes import (
    Copy,
    Map,
    Node,
    Operand,
    Shape,
)
from convolith.network.graph.readers.arguments import (
    FLOATS,
    Values,
    new_value,
    own_result,
)
from convolith.network.graph.trace import Op, Ref, Value


class Elementwise:
    """Reader of an operator whose first arguments are tensors or numbers.

    Args:
        expression: takes these arguments as expressions, then the other arguments; returns an expression or None.
        count: number of tensors.
    """

    def __init__(self, expression: Callable[..., Any], count: int = 1) -> None:
        self.expression, self.count = expression, count

    def __call__(self, op: Op, values: Values, planes: dict[int, Shape] | None = None) -> Node | list[Node] | None:
        """Return a map, after copies of what must be spread, or None.

        Args:
            op: the operator.
            values: the values.
            planes: shapes of the planes of values with channels last; nothing is spread among these.
        """
        result = values[own_result(op)]
        shape = result.shape
        if planes is not None:
            shapes = {planes[n] for n in op.inputs if n in planes}
            if len(shapes) != 1:
                return None
            (shape,) = shapes
        operands: list[Operand] = []
        parts, copies = [], []
        for argument in op.args[: self.count]:
            spread = _spread(argument, values, shape) if planes is None else None
            if isinstance(spread, Copy):
                copies.append(replace(spread, where=op.where))
                argument = Ref(spread.outputs[0])
            elif spread is not None:
                argument = spread
            part = _part(argument, values, shape, operands, planes)
            if part is None:
                return None
            parts.append(part)
        found = self.expression(*parts, *op.args[self.count :], **op.kwargs)
        if found is None or result.dtype not in FLOATS or prod(shape) != prod(result.shape):
            return None
        made = elementwise_map(op, values, found, operands, shape)
        return [*copies, made] if copies and made is not None else made


elementwise = Elementwise


def elementwise_map(op: Op, values: Values, expression: Any, operands: list[Operand], shape: Shape) -> Node | None:
    """Return a map, or None if generated code does not compute it."""
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
        image = value.shape in (shape[1:], (1, *shape[1:])) and len(shape) > 2 and planes is None
        if image and value.constant.is_contiguous():  # the same for all images
            return _added(operands, Operand("x", argument.number))
        return _constant_part(value, shape, operands, last=planes is not None)
    if planes is not None:
        return _added(operands, Operand("x", argument.number)) if planes.get(argument.number) == shape else None
    if value.shape == shape:
        return _added(operands, Operand("x", argument.number))
    if len(shape) > 2 and value.shape == (*shape[:2], *[1] * (len(shape) - 2)):
        return _added(operands, Operand("plane", argument.number))
    return None


def _spread(argument: Any, values: Values, shape: Shape) -> Copy | Ref | None:
    """Return what spreads an argument over axes along which it has one element, or None if a map does it itself.

    A constant is spread here and now; a value by a copy.
    """
    if not isinstance(argument, Ref) or len(shape) < 3:
        return None
    value = values[argument.number]
    own = (*(1,) * (len(shape) - len(value.shape)), *value.shape)
    if len(own) > len(shape) or any(n not in (1, m) for n, m in zip(own, shape, strict=True)) or value.shape == shape:
        return None
    if not any(n > 1 for n in own[2:]):  # a number, or one for each channel
        return None
    if value.constant is not None:
        if own[0] > 1 or prod(shape[1:]) > MOST_SPREAD or own[1:] == shape[1:]:
            return None
        values.append(Value.of(value.constant.expand(own).expand(1, *shape[1:]).contiguous(), constant=True))
        return Ref(len(values) - 1)
    if own[0] != shape[0] or value.dtype not in FLOATS or not value.planes:
        return None
    rows = [(prod(own[axis + 1 :]), prod(shape[axis + 1 :])) for axis in range(len(shape))]
    axes = [Axis(shape[a], rows[a][0] if own[a] > 1 else 0, rows[a][1]) for a in range(1, len(shape))]
    return Copy.of("", argument.number, new_value(values, shape, value.dtype), axes, shape)


MOST_SPREAD = 1 << 22
"""Largest number of elements of a constant that is spread over an image."""


def _constant_part(value: Value, shape: Shape, operands: list[Operand], *, last: bool) -> Any:
    """Return a constant as an expression: a number, or one number per channel, which may be the last axis."""
    constant = value.constant
    if constant is None or value.dtype.is_complex:
        return None
    if constant.numel() == 1 and len(value.shape) <= len(shape):
        return float(constant)
    if value.dtype not in FLOATS:
        return None
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


def scaled(name: str) -> Callable[..., Any]:
    """Return the expression of a sum or a difference, whose second operand may have a factor."""

    def expression(a: Any, b: Any, alpha: float = 1) -> Any:
        return (name, a, b if alpha == 1 else ("multiply", b, float(alpha)))

    return expression


def added_product(a: Any, b: Any, c: Any, value: float = 1) -> Any:
    """Return the expression of a number plus the product of two others, which may have a factor."""
    return scaled("add")(a, ("multiply", b, c), value)


def clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    """Return the expression of a clamp with numbers as limits."""
    if isinstance(low, Ref) or isinstance(high, Ref):
        return None
    x = x if low is None else ("at_least", x, float(low))
    return x if high is None else ("at_most", x, float(high))


def gelu(x: Any, approximate: str = "none") -> Any:
    """Return the expression of GELU."""
    return ("gelu_tanh" if approximate == "tanh" else "gelu", x)


def elu(x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    """Return the expression of ELU and SELU."""
    if input_scale != 1:
        return None
    made = ("elu", x, float(alpha))
    return made if scale == 1 else ("multiply", made, float(scale))


def hard_sigmoid(x: Any) -> Any:
    """Return the expression of a hard sigmoid."""
    return ("multiply", ("at_most", ("at_least", ("add", x, 3.0), 0.0), 6.0), 1 / 6)
