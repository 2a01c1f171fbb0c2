"""How oneDNN's convolution kernels lay out what they read and write, and the scratch that they take, in bytes.

A simple rule in place of oneDNN's own, derived from oneDNN 3.12 as torch 2.13 calls it on x86-64: channels are padded
to blocks of as many numbers as a vector register holds; an image with fewer channels than a block, and the gradient of
a strided layer's image, are not; layers without such blocks copy windows (im2col). Threads that share a batch have a
copy of the weights each. `python -m bench cost` holds it against torch's allocator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch

REGISTER = {"AVX512": 16, "AVX2": 8}
"""Float32 numbers of a vector register; four in others."""
WIDE = 16
"""Numbers of the registers (AVX-512) for which there are kernels of small groups, and more gradients of weights."""
SPECIAL, WIDEST = 3, 13
"""Taps along a row up to which there is code for gradients of depthwise weights, and for whole blocks of channels."""
SMALL = 8
"""Channels of the blocks in a gradient of weights that has fewer input channels than a register has numbers."""
PAGE = 4096
"""Bytes that some pieces of scratch are aligned to."""
FIT = 2**20
"""Bytes of windows that a thread copies at a time: a core's second cache."""
LIMIT = 15
"""Windows of a gradient of weights per thread at most, as a multiple of operands and result; else a part of them."""


class Kernel(NamedTuple):
    """Bytes of the image, the weights and the result as a kernel lays them out (0: read in place), and of scratch."""

    x: int
    w: int
    y: int
    scratch: int = 0


