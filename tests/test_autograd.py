"""Gradients through every float engine, and torch's transforms, which are handed to torch's own operators."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import convolith as cl
from convolith import Conv
from convolith.engines import TABLE
from tests.strategies import arrays_for, specs
from tests.test_correlate import by_correlate, by_torch, torch_can_pad

ENGINES = [engine.name for engine in TABLE if not engine.only_fast]
OPTIONS = {
    "plain": {},
    "asymmetric, strided, dilated, grouped": {
        "padding": ((1, 2), (0, 1)),
        "stride": 2,
        "dilation": (1, 2),
        "groups": 2,
    },
    "same, strided": {"padding": "same", "stride": (2, 1)},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "replicate": {"padding": (2, 1), "padding_mode": "replicate"},
    "circular": {"padding": "same", "padding_mode": "circular", "groups": 2},
}


def inputs(groups: int = 1, kernel_size=(2, 3), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 4, 6, 5), (4, 4 // groups, *kernel_size), (4,)
    return [torch.randn(s, dtype=dtype, generator=generator, requires_grad=True) for s in shapes]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["aten", "reference"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_first_and_second_derivatives(engine, options):
    tensors = inputs(options.get("groups", 1))
    run = lambda x, k, b: cl.correlate(x, k, b, engine=engine, **options)
    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("groups", [1, 2])
def test_derivatives_of_pointwise(groups):
    tensors = inputs(groups, kernel_size=(1, 1))
    run = lambda x, k, b: cl.correlate(x, k, b, engine="pointwise", stride=2, groups=groups)
    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


@pytest.mark.slow
@settings(max_examples=90)
@given(spec=specs(dtypes=("float64",)), engine=st.sampled_from(ENGINES))
def test_gradients_of_drawn_specs_are_torchs(spec, engine):
    tensors = [t for t in arrays_for(spec) if t is not None]
    if not spec.batch or next(row for row in TABLE if row.name == engine).refuse(spec):
        engine = "auto"
    if not spec.batch or not torch_can_pad(spec):
        return
    results = []
    for run in (lambda *a: by_correlate(spec, *a, engine=engine), lambda *a: by_torch(spec, *a)):
        leaves = [t.clone().requires_grad_() for t in tensors]
        y = run(*leaves, *[None] * (3 - len(leaves)))
        if spec.transposed and y.grad_fn is None:
            return
        results.append(torch.autograd.grad((y * y.detach().sin()).sum(), leaves))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_transposed_and_one_and_three_axes():
    x = torch.randn(1, 2, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 4, dtype=torch.float64)
    conv = Conv(weight, transposed=True, stride=2, padding=((0, 1),), output_padding=1)
    assert torch.autograd.gradcheck(lambda x: cl.correlate(x, conv, engine="reference"), x)
    volume = torch.randn(1, 2, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(2, 1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    run = lambda x, k: cl.correlate(x, k, padding=((1, 0), (0, 1), (0, 0)), groups=2)
    assert torch.autograd.gradcheck(run, (volume, kernel))


@pytest.mark.slow
def test_complex_gradients():
    x, k, b = inputs(dtype=torch.complex128)
    assert torch.autograd.gradcheck(lambda x, k, b: cl.correlate(x, k, b, padding=((1, 0), (0, 0))), (x, k, b))


def test_gradients_of_an_integer_image_with_a_float_kernel():
    x = torch.randint(0, 255, (1, 1, 6, 6), dtype=torch.uint8)
    k = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: cl.correlate(x, k), k)


def test_only_what_is_asked_for_is_computed():
    x, k, b = inputs()
    y = cl.correlate(x.detach(), k.detach(), b)
    (by_bias,) = torch.autograd.grad(y.sum(), b)
    torch.testing.assert_close(by_bias, torch.full_like(b, y.numel() / 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_have_gradients_in_their_own_dtype(dtype):
    x, k, b = inputs(dtype=dtype)
    grads = torch.autograd.grad(cl.correlate(x, k, b).sum(), (x, k, b))
    wide = [t.detach().float().requires_grad_() for t in (x, k, b)]
    expected = torch.autograd.grad(functional.conv2d(*wide).sum(), wide)
    for ours, theirs in zip(grads, expected):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.float(), theirs, rtol=2e-2, atol=2e-2)


def test_accuracy_double_reaches_the_gradients():
    x = torch.full((1, 1, 3000), 0.1)
    k = torch.full((1, 1, 2999), 0.1, requires_grad=True)
    (grad,) = torch.autograd.grad(cl.correlate(x, k, accuracy="double").sum(), k)
    assert torch.equal(grad, torch.full_like(grad, 2 * x[0, 0, 0].double().item()))


def test_forward_mode_and_vmap_and_jacobians():
    x, k, b = (t.detach() for t in inputs())
    tangent = torch.randn_like(x)
    _, moved = torch.func.jvp(lambda x: cl.correlate(x, k, b, padding="same"), (x,), (tangent,))
    torch.testing.assert_close(moved, cl.correlate(tangent, k, padding="same"))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        y = cl.correlate(dual, k, b, padding="same")
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(y).tangent, moved)
    stacked = torch.stack([k, 2 * k])
    many = torch.func.vmap(lambda k: cl.correlate(x, k, b))(stacked)
    torch.testing.assert_close(many[1], cl.correlate(x, 2 * k, b))
    small = x[:1, :, :3, :3]
    jacobian = torch.func.jacrev(lambda x: cl.correlate(x, k))(small)
    assert jacobian.shape == (1, 4, 2, 1, *small.shape)


def test_autocast_is_torchs():
    x, k, b = (t.detach().float() for t in inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = cl.correlate(x, k, b), functional.conv2d(x, k, b)
        mixed = cl.correlate(ours, torch.ones(1, 4, 1, 1))  # a bfloat16 input beside float32 weights
    assert ours.dtype == theirs.dtype == mixed.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs)


def test_meta_tensors_have_shapes_only():
    y = cl.correlate(torch.empty(2, 3, 8, 8, device="meta"), torch.empty(4, 3, 3, 3, device="meta"), padding="same")
    assert y.device.type == "meta"
    assert y.shape == (2, 4, 8, 8)


def test_tracing_records_one_call():
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = cl.nn.Conv2d(3, 4, 3, padding="same")

        def forward(self, x):
            return self.conv(x).relu()

    model = Model()
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [cl.correlate]
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(traced(x), model(x))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


def test_inference_mode():
    x, k, _ = inputs()
    with torch.inference_mode():
        assert not cl.correlate(x, k).requires_grad
