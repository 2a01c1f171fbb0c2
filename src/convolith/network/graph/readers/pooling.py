"""Readers of pooling and means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from convolith.layer_steps.pools import Window
from convolith.network.graph.nodes import (
    Mean,
    Node,
    Pool,
    Shape,
)
from convolith.network.graph.readers.arguments import (
    Values,
    own_argument,
    own_result,
)
from convolith.network.graph.readers.moves import resize
from convolith.network.graph.trace import Op


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


def adaptive_pool(op: Op, values: Values) -> Node | list[Node] | None:
    """Read a mean over windows whose number is given."""
    x = own_argument(op, 0, values)
    if x is None or len(values[x].shape) != (4 if "2d" in op.name else 5):
        return None
    shape, out = values[x].shape, values[own_result(op)].shape
    if set(out[2:]) == {1}:
        return Mean(op.where, [x], [own_result(op)], shape, out)
    if any(n % m for n, m in zip(shape[2:], out[2:], strict=True)):
        return resize(op, values)
    step = tuple(n // m for n, m in zip(shape[2:], out[2:], strict=True))
    return _pool(op, values, x, "mean", Window(step, step, (0,) * len(step)), include=True)


def mean(op: Op, values: Values) -> Node | None:
    """Read the mean over all spatial axes."""
    x = own_argument(op, 0, values)
    dims = op.args[1] if len(op.args) > 1 else None
    if x is None or op.kwargs.get("dtype") is not None or dims is None or len(values[x].shape) < 3:
        return None
    ndim = len(values[x].shape)
    if sorted(d % ndim for d in dims) != list(range(2, ndim)):
        return None
    return Mean(op.where, [x], [own_result(op)], values[x].shape, values[own_result(op)].shape)
