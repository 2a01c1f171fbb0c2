"""Every engine on every case that it takes, against the oracle in float64, under its own stated bound."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from convolith import ConvolithError, ConvSpec
from convolith.dtypes import COMPLEX, HALVES, half_ulp, is_float
from convolith.engines import BY_NAME, TABLE
from convolith.engines.error_bounds import error_scale
from convolith.planner import plan
from convolith.work import layer_work
from tests.strategies import DEPTHWISE_SPEC, INTEGERS, arrays_for, specs, specs_taken_by

WIDE = {"float32": "float64", "float16": "float64", "bfloat16": "float64", "complex64": "complex128"}
PLAIN = ConvSpec(in_channels=1, out_channels=1, size=8, kernel_size=1)
BYTES = ConvSpec(in_channels=1, out_channels=1, size=8, kernel_size=1, dtype="uint8")
ODD = [ConvSpec(in_channels=1, out_channels=1, size=8, kernel_size=k, dtype="bfloat16") for k in (1, 3)]
OF_ANY_KERNEL = [engine for engine in TABLE if engine.name != "separable"]  # which has tests with kernels of low rank
ENGINES = [pytest.param(engine, id=engine.name) for engine in OF_ANY_KERNEL]
COMPILED = 0.4
"""The share of examples for an engine that compiles for most of them; test_direct.py adds many sizes for a few."""


def widened(spec: ConvSpec) -> ConvSpec:
    return replace(
        spec, dtype=WIDE.get(spec.dtype, spec.dtype), kernel_dtype=WIDE.get(spec.kernel_dtype, spec.kernel_dtype)
    )


def check(engine, spec: ConvSpec, x, kernel, bias, accuracy: str | None = None) -> None:
    """The engine's result against the oracle's, with the error under the engine's bound."""
    accuracy = accuracy or ("fast" if engine.only_fast else "default")
    y = plan(spec, engine=engine.name, accuracy=accuracy)(x, kernel, bias)
    wide = widened(spec)
    cast = lambda t, name: None if t is None else t.to(getattr(torch, name))
    expected = plan(wide, engine="reference")(
        cast(x, wide.dtype), cast(kernel, wide.kernel_dtype), cast(bias, wide.out_dtype)
    )
    assert tuple(y.shape) == spec.output_shape
    assert str(y.dtype) == f"torch.{spec.out_dtype}"
    if not is_float(spec.out_dtype):
        assert torch.equal(y, expected)
        return
    if not y.numel():
        return
    bound = (engine.error_bound(spec) + BY_NAME["reference"].error_bound(wide)) * error_scale(spec, x, kernel)
    if bias is not None:
        bound += (
            4
            * half_ulp(spec.out_dtype if spec.out_dtype not in HALVES else "float32")
            * float(bias.abs().max() + error_scale(spec, x, kernel))
        )
    if spec.out_dtype in HALVES:  # the final rounding is not in the bound
        bound = bound + half_ulp(spec.out_dtype) * expected.abs()
        limit = 2.0**-24 if spec.out_dtype == "float16" else 0.0  # float16 has few small numbers
        bound = bound + limit
    assert ((y.to(expected.dtype) - expected).abs() <= bound).all()


