"""The table of convolution engines."""

from __future__ import annotations

from convolith.engines import aten, phases, reference, separable
from convolith.engines.base import Engine
from convolith.engines.direct import engine as direct
from convolith.engines.fft import engine as fft
from convolith.engines.pointwise import engine as pointwise
from convolith.engines.winograd import engine as winograd

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
"""All engines, in the order that breaks ties. A new engine needs one module and one entry here."""

BY_NAME: dict[str, Engine] = {engine.name: engine for engine in TABLE}
