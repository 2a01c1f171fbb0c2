"""Arguments of recorded operators: values, constants, and what generated code takes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch

from convolith.network.graph.nodes import Node, Shape
from convolith.network.graph.trace import Op, Ref, Value

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


def constant_of(argument: Any, values: Values) -> torch.Tensor | None:
    """Return a constant argument, or None."""
    return values[argument.number].constant if isinstance(argument, Ref) else None


def is_free(argument: Any, values: Values) -> bool:
    """Return whether an optional tensor is absent or a constant."""
    return argument is None or constant_of(argument, values) is not None


def own_result(op: Op) -> int:
    """Return the value of an operator's result, the first if there are several."""
    result = op.result[0] if isinstance(op.result, tuple | list) and not isinstance(op.result, Ref) else op.result
    return int(result.number)
