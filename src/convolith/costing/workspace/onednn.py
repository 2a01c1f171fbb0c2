"""Bytes of operands and scratch in the memory layouts of oneDNN's convolution kernels.

A simplified model of oneDNN 3.12 as torch 2.13 calls it on x86-64. Channels are padded to blocks of as many channels as
a vector register has float32 lanes, except for an image with fewer channels than a block and for the input gradient of
a strided layer. Layers without such blocks copy windows (im2col). Threads that share a batch have their own copies of
the weights. `python -m bench cost` compares the model with torch's allocator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch

FLOAT32_LANES = {"AVX512": 16, "AVX2": 8}
"""Number of float32 lanes of a vector register, by CPU capability; 4 for all other CPUs."""
AVX512_LANES = 16
"""Number of lanes (AVX-512) for which oneDNN has blocked kernels for small groups, and for more weight gradients."""
MAX_DEPTHWISE_GRADIENT_WIDTH, MAX_BLOCKED_WIDTH = 3, 13
"""Largest kernel widths that oneDNN supports in depthwise weight gradients, and with whole blocks of channels."""
NARROW_BLOCK = 8
"""Number of channels per block in a weight gradient with fewer input channels than register lanes."""
PAGE = 4096
"""Alignment of some scratch buffers, in bytes."""
L2_BYTES = 2**20
"""Bytes of windows that a thread copies at a time: the size of a core's L2 cache."""
MAX_IM2COL_RATIO = 15
"""Upper bound on a weight gradient's windows per thread, relative to operands and result; else a part is copied."""


class KernelMemory(NamedTuple):
    """Bytes of a kernel's own copies of the image, the weights and the result (0: used in place), and of scratch."""

    x: int
    w: int
    y: int
    scratch: int = 0


@dataclass(frozen=True)
class Layer:
    """Sizes of a convolution: channels of one group, spatial sizes, and the padding before each axis."""

    batch: int
    groups: int
    in_channels: int
    out_channels: int
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    strided: bool
    dilated: bool
    padding: tuple[int, ...]
    itemsize: int

    @classmethod
    def from_tensors(
        cls, x: torch.Tensor, w: torch.Tensor, y: torch.Tensor, groups: int, *options: Sequence[int]
    ) -> Layer:
        """Return the sizes for tensors and options: strides, paddings and dilations."""
        stride, padding, dilation = options
        batch, inputs, outputs = len(x), w.shape[1], w.shape[0] // groups
        sizes = tuple(x.shape[2:]), tuple(y.shape[2:]), tuple(w.shape[2:])
        flags = max(stride, default=1) > 1, max(dilation, default=1) > 1
        return cls(batch, groups, inputs, outputs, *sizes, *flags, tuple(padding), w.element_size())

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.in_channels == self.out_channels == 1

    @property
    def depthwise_2d(self) -> bool:
        """Whether oneDNN has depthwise kernels for the layer: one channel per group and two spatial axes."""
        return self.depthwise and len(self.input_size) == 2

    @property
    def block_channels(self) -> int:
        """Number of channels per block; 0 if a group's channels are not a multiple of any block size."""
        if self.groups == 1:
            return lanes()
        sizes = (16, 8, 4) if lanes() == AVX512_LANES else (lanes(),)
        return next((n for n in sizes if self.in_channels % n == self.out_channels % n == 0), 0)

    def input_bytes(self, block: int = 1) -> int:
        return self.batch * self.groups * round_up(self.in_channels, block) * prod(self.input_size) * self.itemsize

    def output_bytes(self, block: int = 1) -> int:
        return self.batch * self.groups * round_up(self.out_channels, block) * prod(self.output_size) * self.itemsize

    def weight_bytes(self, inputs: int = 1, outputs: int = 1) -> int:
        return (
            self.groups
            * round_up(self.in_channels, inputs)
            * round_up(self.out_channels, outputs)
            * prod(self.kernel_size)
            * self.itemsize
        )

    def blocked(self, scratch: int = 0) -> KernelMemory:
        """Return the memory with all operands in blocks of channels, or (depthwise) of groups."""
        if self.depthwise_2d:
            x, w, y = (
                n // self.groups * round_up(self.groups, lanes())
                for n in (self.input_bytes(), self.weight_bytes(), self.output_bytes())
            )
            return KernelMemory(x, w, y, scratch)
        if self.strided and prod(self.kernel_size) == 1:  # the positions that the stride selects are copied first
            scratch += (
                threads() * round_up(self.in_channels, self.block_channels) * prod(self.output_size) * self.itemsize
            )
        return KernelMemory(
            self.input_bytes(self.block_channels),
            self.weight_bytes(self.block_channels, self.block_channels),
            self.output_bytes(self.block_channels),
            scratch,
        )


def forward(layer: Layer) -> KernelMemory:
    """Return the memory of a forward pass: operands in blocks of channels, or im2col windows."""
    if layer.depthwise_2d:
        return layer.blocked()
    if layer.depthwise:
        return KernelMemory(layer.input_bytes(), layer.weight_bytes(), layer.output_bytes())
    few = layer.groups == 1 and layer.in_channels < lanes() and prod(layer.kernel_size) > 1
    if layer.kernel_size[-1] * (layer.in_channels if few else layer.block_channels) not in range(
        1, MAX_BLOCKED_WIDTH * lanes() + 1
    ):
        return KernelMemory(0, 0, layer.output_bytes(), im2col_bytes(layer))
    kernel = layer.blocked()
    return kernel._replace(x=0, w=layer.weight_bytes(1, layer.block_channels)) if few else kernel