def examples(engine, count: int) -> settings:
    return settings(max_examples=int(count * (COMPILED if engine.name == "direct" else 1) * 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_floats_stay_under_the_bound(engine):
    @examples(engine, 350)
    @given(spec=specs_taken_by(engine), seed=st.integers(0, 9))
    def law(spec, seed):
        check(engine, spec, *arrays_for(spec, seed))

    law()


@pytest.mark.slow
@pytest.mark.parametrize("engine", [row for row in ENGINES if not all(row.values[0].refuse(odd) for odd in ODD)])
def test_halves_and_complex_stay_under_the_bound(engine):
    @examples(engine, 120)
    @given(spec=specs_taken_by(engine, dtypes=(*HALVES, *COMPLEX)))
    def law(spec):
        check(engine, spec, *arrays_for(spec))

    law()


@pytest.mark.slow
@pytest.mark.parametrize("engine", [row for row in ENGINES if not row.values[0].refuse(BYTES)])
def test_integers_are_exact(engine):
    @examples(engine, 150)
    @given(spec=specs_taken_by(engine, dtypes=INTEGERS), kernel_dtype=st.sampled_from(INTEGERS))
    def law(spec, kernel_dtype):
        spec = replace(spec, kernel_dtype=kernel_dtype)
        check(engine, spec, *arrays_for(spec))

    law()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("accuracy", ["exact", "default", "fast", "double"])
def test_accuracy_classes(engine, accuracy):
    spec = ConvSpec(in_channels=8, out_channels=8, size=(12, 12), kernel_size=3, padding=1)
    if engine.refuse(spec):
        spec = ConvSpec(in_channels=8, out_channels=8, size=(12, 12), kernel_size=1)
    if engine.refuse(spec):
        spec = ConvSpec(in_channels=8, out_channels=8, size=(12, 12), kernel_size=3, stride=2, transposed=True)
    if engine.refuse(spec):
        spec = DEPTHWISE_SPEC
    x, kernel, bias = arrays_for(spec)
    if accuracy == "exact" and not engine.sums_directly(spec):
        with pytest.raises(ConvolithError, match="not a direct sum"):
            plan(spec, engine=engine.name, accuracy=accuracy)
        return
    if accuracy != "fast" and engine.only_fast:
        with pytest.raises(ConvolithError, match='only accuracy "fast" allows it'):
            plan(spec, engine=engine.name, accuracy=accuracy)
        return
    check(engine, spec, x, kernel, bias, accuracy)
    if accuracy == "double":
        y = plan(spec, engine=engine.name, accuracy="double")(x, kernel)
        expected = plan(widened(spec), engine="reference")(x.double(), kernel.double())
        torch.testing.assert_close(y, expected.float(), rtol=1.2e-7, atol=1e-12)


SHAPES = {
    "127x127 box": {"size": (160, 150), "kernel_size": (127, 127), "in_channels": 1},
    "many channels": {"size": (9, 9), "kernel_size": (3, 3), "in_channels": 512},
    "1x1": {"size": (7, 7), "kernel_size": (1, 1), "in_channels": 2048},
    "long": {"size": (6000,), "kernel_size": (4095,), "in_channels": 1},
}


def ramp(shape, dtype):
    return torch.linspace(-1, 1, int(np.prod(shape)), dtype=dtype).reshape(shape)


def alternating(shape, dtype):
    signs = 1 - 2 * (torch.arange(int(np.prod(shape))) % 2)
    return (signs * 0.1).to(dtype).reshape(shape)


DATA = {
    "random": lambda shape, dtype: torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1)),
    "constant": lambda shape, dtype: torch.full(shape, 0.1, dtype=dtype),
    "ramp": ramp,
    "alternating": alternating,
}


HURTING = {name: ConvSpec(out_channels=1, **options) for name, options in SHAPES.items()}
TAKEN = [
    pytest.param(engine, spec, id=f"{engine.name}, {name}")
    for engine in OF_ANY_KERNEL
    for name, spec in HURTING.items()
    if engine.refuse(spec) is None
]


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize(("engine", "spec"), TAKEN)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_data_that_hurts(engine, spec, data, dtype):
    spec = replace(spec, dtype=dtype, kernel_dtype=dtype)
    if engine.refuse(spec):
        pytest.skip(engine.refuse(spec))
    x = DATA[data](spec.input_shape, getattr(torch, dtype))
    box = torch.full(spec.kernel_shape, 1 / np.prod(spec.kernel_shape), dtype=getattr(torch, dtype))
    check(engine, spec, x, box, None)


