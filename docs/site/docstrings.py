"""Docstrings, which are plain text with code in backticks, as the markup that Sphinx and napoleon read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import cache

import convolith

INLINE = re.compile(r"(``.+?``|`[^`]+`)")
ATTRIBUTES = re.compile(r"^Attributes:\n(?:(?: +.*)?(?:\n|\Z))*", re.MULTILINE)
"""A section of attributes."""
SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+):(.*(?:\n\1 +\S.*)*)$", re.MULTILINE)
"""An entry for several attributes, with the lines that continue it."""


@cache
def public_names() -> frozenset[str]:
    """Return the names that Convolith provides."""
    return frozenset(convolith.__all__)


def as_restructured_text(lines: Sequence[str], what: str) -> list[str]:
    """Return the lines of a docstring: public names become links, markup is escaped.

    Args:
        lines: the docstring, without its indentation.
        what: kind of the object, as Sphinx names it.
    """
    # Napoleon reads what stands before a colon in the first line of a property as its type; an empty comment has none.
    found, in_example = ["..", ""] if what in ("attribute", "property") else [], False
    text = ATTRIBUTES.sub(lambda section: SEVERAL.sub(_one_by_one, section[0]), "\n".join(lines))
    for line in text.split("\n"):
        in_example = line.lstrip().startswith(">>>") or (in_example and bool(line.strip()))
        found.append(line if in_example else "".join(_converted(part) for part in INLINE.split(line)))
    return found


def _one_by_one(entry: re.Match[str]) -> str:
    """Return an entry for each of several attributes: napoleon makes them of those of parameters alone."""
    return "\n".join(f"{entry[1]}{name}:{entry[3]}" for name in entry[2].split(", "))


def _converted(part: str) -> str:
    """Return code as a link if it is a public name, and text without the characters that markup would read."""
    if not part.startswith("`"):
        return re.sub(r"([*|])|(?<=\w)_(?=\W|$)", lambda found: "\\" + found.group(), part)
    code = part.strip("`")
    name, _, member = code.removeprefix("cl.").removesuffix("()").partition(".")
    in_module = name in public_names() and inspect.ismodule(getattr(convolith, name))
    if name not in public_names() or (in_module and not member):  # modules have pages, and no target
        return f"``{code}``"
    return f":py:obj:`{code} <convolith.{name}{'.' + member if in_module else ''}>`"
