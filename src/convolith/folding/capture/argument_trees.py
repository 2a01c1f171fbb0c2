"""Nested arguments and results: their tensors, the path to each, and the replacement of sizes by plain numbers."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from convolith.folding.capture.size_numbers import Size, SizeRatio, plain


def without_history(tree: Any) -> Any:
    """Return arguments in which recorded sizes are replaced by plain numbers."""
    if isinstance(tree, Size | SizeRatio):
        return plain(tree)
    if isinstance(tree, slice):
        return slice(*map(without_history, (tree.start, tree.stop, tree.step)))
    if isinstance(tree, tuple | list) and any(map(_may_hold_sizes, tree)):
        parts = [without_history(part) for part in tree]
        return (
            parts if isinstance(tree, list) else (torch.Size(parts) if isinstance(tree, torch.Size) else tuple(parts))
        )
    if type(tree) is dict:
        return {key: without_history(part) for key, part in tree.items()}
    return tree


def _may_hold_sizes(value: Any) -> bool:
    return isinstance(value, Size | SizeRatio | slice | tuple | list | dict)


def tensors_of(tree: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested arguments or results."""
    for _, leaf in leaves_of(tree):
        yield leaf


Path = tuple[tuple[Callable[..., Any], Any], ...]


def leaves_of(tree: Any, path: Path = ()) -> Iterator[tuple[Path, torch.Tensor]]:
    """Yield the path and value of each tensor in nested arguments or results."""
    if isinstance(tree, torch.Tensor):
        yield path, tree
    elif isinstance(tree, tuple | list):
        for place, part in enumerate(tree):
            yield from leaves_of(part, (*path, (operator.getitem, place)))
    elif isinstance(tree, Mapping):
        for key, part in tree.items():
            yield from leaves_of(part, (*path, (operator.getitem, key)))
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from leaves_of(getattr(tree, field.name), (*path, (getattr, field.name)))


def with_sizes(tree: Any, made: Callable[[Path, int], Any], path: Path = ()) -> Any:
    """Return a result in which each integer n at a path is replaced by `made(path, n)`."""
    if type(tree) is int:
        return made(path, tree)
    if isinstance(tree, torch.Size) or type(tree) in (tuple, list):
        return type(tree)(with_sizes(part, made, (*path, (operator.getitem, n))) for n, part in enumerate(tree))
    if type(tree) is dict:
        return {key: with_sizes(part, made, (*path, (operator.getitem, key))) for key, part in tree.items()}
    return tree
