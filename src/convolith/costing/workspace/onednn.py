"""How oneDNN's convolution kernels lay out what they read and write, and the scratch they take, in bytes.

After oneDNN 3.12 on x86-64 with AVX-512 and without AMX, in single precision, as torch calls it. A convolution goes to
the first kernel that takes it: images and weights in blocks of channels, channels last for strided gradients of images,
or plain products with the windows of an image (im2col).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch

BLOCK, HALF = 16, 8
"""Channels of blocks: numbers in a register of AVX-512, and of AVX2."""
FEW = 3
"""Input channels up to which a gradient of weights reads the image as it is; forward reads fewer than a block so."""
SPECIAL, WIDEST = 3, 14
"""Taps along a row up to which there is code for gradients of depthwise weights, and of any weights."""
NARROW, UNROLLED, INSTRUCTION, CODE = 6, 28, 15, 2**18
"""Positions of a row unrolled at most, depthwise and otherwise; bytes of an instruction, and of code at most."""
MANY = 100
"""Taps, about, beyond which strided gradients of a single channel are not worth the kernel for strides."""
ROWS = 9
"""Rows at least that a thread takes when threads share the images in a gradient of weights."""
ALIGNED, PAGE = 128, 4096
"""Bytes beside each piece of scratch so that it can be aligned; some are aligned to pages."""
BARRIER = 2 * PAGE
"""Bytes to synchronise threads that add up what they found."""
CALL = 40
"""Bytes of an entry in the list of products that a kernel adds up."""
CACHE, ROUND = 2**18, 48
"""Numbers in a core's second cache (1 MB), which windows should fit, and what their number is rounded to."""
LIMIT = 15
"""Scratch of products per thread at most, as a multiple of operands and result."""


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
    stride: tuple[int, ...]
    before: tuple[int, ...]
    dilation: tuple[int, ...]
    item: int

    @classmethod
    def of(cls, x: torch.Tensor, w: torch.Tensor, y: torch.Tensor, groups: int, *options: Sequence[int]) -> Layer:
        """Options are strides, paddings and dilations, of the last axes if there are fewer than axes."""
        size, taps, neutral = tuple(x.shape[2:]), tuple(w.shape[2:]), (1, 0, 1)
        stride, before, dilation = (
            (none,) * (len(size) - len(each)) + tuple(each) for none, each in zip(neutral, options, strict=True)
        )
        batch, inputs, outputs, made = len(x), w.shape[1], w.shape[0] // groups, tuple(y.shape[2:])
        return cls(batch, groups, inputs, outputs, size, made, taps, stride, before, dilation, w.element_size())

    @property
    def extent(self) -> tuple[int, ...]:
        return tuple((taps - 1) * gap + 1 for taps, gap in zip(self.taps, self.dilation, strict=True))

    @property
    def after(self) -> tuple[int, ...]:
        """Padding that is read behind the end; below zero where the last positions are not read."""
        axes = zip(self.made, self.stride, self.extent, self.size, self.before, strict=True)
        return tuple((made - 1) * step + extent - size - before for made, step, extent, size, before in axes)

    @property
    def strided(self) -> bool:
        return max(self.stride) > 1

    @property
    def dilated(self) -> bool:
        return max(self.dilation) > 1

    @property
    def channelwise(self) -> bool:
        return self.groups > 1 and self.inputs == self.outputs == 1

    @property
    def depthwise(self) -> bool:
        """Whether it is of a kind that there are kernels of its own for."""
        return self.channelwise and len(self.size) == 2

    @property
    def single(self) -> bool:
        """Whether it is a product with the image, or with every other position of a flat one."""
        whole = all(made * step == size for made, step, size in zip(self.made, self.stride, self.size, strict=True))
        return prod(self.taps) == self.groups == 1 and whole and not (self.strided and len(self.size) > 2)

    @property
    def block(self) -> int:
        """Channels of a block, where all groups are of whole blocks or there is one; 0 if there are none."""
        sizes = (BLOCK, HALF, HALF // 2)
        return BLOCK if self.groups == 1 else next((n for n in sizes if self.inputs % n == self.outputs % n == 0), 0)

    def x(self, block: int = 1) -> int:
        return self.batch * self.groups * up(self.inputs, block) * prod(self.size) * self.item

    def y(self, block: int = 1) -> int:
        return self.batch * self.groups * up(self.outputs, block) * prod(self.made) * self.item

    def w(self, inputs: int = 1, outputs: int = 1) -> int:
        return self.groups * up(self.inputs, inputs) * up(self.outputs, outputs) * prod(self.taps) * self.item

    def blocked(self, block: int, scratch: int = 0) -> Kernel:
        return Kernel(self.x(block), self.w(block, block), self.y(block), scratch)

    def depthwise_blocked(self) -> Kernel:
        return Kernel(*(each // self.groups * up(self.groups, BLOCK) for each in (self.x(), self.w(), self.y())))

    def end(self, positions: int) -> int:
        """Padding behind the row that is read by its first positions."""
        return (positions - 1) * self.stride[-1] + self.extent[-1] - self.size[-1] - self.before[-1]


def forward(layer: Layer) -> Kernel:
    """Of a result: depthwise, a product, in blocks of channels, or by windows where padding or code is too long."""
    width = min(layer.made[-1], NARROW if layer.depthwise else UNROLLED)
    whole = layer.made[-1] // width * width
    padded = max(layer.before[-1], layer.end(whole)) <= width
    if layer.depthwise and padded:
        return layer.depthwise_blocked()
    if layer.single:
        return layer.blocked(BLOCK, _subsampled(layer, up(layer.inputs, BLOCK)) if layer.strided else 0)
    few = layer.groups == 1 and layer.inputs < BLOCK
    ends = 1 + (layer.before[-1] > 0) + (layer.end(whole) > 0)
    code = layer.taps[-1] * (layer.inputs if few else layer.block) * width * ends * INSTRUCTION
    if not layer.block or not padded or code > CODE:
        return Kernel(0, 0, layer.y(), _forward_products(layer))
    blocked = layer.blocked(layer.block)
    return Kernel(0, layer.w(1, BLOCK), blocked.y) if few else blocked


def input_gradient(layer: Layer) -> Kernel:
    """Of a gradient of the image: channels last if strided, otherwise as forward, or in smaller blocks."""
    if channels_last_gradient(layer):
        # Weights are padded to two blocks of inputs, or three where these fit and there are positions enough.
        three = layer.inputs % (3 * BLOCK) == 0 and (layer.single or prod(layer.made) > 81 * prod(layer.stride))
        weights = layer.w(BLOCK if layer.inputs <= BLOCK or three else 2 * BLOCK)
        several = layer.groups * layer.outputs > 1
        return Kernel(layer.x(), weights, layer.y() if several else 0, strided_scratch(layer))
    if layer.depthwise and not layer.dilated:
        return layer.depthwise_blocked()
    if layer.single:
        return layer.blocked(BLOCK, _subsampled(layer, up(layer.inputs, BLOCK)) if layer.strided else 0)
    if _is_direct(layer):
        return layer.blocked(layer.block)
    if layer.groups == 1 and not layer.strided and layer.extent[-1] - 1 - layer.before[-1] < HALF:
        return layer.blocked(HALF)
    return Kernel(layer.x(), 0, 0, _input_products(layer))


def weight_gradient(layer: Layer) -> Kernel:
    """Of a gradient of weights: by windows for depthwise ones that are large, wide ones, and much padding."""
    pads = [(before, max(0, after)) for before, after in zip(layer.before, layer.after, strict=True)]
    plain = layer.groups == 1 and layer.inputs <= FEW
    narrow = layer.stride[-1] <= layer.taps[-1] <= SPECIAL and not layer.dilated
    if layer.depthwise and narrow and all(max(pad) <= taps // 2 for pad, taps in zip(pads, layer.taps, strict=True)):
        blocked, shares = layer.depthwise_blocked(), min(threads() // -(-layer.groups // BLOCK), layer.batch)
        return blocked._replace(scratch=(shares - 1) * blocked.w + ALIGNED if shares > 1 else 0)
    if layer.single:
        return layer.blocked(BLOCK, shared_scratch(layer))
    high, deep = layer.extent[-2] > layer.size[-2], any(map(any, pads[:-2]))
    inside = all(max(pad) < extent for pad, extent in zip(pads, layer.extent, strict=True))
    flat = max(pads[-2]) <= layer.extent[-2] // 2 and max(pads[-1]) <= UNROLLED
    apart = layer.dilation[-2] > 1 and (layer.stride[-2] > 1 or high)
    if inside and flat and not apart and layer.taps[-1] <= WIDEST:
        if plain:
            return Kernel(0, layer.w(1, BLOCK), layer.y(BLOCK), shared_scratch(layer))
        if layer.block == BLOCK and (layer.groups > 1 or layer.inputs >= BLOCK):
            return layer.blocked(BLOCK, shared_scratch(layer))
    whole = layer.groups == 1 or layer.inputs % HALF == layer.outputs % HALF == 0
    if inside and whole and not (deep or layer.dilated or high) and layer.taps[-1] < WIDEST:
        kernel = layer.blocked(HALF, _reduced_scratch(layer))
        return kernel._replace(x=0, w=layer.w(1, HALF)) if plain and layer.inputs == FEW else kernel
    return Kernel(0, layer.w(), 0, _weight_products(layer))


def channels_last_weights(layer: Layer, *, back: bool) -> int:
    """Weights for images with channels last, forward or back, and scratch."""
    if layer.channelwise and (layer.depthwise or not back):
        return layer.w()
    if layer.groups > 1:
        return layer.w(layer.block or BLOCK, layer.block or BLOCK)
    scratch = strided_scratch(layer) if back and layer.strided else _listed(layer)
    return scratch + (layer.w(BLOCK, 1) if back else layer.w(1, BLOCK))


def channels_last_gradient(layer: Layer) -> bool:
    """Whether a gradient of the image is made by the kernel for strides, which reads and writes channels last."""
    if not layer.strided or layer.dilated or layer.depthwise:
        return False
    if layer.groups > 1:
        return layer.outputs > (BLOCK if _is_direct(layer) else HALF)
    return layer.inputs > 1 or prod(layer.taps) <= MANY or not _is_direct(layer)


def strided_scratch(layer: Layer) -> int:
    """A padded slope for each thread and what is there of it; a row of the image, if it is no multiple of strides."""
    axes = zip(layer.made, layer.stride, layer.extent, layer.before, layer.after, strict=True)
    padded = prod(
        made + max(0, extent - 1 - before) // step + max(0, extent - 1 - after) // step
        for made, step, extent, before, after in axes
    )
    pieces = [up(padded * layer.groups * layer.outputs, PAGE) * layer.item, PAGE]
    if layer.size[-1] % layer.stride[-1]:
        row = up(layer.size[-1], layer.stride[-1]) * layer.stride[-1]
        pieces.append(up(row * layer.groups * layer.inputs, PAGE) * layer.item)
    return sum(threads() * piece + PAGE for piece in pieces) + _listed(layer)


def shared_scratch(layer: Layer, *, last: bool = False) -> int:
    """Weights, and what a bias would take, of each further thread that shares the batch; subsampled images.

    In half precision weights of every thread, and an image and its slope turned round, about.
    """
    few = layer.inputs if layer.inputs <= (BLOCK if last else FEW) and not layer.single else BLOCK
    outs, ins = -(-layer.outputs // BLOCK), -(-layer.inputs // BLOCK)
    shares, used = _sharing(layer, outs, ins, few, rows=not last)
    if layer.item < 4:
        turned = layer.x() // layer.batch * (layer.inputs >= BLOCK) + layer.y(BLOCK) // layer.batch
        return shares * (2 * layer.w(few, BLOCK) + turned * (last or not layer.single)) + 2 * BARRIER
    found = layer.w(few, BLOCK) + (0 if layer.single else layer.groups * outs * BLOCK * layer.item)
    scratch = (shares - 1) * found + ALIGNED + BARRIER if shares > 1 else 0
    if layer.single and layer.strided:
        wide = min(range(min(5, ins), ins + 1), key=lambda blocks: (up(ins, blocks) / ins, blocks))
        scratch += _subsampled(layer, wide * BLOCK, used)
    return scratch


def _sharing(layer: Layer, outs: int, ins: int, few: int, *, rows: bool) -> tuple[int, int]:
    """Threads that share the batch, and all: such that least is moved, or clearly less is computed."""
    rows = rows and not layer.single and layer.made[-2] > ROWS and len(layer.size) == 2 and layer.dilation[-2] == 1
    positions, made = prod(layer.size) // prod(layer.stride), prod(layer.made)
    per_in: float
    per_out: float
    if layer.single:
        unit = next((n for n in range(BLOCK, 6, -1) if made % n == 0), layer.made[-1])
        parts = units_in = units_out = layer.batch * (made // unit)
        per_in, per_out, kept = BLOCK * unit, BLOCK * unit, 12 * BLOCK**2
    else:
        units_in, units_out = (layer.batch * (high if rows else 1) for high in (layer.size[-2], layer.made[-2]))
        per_in, per_out = few * positions * layer.batch / units_in, BLOCK * made * layer.batch / units_out
        parts = layer.batch * prod(layer.made[:-2]) * (max(1, layer.made[-2] // ROWS) if rows else 1)
        kept = 8 * prod(layer.taps) * few * BLOCK

    def work(way: tuple[int, int, int]) -> tuple[float, float]:
        """Numbers that are moved, and blocks that are computed, by a thread."""
        of_outs, of_ins = -(-outs // way[1]), -(-ins // way[2])
        read, made = (-(-units // way[0]) for units in (units_in, units_out))
        return read * of_ins * per_in + made * of_outs * per_out + kept * of_outs * of_ins, made * of_outs * of_ins

    free = threads() // layer.groups
    ways = [
        (batch, out, min(free // batch // out, ins))
        for batch in range(1, min(free, parts) + 1)
        for out in range(1, min(free // batch, outs) + 1)
    ]
    best = min(reversed(ways), key=lambda way: work(way)[0], default=(1, 1, 1))
    least = work(best)[0]
    for way in [] if layer.single else ways:
        moved, computed = work(way)
        if (moved < 1.1 * least and computed <= work(best)[1]) or 4 * computed <= 3 * work(best)[1]:
            best = way
    return best[0], prod(best)


def _is_direct(layer: Layer) -> bool:
    """Whether a gradient of the image is made in blocks: rows are unrolled evenly, in few instructions."""
    size, step, reach = layer.size[-1], layer.stride[-1], layer.extent[-1] - 1
    width = min(size, UNROLLED)
    rest = layer.after[-1] + size % width
    ends = 1 + (reach - layer.before[-1] >= step) + (reach - max(0, rest) >= step)
    even = size <= width or (rest >= 0 and width % step == 0)
    fits = layer.taps[-1] * layer.block * width * ends * INSTRUCTION <= CODE
    return layer.block > 0 and fits and even and not (layer.dilated and layer.strided)


def _subsampled(layer: Layer, channels: int, used: int | None = None) -> int:
    """Every other position of an image, for each thread."""
    return (used or threads()) * channels * prod(layer.made) * layer.item + ALIGNED


def _listed(layer: Layer) -> int:
    """Products to add up, for each thread."""
    return threads() * up(up(prod(layer.taps) * CALL, PAGE), CALL) + PAGE


def _reduced_scratch(layer: Layer) -> int:
    """Weights in small blocks of each further thread, where threads are more than blocks and share the batch."""
    blocks = layer.w(HALF, HALF) // (HALF**2 * prod(layer.taps) * layer.item)
    shares = min(threads() // min(blocks, threads()), layer.batch * prod(layer.made[:-2]))
    return (shares - 1) * layer.w(HALF, HALF) + PAGE + BARRIER if shares > 1 else 0


def _forward_products(layer: Layer) -> int:
    """Windows of as many positions as fit the cache, for each thread."""
    taps, positions, inputs = prod(layer.taps), prod(layer.made[-2:]), layer.inputs
    fit = 0
    while inputs and fit < BLOCK:
        fit = (CACHE - taps * layer.outputs * inputs) // ((prod(layer.stride) + taps) * inputs + layer.outputs)
        inputs = inputs if fit >= BLOCK else inputs // 2
    fit = min(fit // ROUND * ROUND or fit // BLOCK * BLOCK, positions)
    fit = min(fit, -(-layer.batch * layer.groups * positions // threads()))
    return threads() * max(1, inputs) * taps * fit * layer.item + ALIGNED if windows(layer) else 0


def _input_products(layer: Layer) -> int:
    """Windows of all positions of an image; for each thread, if images or groups are shared out."""
    positions, size, free = prod(layer.made[-2:]), prod(layer.size), threads()
    blocks = -(-size // BLOCK) * -(-layer.inputs // BLOCK)
    outer, inner = (work / up(work, free) for work in (layer.groups * layer.batch, blocks))
    fair = outer >= inner or size * layer.inputs * layer.outputs / free < 2**16
    shared = fair and (positions / free < 512 or prod(layer.taps) < 64) and (layer.batch > 1 or layer.groups > 2)
    return _limited(layer, free if shared else 1, 0, 0.1)


def _weight_products(layer: Layer) -> int:
    """Windows of all positions of an image, and weights four times; for each thread, if images are shared out."""
    free = threads() if prod(layer.made[-2:]) / threads() < 256 and (layer.batch > 1 or layer.groups > 2) else 1
    least = 4 * free * (layer.w() + layer.inputs * prod(layer.taps) * BLOCK)
    free = free if least < _limit(layer) else 1
    return _limited(layer, free, free * 4 * layer.w() + ALIGNED, 0.05)


def _limited(layer: Layer, free: int, beside: int, part: float) -> int:
    """Windows of all positions, beside something; of a part of the positions that fit, where they do not all."""
    each, positions = free * layer.inputs * prod(layer.taps) * layer.item, prod(layer.made[-2:])
    room = _limit(layer) - beside
    positions = positions if each * positions <= room else max(BLOCK, int(room // each * part))
    return beside + (each * positions + ALIGNED if windows(layer) else 0)


def _limit(layer: Layer) -> int:
    return min(2**30, LIMIT * threads() * (layer.x() + layer.w() + layer.y()))


def windows(layer: Layer) -> bool:
    """Whether windows must be copied, and the image cannot be read as it is."""
    return prod(layer.taps) > 1 or layer.size != layer.made


def threads() -> int:
    """Threads of torch, and of oneDNN."""
    return torch.get_num_threads()


def up(number: int, multiple: int) -> int:
    """The next multiple of a number."""
    return -(-number // multiple) * multiple
