"""Removal of axes that have a single position: an image with one row becomes a signal."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from convolith.spec import ConvSpec


@lru_cache(maxsize=4096)
def collapsed(spec: ConvSpec) -> ConvSpec:
    """Remove unpadded axes of one position and one tap, but not all axes; contiguous arrays need no copy."""
    per_axis = zip(spec.size, spec.extent, spec.padding, strict=True)
    kept = [axis for axis, (n, e, pair) in enumerate(per_axis) if n > 1 or e > 1 or any(pair)] or [0]
    if len(kept) == spec.axes or spec.transposed:
        return spec
    names = ("size", "kernel_size", "stride", "padding", "dilation", "output_padding")
    changes: dict[str, Any] = {name: tuple(getattr(spec, name)[axis] for axis in kept) for name in names}
    return replace(spec, **changes)
