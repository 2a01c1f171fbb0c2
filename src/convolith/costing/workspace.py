"""What torch's CPU kernels of a convolution hold for themselves while they run, as its allocator sees it.

oneDNN reorders what comes in into blocks of 16 channels and what goes out back again; torch's own code unrolls the
windows of a whole batch (im2col) into a matrix. The sequences below are what the allocator's events show, with torch
2.13 on x86-64 with AVX-512; each entry is a number of bytes, taken (above zero) or given back (below).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from math import prod
from typing import Any

import torch

BLOCK = 16
"""Channels of oneDNN's blocks."""
FEW = 4
"""Input channels up to which oneDNN leaves an image's gradient as it is; it reads fewer than a block as they are."""


SPECIAL = 3
"""Taps along an axis up to which oneDNN has code of its own for depthwise weights of channels_last images."""


def most(steps: Iterable[float]) -> int:
    """The most that is held at once."""
    return int(max(accumulate(steps), default=0))


def forward(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor, groups: int) -> int:
    """Bytes at most while `y` is made, with y itself."""
    out = _bytes(y)
    if uses_onednn(x):
        if _channels_last(x):
            return out + (2 - _is_laid_out(w)) * _bytes(w)
        blocked, weights = _blocked(y), _blocked_weights(w, groups)
        image = _blocked(x) if x.shape[1] >= BLOCK else 0
        return most([image, weights, blocked, -weights, -image, out, -blocked])
    if groups > 1:
        return 2 * out + _columns(x, w, y) // (groups * len(x))
    return _columns(x, w, y) + out


def backward(
    grad: torch.Tensor, x: torch.Tensor, w: torch.Tensor, groups: int, mask: tuple[bool, ...], *, strided: bool
) -> int:
    """Bytes at most while gradients of x and w are made, with these themselves."""
    of_input, of_weight = _bytes(x) * mask[0], _bytes(w) * mask[1]
    if not uses_onednn(x):
        if groups > 1:
            return 2 * of_input + of_weight + _columns(x, w, grad) // (groups * len(x))
        return of_input + of_weight + _columns(x, w, grad)
    if _channels_last(x):
        copies = 3 + mask[0] - _is_laid_out(w)
        if groups == x.shape[1] and max(w.shape[2:]) > SPECIAL and mask[1]:
            copies = BLOCK * BLOCK + 2  # of every channel by itself a block of both
        return of_input + copies * _bytes(w)
    slope, weights, image = _blocked(grad), _blocked_weights(w, groups), _blocked(x)
    steps: list[int] = []
    if mask[0]:
        made = _bytes(x) if strided or x.shape[1] <= FEW else image
        given, again = _bytes(grad) if strided else slope, of_input * strided
        steps += [given, weights, made, -weights, -given, of_input, again, -again, -made]
    if mask[1]:
        read = 0 if x.shape[1] <= FEW else image
        steps += [read, slope, weights, weights, -weights, -read, -slope, of_weight, -weights]
    return most(steps)


FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def _channels_last(x: torch.Tensor) -> bool:
    return x.ndim in FORMATS and not x.is_contiguous() and _is_laid_out(x)


def _is_laid_out(tensor: torch.Tensor) -> bool:
    """Whether channels stand last in memory, perhaps because it makes no difference."""
    return tensor.ndim in FORMATS and tensor.is_contiguous(memory_format=FORMATS[tensor.ndim])


def uses_onednn(x: torch.Tensor) -> bool:
    """Whether torch hands a convolution of x to oneDNN."""
    floating = x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return bool(torch.backends.mkldnn.enabled) and torch._C._has_mkldnn and floating and x.is_cpu


def of_operator(func: Any, args: tuple[Any, ...], out: Any) -> int | None:
    """Bytes at most while a convolution runs, with what comes out; None for other operators."""
    name = func._schema.name
    if name == "aten::convolution" and not args[6]:
        return forward(plane(args[0]), plane(args[1]), plane(out), args[8])
    if name == "aten::convolution_backward" and not args[7]:
        return backward(
            plane(args[0]), plane(args[1]), plane(args[2]), args[9], tuple(args[10]), strided=max(args[4]) > 1
        )
    return None


def kept_by(func: Any, args: tuple[Any, ...]) -> int:
    """Bytes that an operator keeps for its backward pass in a tensor whose size fake tensors do not know.

    oneDNN's LSTM: the gates of every cell, and eleven rows of hidden units or their gradients, about.
    """
    if func._schema.name != "aten::mkldnn_rnn_layer" or not args[-1]:
        return 0
    steps, images, units = args[0].shape[0], args[0].shape[1], args[10]
    laid_out = -(-units // BLOCK) * BLOCK
    return int(images * (steps * 4 * units + 11 * (steps + 1) * laid_out) * args[0].element_size())


def plane(tensor: torch.Tensor) -> torch.Tensor:
    """Signals are images of one row."""
    return tensor.unsqueeze(2) if tensor.ndim == 3 else tensor


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _blocked(tensor: torch.Tensor) -> int:
    """Of an image whose channels fill blocks."""
    channels = -(-tensor.shape[1] // BLOCK) * BLOCK
    return _bytes(tensor) // max(tensor.shape[1], 1) * channels


def _blocked_weights(w: torch.Tensor, groups: int) -> int:
    if groups > 1:
        return _bytes(w)
    inputs = w.shape[1] if w.shape[1] <= FEW else -(-w.shape[1] // BLOCK) * BLOCK
    return -(-w.shape[0] // BLOCK) * BLOCK * inputs * prod(w.shape[2:]) * w.element_size()


def _columns(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> int:
    """The windows of a whole batch; a single tap reads the image as it is."""
    if prod(w.shape[2:]) == 1 and x.shape[2:] == y.shape[2:]:
        return 0
    return len(x) * x.shape[1] * prod(w.shape[2:]) * prod(y.shape[2:]) * x.element_size()
