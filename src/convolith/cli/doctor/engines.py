"""The machine as the engines see it, and the check of every engine against the oracle."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.engines import TABLE
from convolith.engines.error_bounds import error_scale
from convolith.jit import Target, host
from convolith.planner import plan
from convolith.planner.calibrate import calibrate
from convolith.planner.machine import limits as known_limits
from convolith.planner.machine import measured
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype

CASES: dict[str, dict[str, Any]] = {
    "3x3, padding 1": {"kernel_size": 3, "padding": 1},
    "1x1, stride 2": {"kernel_size": 1, "stride": 2},
    "5x5 depthwise, circular": {
        "in_channels": 16,
        "out_channels": 16,
        "groups": 16,
        "kernel_size": 5,
        "padding": 2,
        "padding_mode": "circular",
    },
    "3x3 transposed, stride 2": {"kernel_size": 3, "stride": 2, "transposed": True, "output_padding": 1},
}
NARROW = {
    "sse2": "this processor has no AVX2: generated code uses vectors of 4 floats (SSE2), which is right and slower",
    "neon": "generated code for 64-bit ARM (NEON) was never tested; the checks above say whether it works here",
}
"""Sentences on vectors other than those that the tests run with."""


class Engines(NamedTuple):
    """State of a machine, as the engines see it."""

    threads: int
    target: Target
    limits: dict[str, float]
    measured: bool
    checks: list[dict[str, Any]]

    @property
    def advice(self) -> list[str]:
        """Sentences on what to do about the machine."""
        failed = sorted({row["engine"] for row in self.checks if not row["good"]})
        advice = [NARROW[self.target.name]] if self.target.name in NARROW else []
        if failed:
            advice.append(
                f"{', '.join(failed)} failed a check above: pass engine='aten', and report what "
                "convolith doctor --json prints"
            )
        if not self.measured:
            advice.append(
                "convolith doctor --calibrate measures this machine, for better estimates of each engine's time"
            )
        return advice


def examined(*, calibrating: bool) -> Engines:
    """Check every engine against the oracle, after measuring the machine's limits if wanted."""
    if calibrating:
        calibrate()
    checks = [row for name, options in CASES.items() for row in _check(name, options)]
    return Engines(torch.get_num_threads(), host(), asdict(known_limits()), measured(), checks)


def _check(name: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the error and the error bound of each engine that supports the case, in float32 and float64."""
    rows = []
    for dtype in ("float32", "float64"):
        layer = {"in_channels": 4, "out_channels": 4, **options}
        spec = ConvSpec(batch=2, size=(19, 23), dtype=dtype, **layer)
        generator = torch.Generator().manual_seed(0)
        x, k = (
            torch.randn(shape, generator=generator, dtype=torch_dtype(dtype))
            for shape in (spec.input_shape, spec.kernel_shape)
        )
        wide = replace(spec, dtype="float64", kernel_dtype="float64")
        expected = plan(wide, engine="reference")(x.double(), k.double())
        scale = error_scale(spec, x, k)
        for engine in TABLE:
            if engine.refuse(spec) is None:
                chosen = plan(spec, engine=engine.name, accuracy="fast" if engine.only_fast else "default")
                error = float((chosen(x, k) - expected).abs().max()) / scale
                bound = engine.error_bound(spec)
                row = {"case": name, "dtype": dtype, "engine": engine.name, "error": error, "bound": bound}
                rows.append(row | {"good": bool(np.isfinite(error)) and error <= bound})
    return rows
