"""Layers computed in strips of rows by one engine: no call is long, so that progress is shown, and is timed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from convolith.big.windows import Geometry, Window, blocks_of
from convolith.planner import BoundPlan, Plan, plan
from convolith.spec import ConvSpec

STRIP_SECONDS = 0.08
"""Estimated time of a call above which a picture is computed in strips."""
REPEATED_SECONDS, MOST_REPEATS = 0.15, 30
"""Time for repeated calls of a short computation, and their largest number; the least time counts."""


class Strip(NamedTuple):
    """Rows of a result: their place, the part of x that they read, and the plan for them with its kernel."""

    rows: slice
    window: Window | None
    bound: BoundPlan


class Layer(NamedTuple):
    """Planes, (N, 1, H, W), a kernel, (1, 1, *kernel_size), and the way in which it slides over them."""

    planes: np.ndarray
    kernel: np.ndarray
    spec: ConvSpec
    accuracy: str

    @property
    def geometry(self) -> Geometry:
        """Geometry of the layer, from which windows are cut."""
        spec = self.spec
        return Geometry(
            spec.input_shape, (2, 3), spec.kernel_size, spec.stride, spec.padding, spec.dilation, spec.padding_mode
        )

    def plan(self, engine: str = "auto") -> Plan:
        """Return the plan of the whole layer."""
        return plan(self.spec, self.kernel, accuracy=self.accuracy, engine=engine)

    def strips(self, chosen: Plan) -> list[Strip]:
        """Return the layer as strips that are computed by a plan's engine: a single one where its call is short."""
        rows = self.spec.output_size[0]
        count = min(rows, ceil((chosen.seconds or 0.0) / STRIP_SECONDS))
        if count <= 1:
            return [Strip(slice(0, rows), None, chosen.bind(self.kernel))]
        geometry, result, known = self.geometry, [], {}
        for block in blocks_of(
            geometry.output_shape, (*geometry.output_shape[:2], ceil(rows / count), self.spec.output_size[1])
        ):
            window = geometry.window(block)
            shape = tuple(len(span.take) if span.take is not None else span.length for span in window.spans)
            if shape not in known:
                known[shape] = self._bound(shape, chosen.engine)
            result.append(Strip(block[2], window, known[shape]))
        return result

    def _bound(self, shape: tuple[int, ...], engine: str) -> BoundPlan:
        """Return the plan of a window of a shape, its padding included; another engine if this one cannot do it."""
        x = np.broadcast_to(self.planes.dtype.type(0), shape)
        spec = ConvSpec.of(x, self.kernel, stride=self.spec.stride, dilation=self.spec.dilation)
        return plan(spec, self.kernel, accuracy=self.accuracy, engine=engine).bind(self.kernel)

    def computed(self, chosen: Plan) -> Iterator[tuple[slice, np.ndarray, float]]:
        """Yield the rows of each strip, their result and the seconds that the engine took for it."""
        strips = self.strips(chosen)
        for strip in strips:
            x = self.planes if strip.window is None else strip.window.padded(strip.window.read(self.planes))
            x = np.ascontiguousarray(x)
            if strip is strips[0]:
                strip.bound(x)  # a first call compiles code and fills caches
            start = time.perf_counter()
            y = strip.bound(x)
            seconds = time.perf_counter() - start
            if len(strips) == 1:
                seconds = _least(strip.bound, x, seconds)
            yield strip.rows, y, seconds


def _least(bound: Any, x: np.ndarray, seconds: float) -> float:
    """Return the least time of a few more calls, if they are short."""
    end = time.perf_counter() + REPEATED_SECONDS
    for _ in range(MOST_REPEATS):
        if time.perf_counter() + seconds > end:
            break
        start = time.perf_counter()
        bound(x)
        seconds = min(seconds, time.perf_counter() - start)
    return seconds
