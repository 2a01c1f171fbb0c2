"""Elementwise expressions: activations, sums and products as values, generated for a vector and computed by torch.

An expression is a nested tuple whose first entry names a row of `OPERATIONS`, or one of:

    ("x", n)        operand n, of the size of the result
    ("plane", n)    operand n, with one number per image and channel
    ("channel", n)  constant n, with one number per channel
    a float         the same number everywhere

An expression is the whole description of generated code, so that equal ones share it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from math import pi, sqrt
from typing import Any, NamedTuple

import torch
from llvmlite import ir

from convolith.jit.builder import FunctionBuilder, constant
from convolith.jit.functions import (
    error_function,
    exponential,
    hyperbolic_tangent,
    larger,
    logistic,
    smaller,
    unlimited_exponential,
)

Expression = Any
"""Nested tuples, as described above."""
Vector = Callable[..., ir.Value]
LEAVES = ("x", "plane", "channel")


class Operation(NamedTuple):
    """One elementwise operation: its code for vectors, its meaning in torch, and its limits."""

    code: Vector
    meaning: Callable[..., torch.Tensor]
    costly: bool = False
    """Whether it takes so many instructions that it is generated once, in a loop, rather than for every vector."""
    single_only: bool = False
    """Whether its error is too large for float64."""


def _gelu(code: FunctionBuilder, x: ir.Value) -> ir.Value:
    half, one = constant(x.type, 0.5), constant(x.type, 1.0)
    shaped = error_function(code, code.ir.fmul(x, constant(x.type, 1 / sqrt(2))))
    return code.ir.fmul(code.ir.fmul(x, half), code.ir.fadd(one, shaped))


def _gelu_tanh(code: FunctionBuilder, x: ir.Value) -> ir.Value:
    cubic = code.multiply_add(code.ir.fmul(x, x), constant(x.type, 0.044715), constant(x.type, 1.0))
    twice = code.ir.fmul(code.ir.fmul(x, cubic), constant(x.type, 2 * sqrt(2 / pi)))
    return code.ir.fmul(x, logistic(code, twice))


def _mish(code: FunctionBuilder, x: ir.Value) -> ir.Value:
    kind = x.type
    e = exponential(code, smaller(code, x, constant(kind, 40.0)))
    n = code.ir.fmul(e, code.ir.fadd(e, constant(kind, 2.0)))
    return code.ir.fmul(x, code.ir.fdiv(n, code.ir.fadd(n, constant(kind, 2.0))))


def _elu(code: FunctionBuilder, x: ir.Value, alpha: ir.Value) -> ir.Value:
    zero = constant(x.type, 0.0)
    below = code.ir.fmul(alpha, code.ir.fsub(exponential(code, smaller(code, x, zero)), constant(x.type, 1.0)))
    return code.ir.select(code.ir.fcmp_ordered("<", x, zero), below, x)


def _where_negative(code: FunctionBuilder, x: ir.Value, slope: ir.Value) -> ir.Value:
    scaled = code.ir.fmul(x, slope)
    return code.ir.select(code.ir.fcmp_ordered("<", x, constant(x.type, 0.0)), scaled, x)


def _float(name: str) -> Vector:
    return lambda code, *values: getattr(code.ir, name)(*values)


F = torch.nn.functional
OPERATIONS: dict[str, Operation] = {
    "add": Operation(_float("fadd"), operator.add),
    "subtract": Operation(_float("fsub"), operator.sub),
    "multiply": Operation(_float("fmul"), operator.mul),
    "divide": Operation(_float("fdiv"), operator.truediv),
    "negate": Operation(_float("fneg"), operator.neg),
    "at_least": Operation(larger, lambda a, b: torch.maximum(a, torch.as_tensor(b, dtype=a.dtype))),
    "at_most": Operation(smaller, lambda a, b: torch.minimum(a, torch.as_tensor(b, dtype=a.dtype))),
    "leaky": Operation(_where_negative, lambda a, b: torch.where(a < 0, a * b, a)),
    "exponential": Operation(unlimited_exponential, torch.exp, costly=True),
    "sigmoid": Operation(logistic, torch.sigmoid, costly=True),
    "silu": Operation(lambda code, x: code.ir.fmul(x, logistic(code, x)), F.silu, costly=True),
    "tanh": Operation(hyperbolic_tangent, torch.tanh, costly=True),
    "gelu": Operation(_gelu, F.gelu, costly=True, single_only=True),
    "gelu_tanh": Operation(_gelu_tanh, lambda x: F.gelu(x, approximate="tanh"), costly=True),
    "mish": Operation(_mish, F.mish, costly=True),
    "elu": Operation(_elu, lambda x, alpha: torch.where(x < 0, alpha * torch.expm1(x), x), costly=True),
}
"""Elementwise operations by name. A new one needs one row here, and a reader in `network`."""


def emit(
    code: FunctionBuilder, expression: Expression, kind: ir.VectorType, leaf: Callable[[str, int], ir.Value]
) -> Any:
    """Generate the value of an expression.

    Args:
        code: the function.
        expression: the expression.
        kind: type of all vectors.
        leaf: returns the vector of a leaf, given its name and its number.
    """
    known: dict[Expression, ir.Value] = {}

    def value(part: Expression) -> ir.Value:
        if not isinstance(part, tuple):
            return constant(kind, float(part))
        if part not in known:
            name, *rest = part
            known[part] = leaf(name, *rest) if name in LEAVES else OPERATIONS[name].code(code, *map(value, rest))
        return known[part]

    return value(expression)


def evaluate(expression: Expression, leaf: Callable[[str, int], torch.Tensor]) -> torch.Tensor:
    """Compute an expression with torch; `leaf` returns the tensor of a leaf, broadcast against the others."""
    if not isinstance(expression, tuple):
        return expression  # type: ignore[no-any-return]  # torch's operators take numbers
    name, *rest = expression
    return leaf(name, *rest) if name in LEAVES else OPERATIONS[name].meaning(*(evaluate(part, leaf) for part in rest))


def leaves(expression: Expression, name: str) -> list[int]:
    """Return the numbers of the leaves of a kind that an expression has, in order and once each."""
    return sorted({part[1] for part in _parts(expression) if part[0] == name})


def is_costly(expression: Expression) -> bool:
    """Return whether an expression takes many instructions."""
    return any(part[0] in OPERATIONS and OPERATIONS[part[0]].costly for part in _parts(expression))


def is_single_only(expression: Expression) -> bool:
    """Return whether an expression is computed for float32 only."""
    return any(part[0] in OPERATIONS and OPERATIONS[part[0]].single_only for part in _parts(expression))


def replaced(expression: Expression, leaf: Callable[[str, int], Expression]) -> Expression:
    """Return an expression whose leaves are replaced by others, or by expressions."""
    if not isinstance(expression, tuple):
        return expression
    name, *rest = expression
    return leaf(name, *rest) if name in LEAVES else (name, *(replaced(part, leaf) for part in rest))


def _parts(expression: Expression) -> Iterator[tuple[Any, ...]]:
    if isinstance(expression, tuple):
        yield expression
        if expression[0] not in LEAVES:
            for part in expression[1:]:
                yield from _parts(part)


class Tail(NamedTuple):
    """Elementwise work that an engine does on its sums before it stores them; the sums are operand 0.

    Operand 1, a residual, has the shape and the pitches of the result, in another place: last vectors overlap those
    before them.
    """

    expression: Expression = ("x", 0)

    @property
    def adds(self) -> bool:
        """Whether there is a residual."""
        return 1 in leaves(self.expression, "x")

    @property
    def constants(self) -> int:
        """Number of constants with one number per channel."""
        return len(leaves(self.expression, "channel"))

    @property
    def costly(self) -> bool:
        """Whether it is generated once per tile, in a loop over stored sums."""
        return is_costly(self.expression)

    def __bool__(self) -> bool:
        return bool(self.expression != ("x", 0))


NO_TAIL = Tail()
MOST_CONSTANTS = 2
"""Upper bound on the constants of a tail."""
TAIL_ARGUMENTS = ("residual_shift", "constant_0", "constant_1")
"""Arguments of a region with a tail: bytes from an output to its residual, and constants per channel."""


def no_residual() -> ir.Value:
    """Stand for the residual of a tail that has none."""
    raise AssertionError("the tail has no residual")


def finish(
    code: FunctionBuilder, tail: Tail, sums: ir.Value, residual: Callable[[], ir.Value], constants: Sequence[ir.Value]
) -> ir.Value:
    """Generate a tail of a vector of sums, with the vector of residuals and those of the constants."""

    def leaf(name: str, number: int) -> ir.Value:
        if name == "channel":
            return constants[number]
        return residual() if number else sums

    return emit(code, tail.expression, sums.type, leaf)
