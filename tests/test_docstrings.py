"""Docstrings of the reference are whole: parameters, results, errors, and examples that can be pasted."""

import ast
import builtins
import inspect
import re
from doctest import DocTestParser
from functools import cached_property

from tests.test_site import REFERENCE, documented, found

CLASSES = re.findall(r"^\.\. autoclass:: convolith\.([\w.]+)\n((?:   :.*\n)*)", REFERENCE + "\n", re.MULTILINE)


def shown_members():
    """Functions and properties of classes that the reference shows."""
    for name, options in CLASSES:
        kind, chosen = found(name), re.findall(r"members: *(\w.*)", options)
        names = {member for line in chosen for member in line.split(", ")}
        if ":members:\n" in options:
            names |= {member for member in vars(kind) if not member.startswith("_")}
        for member in sorted(names):
            raw = inspect.getattr_static(kind, member)
            if callable(raw) or isinstance(raw, property | cached_property | classmethod | staticmethod):
                is_read = isinstance(raw, property | cached_property)
                yield f"{name}.{member}", raw if is_read else getattr(kind, member)


def described(text):
    """Names of the arguments and attributes that a docstring describes."""
    sections = re.findall(r"^(?:Args|Attributes):\n((?: .*\n|\n)*)", f"{text}\n", re.MULTILINE)
    entries = re.findall(r"^    (\w[\w, ]*):", "".join(sections), re.MULTILINE)
    return {name for entry in entries for name in entry.split(", ")}


def parameters(value):
    """Names of the parameters of a callable, without that of the instance."""
    if not callable(value) or (inspect.isclass(value) and issubclass(value, Exception)):
        return []
    return [name for name in inspect.signature(value).parameters if name not in ("self", "cls")]


def unknown_names(text):
    """Names that the example of a docstring uses and does not make, so that it cannot be pasted."""
    used, made = set(), set(dir(builtins))
    for node in ast.walk(ast.parse("".join(example.source for example in DocTestParser().get_examples(text)))):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
    return used - made


def test_every_docstring_of_the_reference_is_whole():
    """It describes every parameter; functions say what they return, with an example that can be pasted."""
    problems = []
    for name, value in [*((name, found(name)) for name in sorted(documented())), *shown_members()]:
        text = inspect.getdoc(value) or ""
        problems += [f"{name} has no docstring"] * (not text)
        problems += [f"{name} does not describe {one}" for one in parameters(value) if one not in described(text)]
        problems += [f"the example of {name} does not make {one}" for one in sorted(unknown_names(text))]
        if inspect.isfunction(value) and name in documented() and name != "clear_caches":
            sections = ("Returns", "Raises", "Example")
            problems += [f"{name} lacks {section}" for section in sections if f"\n{section}:\n" not in text]
    assert problems == []
