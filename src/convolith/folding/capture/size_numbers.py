"""Integers and floats that remember how they were computed from tensor sizes, so that a graph can recompute them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Protocol

from torch.fx import Node


class SizeRecorder(Protocol):
    """Interface of an object that records operations on sizes."""

    def apply(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Node:
        """Add a call to the graph."""

    def compared(self, function: Callable[..., Any], args: tuple[Any, ...], *, result: bool) -> None:
        """Record that the model's code evaluated a comparison of sizes."""

    def converted(self, number: Size | SizeRatio, value: float) -> None:
        """Record that a size was converted to a plain number, which has no history."""


class Size(int):
    """Integer computed from the size of a tensor."""

    _scribe: SizeRecorder
    _make: Callable[[], Node]

    def node(self) -> Node:
        """Return the node that computes the number."""
        return self._make()

    def __neg__(self) -> Any:
        return _computed(self, operator.neg, (self,))

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return _computed(self, abs, (self,))

    def __round__(self, digits: Any = None) -> Any:
        return self if digits is None else int.__round__(self, digits)

    def __ceil__(self) -> Any:
        return self

    def __floor__(self) -> Any:
        return self

    def __trunc__(self) -> Any:
        return self

    def __bool__(self) -> bool:
        return self != 0

    def __index__(self) -> int:
        return _lost(self)

    def __int__(self) -> int:
        return _lost(self)

    def __float__(self) -> float:
        return float(_lost(self))

    __hash__ = int.__hash__

    def __reduce__(self) -> Any:
        return int, (_lost(self),)


class SizeRatio(float):
    """Float computed from the size of a tensor."""

    _scribe: SizeRecorder
    _make: Callable[[], Node]

    def node(self) -> Node:
        """Return the node that computes the number."""
        return self._make()

    def __neg__(self) -> Any:
        return _computed(self, operator.neg, (self,))

    def __abs__(self) -> Any:
        return _computed(self, abs, (self,))

    def __round__(self, digits: Any = None) -> Any:
        return _computed(self, round, (self,) if digits is None else (self, digits))

    def __ceil__(self) -> Any:
        return _computed(self, math.ceil, (self,))

    def __floor__(self) -> Any:
        return _computed(self, math.floor, (self,))

    def __trunc__(self) -> Any:
        return _computed(self, math.trunc, (self,))

    def __bool__(self) -> bool:
        return bool(self.__ne__(0))

    def __int__(self) -> int:
        found = _computed(self, math.trunc, (self,))
        return _lost(found)

    def __float__(self) -> float:
        self._scribe.converted(self, float.__pos__(self))
        return float.__pos__(self)

    __hash__ = float.__hash__  # comparisons are defined below

    def __reduce__(self) -> Any:
        return float, (float.__pos__(self),)


def number(value: Any, scribe: SizeRecorder, make: Callable[[], Node]) -> Any:
    """Return a value as a number with a history, whose node is created when it is first needed."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    result: Any = Size(value) if isinstance(value, int) else SizeRatio(value)
    result._scribe = scribe
    known: list[Node] = []

    def once() -> Node:
        if not known:
            known.append(make())
        return known[0]

    result._make = once
    return result


def plain(value: Any) -> Any:
    """Return a number without its history."""
    if isinstance(value, Size):
        return int.__pos__(value)
    return float.__pos__(value) if isinstance(value, SizeRatio) else value


def _lost(value: Size) -> int:
    value._scribe.converted(value, int.__pos__(value))
    return int.__pos__(value)


def _computed(first: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    scribe = first._scribe
    return number(function(*map(plain, args)), scribe, lambda: scribe.apply(function, args))


def _arithmetic(function: Callable[..., Any], *, reflected: bool) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        if isinstance(other, bool) or not isinstance(other, int | float):
            return NotImplemented
        return _computed(self, function, (other, self) if reflected else (self, other))

    return method


def _divided(self: Any, other: Any) -> Any:
    return self // other, self % other


def _comparison(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        result = function(plain(self), plain(other))
        self._scribe.compared(function, (self, other), result=result)
        return result

    return method


for kind in (Size, SizeRatio):
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
        setattr(kind, f"__{name}__", _arithmetic(getattr(operator, name), reflected=False))
        setattr(kind, f"__r{name}__", _arithmetic(getattr(operator, name), reflected=True))
    setattr(kind, "__divmod__", _divided)  # noqa: B010 - as the others
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(kind, f"__{name}__", _comparison(getattr(operator, name)))
