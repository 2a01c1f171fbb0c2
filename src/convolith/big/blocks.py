"""The computation of one block: read its window, correlate it, convert the result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.arrays import Operands
from convolith.big.windows import Geometry, Span, Window
from convolith.correlation import correlate
from convolith.correlation.missing import propagated
from convolith.correlation.result_dtypes import as_integers, holds_rounded
from convolith.dtypes import is_float
from convolith.engines import BY_NAME
from convolith.engines.buffers import reused_array
from convolith.geometry import extent
from convolith.planner import BoundPlan, plan
from convolith.planner.plan import compute_rounded
from convolith.spec import ConvSpec

MOST_PLANS = 2
"""Number of shapes of windows whose prepared kernels are kept: of whole blocks, and of those at the end of a row."""
computing = Lock()
"""Held while a block is computed by all threads of its process; another one is read or written meanwhile."""
preparing = Lock()
"""Held while a kernel is prepared."""


class Computed(NamedTuple):
    """Pixels of a block, how many were clipped, are missing, and are infinite in the dtype of the result."""

    pixels: np.ndarray
    clipped: int
    missing: int
    infinite: int = 0


def may_have_nan(pixels: np.ndarray) -> bool:
    """Return whether floats may have NaN, by their sum: a pass that writes nothing. Infinities may look like it."""
    return pixels.dtype.kind == "f" and bool(np.isnan(_sum(pixels)))


def _sum(pixels: np.ndarray) -> Any:
    """Return the sum of floats, which is finite only if all of them are."""
    with np.errstate(all="ignore"):
        return pixels.sum(dtype=np.promote_types(pixels.dtype, np.float32))


class Padded(NamedTuple):
    """Pixels that a block reads, with padding around them.

    Attributes:
        x: the pixels, in the dtype of the computation.
        mask: True where a pixel is missing and is to be left out of the sums; None if none is.
        holes: whether any pixel is missing.
        empty: whether all of them are.
    """

    x: np.ndarray
    mask: np.ndarray | None
    holes: bool
    empty: bool = False

    def overflowed(self, found: Computed) -> int:
        """Return how many results are not finite since sums exceed their dtype, and not because of the pixels."""
        count = found.infinite + (0 if self.holes or self.mask is not None else found.missing)
        return 0 if not count or np.isinf(self.x).any() else count


@dataclass(frozen=True, eq=False)
class Filter:
    """Everything that the pixels of a block depend on, beside the source.

    Attributes:
        geometry: how the kernel slides.
        channels: axis of the channels that the kernel mixes, or None.
        kernel: (out_channels, in_channels / groups, *kernel_size), in the dtype of the computation.
        bias: one number per output channel, or None.
        groups: as for `correlate`.
        padding_value: number around the source.
        missing: "propagate", "renormalise", or the number that missing pixels are taken for.
        nodata: number of the source that stands for a missing pixel, or None; NaN does so too.
        dtype: dtype of the computation.
        out_dtype: dtype of the result.
        engine, accuracy: as for `correlate`.
        plans: plans of the windows so far, with the prepared kernel.
    """

    geometry: Geometry
    channels: int | None
    kernel: np.ndarray
    bias: np.ndarray | None
    groups: int
    padding_value: float
    missing: str | float
    nodata: float | None
    dtype: np.dtype[Any]
    out_dtype: np.dtype[Any]
    engine: str
    accuracy: str
    plans: dict[ConvSpec, BoundPlan] = field(default_factory=dict, repr=False)

    def result_geometry(self, shape: tuple[int, ...]) -> Geometry:
        """Return the geometry with the channels of the result in place of those of the source."""
        if self.channels is None:
            return self.geometry
        sizes = list(shape)
        sizes[self.channels] = len(self.kernel)
        return self.geometry._replace(shape=tuple(sizes))

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that the pixels depend on, for the journal."""
        hashed = hashlib.sha256(self.kernel.tobytes() + (b"" if self.bias is None else self.bias.tobytes()))
        others = [name for name in vars(self) if name not in ("kernel", "bias", "geometry", "plans")]
        found: dict[str, Any] = {name: str(getattr(self, name)) for name in others}
        return found | {"kernel": f"{self.kernel.shape} {hashed.hexdigest()}", "geometry": str(self.geometry)}

    def spec(self, shape: tuple[int, ...]) -> ConvSpec:
        """Return the layer of a padded window of a shape."""
        return ConvSpec(
            batch=self._planes_shape(shape)[0],
            in_channels=self._planes_shape(shape)[1],
            out_channels=len(self.kernel),
            size=self._planes_shape(shape)[2:],
            kernel_size=self.kernel.shape[2:],
            stride=self.geometry.stride,
            dilation=self.geometry.dilation,
            groups=self.groups,
            bias=self.bias is not None,
            dtype=self.dtype.name,
            kernel_dtype=self.kernel.dtype.name,
        )

    def _planes_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        inner = [self.channels] if self.channels is not None else []
        used = {*self.geometry.axes, *inner}
        images = prod(n for axis, n in enumerate(shape) if axis not in used)
        channels = 1 if self.channels is None else shape[self.channels]
        return (images, channels, *(shape[axis] for axis in self.geometry.axes))

    def marks(self, pixels: np.ndarray) -> np.ndarray | None:
        """Return where pixels are missing, or None if none is."""
        found = np.isnan(pixels) if may_have_nan(pixels) else None
        if self.nodata is not None and not np.isnan(self.nodata):
            other = pixels == self.nodata
            found = other if found is None else found | other
        return found if found is not None and found.any() else None

    def padded(self, window: Window, pixels: np.ndarray) -> Padded:
        """Return what a block reads as the correlation takes it: in its dtype, holes marked, padding around it."""
        marks = self.marks(pixels)
        if marks is None:
            return Padded(window.padded(pixels, self.padding_value, self.dtype), None, holes=False)
        x, mask, empty = pixels.astype(self.dtype), None, bool(marks.all())
        if self.missing == "renormalise":
            x[marks] = 0
            mask = window.padded(marks, value=False)
        else:
            x[marks] = np.nan if self.missing == "propagate" else self.missing
        return Padded(window.padded(x, self.padding_value), mask, holes=True, empty=empty)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is prepared, which another process prepares for itself."""
        return vars(self) | {"plans": {}}

    def _bound(self, spec: ConvSpec) -> BoundPlan:
        """Return the plan of a window's layer, with the prepared kernel."""
        with preparing:
            return self._known(spec)

    def _known(self, spec: ConvSpec) -> BoundPlan:
        known = self.plans.get(spec)
        if known is None:
            kernel = torch.from_numpy(self.kernel)
            engine = self.engine if self._is_usable(spec) else "auto"
            chosen = plan(spec, kernel, accuracy=self.accuracy, engine=engine)
            bias = None if self.bias is None else torch.from_numpy(self.bias)
            shared = (bound.resized(chosen) for bound in self.plans.values())
            known = next((bound for bound in shared if bound is not None), None) or chosen.bind(kernel, bias)
            self.plans[spec] = known
            while len(self.plans) > MOST_PLANS:
                del self.plans[next(iter(self.plans))]
        return known

    def _is_usable(self, spec: ConvSpec) -> bool:
        """Return whether the engine of all blocks takes a window's layer."""
        return self.engine == "auto" or BY_NAME[self.engine].refuse(spec, torch.from_numpy(self.kernel)) is None

    def _spreads(self, spec: ConvSpec) -> bool:
        """Return whether the engine spreads NaN over results that do not read it."""
        return self.engine != "auto" and not BY_NAME[self.engine].keeps_nonfinite_local(spec)

    def compute(self, block: Padded) -> Computed:
        """Correlate what a block reads."""
        x, mask, holes, _ = block
        spec, planes = self.spec(x.shape), self._planes(x)
        if mask is None and not holes:
            bound, tensor = self._bound(spec), torch.from_numpy(planes)
            return self._rounded(bound, tensor, x.shape) or self.converted(self._placed(bound(tensor).numpy(), x.shape))
        how: dict[str, Any] = {"engine": self.engine if self._is_usable(spec) else "auto", "accuracy": self.accuracy}
        options: dict[str, Any] = {"stride": self.geometry.stride, "dilation": self.geometry.dilation}
        options["groups"] = self.groups
        if mask is not None:
            y = correlate(planes, self.kernel, self.bias, **options, **how, nan="omit", mask=self._planes(mask))
        elif self.missing == "propagate" and self._spreads(spec):
            bias = None if self.bias is None else torch.from_numpy(self.bias)
            operands = Operands(torch.from_numpy(planes), torch.from_numpy(self.kernel), bias)
            y = propagated(correlate, operands, options | {"padding_mode": "zeros"}, how).numpy()
        else:
            y = correlate(planes, self.kernel, self.bias, **options, **how)
        return self.converted(self._placed(y, x.shape))

    def _moved(self) -> list[int]:
        """Return the axes that come last in planes: that of the channels, and those that the kernel slides along."""
        return [*([] if self.channels is None else [self.channels]), *self.geometry.axes]

    def _planes(self, x: np.ndarray) -> np.ndarray:
        """Return pixels as (images, channels, *size)."""
        moved = self._moved()
        last = tuple(range(-len(moved), 0))
        return np.ascontiguousarray(np.moveaxis(x, moved, last)).reshape(self._planes_shape(x.shape))

    def _placed(self, y: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return a result with the axes of the source, for a window of a shape."""
        moved = self._moved()
        others = [n for axis, n in enumerate(shape) if axis not in moved]
        y = y.reshape(*others, *y.shape[1 if self.channels is not None else 2 :])
        return np.ascontiguousarray(np.moveaxis(y, tuple(range(-len(moved), 0)), moved))

    def _rounded(self, bound: BoundPlan, planes: torch.Tensor, shape: tuple[int, ...]) -> Computed | None:
        """Return the result of an engine that rounds its sums to integers where it stores them; None if it does not."""
        wanted = self.out_dtype.name
        if self.nodata is not None or self.bias is not None or not holds_rounded(self.dtype.name, wanted):
            return None
        y = reused_array(bound.plan.spec.output_shape, wanted)
        changed = compute_rounded(bound.plan, bound.state, planes, torch.from_numpy(y))
        return None if changed is None else Computed(self._placed(y, shape), changed.clipped, changed.missing)

    def converted(self, y: np.ndarray) -> Computed:
        """Convert to the dtype of the result; what is missing becomes `nodata`."""
        missing, floats = 0, is_float(self.out_dtype.name)
        if (floats or self.nodata is not None) and may_have_nan(y):
            none = np.isnan(y)
            missing = int(none.sum())
            y = y if self.nodata is None else np.where(none, y.dtype.type(self.nodata), y)
        if floats:
            with np.errstate(over="ignore"):
                y = y.astype(self.out_dtype, copy=False)
            return Computed(y, 0, missing, 0 if np.isfinite(_sum(y)) else int(np.isinf(y).sum()))
        found = as_integers(torch.from_numpy(y), self.out_dtype.name)
        return Computed(found.values.numpy(), found.clipped, missing + found.missing)

    def whole_channels(self, window: Window, shape: tuple[int, ...]) -> Window:
        """Return a window with all channels of the source, where the kernel mixes them."""
        if self.channels is None:
            return window
        spans = list(window.spans)
        spans[self.channels] = Span(((0, shape[self.channels]),))
        return window._replace(spans=tuple(spans))

    def absent(self, shape: tuple[int, ...]) -> Computed:
        """Return a block whose source cannot be read: missing pixels."""
        value = self.nodata if self.nodata is not None else np.nan if self.out_dtype.kind == "f" else 0
        return Computed(np.full(shape, value, self.out_dtype), 0, prod(shape))

    def with_engine(self, name: str) -> Filter:
        """Return the filter with an engine for all blocks."""
        return replace(self, engine=name)

    def window_shape(self, block: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the padded window of a whole block."""
        result = [
            n if axis == self.channels else min(b, n) for axis, (b, n) in enumerate(zip(block, shape, strict=True))
        ]
        geometry = self.geometry
        for axis, k, s, d in zip(geometry.axes, geometry.kernel_size, geometry.stride, geometry.dilation, strict=True):
            result[axis] = (min(block[axis], geometry.output_shape[axis]) - 1) * s + extent(k, d)
        return tuple(result)

    def job_bytes(self, dtype: np.dtype[Any], window: tuple[int, ...], block: Sequence[int]) -> int:
        """Return the bytes of a block that is worked on, without the engine's: its window, its result and copies.

        Missing pixels that are left out take two more windows (without them, and ones where there are pixels), four
        more results (the weights that were met, and the steps of a quotient) and booleans. For an engine that would
        spread them, the results that they reach are found separately, which takes two more of each.
        """
        pixels, results = prod(window), prod(block)
        converted = pixels * self.dtype.itemsize * (2 if dtype != self.dtype else 1)
        marks = pixels * (2 if self.nodata is not None or dtype.kind == "f" else 0)
        stored = results * self.out_dtype.itemsize * 2  # with the encoded one
        whole = pixels * dtype.itemsize + converted + marks + results * self.dtype.itemsize + stored
        omitted = self.missing == "renormalise"
        if not marks or not (omitted or (self.missing == "propagate" and self._spreads(self.spec(window)))):
            return whole
        size = max(self.dtype.itemsize, 4)  # half types are summed in float32
        return whole + pixels * (2 * size + 3) + results * ((4 if omitted else 2) * size + 2)

    def engine_of(self, shape: tuple[int, ...]) -> tuple[str, int]:
        """Return the engine that is planned for a padded window of a shape, and the bytes that it works in."""
        spec, kernel = self.spec(shape), torch.from_numpy(self.kernel)
        chosen = plan(spec, kernel, accuracy=self.accuracy, engine=self.engine)
        memory = next(one.work for one in chosen.candidates if one.work and one.engine == chosen.engine).memory.forward
        return chosen.engine, memory.workspace + memory.prepared
