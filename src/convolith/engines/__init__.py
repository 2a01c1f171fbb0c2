"""The engines: one algorithm per file, and the one table of them."""

from __future__ import annotations

from convolith.engines import aten, direct, fft, phases, pointwise, reference, separable, winograd
from convolith.engines.limits import Limits
from convolith.engines.protocol import Engine

TABLE: tuple[Engine, ...] = (
    pointwise,
    direct,
    separable,
    winograd.winograd_4x4,
    winograd.winograd_2x2,
    aten.contiguous,
    aten.channels_last,
    fft,
    phases,
    reference,
)
"""Every engine, in the order in which ties are broken. Adding one is one file and one row."""

BY_NAME: dict[str, Engine] = {engine.name: engine for engine in TABLE}

__all__ = ["BY_NAME", "TABLE", "Engine", "Limits"]