def input_gradient(layer: Layer) -> KernelMemory:
    """Return the memory of an input gradient: channels-last operands if strided, else blocks of channels or windows."""
    if has_channels_last_input_gradient(layer):
        padded = threads() * layer.output_bytes() // layer.batch
        return KernelMemory(
            layer.input_bytes(),
            layer.weight_bytes(lanes()),
            layer.output_bytes() * (layer.groups * layer.out_channels > 1),
            padded,
        )
    if layer.depthwise_2d or layer.block_channels:
        return layer.blocked()
    return KernelMemory(layer.input_bytes(), 0, 0, im2col_bytes(layer))


def weight_gradient(layer: Layer) -> KernelMemory:
    """Return the memory of a weight gradient: operands in blocks of channels, or windows if dilated, wide or large."""
    padded_depth, taller = any(layer.padding[:-2]), layer.kernel_size[-2] > layer.input_size[-2]
    missing = not layer.block_channels or (lanes() < AVX512_LANES and (layer.dilated or padded_depth or taller))
    if layer.kernel_size[-1] > MAX_BLOCKED_WIDTH or (
        layer.kernel_size[-1] > MAX_DEPTHWISE_GRADIENT_WIDTH if layer.depthwise_2d else missing
    ):
        return KernelMemory(0, layer.weight_bytes(), 0, weight_im2col_bytes(layer))
    scratch = weight_copy_bytes(layer)
    if layer.groups == 1 and layer.in_channels <= 3 and prod(layer.kernel_size) > 1:
        return KernelMemory(0, layer.weight_bytes(1, lanes()), layer.output_bytes(lanes()), scratch)
    if layer.groups == 1 and layer.in_channels < lanes() and prod(layer.kernel_size) > 1:
        return KernelMemory(
            layer.input_bytes(NARROW_BLOCK),
            layer.weight_bytes(NARROW_BLOCK, NARROW_BLOCK),
            layer.output_bytes(NARROW_BLOCK),
            scratch,
        )
    return layer.blocked(scratch)


def weight_im2col_bytes(layer: Layer) -> int:
    """Return the bytes of a whole image's windows and four copies of the weights, for each thread that has an image."""
    positions = prod(layer.output_size[-2:])
    active = threads() if positions < 256 * threads() and (layer.batch > 1 or layer.groups > 2) else 1
    per_position, weight_copies = (
        active * layer.in_channels * prod(layer.kernel_size) * layer.itemsize,
        4 * active * layer.weight_bytes(),
    )
    room = (
        MAX_IM2COL_RATIO * threads() * (layer.input_bytes() + layer.weight_bytes() + layer.output_bytes())
        - weight_copies
    )
    return weight_copies + (per_position * positions if per_position * positions <= room else room // 20)


def channels_last_weight_bytes(layer: Layer, *, back: bool) -> int:
    """Return the bytes of weights for channels-last images, in the forward pass or (`back`) in the input gradient."""
    if layer.depthwise and (layer.depthwise_2d or not back):
        return layer.weight_bytes()
    if layer.groups > 1:
        return layer.weight_bytes(layer.block_channels or lanes(), layer.block_channels or lanes())
    return layer.weight_bytes(lanes(), 1) if back else layer.weight_bytes(1, lanes())


def has_channels_last_input_gradient(layer: Layer) -> bool:
    """Return whether oneDNN computes the input gradient by its kernel for strides, whose images are channels-last."""
    return (
        layer.strided and not layer.dilated and not layer.depthwise_2d and (layer.groups == 1 or layer.out_channels > 8)
    )


def weight_copy_bytes(layer: Layer) -> int:
    """Return the bytes of additional copies of the weights: threads that outnumber the blocks share the batch."""
    blocks = layer.groups * -(-layer.out_channels // lanes()) * -(-layer.in_channels // lanes())
    return (min(max(threads() // blocks, 1), layer.batch) - 1) * layer.weight_bytes(lanes(), lanes())


def needs_im2col(layer: Layer) -> bool:
    """Return whether windows must be copied, since the products cannot read the image directly."""
    return prod(layer.kernel_size) > 1 or layer.input_size != layer.output_size


def im2col_bytes(layer: Layer) -> int:
    """Return the bytes of the windows that all threads copy at a time."""
    if not needs_im2col(layer):
        return 0
    per_position = layer.in_channels * prod(layer.kernel_size) * layer.itemsize
    return threads() * min(per_position * prod(layer.output_size[-2:]), max(L2_BYTES, per_position * lanes()))


def lanes() -> int:
    """Return the number of float32 lanes of a vector register."""
    return FLOAT32_LANES.get(torch.backends.cpu.get_cpu_capability(), 4)


def threads() -> int:
    """Return the number of threads of torch and oneDNN."""
    return torch.get_num_threads()


def round_up(number: int, multiple: int) -> int:
    """Round `number` up to a multiple of `multiple`."""
    return -(-number // multiple) * multiple