@dataclass(frozen=True)
class Layer:
    """Sizes of a convolution; channels are those of one group."""

    batch: int
    groups: int
    inputs: int
    outputs: int
    size: tuple[int, ...]
    made: tuple[int, ...]
    taps: tuple[int, ...]
    strided: bool
    dilated: bool
    before: tuple[int, ...]
    item: int

    @classmethod
    def of(cls, x: torch.Tensor, w: torch.Tensor, y: torch.Tensor, groups: int, *options: Sequence[int]) -> Layer:
        """Options are strides, paddings and dilations."""
        stride, before, dilation = options
        batch, inputs, outputs = len(x), w.shape[1], w.shape[0] // groups
        sizes = tuple(x.shape[2:]), tuple(y.shape[2:]), tuple(w.shape[2:])
        moved = max(stride, default=1) > 1, max(dilation, default=1) > 1
        return cls(batch, groups, inputs, outputs, *sizes, *moved, tuple(before), w.element_size())

    @property
    def channelwise(self) -> bool:
        return self.groups > 1 and self.inputs == self.outputs == 1

    @property
    def depthwise(self) -> bool:
        """Whether it is of a kind that there are kernels of its own for."""
        return self.channelwise and len(self.size) == 2

    @property
    def block(self) -> int:
        """Channels of a block; 0 where groups are of no whole blocks."""
        if self.groups == 1:
            return lanes()
        sizes = (16, 8, 4) if lanes() == WIDE else (lanes(),)
        return next((n for n in sizes if self.inputs % n == self.outputs % n == 0), 0)

    def x(self, block: int = 1) -> int:
        return self.batch * self.groups * up(self.inputs, block) * prod(self.size) * self.item

    def y(self, block: int = 1) -> int:
        return self.batch * self.groups * up(self.outputs, block) * prod(self.made) * self.item

    def w(self, inputs: int = 1, outputs: int = 1) -> int:
        return self.groups * up(self.inputs, inputs) * up(self.outputs, outputs) * prod(self.taps) * self.item

    def blocked(self, scratch: int = 0) -> Kernel:
        """Return every operand in blocks of channels, or of groups where each is a channel."""
        if self.depthwise:
            x, w, y = (n // self.groups * up(self.groups, lanes()) for n in (self.x(), self.w(), self.y()))
            return Kernel(x, w, y, scratch)
        if self.strided and prod(self.taps) == 1:  # every other position is copied first
            scratch += threads() * up(self.inputs, self.block) * prod(self.made) * self.item
        return Kernel(self.x(self.block), self.w(self.block, self.block), self.y(self.block), scratch)


def forward(layer: Layer) -> Kernel:
    """Return what a result takes: blocks of channels, or windows."""
    if layer.depthwise:
        return layer.blocked()
    if layer.channelwise:
        return Kernel(layer.x(), layer.w(), layer.y())
    few = layer.groups == 1 and layer.inputs < lanes() and prod(layer.taps) > 1
    if layer.taps[-1] * (layer.inputs if few else layer.block) not in range(1, WIDEST * lanes() + 1):
        return Kernel(0, 0, layer.y(), window_bytes(layer))
    kernel = layer.blocked()
    return kernel._replace(x=0, w=layer.w(1, layer.block)) if few else kernel


def input_gradient(layer: Layer) -> Kernel:
    """Return what a gradient of the image takes: channels last if strided, otherwise as forward."""
    if channels_last_gradient(layer):
        padded = threads() * layer.y() // layer.batch
        return Kernel(layer.x(), layer.w(lanes()), layer.y() * (layer.groups * layer.outputs > 1), padded)
    if layer.depthwise or layer.block:
        return layer.blocked()
    return Kernel(layer.x(), 0, 0, window_bytes(layer))


def weight_gradient(layer: Layer) -> Kernel:
    """Return what a gradient of weights takes: blocks of channels, or windows if dilated, wide or large."""
    deep, high = any(layer.before[:-2]), layer.taps[-2] > layer.size[-2]
    missing = not layer.block or (lanes() < WIDE and (layer.dilated or deep or high))
    if layer.taps[-1] > WIDEST or (layer.taps[-1] > SPECIAL if layer.depthwise else missing):
        return Kernel(0, layer.w(), 0, _weight_windows(layer))
    scratch = shared_scratch(layer)
    if layer.groups == 1 and layer.inputs <= 3 and prod(layer.taps) > 1:
        return Kernel(0, layer.w(1, lanes()), layer.y(lanes()), scratch)
    if layer.groups == 1 and layer.inputs < lanes() and prod(layer.taps) > 1:
        return Kernel(layer.x(SMALL), layer.w(SMALL, SMALL), layer.y(SMALL), scratch)
    return layer.blocked(scratch)


def _weight_windows(layer: Layer) -> int:
    """Return the bytes of windows of whole images, and of the weights four times, for each thread that has an image."""
    positions = prod(layer.made[-2:])
    used = threads() if positions < 256 * threads() and (layer.batch > 1 or layer.groups > 2) else 1
    each, beside = used * layer.inputs * prod(layer.taps) * layer.item, 4 * used * layer.w()
    room = LIMIT * threads() * (layer.x() + layer.w() + layer.y()) - beside
    return beside + (each * positions if each * positions <= room else room // 20)


def channels_last_weights(layer: Layer, *, back: bool) -> int:
    """Weights for images with channels last, forward or back."""
    if layer.channelwise and (layer.depthwise or not back):
        return layer.w()
    if layer.groups > 1:
        return layer.w(layer.block or lanes(), layer.block or lanes())
    return layer.w(lanes(), 1) if back else layer.w(1, lanes())


def channels_last_gradient(layer: Layer) -> bool:
    """Whether a gradient of the image is made by the kernel for strides, which reads and writes channels last."""
    return layer.strided and not layer.dilated and not layer.depthwise and (layer.groups == 1 or layer.outputs > 8)


def shared_scratch(layer: Layer) -> int:
    """Return the bytes of weights of each further thread, where threads are more than blocks and share the batch."""
    blocks = layer.groups * -(-layer.outputs // lanes()) * -(-layer.inputs // lanes())
    return (min(max(threads() // blocks, 1), layer.batch) - 1) * layer.w(lanes(), lanes())


def windows(layer: Layer) -> bool:
    """Return whether windows must be copied, and the image cannot be read as it is."""
    return prod(layer.taps) > 1 or layer.size != layer.made


def window_bytes(layer: Layer) -> int:
    """Return the bytes of windows, of as many positions as a thread copies at a time."""
    if not windows(layer):
        return 0
    each = layer.inputs * prod(layer.taps) * layer.item
    return threads() * min(each * prod(layer.made[-2:]), max(FIT, each * lanes()))


def lanes() -> int:
    """Return the float32 numbers of a vector register."""
    return REGISTER.get(torch.backends.cpu.get_cpu_capability(), 4)


def threads() -> int:
    """Return the threads of torch, and of oneDNN."""
    return torch.get_num_threads()


def up(number: int, multiple: int) -> int:
    """Return the next multiple of a number."""
    return -(-number // multiple) * multiple
