"""Comparison of one rewrite with the layers that it replaces, in float64, on images with interior and every border."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from convolith.errors import ConvolithError
from convolith.folding.graph_runner import GraphRunner
from convolith.folding.rewrite.measurement import part
from convolith.folding.rewrite.modules import module_of
from convolith.folding.search.candidates import Candidate
from convolith.folding.search.operators_as_convolutions import Values, shape_of

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""Allowed error of a folded model, relative to the largest output; in half precision, both models round each layer."""
MOST_NUMBERS = 2**22
"""Maximum number of elements of an input on which one rewrite is compared."""


@dataclass
class RewriteCheck:
    """One rewrite in float64: the replaced nodes and the new layer, to be compared.

    Attributes:
        name: name of the last replaced node.
        before, after: the replaced nodes, and the new layer.
        shape: shape of their input on the example.
        reach: upper bound on the pixels along an axis that one output reads.
        size: pixels along an axis of an image with an interior and every border.
    """

    name: str
    before: GraphRunner
    after: nn.Module
    shape: tuple[int, ...]
    reach: int
    size: int

    @staticmethod
    def of(values: Values, way: Candidate) -> RewriteCheck:
        """Return the proof of a candidate, whose nodes must still be in the graph."""
        shape = shape_of(way.source) or ()
        made = module_of(way.affine, flat=len(shape) == 2, by_channel=way.by_channel)
        conv = way.affine.conv
        reach = max(k * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
        size = 2 * reach + 3 if way.affine.corrected else reach + max(conv.stride) + 1
        return RewriteCheck(way.nodes[-1].name, part(values, way), made, shape, reach, size)

    def inputs(self) -> Iterator[torch.Tensor]:
        """Yield random tensors: with an interior and every border, smaller than the kernel, and of one pixel."""
        generator = torch.Generator().manual_seed(0)
        for size in dict.fromkeys((self.size, max(self.reach // 2, 1), 1)):
            sizes = [min(size, n) if size > self.reach else size for n in self.shape[2:]]
            images = 1 if size == self.size and sizes else 2
            shape = (images, self.shape[1], *(n + axis % 2 for axis, n in enumerate(sizes)))
            if prod(shape) <= MOST_NUMBERS:
                yield torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
            if len(self.shape) == 2:
                return

    def check(self) -> float:
        """Return the largest error, relative to the largest output.

        Raises:
            ConvolithError: if an error is larger than rounding explains.
        """
        worst, compared = 0.0, 0
        for x in self.inputs():
            try:
                expected = self.before(x.clone())
            except Exception:  # noqa: BLE001, S112 - a size that the nodes reject
                continue
            worst, compared = max(worst, difference(expected, self.after(x.clone()))), compared + 1
            if not worst <= TOLERANCE[torch.float64]:
                raise ConvolithError(
                    f"the rewrite at {self.name} has an error of {worst:.1e} for {tuple(x.shape)}, more than rounding; "
                    "please report the model"
                )
        return worst


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference relative to the largest number; infinity if shapes or non-finite numbers differ."""
    if a.shape != b.shape or a.is_floating_point() != b.is_floating_point():
        return float("inf")
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else float("inf")
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return float("inf")
    first, second = a[finite].double(), b[finite].double()
    if not first.numel():
        return 0.0
    return float((first - second).abs().max() / first.abs().max().clamp_min(torch.finfo(torch.float64).tiny))
