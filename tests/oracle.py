"""One prepared engine held against the oracle in float64, under its own bound."""

from dataclasses import replace

from convolith import ConvSpec
from convolith.engines.error_bounds import error_scale
from convolith.engines.reference import reference


def compare(engine, spec: ConvSpec, state, x, kernel, bias) -> None:
    y = engine.apply(state, x, bias)
    wide = replace(spec, dtype="float64", kernel_dtype="float64")
    lift = lambda t: None if t is None else t.double()
    expected = reference.apply(reference.prepare(wide, lift(kernel)), lift(x), lift(bias))
    bound = (engine.error_bound(spec) + 2.0**-22) * (error_scale(spec, x, kernel) + 1)
    assert tuple(y.shape) == spec.output_shape
    assert float((y.double() - expected).abs().max()) <= bound
