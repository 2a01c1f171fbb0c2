"""Padding for engines that cannot pad themselves: any amount, any mode, any dtype."""

from __future__ import annotations

import torch

from convolith.geometry import Pairs, padding_sources


def crop(y: torch.Tensor, padding: Pairs, size: tuple[int, ...]) -> torch.Tensor:
    """Undo zero padding: return `size` elements per spatial axis, starting at the first number of each pair."""
    for axis, ((before, _), n) in enumerate(zip(padding, size, strict=True), start=2):
        y = y.narrow(axis, before, n)
    return y


def fold_padding(grad: torch.Tensor, padding: Pairs, size: tuple[int, ...], mode: str) -> torch.Tensor:
    """Apply the adjoint of padding in a mode other than zeros: add border gradients to the positions they copied."""
    for axis, (pair, n) in enumerate(zip(padding, size, strict=True), start=2):
        if any(pair):
            sources = torch.from_numpy(padding_sources(n, pair, mode)).to(grad.device)
            shape = [n if place == axis else length for place, length in enumerate(grad.shape)]
            grad = grad.new_zeros(shape).index_add(axis, sources, grad)
    return grad


def pad(x: torch.Tensor, padding: Pairs, mode: str) -> torch.Tensor:
    """Pad x, (N, C, *size), by a pair per spatial axis, differentiably; return x itself if nothing is added."""
    if not any(sum(pair) for pair in padding):
        return x
    if mode == "zeros":
        return torch.nn.functional.pad(x, [amount for pair in reversed(padding) for amount in pair])
    for axis, pair in enumerate(padding, start=2):
        if any(pair):
            sources = padding_sources(x.shape[axis], pair, mode)
            x = x.index_select(axis, torch.from_numpy(sources).to(x.device))
    return x