@pytest.mark.parametrize(
    "engine",
    [row for row in ENGINES if row.values[0].keeps_nonfinite_local(PLAIN) and row.id != "depthwise"],  # as in its tests
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_values_land_where_the_direct_sum_puts_them(engine, value):
    spec = ConvSpec(in_channels=2, out_channels=9, size=(9, 8), kernel_size=1 if engine.name == "pointwise" else 3)
    x, kernel, _ = arrays_for(spec)
    x[0, 1, 4, 4] = value
    y = plan(spec, engine=engine.name, accuracy="exact")(x, kernel)
    reach = spec.extent[0]
    hit = torch.zeros(spec.output_shape, dtype=torch.bool)
    hit[0, :, 5 - reach : 5, 5 - reach : 5] = True
    assert torch.equal(~y.isfinite(), hit)


def test_exact_accuracy_never_mixes_the_parts_of_complex_numbers():
    spec = ConvSpec(in_channels=2, out_channels=2, size=8, kernel_size=3, dtype="complex64")
    assert plan(spec, accuracy="exact").engine == "reference"
    with pytest.raises(ConvolithError, match="not a direct sum"):
        plan(spec, accuracy="exact", engine="aten")


@pytest.mark.slow
@settings(max_examples=130)
@given(specs())
def test_work_is_positive_and_never_below_the_layer(spec):
    layer = layer_work(spec)
    for engine in TABLE:
        if engine.refuse(spec) is None:
            work = engine.work(spec)
            if engine.keeps_nonfinite_local(spec):
                assert work.forward.multiplications >= layer.forward.multiplications
            assert work.forward.bytes >= layer.forward.bytes
            assert work.memory.forward.workspace >= 0
            assert engine.note(spec)


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_kept_of_a_kernel_is_what_work_says(engine):
    layers = [
        {"in_channels": 64, "out_channels": 96, "size": (40, 40), "kernel_size": 3, "padding": 1},
        {"in_channels": 140, "out_channels": 172, "size": (30, 30), "kernel_size": 1},
        {"in_channels": 3, "out_channels": 5, "size": (90, 90), "kernel_size": 17, "padding": 8},
        {"in_channels": 12, "out_channels": 12, "size": (64, 64), "kernel_size": 9, "groups": 12},
        {"in_channels": 40, "out_channels": 40, "size": (14, 14), "kernel_size": 5, "groups": 40},
        {"in_channels": 8, "out_channels": 8, "size": (64, 64), "kernel_size": 5, "dtype": "bfloat16"},
        {"in_channels": 4, "out_channels": 6, "size": (400,), "kernel_size": 33},
        {"in_channels": 32, "out_channels": 24, "size": (40, 40), "kernel_size": 4, "stride": 2, "transposed": True},
        {"in_channels": 64, "out_channels": 96, "size": (40, 40), "kernel_size": 3, "transposed": True},
    ]
    seen = 0
    for options in layers:
        spec = ConvSpec(**options)
        if engine.refuse(spec) is not None:
            continue
        kernel = torch.randn(spec.kernel_shape).to(getattr(torch, spec.kernel_dtype))
        leaves = [leaf for leaf in tree_leaves(engine.prepare(spec, kernel)) if isinstance(leaf, torch.Tensor)]
        made = {leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes() for leaf in leaves}
        made.pop(kernel.untyped_storage().data_ptr(), None)
        assert engine.work(spec).memory.forward.prepared == pytest.approx(sum(made.values()), rel=0.05, abs=1 << 14)
        seen += 1
    assert seen


SHARING = [pytest.param(BY_NAME[name], id=name) for name in ("direct", "pointwise", "im2col", "winograd_4x4", "fft")]


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("engine", SHARING)
def test_a_prepared_kernel_serves_other_sizes(engine):
    shared = 0

    @examples(engine, 60)
    @given(
        spec=specs_taken_by(engine),
        growth=st.lists(st.integers(-3, 9), min_size=3, max_size=3),
        batch=st.integers(1, 3),
    )
    def law(spec, growth, batch):
        nonlocal shared
        if 0 in spec.output_shape:  # which the planner does not leave to an engine
            return
        size = tuple(max(1, n + more) for n, more in zip(spec.size, growth, strict=False))
        try:
            other = replace(spec, size=size, batch=batch)
        except ConvolithError:  # the kernel does not fit
            return
        if engine.refuse(other) is not None:
            return
        _, kernel, _ = arrays_for(spec)
        state = engine.resized(engine.prepare(spec, kernel), other)
        if state is None:
            return
        shared += 1
        x, _, bias = arrays_for(other, 1)
        expected = engine.apply(engine.prepare(other, kernel), x, bias)
        assert torch.equal(engine.apply(state, x, bias), expected)

    law()
    assert shared >= 3
