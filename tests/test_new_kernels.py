"""Kernels that change between calls: preparation, what is kept of them, who computes their layers' gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import convolith as cl
from convolith import ConvSpec
from convolith.engines import BY_NAME, TABLE, aten
from convolith.engines.base import turned
from convolith.engines.kernel_gradient import engine as lags
from convolith.jit import host, scratch
from convolith.jit.target import widths
from convolith.planner import gradients as planned
from convolith.planner import prepared_kernels
from convolith.planner.prepared_kernels import PreparedKernel


@pytest.fixture(autouse=True)
def nothing_kept():
    prepared_kernels.forget()
    yield
    prepared_kernels.forget()


ADJOINTS = {
    "3x3": ConvSpec(in_channels=19, out_channels=21, size=(9, 14), kernel_size=3, padding=1),
    "1x1": ConvSpec(in_channels=70, out_channels=33, size=(5, 7), kernel_size=1),
    "1x1 in groups": ConvSpec(in_channels=12, out_channels=18, groups=3, size=(6, 5), kernel_size=1),
    "depthwise": ConvSpec(in_channels=6, out_channels=6, groups=6, size=(12, 30), kernel_size=(3, 5), padding=(1, 2)),
    "groups": ConvSpec(in_channels=4, out_channels=6, groups=2, size=(12, 30), kernel_size=(3, 4), dilation=(1, 2)),
    "signal": ConvSpec(in_channels=3, out_channels=2, size=70, kernel_size=9),
    "volume": ConvSpec(in_channels=2, out_channels=3, size=(6, 7, 8), kernel_size=3),
}


@pytest.mark.slow(quick=4)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spec", ADJOINTS.values(), ids=ADJOINTS)
@pytest.mark.parametrize("engine", TABLE, ids=lambda engine: engine.name)
def test_the_kernel_of_the_layer_whose_adjoint_is_computed(engine, spec, dtype):
    """Prepared from the layer's own kernel or from one turned round before: the same to the bit."""
    spec = ConvSpec(**{n: getattr(spec, n) for n in ("in_channels", "out_channels", "size", "kernel_size", "padding",
                                                     "dilation", "groups")}, dtype=dtype)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(spec.input_shape, generator=generator, dtype=getattr(torch, dtype))
    shape = (spec.in_channels, spec.out_channels // spec.groups, *spec.kernel_size)
    theirs = torch.randn(shape, generator=generator, dtype=x.dtype)
    axes = tuple(range(3, 3 + spec.axes))
    grouped = theirs.reshape(spec.groups, -1, *theirs.shape[1:]).transpose(1, 2).flip(axes)
    ours = grouped.reshape(spec.kernel_shape).contiguous()
    assert torch.equal(turned(spec, theirs), ours)
    if engine.refuse(spec, ours) is not None:
        return
    y = engine.apply(engine.prepare(spec, theirs, adjoint=True), x, None)
    assert torch.equal(y, engine.apply(engine.prepare(spec, ours), x, None))


LAGGED = {
    "image": ConvSpec(in_channels=1, out_channels=1, size=(61, 83), kernel_size=(9, 6), padding=((4, 0), (7, 3))),
    "many images": ConvSpec(batch=7, in_channels=1, out_channels=2, size=(20, 17), kernel_size=3, padding=1),
    "depthwise": ConvSpec(batch=2, in_channels=9, out_channels=9, groups=9, size=(14, 14), kernel_size=5, padding=2),
    "large kernel": ConvSpec(in_channels=3, out_channels=3, groups=3, size=(40, 31), kernel_size=(13, 31), padding=(6, 15)),
    "dilated groups": ConvSpec(
        batch=2, in_channels=6, out_channels=12, groups=3, size=(31, 37), kernel_size=(3, 5), dilation=(2, 3),
        padding=((1, 4), (0, 7)),
    ),
    "channels meet": ConvSpec(in_channels=5, out_channels=3, size=(90, 100), kernel_size=3),
    "signal": ConvSpec(batch=3, in_channels=2, out_channels=4, size=5000, kernel_size=40, padding=((30, 2),)),
    "column": ConvSpec(in_channels=2, out_channels=2, size=(300, 1), kernel_size=(7, 1), padding=((3, 3), (0, 0))),
    "one output": ConvSpec(in_channels=2, out_channels=2, size=(9, 8), kernel_size=(9, 8)),
}  # fmt: skip


def check_lags(target, spec: ConvSpec, layout=lambda t: t) -> None:
    dtype = getattr(torch, spec.dtype)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(spec.input_shape, generator=generator, dtype=torch.float64).to(dtype)
    grad = torch.randn(spec.output_shape, generator=generator, dtype=torch.float64).to(dtype)
    wide = ConvSpec(**{n: getattr(spec, n) for n in ("batch", "in_channels", "out_channels", "size", "kernel_size", "padding",
                                                     "dilation", "groups")}, dtype="float64")  # fmt: skip
    k = torch.zeros(spec.kernel_shape, dtype=torch.float64)
    _, expected, _ = aten.gradients(grad.double(), x.double(), k, wide, (False, True, False))
    found = lags.compute_for(target, spec, layout(x), layout(grad))
    size = float(x.abs().max()) * float(grad.abs().sum((0, *range(2, grad.ndim))).max())
    assert found.shape == spec.kernel_shape
    assert found.dtype == dtype
    assert float((found - expected).abs().max()) <= lags.error_bound(spec) * size


@pytest.mark.slow(quick=4)
@pytest.mark.parametrize("width", widths())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spec", LAGGED.values(), ids=LAGGED)
def test_kernel_gradients_by_shifted_products(spec, dtype, width):
    names = ("batch", "in_channels", "out_channels", "size", "kernel_size", "padding", "dilation", "groups")
    check_lags(host(width), ConvSpec(**{n: getattr(spec, n) for n in names}, dtype=dtype))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_kernel_gradients_of_drawn_layers(data):
    draw = lambda low, high: data.draw(st.integers(low, high))
    axes, groups = draw(1, 2), draw(1, 3)
    sizes = [draw(1, 40) for _ in range(axes)]
    padding = [(draw(0, 3), draw(0, 3)) for _ in range(axes)]
    dilation = [draw(1, 3) for _ in range(axes)]
    taps = [
        draw(1, max(1, min(13, (n + sum(pair) - 1) // d + 1)))
        for n, pair, d in zip(sizes, padding, dilation, strict=True)
    ]
    spec = ConvSpec(
        batch=draw(1, 3), in_channels=groups * draw(1, 3), out_channels=groups * draw(1, 3), groups=groups,
        size=tuple(sizes), kernel_size=tuple(taps), padding=tuple(padding), dilation=tuple(dilation), dtype="float64",
    )  # fmt: skip
    check_lags(host(), spec)


def test_shifted_products_of_any_layout_and_of_stale_memory():
    """Scratch that holds NaN from another call, and operands that are views, expanded or in channels_last."""
    spec = LAGGED["dilated groups"]

    scratch(1 << 20).view(torch.float32).fill_(torch.nan)
    last = lambda t: t.contiguous(memory_format=torch.channels_last)
    for layout in (lambda t: t, last, lambda t: t.repeat_interleave(2, 3)[..., ::2], lambda t: t.flip(2).flip(2)):
        check_lags(host(), spec, layout)
    x = torch.randn(spec.input_shape)
    ones = torch.ones(()).expand(spec.output_shape)
    assert torch.equal(lags.compute(spec, x, ones), lags.compute(spec, x, ones.contiguous()))


def test_what_shifted_products_refuse():
    options = {"in_channels": 2, "out_channels": 2, "size": (9, 9), "kernel_size": 3}
    for more, reason in (
        ({"stride": 2}, "stride"),
        ({"dtype": "bfloat16"}, "bfloat16 with bfloat16"),
        ({"padding": 1, "padding_mode": "reflect"}, "padding_mode reflect"),
        ({"transposed": True}, "transposed"),
        ({"size": (9, 9, 9)}, "three axes"),
        ({"size": (3, 10_000_000)}, "a row of its bands takes"),
    ):
        assert reason in lags.refuse(ConvSpec(**options | more))


def entries() -> list[PreparedKernel]:
    return [entry for entry in prepared_kernels._kept.values() if isinstance(entry, PreparedKernel)]


LAYER = {"in_channels": 64, "out_channels": 64, "size": (28, 28), "kernel_size": 3, "padding": 1}


def test_a_kernel_is_kept_from_its_second_call_on():
    x, k = torch.randn(1, 64, 28, 28), torch.randn(64, 64, 3, 3)
    expected = functional.conv2d(x, k, padding=1)
    for call in range(4):
        torch.testing.assert_close(cl.correlate(x, k, padding=1), expected, rtol=1e-3, atol=1e-3)
        assert len(entries()) == (call > 0)
    state = entries()[0].state
    cl.correlate(x, k, padding=1)
    assert entries()[0].state is state


@pytest.mark.parametrize(
    "write",
    [lambda k: k.mul_(-1.01), lambda k: k.data.mul_(-1.01), lambda k: np.multiply(k.numpy(), -1.01, k.numpy())],
)
def test_of_a_kernel_that_changes_nothing_is_kept(write):
    x, k = torch.randn(1, 64, 28, 28), torch.randn(64, 64, 3, 3)
    for _ in range(4):
        write(k)
        expected = functional.conv2d(x, k, padding=1)
        torch.testing.assert_close(cl.correlate(x, k, padding=1), expected, rtol=1e-3, atol=1e-3)
    assert not entries()


def test_a_change_in_the_middle_of_a_kept_kernel_is_seen():
    x, k = torch.randn(1, 64, 28, 28), torch.randn(64, 64, 3, 3)
    for _ in range(3):
        cl.correlate(x, k, padding=1)
    k[30, 30, 1, 1] += 100
    expected = functional.conv2d(x, k, padding=1)
    for _ in range(3):
        torch.testing.assert_close(cl.correlate(x, k, padding=1), expected, rtol=1e-3, atol=1e-3)


def test_of_kernels_that_require_gradients_nothing_is_kept():
    x = torch.randn(1, 64, 28, 28)
    layer = cl.nn.Conv2d(64, 64, 3, padding=1)
    for _ in range(3):
        layer(x).sum().backward()
    assert not prepared_kernels._kept
    layer.weight.requires_grad_(requires_grad=False)  # a frozen layer in training
    for _ in range(3):
        layer(x.requires_grad_()).sum().backward()
    assert len(entries()) == 1


@pytest.mark.slow
def test_values_are_looked_at_when_a_kernel_comes_back():
    line = torch.exp(-((torch.arange(15) - 7) ** 2) / 9.0)
    k = (line[:, None] * line)[None, None]
    x = torch.randn(1, 1, 400, 500)
    for call in range(3):
        torch.testing.assert_close(
            cl.correlate(x, k, padding=7), functional.conv2d(x, k, padding=7), rtol=1e-3, atol=1e-3
        )
        assert [entry.plan.engine for entry in entries()] == ["separable"] * (call > 0)
    other = torch.randn(1, 1, 15, 15)
    for _ in range(3):
        cl.correlate(x, other, padding=7, engine="auto")
    assert {entry.plan.engine for entry in entries()} <= {"separable", "fft"}


def test_a_plan_keeps_kernels_as_correlate_does():
    spec = ConvSpec(**LAYER)
    run = cl.plan(spec, engine="winograd_4x4")
    x, k = torch.randn(1, 64, 28, 28), torch.randn(64, 64, 3, 3)
    for call in range(3):
        torch.testing.assert_close(run(x, k), functional.conv2d(x, k, padding=1), rtol=1e-3, atol=1e-3)
        assert len(entries()) == (call > 0)
    k.neg_()
    torch.testing.assert_close(run(x, k), functional.conv2d(x, k, padding=1), rtol=1e-3, atol=1e-3)


def test_the_choice_knows_whether_a_kernel_comes_again():
    """Transforming 512x512 kernels takes longer than a 7x7 image."""
    spec = ConvSpec(in_channels=512, out_channels=512, size=(7, 7), kernel_size=3, padding=1)
    assert cl.plan(spec).engine.startswith("winograd")
    fresh = cl.plan(spec).for_new_kernels
    assert fresh.engine == "aten"
    assert cl.plan(spec, engine="winograd_4x4").for_new_kernels.engine == "winograd_4x4"
    for candidate in cl.plan(spec).candidates:
        assert candidate.reason is not None or candidate.prepare_seconds >= 0
    large = cl.plan(ConvSpec(**LAYER | {"size": (112, 112)})).for_new_kernels
    assert large.engine == "winograd_4x4"
    assert large.seconds > cl.plan(large.spec).seconds


SMALL = {"3x3": (16, 16, 14, 3), "chapter": (1, 1, 10, 2), "1x1": (16, 16, 14, 1)}


@pytest.mark.parametrize(("ins", "outs", "size", "kernel"), SMALL.values(), ids=SMALL)
def test_small_layers_in_autograd_are_torchs_own(ins, outs, size, kernel):
    layer = cl.nn.Conv2d(ins, outs, kernel)
    for _ in range(3):  # the long way, then the quick one
        y = layer(torch.randn(1, ins, size, size))
        assert y.grad_fn.name() == "ConvolutionBackward0"


CHOSEN = {
    "winograd": (
        {"in_channels": 64, "out_channels": 64, "size": (40, 40), "kernel_size": 3, "padding": 1},
        "winograd_4x4",
        None,
    ),
    "image": (
        {"in_channels": 1, "out_channels": 1, "size": (150, 170), "kernel_size": 7, "padding": 3},
        "direct",
        lags,
    ),
    "depthwise": (
        {"in_channels": 96, "out_channels": 96, "groups": 96, "size": (40, 40), "kernel_size": 13, "padding": 6},
        None,
        lags,
    ),
    "large": ({"in_channels": 4, "out_channels": 4, "size": (120, 120), "kernel_size": 31, "padding": 15}, "fft", None),
}


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("options", "by_x", "by_k"), CHOSEN.values(), ids=CHOSEN)
def test_gradients_by_engines_are_torchs(options, by_x, by_k, batch):
    for dtype, tolerance in ((torch.float32, 2e-4), (torch.float64, 1e-10)):
        spec = ConvSpec(**options, batch=batch, dtype=str(dtype).removeprefix("torch."))
        if dtype is torch.float32:
            chosen = planned.chosen_gradients(spec, "default", (True, True))
            assert by_x is None or chosen.by_x.engine == by_x
            assert by_k is None or chosen.by_k.swapped is None
        generator = torch.Generator().manual_seed(0)
        shapes = spec.input_shape, spec.kernel_shape, (spec.out_channels,)
        leaves = [torch.randn(s, generator=generator, dtype=dtype, requires_grad=True) for s in shapes]
        weights = torch.randn(spec.output_shape, generator=generator, dtype=dtype)
        ours = cl.correlate(*leaves, padding=spec.padding, groups=spec.groups)
        theirs = aten.torch_operators(*leaves, spec)
        for a, b in zip(*(torch.autograd.grad((y * weights).sum(), leaves) for y in (ours, theirs)), strict=True):
            assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def test_second_derivatives_where_engines_compute_the_first():
    x = torch.randn(1, 1, 150, 170, dtype=torch.float64, requires_grad=True)
    k = torch.randn(1, 1, 7, 7, dtype=torch.float64, requires_grad=True)
    results = []
    for run in (lambda: cl.correlate(x, k), lambda: functional.conv2d(x, k)):
        grads = torch.autograd.grad((run() ** 2).sum(), (x, k), create_graph=True)
        results.append(torch.autograd.grad(sum((g**2).sum() for g in grads), (x, k)))
    for a, b in zip(*results, strict=True):
        assert float((a - b).abs().max()) <= 1e-10 * float(b.abs().max())


IN_PLACE = {
    "1x1 on 1x1 images": ((2, 40, 1, 1), 1, {}),
    "channels_last": ((2, 64, 56, 56), 1, {"memory_format": torch.channels_last}),
    "3x3": ((1, 64, 40, 40), 3, {}),
    "one image without N": ((64, 56, 56), 1, {}),
}


@pytest.mark.parametrize(("shape", "kernel", "layout"), IN_PLACE.values(), ids=IN_PLACE)
@pytest.mark.parametrize("engine", ["auto", "pointwise", "direct", "aten", "reference"])
def test_results_in_autograd_may_be_overwritten(shape, kernel, layout, engine):
    """As an activation in place does; a view could not be."""
    if engine == "pointwise" and kernel > 1:
        engine = "winograd_4x4"
    channels = shape[-3]
    x = torch.randn(shape).contiguous(**layout).requires_grad_()
    k = torch.randn(8, channels, kernel, kernel, requires_grad=True)
    y = cl.correlate(x, k, engine=engine)
    ours = torch.autograd.grad(functional.relu_(y).sum(), (x, k))
    theirs = torch.autograd.grad(functional.relu(functional.conv2d(x, k)).sum(), (x, k))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("groups", [1, 64])
def test_an_empty_batch_has_gradients(groups):
    for batch in (0, 1):
        x = torch.randn(batch, 64, 40, 40, requires_grad=True)
        k = torch.randn(64, 64 // groups, 13, 13, requires_grad=True)
        y = cl.correlate(x, k, groups=groups)
        by_x, by_k = torch.autograd.grad(y.sum(), (x, k))
        assert by_x.shape == x.shape
        assert bool(by_k.any()) == bool(batch)


def test_every_engine_says_what_preparing_takes():
    spec = ConvSpec(**LAYER)
    limits = planned.machine.limits()
    for engine in BY_NAME.values():
        if engine.refuse(spec) is None:
            assert engine.prepare_seconds(spec, limits) >= 0
    assert BY_NAME["direct"].prepare_seconds(spec, limits) == 0
    assert BY_NAME["winograd_4x4"].prepare_seconds(spec, limits) > 0
