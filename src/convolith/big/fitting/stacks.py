"""Stacks: an x and a y in stores, with one or several images of equal size, and their blocks.

A block is what one update of the normal equations takes: a part of an image with the pixels of x that it reads, or
several small images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np

from convolith.big.layout import LONGEST, SIDES
from convolith.big.stores.sources import Source
from convolith.big.windows import Geometry, Span
from convolith.correlation.nddata import weights_of_variance
from convolith.fitting.data.pixels import Pixels
from convolith.fitting.data.problem import Problem, read
from convolith.spec import ConvSpec

WEIGHING = ("weights", "variance")
"""Marks that give each pixel of y a weight."""
FEW_CHANNELS = 4
"""Number of channels up to which blocks have the usual size; with more, they are smaller."""

Range = tuple[int, int]


class Roles(NamedTuple):
    """Roles of the axes of a source.

    Attributes:
        axes: axes that the kernel slides along, in the order of the kernel's own.
        channel: axis of the channels, or None for a single channel.
        pairs: all other axes, along which pairs of images lie.
    """

    axes: tuple[int, ...]
    channel: int | None
    pairs: tuple[int, ...]

    def without_channel(self) -> Roles:
        """Return the roles of an array that lacks the axis of the channels."""
        last = self.channel

        def moved(numbers: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(n - (last is not None and n > last) for n in numbers)

        return Roles(moved(self.axes), None, moved(self.pairs))

    def images(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels as (N, channels, *size)."""
        channel = () if self.channel is None else (self.channel,)
        size = [pixels.shape[axis] for axis in self.axes]
        channels = 1 if self.channel is None else pixels.shape[self.channel]
        result: np.ndarray = pixels.transpose(*self.pairs, *channel, *self.axes).reshape(-1, channels, *size)
        return result

    def slices(self, pairs: Sequence[Range], spans: Sequence[Range], channels: int) -> tuple[slice, ...]:
        """Return the part of an array with some pairs and some pixels, and all channels."""
        result = [slice(0, channels)] * (len(self.axes) + len(self.pairs) + (self.channel is not None))
        for axis, part in [*zip(self.pairs, pairs, strict=True), *zip(self.axes, spans, strict=True)]:
            result[axis] = slice(*part)
        return tuple(result)


class Block(NamedTuple):
    """Part of the equations.

    Attributes:
        stack: number of the stack.
        pairs: range along each axis of pairs.
        spans: range of the pixels of y that count, along each axis of the kernel.
        fold: number of the fold.
    """

    stack: int
    pairs: tuple[Range, ...]
    spans: tuple[Range, ...]
    fold: int


class Folds(NamedTuple):
    """Division of the equations into folds: groups of images and, if the images are few, tiles of each.

    Attributes:
        groups: number of groups of images.
        each: number of tiles along each axis of an image.
        images: number of images.
    """

    groups: int
    each: int
    images: int

    def count(self, axes: int) -> int:
        """Return the number of folds."""
        return int(self.groups * self.each**axes)

    @property
    def bounds(self) -> np.ndarray:
        """First image of each group, and the number of images."""
        return np.linspace(0, self.images, self.groups + 1).astype(int)

    @classmethod
    def of(cls, folds: int, images: int, axes: int) -> Folds:
        """Return the division into about `folds` parts, as `fit` divides data in memory."""
        groups = min(images, folds)
        return cls(groups, ceil((folds / groups) ** (1 / axes)), images)


class Aligned(NamedTuple):
    """Source whose pixels say something about those of x or y.

    Attributes:
        source: the source.
        roles: what its axes are; without pairs if one image serves all of them.
        geometry: windows of it, if it lies on x; None if it lies on y.
    """

    source: Source
    roles: Roles
    geometry: Geometry | None


