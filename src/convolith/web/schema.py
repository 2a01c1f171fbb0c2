"""Requests as dataclasses: JSON that is read strictly, and values that are checked against the types of the fields."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from convolith.errors import ConvolithError, shown

MAX_DEPTH = 32
"""Largest depth of nested lists and objects in a request."""
MAX_MARKS = 200_000
"""Largest number of commas and brackets in a request; the largest kernel has a third of it."""
MAX_DIGITS = 300
"""Largest number of characters of a number in a request."""
WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
WORDS[NoneType] = "null"
Request = TypeVar("Request")


class RequestError(ConvolithError):
    """Error of a request that is refused, with the HTTP status of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Bounds:
    """Least and largest value of a number, or length of a list or a text."""

    least: float
    most: float


def read_json(body: bytes | bytearray) -> Any:
    """Parse JSON; refuse what parsers accept in silence: names given twice, NaN, numbers beyond all floats.

    Raises:
        RequestError: status 400, with the reason; 413 for more entries than any request has.
    """
    try:
        text = body.decode()
        _check_size(text)
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_whole
        )
    except UnicodeDecodeError:
        raise RequestError(400, "the request is not text in UTF-8; send JSON") from None
    except json.JSONDecodeError as problem:
        raise RequestError(400, f"the request is not JSON: {problem}") from None


def _check_size(text: str) -> None:
    """Refuse many entries and deep nesting before the parser meets them.

    Commas and brackets inside of strings are counted too, on the safe side.
    """
    marks = sum(map(text.count, ",[]{}"))
    if marks > MAX_MARKS:
        raise RequestError(413, f"the request has {marks:,} commas and brackets; expected at most {MAX_MARKS:,}")
    depth = deepest = 0
    for bracket in re.findall(r"[][{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise RequestError(400, f"the request is nested {deepest} deep; expected at most {MAX_DEPTH}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise RequestError(400, f"{shown(twice)} is given twice; expected each name once")
    return result


def _constant(text: str) -> Any:
    raise RequestError(400, f"{text} is not a number of JSON; expected finite numbers")


def _float(text: str) -> float:
    value = float(text) if len(text) <= MAX_DIGITS else float("inf")
    if not isfinite(value):
        raise RequestError(400, f"the number {shown(text)} is too large; expected finite numbers")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise RequestError(400, f"a number has {len(text)} digits; expected at most {MAX_DIGITS}")
    return int(text)


def read_request(kind: type[Request], body: bytes | bytearray) -> Request:
    """Return a request of JSON as the dataclass `kind`.

    Raises:
        RequestError: status 400 for what is not JSON; 422 for unknown or missing fields, wrong types and values out of
            bounds.
    """
    value: Request = build(kind, read_json(body), "the request")
    return value


def build(kind: Any, value: Any, where: str) -> Any:
    """Return a value of JSON as a type: a dataclass, a number, a text, or a tuple, dict, choice or optional of these.

    Args:
        kind: annotation of a field; `Annotated[kind, Bounds(...)]` for a number, tuple or text within bounds.
        value: what JSON holds.
        where: name of the field, for messages.

    Raises:
        RequestError: status 422; the message gives the field, the value and what was expected.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return _record(kind, value, where)
    if origin is Annotated:
        if isinstance(value, list | str) and not parts[1].least <= len(value) <= parts[1].most:
            raise _wrong(where, value, kind)  # before millions of entries are looked at
        inner = build(parts[0], value, where)
        if isinstance(inner, int | float) and not parts[1].least <= inner <= parts[1].most:
            raise _wrong(where, value, kind)
        return inner
    if origin in (Union, UnionType):
        return _one_of(kind, parts, value, where)
    if origin is Literal:
        if not any(type(value) is type(one) and value == one for one in parts):
            raise _wrong(where, value, kind)
        return value
    if origin is tuple:
        items = enumerate(_of(list, value, where, kind))
        return tuple(build(parts[0], one, f"{where}[{number}]") for number, one in items)
    if origin is dict:
        named = _of(dict, value, where, kind).items()
        return {name: build(parts[1], one, f"{where}.{_in_words(name)}") for name, one in named}
    if kind is float and type(value) in (int, float):
        return _as_float(value, where)
    return _of(kind, value, where, kind)


def _in_words(name: str) -> str:
    """Return a name for messages; one with characters that no answer can have (half a surrogate pair), as its repr."""
    return name[:64] if name.isidentifier() else shown(name)


def _of(wanted: type, value: Any, where: str, kind: Any) -> Any:
    if type(value) is not wanted:
        raise _wrong(where, value, kind)
    return value


def _as_float(value: float, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise _wrong(where, value, float) from None


def _one_of(kind: Any, parts: Sequence[Any], value: Any, where: str) -> Any:
    if value is None and NoneType in parts:
        return None
    others = [part for part in parts if part is not NoneType]
    for part in others:
        try:
            return build(part, value, where)
        except RequestError:
            if len(others) == 1:  # its own reason says more
                raise
    raise _wrong(where, value, kind)


@cache
def types_of(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields, with their bounds, by name."""
    return get_type_hints(kind, include_extras=True)


def _record(kind: Any, value: Any, where: str) -> Any:
    types = types_of(kind)
    if not isinstance(value, dict):
        raise RequestError(422, f"{where} is {shown(value)}; expected an object with {', '.join(types)}")
    unknown = [name for name in value if name not in types]
    if unknown:
        raise RequestError(
            422, f"{where} has an unknown field {shown(unknown[0])}; expected some of {', '.join(types)}"
        )
    for field in fields(kind):
        if field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise RequestError(422, f"{where} has no field {field.name}; expected {expected(types[field.name])}")
    before = "" if where == "the request" else f"{where}."
    return kind(**{name: build(types[name], one, before + name) for name, one in value.items()})


def _wrong(where: str, value: Any, kind: Any) -> RequestError:
    return RequestError(422, f"{where} is {shown(value)}; expected {expected(kind)}")


def expected(kind: Any) -> str:
    """Return the words for a type in messages, such as "a whole number from 1 to 5"."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        least, most = (f"{bound:g}" for bound in (parts[1].least, parts[1].most))
        counted = "" if parts[0] in (int, float) else " letters" if parts[0] is str else " entries"
        return f"{expected(parts[0])} {'from' if not counted else 'of'} {least} to {most}{counted}"
    if origin in (Union, UnionType):
        return " or ".join(expected(part) for part in parts)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}" if len(parts) > 1 else str(parts[0])
    if origin is tuple:
        return f"a list, of {expected(parts[0])} each"
    if origin is dict:
        return f"an object, of {expected(parts[1])} each"
    return WORDS.get(kind) or f"an object with {', '.join(types_of(kind))}"
