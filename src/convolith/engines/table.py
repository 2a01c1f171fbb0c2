"""The table of convolution engines."""

from __future__ import annotations

from typing import Any

from convolith.engines import aten
from convolith.engines.base import Engine
from convolith.engines.depthwise.engine import depthwise
from convolith.engines.direct.engine import direct
from convolith.engines.fft.engine import fft
from convolith.engines.im2col.engine import im2col
from convolith.engines.phases import phases
from convolith.engines.pointwise.engine import pointwise
from convolith.engines.reference import reference
from convolith.engines.separable.engine import separable
from convolith.engines.winograd.engine import winograd_2x2, winograd_4x4, winograd_6x6

TABLE: tuple[Engine[Any], ...] = (
    pointwise,
    direct,
    depthwise,
    separable,
    winograd_4x4,
    winograd_6x6,
    winograd_2x2,
    im2col,
    aten.contiguous,
    aten.channels_last,
    fft,
    phases,
    reference,
)
"""All engines, in the order that breaks ties. A new engine needs one module and one entry here."""

BY_NAME: dict[str, Engine[Any]] = {engine.name: engine for engine in TABLE}
