"""Pairs of a convolution and a norm that a module's own code always calls directly after each other.

Code that depends on values or sizes cannot be recorded as a graph. Yet in `self.norm(self.conv(x))`, or in
`x = self.conv(x)` followed by `x = self.norm(x)`, only the norm reads the convolution's output on every path through
the code, so that the two can be folded.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeGuard

from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Pair = tuple[str, str]


def pairs_of(module: nn.Module) -> list[Pair]:
    """Return the names of each convolution and norm of a module that its code always calls directly after each other.

    Both names occur exactly once in the code of the module's class, not counting its initialisation.
    """
    trees = list(_methods(type(module)))
    mentioned = Counter(name for tree in trees for name in _mentions(tree))
    pairs = []
    for tree in trees:
        for first, second in _in_a_row(tree):
            layers = (getattr(module, first, None), getattr(module, second, None))
            if (
                type(layers[0]) in CONVOLUTIONS
                and type(layers[1]) in NORMS
                and mentioned[first] == mentioned[second] == 1
            ):
                pairs.append((first, second))
    return pairs


def _mentions(tree: ast.AST) -> Iterator[str]:
    """Yield the attributes that code uses, without harmless uses of a layer, which do not depend on its weights.

    Harmless uses read the layer's geometry, compare the layer with None, or pass it to a function, which is assumed to
    read the geometry only; comparing outputs confirms this.
    """
    harmless: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in GEOMETRY:
            harmless.add(id(node.value))
        elif isinstance(node, ast.Call):
            harmless |= {id(a) for a in (*node.args, *(k.value for k in node.keywords))}
        elif _asks_whether_there(node):
            harmless.add(id(node.left))
    yield from (n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and id(n) not in harmless)


def _asks_whether_there(node: ast.AST) -> TypeGuard[ast.Compare]:
    """Return whether a node is `... is not None`."""
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or not isinstance(node.ops[0], ast.IsNot):
        return False
    other = node.comparators[0]
    return isinstance(other, ast.Constant) and other.value is None


GEOMETRY = {"stride", "kernel_size", "padding", "dilation", "groups", "in_channels", "out_channels", "padding_mode"}


def _methods(kind: type) -> Iterator[ast.AST]:
    """Yield the syntax trees of the methods of a class and of its bases outside torch, initialisation excepted."""
    for base in kind.__mro__:
        if base is object or base.__module__.partition(".")[0] == "torch":
            continue
        for name, method in vars(base).items():
            if inspect.isfunction(method) and name not in (
                "__init__",
                "reset_parameters",
                "_init_weights",
                "init_weights",
            ):
                try:
                    yield ast.parse(textwrap.dedent(inspect.getsource(method)))
                except (OSError, SyntaxError, TypeError):  # no source: its uses of layers are unknown
                    return


def _in_a_row(tree: ast.AST) -> Iterator[Pair]:
    """Yield pairs of a layer and the layer that is called directly after it, on its output."""
    own = _own_name(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            outer, inner = _called(node, own), _called(node.args[0], own) if len(node.args) == 1 else None
            if outer and inner:
                yield inner, outer
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                for before, after in pairwise(statements):
                    yield from _follow(before, after, own)


def _follow(before: ast.stmt, after: ast.stmt, own: str) -> Iterator[Pair]:
    """Yield the pair of `x = self.first(...)` and `x = self.second(x)` (or `return self.second(x)`).

    The second statement may be inside `if self.second is not None`, since that condition holds.
    """
    if isinstance(after, ast.If) and _asks_whether_there(after.test) and not after.orelse:
        after = after.body[0]
    if not isinstance(before, ast.Assign) or len(before.targets) != 1 or not isinstance(before.targets[0], ast.Name):
        return
    name = before.targets[0].id
    value = after.value if isinstance(after, ast.Assign | ast.Return) else None
    while isinstance(value, ast.Call) and len(value.args) == 1 and isinstance(value.args[0], ast.Call):
        value = value.args[0]  # the innermost call, whose argument is the result
    if not isinstance(value, ast.Call) or len(value.args) != 1 or not isinstance(value.args[0], ast.Name):
        return
    is_reassigned = isinstance(after, ast.Assign) and [t.id for t in after.targets if isinstance(t, ast.Name)] == [name]
    first, second = _called(before.value, own), _called(value, own)
    if first and second and value.args[0].id == name and (is_reassigned or isinstance(after, ast.Return)):
        yield first, second


def _own_name(tree: ast.AST) -> str:
    """Return the name of a method's first parameter, usually `self`."""
    arguments = next((n.args for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)), None)
    return arguments.args[0].arg if arguments is not None and arguments.args else "self"


def _called(node: ast.AST, own: str) -> str | None:
    """Return `name` if a node is a call `self.name(...)` with one argument, else None."""
    if not isinstance(node, ast.Call) or node.keywords or len(node.args) != 1:
        return None
    function = node.func
    if not isinstance(function, ast.Attribute) or not isinstance(function.value, ast.Name):
        return None
    return function.attr if function.value.id == own else None
