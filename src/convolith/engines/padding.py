"""Padding of any amount, mode and dtype: copies for engines that cannot pad, tables for generated code."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch

from convolith.dtypes import ITEMSIZE
from convolith.engines.buffers import empty
from convolith.geometry import Pairs, padding_sources, sources_at
from convolith.jit.builder import FunctionBuilder, Int
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype

FILLED = ("zeros", "constant")
"""Padding modes in which nothing of x is repeated."""


def crop(y: torch.Tensor, padding: Pairs, size: tuple[int, ...]) -> torch.Tensor:
    """Undo zero padding: return `size` elements per spatial axis, starting at the first number of each pair."""
    for axis, ((before, _), n) in enumerate(zip(padding, size, strict=True), start=2):
        y = y.narrow(axis, before, n)
    return y


def fold_padding(grad: torch.Tensor, padding: Pairs, size: tuple[int, ...], mode: str) -> torch.Tensor:
    """Apply the adjoint of padding: add border gradients to the positions they copied; crop those of a constant."""
    if mode in FILLED:
        return crop(grad, padding, size)
    for axis, (pair, n) in enumerate(zip(padding, size, strict=True), start=2):
        if any(pair):
            sources = torch.from_numpy(_sources(n, pair, mode)).to(grad.device)
            shape = [n if place == axis else length for place, length in enumerate(grad.shape)]
            grad = grad.new_zeros(shape).index_add(axis, sources, grad)
    return grad


def pad(x: torch.Tensor, padding: Pairs, mode: str, value: float = 0.0) -> torch.Tensor:
    """Pad x, (N, C, *size), by a pair per spatial axis, differentiably; return x itself if nothing is added."""
    if not any(sum(pair) for pair in padding):
        return x
    if mode in FILLED:
        return torch.nn.functional.pad(x, [amount for pair in reversed(padding) for amount in pair], value=value)
    for axis, pair in enumerate(padding, start=2):
        if any(pair):
            x = x.index_select(axis, torch.from_numpy(_sources(x.shape[axis], pair, mode)).to(x.device))
    return x


def padded(x: torch.Tensor, spec: ConvSpec) -> torch.Tensor:
    """Return x with the padding of a spec, a tensor on the CPU without gradients; x itself if nothing is added.

    The inner part is copied as a whole, then the margins of each axis, the last axis first: they repeat what is there.
    """
    if not any(map(any, spec.padding)):
        return x
    y = empty((*x.shape[:2], *padded_size(spec)), x.dtype)
    befores = [before for before, _ in spec.padding]
    inner = crop(y, spec.padding, spec.size)
    inner.copy_(x)
    for axis in reversed(range(spec.axes)):
        place, n, (before, after) = axis + 2, spec.size[axis], spec.padding[axis]
        lines = y
        for outer in range(axis):
            lines = lines.narrow(outer + 2, befores[outer], spec.size[outer])
        margins = zip((0, before + n), _margins(n, (before, after), spec.padding_mode), strict=True)
        for start, sources in margins:
            if not len(sources):
                continue
            margin = lines.narrow(place, start, len(sources))
            if spec.padding_mode in FILLED:
                margin.fill_(spec.padding_value)
            else:
                margin.copy_(lines.index_select(place, torch.from_numpy(sources + before)))
    return y


def padded_size(spec: ConvSpec) -> tuple[int, ...]:
    """Return the spatial size of x after padding."""
    return tuple(n + sum(pair) for n, pair in zip(spec.size, spec.padding, strict=True))


def padded_bytes(spec: ConvSpec) -> int:
    """Return the bytes of x after padding, where padding takes a copy: in modes other than zeros."""
    if not spec.pads_beyond_zeros:
        return 0
    return spec.batch * spec.in_channels * prod(padded_size(spec)) * ITEMSIZE[spec.dtype]


@lru_cache(maxsize=1024)
def unpadded(spec: ConvSpec) -> ConvSpec:
    """Return the spec of the layer for inputs that are padded already."""
    none = ((0, 0),) * spec.axes
    return replace(spec, size=padded_size(spec), padding=none, padding_mode="zeros", padding_value=0.0)


@lru_cache(maxsize=64)
def _sources(size: int, pair: tuple[int, int], mode: str) -> np.ndarray:
    return padding_sources(size, pair, mode)  # no tensor: one of inference mode could not be saved for backward


def _margins(size: int, pair: tuple[int, int], mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the sources of the positions before an axis and after it."""
    before, after = pair
    return sources_at(np.arange(-before, 0), size, mode), sources_at(np.arange(size, size + after), size, mode)


@lru_cache(maxsize=256)
def source_tables(spec: ConvSpec, pixel: int = 1) -> dict[str, torch.Tensor]:
    """Return the tables from which generated code pads, by argument name.

    `depth_sources` and `height_sources` hold the position in x of each position of the padded axis, or -1 outside;
    `width_sources` those of the positions before the last axis, then of those after it; `outside` holds the number that
    is there, in the dtype of x.

    Args:
        spec: the layer.
        pixel: number of elements of the last axis that are padded together: the interleaved channels of a picture.
    """
    *axes, (n, (before, after)) = [(1, (0, 0))] * (3 - spec.axes) + list(zip(spec.size, spec.padding, strict=True))
    tables = [padding_sources(size, pair, spec.padding_mode) for size, pair in axes]
    pixels = np.concatenate(_margins(n // pixel, (before // pixel, after // pixel), spec.padding_mode))[:, None]
    width = np.where(pixels < 0, -1, pixels * pixel + np.arange(pixel)).reshape(-1)
    tables.append(np.append(width, -1))  # an entry that may be read and is not used
    named = zip(("depth_sources", "height_sources", "width_sources"), tables, strict=True)
    outside = torch.full((1,), spec.padding_value, dtype=torch_dtype(spec.dtype), device="cpu")
    return {name: torch.from_numpy(np.ascontiguousarray(table)) for name, table in named} | {"outside": outside}


def source_of_column(code: FunctionBuilder, s: dict[str, Any], position: Int) -> Int:
    """Generate the column that a position of a padded row repeats, or -1, from the arguments of a region."""
    inside = position.below(s["width"])
    before = position + s["pad_width"]
    entry = code.choose(inside, 0, code.choose(position < 0, before, before - s["width"]))
    column: Int = code.choose(inside, position, (s["width_sources"] + entry).integer())
    return column
