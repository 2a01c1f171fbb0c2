"""Metadata of a result: those of the source, with places that follow the pixels."""

from __future__ import annotations

import copy
from typing import Any

from convolith.big.sources import Source
from convolith.big.windows import Geometry
from convolith.geometry import Grid, extent
from convolith.version import __version__


def grids_of(geometry: Geometry) -> dict[int, Grid]:
    """Return where the pixels of a result lie among those of the source, by axis."""
    return {
        axis: Grid((extent(k, d) - 1) / 2 - before, s)
        for axis, k, s, (before, _), d in zip(
            geometry.axes, geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation, strict=True
        )
    }


def moved(source: Source, geometry: Geometry, history: str) -> tuple[dict[str, Any], str, tuple[str, ...] | None]:
    """Return the attributes of a result, the name of its array within a group (or ""), and the names of its axes."""
    attributes: dict[str, Any] = {
        name: copy.deepcopy(value) for name, value in source.attributes.items() if name not in LEFT_OUT
    }
    own = attributes.get("ome", attributes)
    group = ""
    if isinstance(own, dict) and own.get("multiscales"):
        group = "0"
        own["multiscales"] = [_finest(own["multiscales"][0], geometry)]
    attributes["history"] = [*_lines(attributes.get("history")), f"convolith {__version__}: {history}"]
    return attributes, group, source.axes


LEFT_OUT = ("_ARRAY_DIMENSIONS", "header")
"""Attributes that the result gets in another form, or that hold for the source's file alone."""


def _lines(history: Any) -> list[str]:
    if history is None:
        return []
    return [str(line) for line in history] if isinstance(history, list | tuple) else [str(history)]


def _finest(scales: dict[str, Any], geometry: Geometry) -> dict[str, Any]:
    """Return the description of an image of one level: its scale and translation follow stride and padding."""
    result = {name: value for name, value in scales.items() if name != "datasets"}
    first = scales["datasets"][0]
    changes = first.get("coordinateTransformations", [])
    count = len(geometry.shape)
    scale = next((list(c["scale"]) for c in changes if c.get("type") == "scale"), [1.0] * count)
    shift = next((list(c["translation"]) for c in changes if c.get("type") == "translation"), [0.0] * count)
    for axis, grid in grids_of(geometry).items():
        shift[axis] += grid.start * scale[axis]
        scale[axis] *= grid.step
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if any(shift):
        transforms.append({"type": "translation", "translation": shift})
    result["datasets"] = [{"path": "0", "coordinateTransformations": transforms}]
    return result