@dataclass(frozen=True, eq=False)
class Stack:
    """Sources of x and y.

    Attributes:
        x, y: the sources.
        x_roles, y_roles: what their axes are.
        spec: the fitted correlation, of the part of x that counts, in float64.
        geometry: windows of that part of x.
        first_x, first_y: first pixel of the parts of x and y that count, along each axis of the kernel.
        nodata: numbers of x and of y that stand for a missing pixel, or None.
        marks: the `mask`, `x_mask`, `weights` and `variance` of `fit`, those that are given.
    """

    x: Source
    y: Source
    x_roles: Roles
    y_roles: Roles
    spec: ConvSpec
    geometry: Geometry
    first_x: tuple[int, ...]
    first_y: tuple[int, ...]
    nodata: tuple[float | None, float | None]
    marks: Mapping[str, Aligned]

    @property
    def sources(self) -> dict[str, tuple[Source, Roles]]:
        """All that a block reads, by name, and what the axes are."""
        both = {"x": (self.x, self.x_roles), "y": (self.y, self.y_roles)}
        return both | {name: (one.source, one.roles) for name, one in self.marks.items()}

    @property
    def pair_shape(self) -> tuple[int, ...]:
        """Number of images along each axis of pairs."""
        return tuple(self.x.shape[axis] for axis in self.x_roles.pairs)

    @property
    def images(self) -> int:
        """Number of images."""
        return prod(self.pair_shape)

    @property
    def cropped(self) -> bool:
        """Whether the border of y is left out."""
        return tuple(self.y.shape[axis] for axis in self.y_roles.axes) != self.spec.output_size

    def block_size(self, block: Sequence[int] | None) -> tuple[int, ...]:
        """Return the most pixels of y of a block along each axis: several chunks of x if these are small."""
        sizes = self.spec.output_size
        side, longest = SIDES[len(sizes)], LONGEST[len(sizes)]
        channels = max(self.spec.in_channels, self.spec.out_channels)
        if channels > FEW_CHANNELS:
            side = longest = max(1, int(side / (channels / FEW_CHANNELS) ** (1 / len(sizes))))
        result = []
        for number, (axis, n) in enumerate(zip(self.x_roles.axes, sizes, strict=True)):
            own = n if self.x.chunks is None else max(1, self.x.chunks[axis] // self.spec.stride[number])
            own = min(own, n) if own <= longest and self.x.chunks is not None else side
            usual = own * max(1, side // own)
            result.append(min(n, usual if block is None else block[number]))
        return tuple(result)

    def images_of_block(self, size: Sequence[int]) -> int:
        """Return the most images of a block, along the last axis of pairs."""
        whole = SIDES[len(size)] ** len(size)
        fits = tuple(size) == self.spec.output_size
        return max(1, whole // max(prod(size), 1)) if fits and self.pair_shape else 1

    def block_of_y(self, block: Sequence[int] | None) -> tuple[int, ...]:
        """Return the shape of the largest blocks of y, along its own axes."""
        size, roles = self.block_size(block), self.y_roles
        result = list(self.y.shape)
        for axis, n in zip(roles.axes, size, strict=True):
            result[axis] = n
        for axis in roles.pairs:
            result[axis] = min(self.images_of_block(size), result[axis]) if axis == roles.pairs[-1] else 1
        return tuple(result)

    def most_blocks(self, folds: Folds, block: Sequence[int] | None) -> int:
        """Return an upper bound on the number of blocks."""
        size = self.block_size(block)
        tiles = prod(ceil(n / b) + folds.each for n, b in zip(self.spec.output_size, size, strict=True))
        rows = prod(self.pair_shape[:-1])
        last = self.pair_shape[-1] if self.pair_shape else 1
        return rows * (ceil(last / self.images_of_block(size)) + 1) * tiles + folds.groups * tiles

    def blocks(self, number: int, first: int, folds: Folds, block: Sequence[int] | None) -> Iterator[Block]:
        """Yield the blocks of this stack, the `number`-th one, whose first image is the `first` of all."""
        size, axes = self.block_size(block), len(self.spec.size)
        spans = [_spans(n, folds.each, b) for n, b in zip(self.spec.output_size, size, strict=True)]
        *outer, last = self.pair_shape or (1,)
        most = self.images_of_block(size)
        for row, others in enumerate(np.ndindex(*outer)):
            start = first + row * last
            cuts = sorted({0, last, *(int(b) - start for b in folds.bounds if start < b < start + last)})
            for low, high in pairwise(cuts):
                group = int(np.searchsorted(folds.bounds, start + low, side="right")) - 1
                for a in range(low, high, most):
                    run = (a, min(a + most, high))
                    pairs = (*((o, o + 1) for o in others), run) if self.pair_shape else ()
                    for parts in product(*spans):
                        tile = int(np.ravel_multi_index([fold for fold, _ in parts], (folds.each,) * axes))
                        place = tuple(span for _, span in parts)
                        yield Block(number, pairs, place, group * folds.each**axes + tile)

    def problem(self, block: Block, readers: Mapping[str, Any], pixels: Pixels, *, offset: bool) -> Problem:
        """Read a block; pixels that are missing, and those of y that read a missing pixel of x, have weight 0.

        Args:
            block: the block.
            readers: what the `sources` are read from, by their names; they can be sliced.
            pixels: `nan` and `saturation` of `fit`.
            offset: whether a constant is fitted too.
        """
        spec = self.spec
        x = self._of_x(readers["x"], self.x_roles, self.geometry, block, spec.in_channels)
        y = self._of_y(readers["y"], self.y_roles, block, spec.out_channels)
        bad, left_out = (_marks(part, nodata) for part, nodata in zip((x, y), self.nodata, strict=True))
        given: dict[str, Any] = {}
        for name, aligned in self.marks.items():
            channels = 1 if aligned.roles.channel is None else aligned.source.shape[aligned.roles.channel]
            if aligned.geometry is not None:
                bad = bad | (self._of_x(readers[name], aligned.roles, aligned.geometry, block, channels) != 0).any(1)
                continue
            found = self._of_y(readers[name], aligned.roles, block, channels)
            if name in WEIGHING:
                own = found[:, 0].astype(np.float64)
                if name == "variance":
                    own = weights_of_variance(np.where(_marks(found, aligned.source.nodata), 0.0, own))
                given["weights"] = np.broadcast_to(own, (len(y), *y.shape[2:]))
            else:
                left_out = left_out | (found != 0).any(1)
        for name, marks, part in (("x_mask", bad, x), ("mask", left_out, y)):
            if np.any(marks):
                given[name] = np.broadcast_to(marks, (len(part), *part.shape[2:]))
        return read(
            np.ascontiguousarray(x, np.float64),
            np.ascontiguousarray(y, np.float64),
            kernel_size=spec.kernel_size,
            stride=spec.stride,
            padding="valid",
            dilation=spec.dilation,
            padding_mode="zeros",
            offset=offset,
            pixels=replace(pixels, **given),
        )

    def _of_x(self, reader: Any, roles: Roles, geometry: Geometry, block: Block, channels: int) -> np.ndarray:
        """Return the pixels of x that a block reads, or of what lies on x, with padding: (N, channels, *size)."""
        window = geometry.window(roles.slices(block.pairs if roles.pairs else (), block.spans, channels))
        spans = list(window.spans)
        for axis, start in zip(roles.axes, self.first_x, strict=True):
            ranges = tuple((low + start, high + start) for low, high in spans[axis].ranges)
            spans[axis] = Span(ranges, spans[axis].take)
        window = window._replace(spans=tuple(spans))
        return roles.images(window.padded(window.read(reader)))

    def _of_y(self, reader: Any, roles: Roles, block: Block, channels: int) -> np.ndarray:
        """Return the pixels of y of a block, or of what lies on y: (N, channels, *size)."""
        place = [(low + start, high + start) for (low, high), start in zip(block.spans, self.first_y, strict=True)]
        return roles.images(np.asarray(reader[roles.slices(block.pairs if roles.pairs else (), place, channels)]))

    def read_values(self, block: Block) -> tuple[int, int]:
        """Return the number of pixels of x and of y that a block reads, padding included."""
        images = prod(high - low for low, high in block.pairs)
        counts = [high - low for low, high in block.spans]
        lengths = [
            (n - 1) * s + extent for n, s, extent in zip(counts, self.spec.stride, self.spec.extent, strict=True)
        ]
        return images * self.spec.in_channels * prod(lengths), images * self.spec.out_channels * prod(counts)


def _marks(pixels: np.ndarray, nodata: float | None) -> Any:
    """Return which pixels, (N, *size), are missing in one of their channels; False for none."""
    if nodata is None:
        return False
    return (np.isnan(pixels) if np.isnan(nodata) else pixels == nodata).any(1)


def _spans(length: int, folds: int, most: int) -> list[tuple[int, Range]]:
    """Return the ranges into which an axis is cut, none longer than `most`, each with the number of its fold."""
    result = []
    cuts = np.linspace(0, length, min(folds, length) + 1).astype(int).tolist()
    for fold, (start, stop) in enumerate(pairwise(cuts)):
        parts = np.linspace(start, stop, ceil((stop - start) / most) + 1).astype(int).tolist()
        result += [(fold, span) for span in pairwise(parts)]
    return result
