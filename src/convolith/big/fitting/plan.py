"""Plan of a fit: its data, blocks and folds, and how the sums are solved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np

from convolith.big.fitting.checkpoint import contents
from convolith.big.fitting.stacks import Block, Folds, Stack
from convolith.big.layout import MOST_BLOCKS
from convolith.errors import ConvolithError
from convolith.fitting.data.pixels import Pixels
from convolith.fitting.gram import Gram
from convolith.fitting.kernel_options import KernelOptions


class FitPlan(NamedTuple):
    """Size of a fit between stores, before it reads a pixel; `cl.big.fit` passes it to `on_plan`.

    Attributes:
        shape: shape of y; of the first one, if there are several.
        block: shape of the largest blocks of it.
        blocks: number of blocks that are read, in all passes.
        images: number of pairs of images.
        passes: number of passes over the data.
        read_bytes: bytes of pixels that are read.
        predicted_bytes: peak of memory in addition to what the process has.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]
    blocks: int
    images: int
    passes: int
    read_bytes: int
    predicted_bytes: int


@dataclass(frozen=True)
class Solving:
    """Options of the solution.

    Attributes:
        options: penalties and constraints.
        sizes: kernel sizes to choose from, or None.
        ridge: the ridge, or None to choose one.
        used: number of known columns to fit: 1 for a constant.
        tolerance, errors, passes, flip, origin: as for `fit`.
    """

    options: KernelOptions
    sizes: list[tuple[int, ...]] | None
    ridge: float | None
    used: int
    tolerance: float
    errors: str
    passes: int
    flip: bool
    origin: Any

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that a refinement depends on, for the checkpoint."""
        basis = self.options.basis
        if basis is not None and not isinstance(basis, str):
            basis = hashlib.sha256(np.ascontiguousarray(basis, float).tobytes()).hexdigest()
        options = {name: str(value) for name, value in vars(replace(self.options, basis=basis)).items()}
        ridge = "auto" if self.ridge is None else self.ridge
        more = {name: getattr(self, name) for name in ("sizes", "used", "tolerance", "errors")}
        return options | {"ridge": ridge, **more}


class Plan:
    """Data of a fit: blocks and folds.

    Args:
        stacks: the sources.
        folds: division into folds.
        limits: most pixels of y of a block along each axis, or None.
        geometry: stride, padding, dilation and padding_mode.

    Attributes:
        count: number of folds.
        blocks: the blocks, in their order.
    """

    def __init__(
        self,
        stacks: Sequence[Stack],
        folds: Folds,
        limits: tuple[int, ...] | None,
        geometry: dict[str, Any],
    ) -> None:
        self.stacks, self.folds, self.limits, self.geometry = stacks, folds, limits, geometry
        self.count = folds.count(len(stacks[0].spec.size))
        blocks = sum(stack.most_blocks(folds, limits) for stack in stacks)
        if blocks > MOST_BLOCKS:
            raise ConvolithError(
                f"x has {folds.images:,} images of {stacks[0].spec.size} pixels, which are {blocks:,} blocks; expected "
                f"{MOST_BLOCKS:,} or fewer; pass a larger block="
            )
        self.blocks: list[Block] = []
        first = 0
        for number, stack in enumerate(stacks):
            self.blocks += stack.blocks(number, first, folds, limits)
            first += stack.images

    @cached_property
    def template(self) -> Gram:
        """An empty state."""
        spec = self.stacks[0].spec
        return Gram(spec.kernel_size, spec.in_channels, spec.out_channels, **self.geometry)

    def overview(self, passes: int, predicted_bytes: int) -> FitPlan:
        """Return the size of the fit."""
        first = self.stacks[0]
        sources = [source for stack in self.stacks for source, _ in stack.sources.values()]
        return FitPlan(
            shape=first.y.shape,
            block=first.block_of_y(self.limits),
            blocks=len(self.blocks) * passes,
            images=self.folds.images,
            passes=passes,
            read_bytes=passes * sum(prod(source.shape) * source.dtype.itemsize for source in sources),
            predicted_bytes=predicted_bytes,
        )

    def fingerprint(self, pixels: Pixels, origin: Any) -> dict[str, Any]:
        """Return everything that the sums depend on, for the checkpoint."""
        sources = {name: [contents(stack.sources[name][0]) for stack in self.stacks] for name in self.stacks[0].sources}
        first = self.stacks[0]
        return {
            **sources,
            "kernel_size": first.spec.kernel_size,
            **self.template.options,
            "origin": str(origin),
            "axes": [first.x_roles, first.y_roles],
            "nodata": [str(stack.nodata) for stack in self.stacks],
            "nan": pixels.nan,
            "saturation": str(pixels.saturation),
            "folds": self.folds,
            "block": self.limits,
        }

    def dtype(self) -> str:
        """Return the dtype of the kernel: the floating dtype of x, else of y, else float64."""
        kinds = [source.dtype for source in (self.stacks[0].x, self.stacks[0].y)]
        return next((kind.name for kind in kinds if kind.kind == "f"), "float64")
